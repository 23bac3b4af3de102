"""How a QEMU that libvirt starts is found: by what is written, without looking again and again."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.hypervisor.arrivals import Arrivals
from orchestrator.hypervisor.binding import start_event_loop
from orchestrator.hypervisor.process import Adoption

SOON_S = 20.0


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for QEMU."""
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process
        process.kill()


class Looks:
    """Counts how often an adoption has looked for its pid file."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count, self.found = 0, threading.Event()
        find = Adoption._find

        def counted(adoption: Adoption) -> bool:
            self.count += 1
            there = find(adoption)
            if there:
                self.found.set()
            return there

        patch.setattr(Adoption, "_find", counted)


def test_nothing_is_looked_for_until_something_is_written(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at the start, and one when libvirt writes into the folder; the first finish settles it."""
    start_event_loop()
    looks, pid_file, probes = Looks(monkeypatch), tmp_path / "run" / "gl-1.pid", tmp_path / "probes"
    for folder in (pid_file.parent, probes):
        folder.mkdir()
    adoption = Adoption(pid_file, probes)
    assert not looks.found.wait(0.3)
    assert looks.count <= 1
    with pid_file.open("w") as file:  # libvirt keeps it open, too
        file.write(f"{sleeper.pid}\n")
        file.flush()
        assert looks.found.wait(SOON_S)
    process = adoption.finish()
    assert process is not None
    assert process.pid == sleeper.pid
    assert adoption.finish() is process
    process.close()


@pytest.mark.parametrize("folder", ["there", "missing"])
def test_an_adoption_that_finds_nothing_ends_at_once(tmp_path: Path, folder: str) -> None:
    """Whether the folder is there or not, nobody waits for what will not come."""
    (tmp_path / "there").mkdir()
    assert Adoption(tmp_path / folder / "gl-1.pid", tmp_path / folder).finish() is None


def test_a_qemu_that_is_only_asked_is_adopted_as_soon_as_its_folder_has_its_number(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is made, and its number written, while the look goes on."""
    start_event_loop()
    adopted = threading.Event()

    def process(pid: int) -> object:
        if pid == sleeper.pid:
            adopted.set()
        raise OSError

    monkeypatch.setattr("orchestrator.hypervisor.process.Process", process)
    adoption = Adoption(tmp_path / "gl-1.pid", tmp_path)
    assert not adopted.wait(0.1)
    (tmp_path / "qmp-X1").mkdir()
    (tmp_path / "qmp-X1" / "qmp.pid").write_text(f"{sleeper.pid}\n")
    assert adopted.wait(SOON_S)
    assert adoption.finish() is None


def test_without_inotify_time_passes_for_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait then ends after a moment, having seen nothing, until it is stopped."""

    class Without:
        """A kernel that has no instance to give."""

        inotify_init1 = staticmethod(lambda _flags: -1)
        inotify_add_watch = staticmethod(lambda *_: -1)

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Without())
    seen = Arrivals(tmp_path)
    assert seen.wait() == set()
    seen.stop()
    assert seen.wait() is None
    seen.close()
