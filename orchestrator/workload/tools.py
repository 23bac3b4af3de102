"""Runs a program as if the shell had: same terminal, same descriptors, its own exit status.

The program stays in our process group, so that the terminal's keys (interrupt, quit, stop) reach it
directly; we only must not die of them before it does. What it launches is not known here.

One that the user did not name, but a command of ours uses for its own ends, is nobody else's: it has no terminal, ends
with us however we end, and leaves no files behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from orchestrator import scratch, surroundings
from orchestrator.errors import CapabilityError, NotFoundError
from orchestrator.tether import Tether

NOT_FOUND = 127
NOT_EXECUTABLE = 126
SIGNAL_BASE = 128
_FOLDERS = "LIBGUESTFS_TMPDIR"

# The terminal sends these to the program as well.
_LEFT_TO_THE_PROGRAM = (signal.SIGINT, signal.SIGQUIT)
# These were meant for us: somebody who ends us wants the program to end.
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class ToolNotFoundError(NotFoundError):
    """The program is not there."""

    exit_status = NOT_FOUND


class ToolNotExecutableError(CapabilityError):
    """The program is there but cannot be executed."""

    exit_status = NOT_EXECUTABLE


def run(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a program of the user's to its end and return its exit status, 128+N when signal N ended it.

    :raise ToolNotFoundError: it is not there.
    :raise ToolNotExecutableError: it cannot be executed.
    """
    return _run(command, environ, None)


def run_own(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a program for our own ends, without input and output; otherwise as `run`.

    :raise ToolNotFoundError: it is not there.
    :raise ToolNotExecutableError: it cannot be executed.
    """
    with swept(environ) as variables, contextlib.closing(Tether()) as tether:
        return _run(command, variables, tether)


@contextlib.contextmanager
def swept(environ: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Give the environment of a program of our own, for as long as it runs: what it leaves goes with us, or after us.

    libguestfs makes a folder for each handle where temporary files belong, and removes it when the handle is closed. A
    program that a signal ends closes none. Only sockets are elsewhere (guestfs_get_sockdir(3)).

    :raise OSError: no folder can be made there.
    """
    home = environ.get(_FOLDERS) or environ.get("TMPDIR") or tempfile.gettempdir()
    if not Path(home).is_dir():
        yield environ  # libguestfs will say so
        return
    with scratch.folder(Path(home).absolute()) as folder:
        yield {**environ, _FOLDERS: os.fspath(folder)}


def _run(command: Sequence[str], environ: Mapping[str, str], tether: Tether | None) -> int:
    """Run a program, and end it when we are dead if it has a tether."""
    own = None if tether is None else subprocess.DEVNULL
    with _signals() as deliver_signals_to:
        try:
            with surroundings.as_given():
                process = subprocess.Popen(
                    list(command),
                    env=dict(environ),
                    close_fds=tether is not None,
                    pass_fds=() if tether is None else (tether.reading,),
                    stdin=own,
                    stdout=own,
                )
        except FileNotFoundError as error:
            raise ToolNotFoundError("cannot run", command[0], "no such program", _from_where(command[0])) from error
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ToolNotExecutableError("cannot run", command[0] or "''", why) from error
        if tether is not None:
            tether.tie(process.pid)
        deliver_signals_to(process)
        status = process.wait()
    return SIGNAL_BASE - status if status < 0 else status


def _from_where(name: str) -> str:
    """Return what to install for a program of libguestfs's; nothing for any other."""
    from orchestrator.distributions import Part, hint  # here: no tool that is there needs it

    if name in {"guestmount", "guestunmount"}:
        return hint(Part.GUESTMOUNT)
    if name.startswith("virt-"):
        return hint(Part.GUESTFS_TOOLS)
    return hint(Part.GUESTFISH) if name.startswith("guest") else ""


def _send(program: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(program.pid, number)


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Survive the terminal's signals, and pass on those sent to us; yields a function that takes the program.

    Handlers, not SIG_IGN: an ignored signal would stay ignored in the program. What our caller had ignored
    (nohup) does stay so.
    """
    programs: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        early.append(number)
        for program in programs:
            _send(program, number)

    def take(program: subprocess.Popen[bytes]) -> None:
        programs.append(program)
        for number in early:
            _send(program, number)

    def leave(_number: int, _frame: FrameType | None) -> None:
        """Let the program decide."""

    before = {}
    for numbers, handler in ((_LEFT_TO_THE_PROGRAM, leave), (_PASSED_ON, pass_on)):
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield take
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
