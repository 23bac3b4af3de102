"""Events keep their order and get times on the host's monotonic clock."""

from __future__ import annotations

import time

import pytest

from orchestrator.hypervisor.events import EventFeed, EventSource, GuestEvent, StopReason, from_lifecycle, from_qmp


def test_qemus_time_is_carried_over() -> None:
    """QEMU's wall clock stamp becomes a moment on the monotonic clock, before the receipt."""
    stamp_ns = time.time_ns() - 250_000_000
    event = from_qmp("RESUME", stamp_ns // 10**9, stamp_ns % 10**9 // 1000, None, same_clock=True)
    assert event.emitted_ns is not None
    assert 0.25e9 <= event.received_ns - event.emitted_ns < 1.25e9
    assert event.detail == {}


@pytest.mark.parametrize("offset_s", [3600, -3600])
def test_unusable_time_is_none(offset_s: int) -> None:
    """A stamp from the future, or from before the clock was stepped, is no time, and not 0."""
    now = int(time.time())
    assert from_qmp("STOP", now + offset_s, 0, "{}", same_clock=True).emitted_ns is None
    assert from_qmp("STOP", -1, 0, "{}", same_clock=True).emitted_ns is None
    assert from_qmp("STOP", now, 0, "{}", same_clock=False).emitted_ns is None


@pytest.mark.parametrize("details", ["{", "[1]", '"text"'])
def test_strange_details_are_no_error(details: str) -> None:
    """Details that are not an object are left out; the event still comes."""
    event = from_qmp("SHUTDOWN", 0, 0, details, same_clock=True)
    assert (event.name, event.detail) == ("SHUTDOWN", {})


def test_stop_reasons() -> None:
    """The detail of a stop becomes its reason, and a number from the future is unknown."""
    reasons = [from_lifecycle(5, detail).detail["reason"] for detail in (0, 1, 2, 5, 99)]
    assert reasons == ["shutdown", "destroyed", "crashed", "failed", "unknown"]
    assert from_lifecycle(42, 0).name == "lifecycle_42"


def test_exit_codes_are_qemus() -> None:
    """An orderly end is 0, every other one is not."""
    orderly = {StopReason.SHUTDOWN, StopReason.MIGRATED, StopReason.SAVED, StopReason.SNAPSHOT}
    assert {reason for reason in StopReason if reason.exit_code == 0} == orderly
    assert (StopReason.DESTROYED.exit_code, StopReason.CRASHED.exit_code) == (137, 134)


def test_late_listener_gets_everything_in_order() -> None:
    """A listener gets the events kept before it and those after, until it is removed."""
    feed, seen = EventFeed(), list[str]()
    events = [GuestEvent(source=EventSource.QEMU, name=name, received_ns=n) for n, name in enumerate("abcd")]
    feed.put(events[0])
    stop = feed.listen(lambda event: seen.append(event.name))
    feed.put(events[1])
    feed.put(events[2])
    stop()
    stop()
    feed.put(events[3])
    assert seen == ["a", "b", "c"]
