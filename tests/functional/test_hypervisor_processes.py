"""Orchestrator processes next to each other and after each other's sudden death, and the daemons' connections.

Each orchestrator is a process of its own here, because libvirt's embedded driver belongs to a process for life.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")

from orchestrator.hypervisor import embed
from tests.libvirt_daemons import program, running
from tests.orchestrators import Orchestrator, Start, gone, require_readable_by
from tests.processes import both_guardians

TOP = Path(__file__).resolve().parents[2]
NOBODY = 65534


def test_orchestrators_at_once_share_the_capabilities(fresh: Path, start: Start) -> None:
    """Three processes that start at once on an empty cache all launch, and leave one sound cache file and no root."""
    orchestrators = [start(fresh, "same-name") for _ in range(3)]
    first = [one.answer() for one in orchestrators]
    assert len({answer["root"] for answer in first}) == 3
    assert all(answer["names"] == ["same-name"] for answer in first)
    for one in orchestrators:
        assert one.ask("resume") == {"status": "running"}
        assert one.ask("end") == {"reason": "shutdown", "exit_code": 0, "names": []}
        assert one.finish() == 0
    files = list((fresh / "libvirt" / "cache").rglob("*.xml"))
    assert len(files) == 1
    assert ET.parse(files[0]).getroot().tag == "qemuCaps"
    assert gone(*(Path(answer["root"]) for answer in first))


def test_killed_orchestrator_leaves_nothing(state_dir: Path, start: Start, tmp_path: Path) -> None:
    """After SIGKILL of an orchestrator its guest, its root and what it claimed are gone within ten seconds."""
    claimed = tmp_path / "gl-0123456789ab"
    claimed.mkdir()
    (claimed / "disk.qcow2").write_bytes(b"x")
    one = start(state_dir, "orphan", claimed=claimed)
    answer = one.answer()
    assert claimed.exists()
    one.process.kill()
    assert gone(Path(f"/proc/{answer['pid']}"), Path(answer["root"]), claimed)


def test_orchestrator_that_ends_with_a_guest_takes_it_along(state_dir: Path, start: Start) -> None:
    """A guest that still runs when its orchestrator ends in good order ends with it."""
    one = start(state_dir, "left-running")
    answer = one.answer()
    assert one.finish() == 0
    assert gone(Path(f"/proc/{answer['pid']}"), Path(answer["root"]), within_s=2)


def test_killed_together_with_both_guardians(state_dir: Path, start: Start) -> None:
    """The kernel ends the guest of a process that dies together with all who guard it; a sweep removes the files.

    It leaves the living alone.
    """
    living, dead = start(state_dir, "living"), start(state_dir, "dead")
    alive, left = living.answer(), dead.answer()
    root = Path(left["root"])
    together = (dead.process.pid, *both_guardians(root).values())
    for number in (signal.SIGSTOP, signal.SIGKILL):  # none is left a moment in which to act for another
        for pid in together:
            os.kill(pid, number)
    dead.process.wait()
    assert gone(Path(f"/proc/{left['pid']}"))
    assert root.exists()
    assert f"removed {root}" in embed.sweep(state_dir)
    assert not root.exists()
    assert living.ask("resume") == {"status": "running"}
    assert Path(alive["root"]).exists()
    assert living.ask("end")["exit_code"] == 0
    assert living.finish() == 0


def test_sweep_ends_a_guest_that_the_kernel_could_not(state_dir: Path, start: Start) -> None:
    """A QEMU that did not heed the signal, as it was stopped, is ended by the next start."""
    dead = start(state_dir, "stopped")
    left = dead.answer()
    together = (left["pid"], dead.process.pid, *both_guardians(Path(left["root"])).values())
    for number, pids in ((signal.SIGSTOP, together), (signal.SIGKILL, together[1:])):
        for pid in pids:
            os.kill(pid, number)
    dead.process.wait()
    assert f"ended QEMU {left['pid']}" in embed.sweep(state_dir)
    assert gone(Path(f"/proc/{left['pid']}"), Path(left["root"]))


def test_killed_while_libvirt_asks_qemu_what_it_can_do(fresh: Path, start: Start) -> None:
    """On an empty cache libvirt runs QEMUs of its own, which wait to be asked: they go with the rest."""
    one = start(fresh, "asked")
    end = time.monotonic() + 60
    while not (files := [file for file in fresh.glob("libvirt/roots/*/lib/qemu/qmp-*/qmp.pid") if file.read_text()]):
        assert time.monotonic() < end
    pid = int(files[0].read_text())
    os.kill(pid, signal.SIGSTOP)  # it is not done before we are
    one.process.kill()
    assert gone(Path(f"/proc/{pid}"), files[0].parents[3])


def test_long_state_directory(session_dir: Path, start: Start) -> None:
    """A state directory too long for unix sockets works: the root goes elsewhere, the cache stays."""
    top = session_dir / ("long-" + "x" * 100)
    one = start(top / "state", "far-away", environ={"XDG_RUNTIME_DIR": ""})
    answer = one.answer()
    assert not answer["root"].startswith(str(top))
    assert one.ask("end")["exit_code"] == 0
    assert one.finish() == 0
    assert list((top / "state" / "libvirt" / "cache").rglob("*.xml"))
    assert gone(Path(answer["root"]))
    shutil.rmtree(top)


@pytest.fixture
def nobody(session_dir: Path) -> Iterator[Path]:
    """A folder of a user without privileges, whom we can be; libvirt's own folders of theirs are in it too."""
    if os.getuid() != 0:
        pytest.skip("only the superuser can become somebody else here")
    require_readable_by(NOBODY)
    session_dir.chmod(0o711)
    home = session_dir / "nobody"
    for folder in (home, home / "run", home / ".config" / "libvirt"):
        folder.mkdir(parents=True)
    # Neither a log daemon nor one that stays for two minutes.
    (home / ".config" / "libvirt" / "qemu.conf").write_text('stdio_handler = "file"\n')
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    yield home
    shutil.rmtree(home)


