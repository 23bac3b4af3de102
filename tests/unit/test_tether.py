"""A process that is tied to its owner ends with it, though nobody is left who could end it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.tether import Tether

TOP = Path(__file__).resolve().parents[2]
SECONDS = "600"

# Starts a process that is tied to it, says which, and waits for its own end.
OWNER = """
import subprocess, sys
from orchestrator.tether import Tether
tether = Tether()
process = subprocess.Popen(sys.argv[1:], pass_fds=[tether.reading], start_new_session=True)
tether.tie(process.pid)
print(process.pid, flush=True)
sys.stdin.read()
"""

# Probes KVM with a program in QEMU's place.
PROBER = """
import sys
from pathlib import Path
from orchestrator.domain.model import Arch
from orchestrator.hypervisor.kvm_probe import probe
probe(Arch.X86_64, sys.argv[1], Path("/kernel"), deadline_s=600)
"""


@contextlib.contextmanager
def running(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program that imports ours."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(TOP)},
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Tell whether a process has ended in time; nobody may have waited for it."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def tied(pid: int) -> bool:
    """Tell whether a process has a descriptor by which it gets signals."""
    flags = []
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it closes what it does not need
            flags.append(path.read_text().split("flags:")[1].split()[0])
    return any(int(text, 8) & os.O_ASYNC for text in flags)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_let_go(number: signal.Signals) -> None:
    """It ends by the signal that was asked for, and not before."""
    with contextlib.closing(Tether()) as tether:
        process = subprocess.Popen(["sleep", SECONDS], pass_fds=[tether.reading])
        tether.tie(process.pid, number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
    assert process.wait(10) == -number


@pytest.mark.parametrize("user", [None, 0x7000_1234])
def test_owner_killed(user: int | None) -> None:
    """It ends with its owner, and also as another user than root's, which may send signals to everybody."""
    if user is not None and os.geteuid() != 0:
        pytest.skip("only root starts others' processes")
    become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    with running(OWNER, *become, "sleep", SECONDS) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        while b"sleep" not in Path(f"/proc/{pid}/comm").read_bytes():
            assert Path(f"/proc/{pid}").exists()
        owner.kill()
        assert gone(pid)


def test_a_probe_guest_ends_with_its_prober(tmp_path: Path) -> None:
    """A probe guest that hangs, as KVM's may, does not outlive a process that is killed while it waits for it."""
    program = tmp_path / "qemu"
    program.write_text(
        f"#!/bin/sh\necho $$ >{tmp_path}/new && mv {tmp_path}/new {tmp_path}/pid\nexec sleep {SECONDS}\n"
    )
    program.chmod(0o755)
    with running(PROBER, str(program)) as prober:
        end = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not tied(int((tmp_path / "pid").read_text())):
            assert time.monotonic() < end
            time.sleep(0.02)
        prober.kill()
        prober.wait(10)
        assert gone(int((tmp_path / "pid").read_text()))


COMMANDS = {
    "a command of ours": """
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.vm import own_commands
own_commands.wrapper_path = lambda: folder / "guestlaunch-hv"
own_commands.run_tool("x", ["x"], folder, Settings(state_dir=folder, runtime_dir=folder), Stop())
""",
    "a copy of an image": """
from orchestrator.launch.stop import Stop
from orchestrator.vm import folder as folders
folders.shutil.which = lambda _: str(folder / "guestlaunch")
folders._qemu_img([], folder, Stop())
""",
    "a part of a build": """
from orchestrator.appliance.command import Deadline, run
run([str(folder / "guestlaunch")], Deadline.after(600))
""",
    "a package": """
from orchestrator.install.package import _run
_run([str(folder / "guestlaunch")], folder, "x")
""",
}


@pytest.mark.parametrize("what", COMMANDS)
def test_what_we_start_ends_with_us(what: str, tmp_path: Path) -> None:
    """Whatever takes long does not go on when nobody is left whom it is for."""
    program = tmp_path / "guestlaunch"
    program.write_text(f"#!/bin/sh\necho $$ >$0.new && mv $0.new $0.pid\nexec sleep {SECONDS}\n")
    program.chmod(0o755)
    tmp_path.chmod(0o700)
    pid = Path(f"{program}.pid")
    with running(
        f"import sys\nfrom pathlib import Path\nfolder = Path(sys.argv[1])\n{COMMANDS[what]}", str(tmp_path)
    ) as one:
        end = time.monotonic() + 60
        while not pid.exists() or not tied(int(pid.read_text())):
            assert time.monotonic() < end
            assert one.poll() is None
            time.sleep(0.02)
        one.kill()
        one.wait(10)
        assert gone(int(pid.read_text()))


def test_nothing_stays_open() -> None:
    """What is tied and let go, and what never was tied, leaves no descriptor."""
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names are all that is wanted
    Tether().close()
    with contextlib.closing(Tether()) as tether, subprocess.Popen(["sleep", SECONDS], pass_fds=[tether.reading]) as one:
        tether.tie(one.pid)
        tether.close()
        one.wait(10)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
