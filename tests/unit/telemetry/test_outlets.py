"""What a launching process opens for operators: metrics and traces together, and neither when neither is asked for."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request

import pytest

from orchestrator.errors import CapabilityError, SettingsError
from orchestrator.telemetry import outlets
from tests.simulated_launches import event


def free_address() -> str:
    """Return an address that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"127.0.0.1:{sock.getsockname()[1]}"


def test_finished_launches_reach_the_scrape() -> None:
    """An event that was handed over is in the next scrape, with the launches under way asked at that moment."""
    address, complaints, running = free_address(), list[str](), [1]
    with outlets.opened(
        metrics_listen=address, otlp_endpoint=None, environ={}, in_flight=lambda: running[0], complain=complaints.append
    ) as take:
        take(event(1))
        running[0] = 2
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    assert 'outcome="success",profile="aarch64-uefi",start="cold"} 1.0' in text
    assert "guestlaunch_launches_in_flight 2.0" in text
    assert complaints == []


def test_a_launch_that_cannot_be_reported_is_a_complaint() -> None:
    """What goes wrong in an outlet is told in a line and never reaches the launch."""
    complaints: list[str] = []
    with outlets.opened(
        metrics_listen=free_address(), otlp_endpoint=None, environ={}, in_flight=int, complain=complaints.append
    ) as take:
        take({"event": "launch_finished", "launch_id": "gl-1"})  # type: ignore[typeddict-item]
    assert len(complaints) == 1
    assert complaints[0].startswith("cannot report launch gl-1: ValueError")


def test_bad_addresses_are_told_at_the_start() -> None:
    """Neither a wrong nor a taken address waits for the first launch."""
    rest = {"environ": {}, "in_flight": int, "complain": print}
    with pytest.raises(SettingsError, match="not an address: 9464"):
        outlets.opened(metrics_listen="9464", otlp_endpoint=None, **rest).__enter__()  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="not an OTLP endpoint: collector"):
        outlets.opened(metrics_listen=None, otlp_endpoint="collector", **rest).__enter__()  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CapabilityError, match="in use"):
            outlets.opened(metrics_listen=address, otlp_endpoint=None, **rest).__enter__()  # type: ignore[arg-type]


def test_off_is_free() -> None:
    """Without an address and an endpoint neither package is imported, nor what uses them."""
    code = (
        "import sys; from orchestrator.telemetry.outlets import opened\n"
        "with opened(metrics_listen=None, otlp_endpoint=None, environ={}, in_flight=int, complain=print) as take:\n"
        "    take({})\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'prometheus_client', 'opentelemetry'}))\n"
        "print(sorted(name for name in sys.modules if name.startswith('orchestrator.telemetry.')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout == "[]\n['orchestrator.telemetry.outlets']\n"