def _environ_of(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")} | {
        f"XDG_{name}_HOME": str(home / folder)
        for name, folder in (("CONFIG", ".config"), ("CACHE", ".cache"), ("DATA", ".local"), ("STATE", ".state"))
    }


def test_embedded_driver_without_privileges(nobody: Path, start: Start) -> None:
    """A user without privileges launches with the embedded driver."""
    one = start(nobody / "state", "unprivileged", environ=_environ_of(nobody), user=NOBODY)
    answer = one.answer()
    assert Path(f"/proc/{answer['pid']}").stat().st_uid == NOBODY
    assert one.ask("resume") == {"status": "running"}
    assert one.ask("end") == {"reason": "shutdown", "exit_code": 0, "names": []}
    assert one.finish() == 0


@pytest.mark.parametrize("home", ["", "/", "/nonexistent", "another's"])
@pytest.mark.usefixtures("nobody")
def test_embedded_driver_without_a_home(session_dir: Path, start: Start, home: str) -> None:
    """A user without an account, a home or a runtime directory launches where there is a state directory.

    Where there is none to be had either, one line names the variable to set.
    """
    state, another = session_dir / "homeless", session_dir / "another"
    for folder, uid in ((state, 54321), (another, NOBODY)):
        folder.mkdir(mode=0o700)
        os.chown(folder, uid, uid)
    environ = {"XDG_RUNTIME_DIR": "/nonexistent", "HOME": str(another) if home == "another's" else home}
    if home:
        refused = start(Path(environ["HOME"], ".local/state/guestlaunch"), "refused", environ=environ, user=54321)
        answer = refused.answer()
        assert answer["text"].endswith("(set GUESTLAUNCH_STATE_DIR to a directory that you can write to)"), answer
        assert "\n" not in answer["text"]
        assert refused.finish() == 0
    one = start(state, "homeless", environ=environ, user=54321)
    answer = one.answer()
    assert "error" not in answer, answer
    assert one.ask("end")["exit_code"] == 0
    assert one.finish() == 0
    assert gone(Path(answer["root"]))
    shutil.rmtree(state)
    another.rmdir()


