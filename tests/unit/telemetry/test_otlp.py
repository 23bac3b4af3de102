"""Launches as traces, against a real OTLP receiver on this host that decodes what it is sent."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from orchestrator.errors import CapabilityError, SettingsError
from orchestrator.telemetry.otlp import FLUSH_SECONDS, opened
from orchestrator.telemetry.outlets import traces_url
from orchestrator.timeline.phases import Phase, Start
from tests.simulated_launches import KERNEL_BYTES, Line, event, mixture


class Receiver(ThreadingHTTPServer):
    """A collector: keeps what was posted, decoded, with the path it was posted to."""

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.requests: list[tuple[str, ExportTraceServiceRequest]] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[Span]:
        """Return all spans received so far."""
        return [
            span
            for _, request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.headers["Content-Type"] == "application/x-protobuf"
        self.server.requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@contextmanager
def receiving(status: int = 200) -> Iterator[Receiver]:
    """Run a receiver for as long as the context lasts."""
    with Receiver(status) as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join(10)


def export(*events: Line) -> Receiver:
    """Export events to a receiver and return it, stopped."""
    with receiving() as receiver:
        complaints: list[str] = []
        with opened(f"{receiver.base}/v1/traces", complaints.append) as exporting:
            for line in events:
                exporting(line)
        assert complaints == []
    return receiver


def attributes(span: Span) -> dict[str, Any]:
    """Return a span's attributes as plain values."""
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


def test_a_launch_is_a_trace_and_its_phases_tile_it() -> None:
    """One root span with the launch's own times, and below it each phase, end to end."""
    line = event(1)
    receiver = export(line)
    assert {path for path, _ in receiver.requests} == {"/v1/traces"}
    root = next(span for span in receiver.spans() if not span.parent_span_id)
    phases = sorted((s for s in receiver.spans() if s.parent_span_id), key=lambda s: s.start_time_unix_nano)
    assert {span.trace_id for span in phases} == {root.trace_id}
    assert {span.parent_span_id for span in phases} == {root.span_id}
    assert [span.name for span in phases] == [p["name"] for p in line["phases"]]
    assert root.start_time_unix_nano == line["wall_start_ns"]
    assert root.end_time_unix_nano == line["wall_start_ns"] + line["total_ns"]
    edges = [root.start_time_unix_nano, *(span.end_time_unix_nano for span in phases)]
    assert [span.start_time_unix_nano for span in phases] == edges[:-1]
    assert edges[-1] == root.end_time_unix_nano


def test_a_span_says_what_the_launch_was() -> None:
    """Profile, accelerator, DMA as verified, bytes and versions are attributes; the flag is an event at its time."""
    line = event(1, dma=False, requested=True)
    receiver = export(line)
    root = next(span for span in receiver.spans() if not span.parent_span_id)
    found = attributes(root)
    assert found["guestlaunch.launch_id"] == line["launch_id"]
    assert (found["guestlaunch.profile"], found["guestlaunch.accel"]) == ("aarch64-uefi", "tcg")
    assert (found["guestlaunch.fw_cfg.dma"], found["guestlaunch.fw_cfg.dma_requested"]) == (False, True)
    assert found["guestlaunch.transfer.ns"] == line["transfer_ns"]
    assert found["guestlaunch.version.qemu"] == "7.2.22"
    assert "guestlaunch.version.kernel" not in found
    flag = next(e for e in root.events if e.name == "launch flag")
    assert flag.time_unix_nano == line["wall_start_ns"] + line["launch_ns"]
    kernel = next(span for span in receiver.spans() if span.name == "fw_cfg_kernel")
    assert attributes(kernel)["guestlaunch.phase.bytes"] == KERNEL_BYTES


def test_a_failure_marks_its_phase_and_keeps_the_console() -> None:
    """The failed phase and the launch have status error with the reason; phases not reached have no span."""
    line = event(1, failed_in=Phase.KERNEL)
    spans = {span.name: span for span in export(line).spans()}
    assert spans["launch"].status.code == spans["kernel"].status.code == Status.STATUS_CODE_ERROR
    assert spans["launch"].status.message == line["error"]
    assert spans["firmware"].status.code == Status.STATUS_CODE_UNSET
    assert "init" not in spans
    console = next(e for e in spans["launch"].events if e.name == "guest console")
    values = console.attributes[0].value.array_value.values
    assert [value.string_value for value in values] == line["console_tail"]


