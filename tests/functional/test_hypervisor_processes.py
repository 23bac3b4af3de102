"""Orchestrator processes next to each other and after each other's sudden death, and the daemons' connections.

Each orchestrator is a process of its own here, because libvirt's embedded driver belongs to a process for life.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")

from orchestrator.hypervisor import embed
from tests.processes import both_guardians
from tests.tiny_domains import tiny_domain

TOP = Path(__file__).resolve().parents[2]
NOBODY = 65534

# Starts a guest, says where everything is, and does what the lines on its standard input ask for.
ORCHESTRATOR = """
import json, sys
from pathlib import Path
from orchestrator.errors import GuestlaunchError
from orchestrator.hypervisor.connection import open_connection

uri, state_dir, xml, claimed = json.loads(sys.argv[1])

def say(**values):
    print(json.dumps(values), flush=True)

try:
    with open_connection(uri, Path(state_dir)) as connection:
        if claimed:
            connection.root.claim(Path(claimed))
        guest = connection.create(xml)
        root = str(connection.root.path) if connection.root else None
        say(pid=guest.pid, root=root, names=connection.list_names(), local=connection.is_local)
        for line in sys.stdin:
            if line == "resume\\n":
                guest.resume()
                say(status=guest.qmp("query-status")["status"])
            elif line == "end\\n":
                ending = guest.end(10)
                say(reason=ending.reason, exit_code=ending.exit_code, names=connection.list_names())
            elif line == "lost\\n":
                say(lost=connection.lost.wait(20))
            elif line == "unanswered\\n":
                say(lost=connection.lost.wait(25))
            elif line == "gone\\n":
                try:
                    guest.wait_gone(10)
                except GuestlaunchError as error:
                    say(error=type(error).__name__)
except GuestlaunchError as error:
    say(error=type(error).__name__, text=str(error))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orchestrator:
    """A running orchestrator process."""

    process: subprocess.Popen[str]

    def answer(self) -> dict[str, Any]:
        """Return its next line; empty when it ended without one."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        return answer

    def ask(self, request: str) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self.answer()

    def finish(self) -> int:
        """Let it end by itself and return its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(30)


Start = Callable[..., Orchestrator]


@pytest.fixture
def start(evidence: Path) -> Iterator[Start]:
    """Start orchestrators; those that still run at the end of a test are killed."""
    with contextlib.ExitStack() as stack:

        def begin(
            state_dir: Path,
            name: str = "guest",
            *,
            uri: str | None = None,
            claimed: Path | None = None,
            environ: dict[str, str] | None = None,
            user: int | None = None,
        ) -> Orchestrator:
            log: IO[bytes] = stack.enter_context((evidence / f"{name}.stderr").open("wb"))
            request = json.dumps([uri, str(state_dir), tiny_domain(name), str(claimed) if claimed else None])
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", ORCHESTRATOR, request],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    cwd="/",
                    env={**os.environ, "PYTHONPATH": str(TOP), **(environ or {})},
                    user=user,
                    group=user,
                    extra_groups=None if user is None else [],
                )
            )
            stack.callback(process.kill)
            return Orchestrator(process=process)

        yield begin


def gone(*paths: Path, within_s: float = 10.0) -> bool:
    """Tell whether all paths have vanished in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(path.exists() for path in paths):
            return True
        time.sleep(0.05)
    return False


def test_orchestrators_at_once_share_the_capabilities(state_dir: Path, start: Start, session_dir: Path) -> None:
    """Three processes that start at once on an empty cache all launch, and leave one sound cache file and no root."""
    fresh = session_dir / "fresh"
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
    shutil.rmtree(fresh)


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


def test_killed_while_libvirt_asks_qemu_what_it_can_do(session_dir: Path, start: Start) -> None:
    """On an empty cache libvirt runs QEMUs of its own, which wait to be asked: they go with the rest."""
    fresh = session_dir / "fresh"
    one = start(fresh, "asked")
    end = time.monotonic() + 60
    while not (files := [file for file in fresh.glob("libvirt/roots/*/lib/qemu/qmp-*/qmp.pid") if file.read_text()]):
        assert time.monotonic() < end
    pid = int(files[0].read_text())
    os.kill(pid, signal.SIGSTOP)  # it is not done before we are
    one.process.kill()
    assert gone(Path(f"/proc/{pid}"), files[0].parents[3])
    shutil.rmtree(fresh)


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
    reachable = subprocess.run(
        [sys.executable, "-c", "import orchestrator, libvirt"], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/",
        env={"PYTHONPATH": str(TOP)}, check=False, capture_output=True,
    )  # fmt: skip
    if reachable.returncode:
        pytest.skip("other users cannot read this checkout")
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


@pytest.mark.parametrize("home", [None, "/", "/nonexistent"])
@pytest.mark.usefixtures("nobody")
def test_embedded_driver_without_a_home(session_dir: Path, start: Start, home: str | None) -> None:
    """A user without an account, a home or a runtime directory launches where there is a state directory."""
    state = session_dir / "homeless"
    state.mkdir(mode=0o700)
    os.chown(state, 54321, 54321)
    environ = {"XDG_RUNTIME_DIR": "/nonexistent"} | ({"HOME": home} if home else {"HOME": ""})
    one = start(state, "homeless", environ=environ, user=54321)
    answer = one.answer()
    assert "error" not in answer, answer
    assert one.ask("end")["exit_code"] == 0
    assert one.finish() == 0
    assert gone(Path(answer["root"]))
    shutil.rmtree(state)


@contextlib.contextmanager
def _running(
    command: list[str], ready: Path, *, environ: dict[str, str] | None = None, user: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon until the end of the block; its socket shows that it is ready."""
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, **(environ or {})},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    ) as daemon:
        try:
            end = time.monotonic() + 30
            while not ready.exists() and daemon.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            assert ready.exists(), f"{command[0]} did not start"
            yield daemon
        finally:
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()