def test_session_connection(nobody: Path, start: Start) -> None:
    """qemu:///session of a user without privileges: a guest lives, ends, and ends with its orchestrator too."""
    environ = _environ_of(nobody)
    command = [program("libvirtd"), "--timeout", "30"]
    with running(command, nobody / "run" / "libvirt" / "libvirt-sock", environ=environ, user=NOBODY):
        one = start(nobody / "state", "session", uri="qemu:///session", environ=environ, user=NOBODY)
        _check_daemon_guest(one, "session")
        other = start(nobody / "state", "session-killed", uri="qemu:///session", environ=environ, user=NOBODY)
        pid = other.answer()["pid"]
        other.process.kill()
        assert gone(Path(f"/proc/{pid}"))


def test_a_daemon_that_is_paused_costs_no_guest_its_life(nobody: Path, start: Start) -> None:
    """A session daemon that does not answer for 25 s finds its guest, and the connection to it, where they were."""
    environ = _environ_of(nobody)
    command = [program("libvirtd"), "--timeout", "30"]
    with running(command, nobody / "run" / "libvirt" / "libvirt-sock", environ=environ, user=NOBODY) as daemon:
        one = start(nobody / "state", "paused", uri="qemu:///session", environ=environ, user=NOBODY)
        pid = one.answer()["pid"]
        daemon.send_signal(signal.SIGSTOP)
        try:
            assert one.ask("unanswered") == {"lost": False}
            assert Path(f"/proc/{pid}").exists()
        finally:
            daemon.send_signal(signal.SIGCONT)
        assert one.ask("resume") == {"status": "running"}
        assert one.ask("end") == {"reason": "shutdown", "exit_code": 0, "names": []}
        assert one.finish() == 0


def _check_daemon_guest(one: Orchestrator, name: str) -> None:
    """See a guest of that name live and end; the host may have other domains, which stay."""
    answer = one.answer()
    assert "error" not in answer, answer
    assert answer["root"] is None
    assert answer["local"] is True
    assert Path(f"/proc/{answer['pid']}/cmdline").exists()
    assert one.ask("resume") == {"status": "running"}
    others = [other for other in answer["names"] if other != name]
    assert one.ask("end") == {"reason": "shutdown", "exit_code": 0, "names": others}
    assert one.finish() == 0
    assert gone(Path(f"/proc/{answer['pid']}"), within_s=5)


def test_system_connection(system_daemon: tuple[str, subprocess.Popen[bytes]], start: Start, session_dir: Path) -> None:
    """A system daemon: a guest lives and ends; killing the orchestrator ends it; killing the daemon is noticed."""
    uri, process = system_daemon
    state = session_dir / "unused"
    _check_daemon_guest(start(state, "system", uri=uri), "system")

    killed = start(state, "system-killed", uri=uri)
    pid = killed.answer()["pid"]
    killed.process.kill()
    assert gone(Path(f"/proc/{pid}"))

    watching = start(state, "system-lost", uri=uri)
    pid = watching.answer()["pid"]
    process.kill()
    assert watching.ask("lost") == {"lost": True}
    assert watching.ask("gone") == {"error": "ConnectionLostError"}
    os.kill(pid, signal.SIGKILL)
    assert gone(Path(f"/proc/{pid}"))
    assert not state.exists()


def test_no_daemon_is_a_lost_connection(start: Start, session_dir: Path) -> None:
    """A daemon that cannot be reached is tried more than once, and then is one clear error."""
    begin = time.monotonic()
    one = start(session_dir, "nowhere", uri=f"qemu+unix:///system?socket={session_dir}/nothing")
    answer = one.answer()
    assert answer["error"] == "ConnectionLostError"
    assert "\n" not in answer["text"]
    assert time.monotonic() - begin > 0.1 + 0.2
