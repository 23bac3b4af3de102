"""Where a process that launches sends its finished launches for operators: metrics by HTTP, traces by OTLP.

Each outlet is off by default, and then nothing of it is imported. The log and the store are not outlets: they
are the record.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.errors import CapabilityError, SettingsError

if TYPE_CHECKING:
    from orchestrator.records.record import LaunchEvent

Outlet: TypeAlias = "Callable[[LaunchEvent], None]"


@contextlib.contextmanager
def opened(
    *,
    metrics_listen: str | None,
    otlp_endpoint: str | None,
    environ: Mapping[str, str],
    in_flight: Callable[[], int],
    complain: Callable[[str], None],
) -> Iterator[Outlet]:
    """Give a function that takes each canonical event of a finished launch; it never raises.

    :param metrics_listen: HOST:PORT to answer Prometheus at, None for not at all.
    :param otlp_endpoint: a collector's base address; None leaves it to OpenTelemetry's own variables in environ.
    :param in_flight: number of launches under way, asked at each scrape.
    :param complain: told in one line what could not be counted or sent.
    :raise SettingsError: when an address cannot be understood.
    :raise CapabilityError: when it cannot be listened on, or a package is missing.
    """
    with contextlib.ExitStack() as stack:
        outlets: list[Outlet] = []
        if metrics_listen is not None:
            outlets.append(stack.enter_context(_metrics(metrics_listen, in_flight)))
        url = traces_url(otlp_endpoint, environ)
        if url is not None:
            from orchestrator.telemetry import otlp

            outlets.append(stack.enter_context(otlp.opened(url, complain)))

        def take(event: LaunchEvent) -> None:
            for outlet in outlets:
                try:
                    outlet(event)
                except Exception as error:  # noqa: BLE001 - what is told of a launch must not undo it
                    complain(f"cannot report launch {event.get('launch_id')}: {type(error).__name__}: {error}")

        yield take


@contextlib.contextmanager
def _metrics(address: str, in_flight: Callable[[], int]) -> Iterator[Outlet]:
    try:
        from orchestrator.telemetry.http import serve
        from orchestrator.telemetry.metrics import LaunchMetrics
    except ImportError as error:
        hint = "pip install 'guestlaunch[report]'"
        raise CapabilityError("cannot show metrics", address, "prometheus_client is not installed", hint) from error
    metrics = LaunchMetrics(in_flight=in_flight)
    with serve(metrics.registry, address):
        yield metrics.observe


def traces_url(configured: str | None, environ: Mapping[str, str]) -> str | None:
    """Return where traces go, None for nowhere: our own setting first, then OpenTelemetry's variables.

    :param configured: the setting `otlp_endpoint`: a collector's base address, as in OTEL_EXPORTER_OTLP_ENDPOINT.
    :raise SettingsError: when the endpoint is no http or https address.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    whole = None if configured else environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    base = configured or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not whole and not base:
        return None
    url = whole or f"{str(base).rstrip('/')}/v1/traces"
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(
            "not an OTLP endpoint", whole or base, "expected an http or https address", "as http://127.0.0.1:4318"
        )
    return url
