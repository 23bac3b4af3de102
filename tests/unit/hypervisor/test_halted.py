"""Whether a guest that does not run any more has been stopped for good."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")

from orchestrator.hypervisor.events import EventFeed, EventSource, GuestEvent
from orchestrator.hypervisor.guest import Guest


def guest_after(*names: str, status: str = "internal-error") -> tuple[Guest, threading.Event]:
    """Return a guest of which libvirt has said that, and what is set when it is killed."""
    killed, feed = threading.Event(), EventFeed()
    domain = SimpleNamespace(name=lambda: "d", UUIDString=lambda: "u", destroy=killed.set)
    guest = Guest(cast("Any", domain), feed, process=None, lost=threading.Event(), log_file=None)
    guest.qmp = lambda *_, **__: {"status": status}  # type: ignore[method-assign]
    for name in names:
        feed.put(GuestEvent(source=EventSource.LIBVIRT, name=name, received_ns=time.monotonic_ns()))
    return guest, killed


@pytest.mark.parametrize(
    ("names", "halted"),
    [(("started", "suspended"), False), (("resumed",), False), (("suspended", "resumed", "suspended"), True)],
)
def test_halted(names: tuple[str, ...], halted: bool) -> None:
    """One that was made paused has not been stopped."""
    assert guest_after(*names)[0].halted is halted


@pytest.mark.parametrize(("status", "broken"), [("internal-error", True), ("paused", False), ("io-error", False)])
def test_only_what_is_broken_is_killed(status: str, broken: bool) -> None:
    """Who stops a guest may let it go on; QEMU does not go on after an error of its own. It is asked once."""
    guest, killed = guest_after("resumed", "suspended", status=status)
    guest.kill_if_broken()
    assert (guest.broken, guest.halted) == (broken, False)
    assert killed.wait(10 if broken else 0.1) is broken
