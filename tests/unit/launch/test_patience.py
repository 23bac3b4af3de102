"""Who waits for a launch hears that libvirt does not answer: once, and only where libvirt is what is waited for."""

from __future__ import annotations

import threading

import pytest

from orchestrator.launch import patience
from orchestrator.launch.patience import explained
from orchestrator.timeline.phases import Phase
from orchestrator.timeline.recorder import Recorder

URI = "qemu:///session"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience that is short."""
    monkeypatch.setattr(patience, "TOLD_AFTER_S", 0.05)
    monkeypatch.setattr(patience, "_TICK_S", 0.01)


@pytest.mark.parametrize("phase", [Phase.CONNECT, Phase.CREATE])
def test_silence_of_a_daemon_is_told(phase: Phase) -> None:
    """The line names the connection, while the launch still waits."""
    recorder, told, said = Recorder(1), threading.Event(), []

    def tell(text: str) -> None:
        said.append(text)
        told.set()

    with explained(lambda: recorder, URI, tell):
        recorder.begin(phase, "test")
        assert told.wait(10)
    assert len(said) == 1
    assert said[0].startswith(f"waiting for libvirt: {URI}: no answer for 0.05 s")


@pytest.mark.parametrize(("uri", "phase"), [(None, Phase.CREATE), (URI, Phase.PLAN), (URI, Phase.FIRMWARE)])
def test_other_waits_are_not_libvirts(uri: str | None, phase: Phase) -> None:
    """Neither the embedded driver, nor what comes before libvirt is asked, nor a guest that boots."""
    recorder, told = Recorder(1), threading.Event()
    recorder.begin(phase, "test")
    with explained(lambda: recorder, uri, lambda _: told.set()):
        assert not told.wait(0.3)