def test_session_connection(nobody: Path, start: Start) -> None:
    """qemu:///session of a user without privileges: a guest lives, ends, and ends with its orchestrator too."""
    environ = _environ_of(nobody)
    command = [_daemon("libvirtd"), "--timeout", "30"]
    with _running(command, nobody / "run" / "libvirt" / "libvirt-sock", environ=environ, user=NOBODY):
        one = start(nobody / "state", "session", uri="qemu:///session", environ=environ, user=NOBODY)
        _check_daemon_guest(one)
        other = start(nobody / "state", "session-killed", uri="qemu:///session", environ=environ, user=NOBODY)
        pid = other.answer()["pid"]
        other.process.kill()
        assert gone(Path(f"/proc/{pid}"))


def test_a_daemon_that_is_paused_costs_no_guest_its_life(nobody: Path, start: Start) -> None:
    """A session daemon that does not answer for 25 s finds its guest, and the connection to it, where they were."""
    environ = _environ_of(nobody)
    command = [_daemon("libvirtd"), "--timeout", "30"]
    with _running(command, nobody / "run" / "libvirt" / "libvirt-sock", environ=environ, user=NOBODY) as daemon:
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


@pytest.fixture
def system_daemon(session_dir: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A system libvirtd on a socket of its own: its URI and its process."""
    if os.getuid() != 0:
        pytest.skip("a system libvirtd needs the superuser")
    if Path("/run/libvirt/libvirt-sock").exists():
        pytest.skip("this host runs its own libvirtd, which must not be disturbed")
    folder = session_dir / "libvirtd"
    folder.mkdir()
    (folder / "libvirtd.conf").write_text(f'unix_sock_dir = "{folder}"\nauth_unix_rw = "none"\n')
    log_daemon = [_daemon("virtlogd"), "-p", str(folder / "virtlogd.pid")]
    daemon = [_daemon("libvirtd"), "-f", str(folder / "libvirtd.conf"), "-p", str(folder / "libvirtd.pid")]
    with (
        _running(log_daemon, Path("/run/libvirt/virtlogd-sock")),
        _running(daemon, folder / "libvirt-sock") as process,
    ):
        yield f"qemu+unix:///system?socket={folder}/libvirt-sock", process
    shutil.rmtree(folder)


def _daemon(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _check_daemon_guest(one: Orchestrator) -> None:
    answer = one.answer()
    assert "error" not in answer, answer
    assert answer["root"] is None
    assert answer["local"] is True
    assert Path(f"/proc/{answer['pid']}/cmdline").exists()
    assert one.ask("resume") == {"status": "running"}
    assert one.ask("end") == {"reason": "shutdown", "exit_code": 0, "names": []}
    assert one.finish() == 0
    assert gone(Path(f"/proc/{answer['pid']}"), within_s=5)


def test_system_connection(system_daemon: tuple[str, subprocess.Popen[bytes]], start: Start, session_dir: Path) -> None:
    """A system daemon: a guest lives and ends; killing the orchestrator ends it; killing the daemon is noticed."""
    uri, process = system_daemon
    state = session_dir / "unused"
    _check_daemon_guest(start(state, "system", uri=uri))

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
