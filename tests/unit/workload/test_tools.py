"""Running a tool: exactly as the shell would, whatever happens to it or to us."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.errors import GuestlaunchError
from orchestrator.workload import tools
from orchestrator.workload.tools import ToolNotExecutableError, ToolNotFoundError

RUN = "import os, sys\nfrom orchestrator.workload import tools\nsys.exit(tools.run(sys.argv[1:], os.environ))"

RUN_OWN = RUN.replace("tools.run(", "tools.run_own(")


def start(*command: str, **options: object) -> subprocess.Popen[bytes]:
    """Run a tool through us in a process of its own, so that signals can be sent to it."""
    return subprocess.Popen([sys.executable, "-c", RUN, *command], **options)  # type: ignore[call-overload, no-any-return]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_exit_status(script: str, status: int) -> None:
    """The tool's status is ours; a signal is 128+N."""
    assert tools.run(("sh", "-c", script), os.environ) == status


def test_missing_program() -> None:
    """A program that is not there is 127, one of libguestfs's with its package."""
    with pytest.raises(ToolNotFoundError, match="install guestfs-tools") as caught:
        tools.run(("virt-nothing-of-that-name",), os.environ)
    assert caught.value.exit_status == 127
    with pytest.raises(ToolNotFoundError, match="no such program") as caught:
        tools.run(("nothing-of-that-name",), os.environ)
    assert "install" not in str(caught.value)


def test_program_that_cannot_be_executed(tmp_path: Path) -> None:
    """A file without the right is 126, as in a shell."""
    (tmp_path / "x").write_text("")
    with pytest.raises(ToolNotExecutableError) as caught:
        tools.run((str(tmp_path / "x"),), os.environ)
    assert caught.value.exit_status == 126
    with pytest.raises(GuestlaunchError, match="cannot run: '': "):  # a variable that was not set
        tools.run(("",), os.environ)


def test_descriptors_pass_through(tmp_path: Path) -> None:
    """Standard input and output, and a descriptor of the shell's own (<(...)), are the tool's."""
    (tmp_path / "extra").write_text("three")
    with (tmp_path / "extra").open() as extra:
        process = start(
            "sh", "-c", f"cat; cat /proc/self/fd/{extra.fileno()}; echo err >&2",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(extra.fileno(),),
        )  # fmt: skip
        out, err = process.communicate(b"in\0put", timeout=10)
    assert out == b"in\0putthree"
    assert err == b"err\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_to_us_reach_the_tool(tmp_path: Path, number: signal.Signals) -> None:
    """Who ends us ends the tool; its own answer to the signal counts."""
    script = f"trap 'exit 5' {number.name.removeprefix('SIG')}; touch {tmp_path}/up; while :; do sleep 0.05; done"
    # Under nohup the suite itself ignores SIGHUP, which children inherit.
    process = start("sh", "-c", script, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    wait_for(tmp_path / "up")
    process.send_signal(number)
    assert process.wait(10) == 5


def test_interrupt_is_the_tools(tmp_path: Path) -> None:
    """Ctrl-C goes to the whole group; we wait for what the tool makes of it."""
    script = f"trap 'sleep 0.3; exit 9' INT; touch {tmp_path}/up; while :; do sleep 0.05; done"
    process = start("sh", "-c", script, start_new_session=True)
    wait_for(tmp_path / "up")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) == 9


def test_interrupt_kills_a_tool_that_has_no_handler(tmp_path: Path) -> None:
    """Our own handlers are not inherited: the tool dies of Ctrl-C as always."""
    process = start("sh", "-c", f"touch {tmp_path}/up; exec sleep 30", start_new_session=True)
    wait_for(tmp_path / "up")
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) == 130


def test_nohup_stays(tmp_path: Path) -> None:
    """A signal that our caller ignores is ignored by the tool, too."""
    script = f"touch {tmp_path}/up; sleep 0.5; exit 3"
    process = subprocess.Popen(
        ["sh", "-c", f'trap "" HUP; exec {sys.executable} -c "$0" "$@"', RUN, "sh", "-c", script],
        start_new_session=True,
    )
    wait_for(tmp_path / "up")
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(10) == 3


def test_controlling_terminal() -> None:
    """On a terminal, the tool is in its foreground group and may read from it."""
    pid, terminal = pty.fork()
    if pid == 0:  # the child has the terminal as its standard descriptors
        os.execv(sys.executable, [sys.executable, "-c", RUN, "sh", "-c", "read line </dev/tty; echo got $line; tty -s"])
    os.write(terminal, b"hello\n")
    seen = b""
    with contextlib.suppress(OSError):  # EIO, which is how a terminal's end shows
        while True:
            seen += os.read(terminal, 1000)
    os.close(terminal)
    assert b"got hello" in seen
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_quiet() -> None:
    """The demo's tools neither read from nor write to the terminal."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_OWN, "sh", "-c", "cat; echo out"],
        input=b"in",
        capture_output=True,
        timeout=10,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")


def gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_our_own_tool_ends_with_us(tmp_path: Path) -> None:
    """Killed, a command takes along what it started for its own ends; the user's own tools go on."""
    for run, ends in ((RUN_OWN, True), (RUN, False)):
        said = tmp_path / f"pid-{ends}"
        script = f"echo $$ >{said}.new; mv {said}.new {said}; exec sleep 60"
        process = subprocess.Popen([sys.executable, "-c", run, "sh", "-c", script])
        wait_for(said)
        time.sleep(0.1)  # it is tied at once, and then we are killed
        process.kill()
        process.wait(10)
        pid = int(said.read_text())
        end = time.monotonic() + (10 if ends else 0.3)
        while not gone(pid) and time.monotonic() < end:
            time.sleep(0.01)
        assert gone(pid) == ends
        if not ends:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("variable", ["TMPDIR", "LIBGUESTFS_TMPDIR"])
def test_our_own_tool_leaves_no_files(tmp_path: Path, variable: str) -> None:
    """The folder that libguestfs made for a tool goes when a signal ends it; it is where the user has such folders."""
    script = f"mktemp -d -p $LIBGUESTFS_TMPDIR libguestfsXXXXXX >{tmp_path}/made; kill -TERM $$"
    home = tmp_path / "home"
    home.mkdir()
    environ = os.environ | {"TMPDIR": str(tmp_path / "none"), variable: str(home)}
    assert tools.run_own(("sh", "-c", script), environ) == 143
    made = Path((tmp_path / "made").read_text().strip())
    assert home in made.parents
    assert list(home.iterdir()) == []
    missing = {"LIBGUESTFS_TMPDIR": "/nonexistent"}
    assert tools.run_own(("sh", "-c", "test $LIBGUESTFS_TMPDIR = /nonexistent"), os.environ | missing) == 0
