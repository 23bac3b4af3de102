"""Launches as OpenTelemetry traces: a span a launch, a child span a phase, exported by OTLP over HTTP.

Spans are made from canonical events after the launch, with its own timestamps, and sent in the background: the launch
waits for nothing here.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orchestrator
from orchestrator.errors import CapabilityError
from orchestrator.records.filters import is_modelled
from orchestrator.records.provenance import of_event
from orchestrator.records.record import LaunchEvent, PhaseEntry, seen

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

Export = Callable[[LaunchEvent], None]

# How long the end of the process may wait for a collector that does not answer.
FLUSH_SECONDS = 5.0


@contextmanager
def opened(url: str, complain: Callable[[str], None]) -> Iterator[Export]:
    """Give a function that exports one canonical event; the end of the context sends what is left.

    OpenTelemetry is imported with the first event, which comes after its launch: no launch waits for that.

    :param url: where traces are posted to.
    :param complain: told in one line whenever spans could not be sent; nothing else comes of that.
    :raise CapabilityError: when the exporter is not installed.
    """
    _require_exporter(url)
    exporter = _Exporter(url)
    with _complaints(complain):
        try:
            yield exporter
        finally:
            exporter.close()


def _require_exporter(url: str) -> None:
    """Check that the exporter can be imported, without importing it.

    :raise CapabilityError: when it is not installed.
    """
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http")
    except (ImportError, ValueError):
        found = None
    if found is None:
        hint = "pip install 'guestlaunch[otel]', or unset the endpoint"
        raise CapabilityError("cannot export traces", url, "OpenTelemetry is not installed", hint)


class _Exporter:
    """Exports events; safe to call from several threads. The first one starts it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._provider: TracerProvider | None = None

    def __call__(self, event: LaunchEvent) -> None:
        with self._lock:
            if self._provider is None:
                self._provider = _provider(self._url)
            tracer = self._provider.get_tracer("guestlaunch", orchestrator.__version__)
        export(tracer, event)

    def close(self) -> None:
        """Send what is left, within the deadline."""
        if self._provider is not None:
            self._provider.force_flush(int(FLUSH_SECONDS * 1000))
            self._provider.shutdown()


def _provider(url: str) -> TracerProvider:
    """Return a source of spans that go to the collector in batches, from a thread of their own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = Resource({"service.name": "guestlaunch", "service.version": orchestrator.__version__})
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, read by the detector, override what we say.
    resource = Resource.create().merge(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=url, timeout=FLUSH_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class _OneLine(logging.Handler):
    """Hands OpenTelemetry's own log on, without its tracebacks."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._complain = complain

    def emit(self, record: logging.LogRecord) -> None:
        """Say one record in one line."""
        cause = record.exc_info[1] if record.exc_info else None
        text = f"{record.getMessage()}: {cause}" if cause else record.getMessage()
        self._complain("traces: " + " ".join(text.split()))


@contextmanager
def _complaints(complain: Callable[[str], None]) -> Iterator[None]:
    logger, handler = logging.getLogger("opentelemetry"), _OneLine(complain)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def export(tracer: Tracer, event: LaunchEvent) -> None:
    """Make the spans of one canonical event: the launch, and in it each phase that was seen."""
    from opentelemetry.context import Context
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    origin = int(event["wall_start_ns"])
    end = origin + int(event["total_ns"])
    launch = tracer.start_span("launch", context=Context(), start_time=origin, attributes=_of_launch(event))
    inside = set_span_in_context(launch, Context())
    for phase, start_ns, duration_ns in seen(event["phases"]):
        begun = origin + start_ns
        span = tracer.start_span(phase["name"], context=inside, start_time=begun, attributes=_of_phase(phase))
        if phase["outcome"] == "failure":
            span.set_status(Status(StatusCode.ERROR, event["error"]))
        span.end(end_time=begun + duration_ns)
    if event["launch_ns"] is not None:
        launch.add_event("launch flag", timestamp=origin + int(event["launch_ns"]))
    if event["outcome"] == "failure":
        launch.set_status(Status(StatusCode.ERROR, event["error"]))
        if event["console_tail"]:
            launch.add_event("guest console", {"guestlaunch.console_tail": event["console_tail"]}, timestamp=end)
    launch.end(end_time=end)


def _of_launch(event: LaunchEvent) -> dict[str, Any]:
    """Return the launch span's attributes; what is not known is left out."""
    plain = {"launch_id", "start", "profile", "arch", "accel", "outcome", "error_phase"}
    values: dict[str, Any] = {name: value for name, value in event.items() if name in plain}
    values |= {"fw_cfg.dma": event["fw_cfg_dma"], "fw_cfg.dma_requested": event["fw_cfg"]["requested"]}
    values |= {"transfer.ns": event["transfer_ns"], "launch.ns": event["launch_ns"], "disks": event["disks"]}
    values |= {f"transfer.{blob}_bytes": size for blob, size in event["bytes"].items()}
    values |= {f"version.{component}": version for component, version in event["versions"].items()}
    values["modelled"] = is_modelled(event) or None
    values["made_on"] = of_event(event).label
    values["phases_unseen"] = [p["name"] for p in event["phases"] if p["outcome"] == "unseen"] or None
    return {f"guestlaunch.{name}": value for name, value in values.items() if value is not None}


def _of_phase(phase: PhaseEntry) -> dict[str, Any]:
    names = ("outcome", "source", "bytes", "includes", "adjusted_ns")
    return {f"guestlaunch.phase.{name}": value for name, value in phase.items() if name in names and value is not None}
