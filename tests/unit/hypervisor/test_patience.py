"""Who waits for a launch hears that libvirt does not answer: once, and only where libvirt is what is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.hypervisor import bounded
from orchestrator.hypervisor.bounded import explained
from orchestrator.launch import launcher
from orchestrator.settings import Settings

URI = "qemu:///session"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience that is short."""
    monkeypatch.setattr(bounded, "TOLD_AFTER_S", 0.05)
    monkeypatch.setattr(bounded, "_TICK_S", 0.01)


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


def test_another_threads_connection_is_waited_for_as_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A launch that comes while its process connects already waits for libvirt, too."""
    opening, go_on = threading.Event(), threading.Event()

    @contextmanager
    def slow(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        opening.set()
        go_on.wait(20)
        yield SimpleNamespace(lost=threading.Event())

    monkeypatch.setattr(launcher, "open_connection", slow)
    settings = Settings(state_dir=tmp_path / "state", runtime_dir=tmp_path, connect=URI)
    with launcher.Launcher(settings) as ours:
        first, second = (threading.Thread(target=ours._connection, args=(settings,)) for _ in range(2))
        first.start()
        assert opening.wait(10)
        second.start()
        end = time.monotonic() + 10
        while bounded.asked_ns(second.ident or 0) is None and time.monotonic() < end:
            time.sleep(0.01)
        since = bounded.asked_ns(second.ident or 0)
        go_on.set()
        first.join(10)
        second.join(10)
    assert since is not None
    assert bounded.asked_ns(second.ident or 0) is None