def test_launches_of_all_kinds_are_separate_traces() -> None:
    """Each launch has a trace of its own, whatever its kind, with every phase that has a duration."""
    lines = mixture(count=20)
    spans = export(*lines).spans()
    assert len({span.trace_id for span in spans}) == len(lines)
    seen = sum(phase["duration_ns"] is not None for line in lines for phase in line["phases"])
    assert len(spans) == len(lines) + seen
    assert {attributes(s)["guestlaunch.start"] for s in spans if not s.parent_span_id} == set(Start)


def test_the_service_can_be_named_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resource is guestlaunch with its version, unless OpenTelemetry's variables say otherwise."""
    plain = export(event(1)).requests[0][1].resource_spans[0].resource
    monkeypatch.setenv("OTEL_SERVICE_NAME", "builds")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=ci")
    named = export(event(1)).requests[0][1].resource_spans[0].resource
    assert {a.key: a.value.string_value for a in plain.attributes}["service.name"] == "guestlaunch"
    found = {a.key: a.value.string_value for a in named.attributes}
    assert (found["service.name"], found["deployment.environment"]) == ("builds", "ci")


def test_a_collector_that_is_not_there_is_one_line_and_a_short_wait() -> None:
    """A launch does not fail for want of a collector; its end waits no longer than the deadline and says so."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        closed = sock.getsockname()[1]
    complaints: list[str] = []
    begun = time.monotonic()
    with opened(f"http://127.0.0.1:{closed}/v1/traces", complaints.append) as exporting:
        exporting(event(1))
    assert time.monotonic() - begun < 2 * FLUSH_SECONDS + 5
    assert complaints
    assert all(line.startswith("traces: ") and "\n" not in line and "Traceback" not in line for line in complaints)


def test_a_refusing_collector_is_named() -> None:
    """A collector that answers with an error is a complaint, not a failure."""
    complaints: list[str] = []
    with (
        receiving(status=400) as receiver,
        opened(f"{receiver.base}/v1/traces", complaints.append) as exporting,
    ):
        exporting(event(1))
    assert any("400" in line for line in complaints), complaints


@pytest.mark.parametrize(
    ("configured", "environ", "expected"),
    [
        (None, {}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/otlp/"}, "https://c/otlp/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, "http://c/x"),
        ("http://ours:1", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, "http://ours:1/v1/traces"),
        ("http://ours:1", {"OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_the_endpoint_follows_the_specification(
    configured: str | None, environ: dict[str, str], expected: str | None
) -> None:
    """Our setting first, then the variables that every OpenTelemetry program reads."""
    assert traces_url(configured, environ) == expected


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://c", "http://", "http://c:port", "/tmp/x"])
def test_an_endpoint_that_is_none_is_named(endpoint: str) -> None:
    """A wrong endpoint is told when settings are read, not after the first launch."""
    with pytest.raises(SettingsError, match="not an OTLP endpoint"):
        traces_url(endpoint, {})


_PROBE = """
import sys, os
{block}
from orchestrator.errors import GuestlaunchError
from orchestrator.telemetry.otlp import opened
try:
    with opened(os.environ["E"], print) as export:
        pass
except GuestlaunchError as error:
    print(type(error).__name__, error)
print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""


def test_an_idle_process_imports_nothing() -> None:
    """With an endpoint set, OpenTelemetry is imported by the first event and not before the launch."""
    probe = _PROBE.replace('startswith("opentelemetry")', 'startswith("opentelemetry.sdk")')
    run = subprocess.run(
        [sys.executable, "-c", probe.format(block="")],
        env={"E": "http://127.0.0.1:9", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout == "[]\n"


def test_a_missing_package_says_how_to_get_it() -> None:
    """An endpoint without the optional packages is one line with what to install."""
    block = "sys.modules['opentelemetry'] = None"
    run = subprocess.run(
        [sys.executable, "-c", _PROBE.format(block=block)],
        env={"E": "http://127.0.0.1:9", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout.startswith(f"{CapabilityError.__name__} cannot export traces: http://127.0.0.1:9")
    assert "pip install 'guestlaunch[otel]'" in run.stdout
