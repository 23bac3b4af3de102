"""How a guest ended, where libvirt and the kernel know it differently."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")

from orchestrator.hypervisor.events import EventFeed, EventSource, GuestEvent, StopReason
from orchestrator.hypervisor.guest import Guest


@pytest.mark.parametrize(
    ("said", "status", "reason", "exit_code"),
    [
        # QEMU ended in good order, but its last words were lost with the connection.
        (StopReason.FAILED, 0, StopReason.SHUTDOWN, 0),
        (StopReason.FAILED, 1, StopReason.FAILED, 1),
        (StopReason.FAILED, 139, StopReason.FAILED, 139),
        # Nobody has seen the process end.
        (StopReason.FAILED, None, StopReason.FAILED, 1),
        (StopReason.SHUTDOWN, 0, StopReason.SHUTDOWN, 0),
        (StopReason.DESTROYED, 0, StopReason.DESTROYED, 0),
    ],
)
def test_status_counts_where_libvirt_guesses(
    said: StopReason, status: int | None, reason: StopReason, exit_code: int
) -> None:
    """What libvirt calls failed is a monitor that closed without a word."""
    process = SimpleNamespace(exit_code=status, ended=threading.Event(), call_at_end=lambda _: None)
    domain, feed = SimpleNamespace(name=lambda: "d", UUIDString=lambda: "u"), EventFeed()
    guest = Guest(cast("Any", domain), feed, process=cast("Any", process), lost=threading.Event(), log_file=None)
    stopped = {"detail": 5, "reason": said}
    feed.put(GuestEvent(source=EventSource.LIBVIRT, name="stopped", detail=stopped, received_ns=time.monotonic_ns()))
    ending = guest.wait_gone(10)
    assert (ending.reason, ending.exit_code, ending.exit_seen) == (reason, exit_code, status is not None)
