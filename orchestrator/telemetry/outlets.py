"""Where a process that launches sends its finished launches for operators: metrics by HTTP, traces by OTLP.

Each outlet is off by default, and then its packages are not imported. The log and the store are not outlets: they
are the record.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.errors import CapabilityError
from orchestrator.telemetry import otlp

Outlet = Callable[[Mapping[str, Any]], None]


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
        url = otlp.traces_url(otlp_endpoint, environ)
        if url is not None:
            outlets.append(stack.enter_context(otlp.opened(url, complain)))

        def take(event: Mapping[str, Any]) -> None:
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
