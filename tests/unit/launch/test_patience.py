"""Who waits for a launch hears that libvirt does not answer: once, and only where libvirt is what is waited for."""

from __future__ import annotations

import threading
import time

import pytest

from orchestrator.launch import patience
from orchestrator.launch.patience import explained

URI = "qemu:///session"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience that is short."""
    monkeypatch.setattr(patience, "TOLD_AFTER_S", 0.05)
    monkeypatch.setattr(patience, "_TICK_S", 0.01)


def test_silence_of_a_daemon_is_told() -> None:
    """The line names the connection, while the launch still waits."""
    told, said = threading.Event(), []
    asked = time.monotonic_ns()

    def tell(text: str) -> None:
        said.append(text)
        told.set()

    with explained(lambda: asked, URI, tell):
        assert told.wait(10)
    assert len(said) == 1
    assert said[0].startswith(f"waiting for libvirt: {URI}: no answer for 0.05 s")


def test_other_waits_are_not_libvirts() -> None:
    """Neither the embedded driver, nor what is waited for without libvirt, nor answers that come, each a new wait."""
    told = threading.Event()
    asked = time.monotonic_ns()
    for uri, since in ((None, lambda: asked), (URI, lambda: None), (URI, time.monotonic_ns)):
        with explained(since, uri, lambda _: told.set()):
            assert not told.wait(0.3)
