"""Marker lines from the guest's control port."""

from __future__ import annotations

import pytest

from orchestrator.timeline.markers import Marker, marker_boundaries, parse_marker
from orchestrator.timeline.phases import Phase


def test_marker_dates_the_guests_clock_by_receipt() -> None:
    """The guest's zero lies as far before the receipt as the guest's own clock says."""
    marker = parse_marker(b"guestlaunch-marker initrd 1.25 2.00", 10_000_000_000)
    assert marker == Marker(
        name="initrd", event_uptime_ns=1_250_000_000, now_uptime_ns=2_000_000_000, received_ns=10_000_000_000
    )
    assert marker.boot_ns == 8_000_000_000


@pytest.mark.parametrize(
    "line", [b"", b"hello", b"guestlaunch-marker init x 1", b"guestlaunch-marker init 1", b"\xff\xfe a b c"]
)
def test_anything_else_is_no_marker(line: bytes) -> None:
    """The port belongs to the guest, which may write what it likes."""
    assert parse_marker(line, 0) is None


def test_kernel_start_is_the_least_delayed_estimate() -> None:
    """Of two estimates of the guest's zero, the earlier was delayed less: it dates what both tell of."""
    markers = [
        Marker(name="initrd", event_uptime_ns=1_000, now_uptime_ns=2_000, received_ns=9_500),
        Marker(name="init", event_uptime_ns=2_500, now_uptime_ns=3_000, received_ns=13_000),
    ]
    found = {phase: boundary.at_ns for phase, boundary in marker_boundaries(markers).items()}
    assert found == {Phase.KERNEL: 7_500, Phase.INITRD: 8_500, Phase.INIT: 10_000}


def test_no_markers_no_boundaries() -> None:
    """An appliance that sends none dates nothing."""
    assert marker_boundaries([]) == {}
