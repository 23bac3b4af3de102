"""Runs a program as if the shell had: same terminal, same descriptors, its own exit status.

The program stays in our process group, so that the terminal's keys (interrupt, quit, stop) reach it
directly; we only must not die of them before it does. What it launches is not known here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from orchestrator import surroundings
from orchestrator.errors import CapabilityError, NotFoundError

NOT_FOUND = 127
NOT_EXECUTABLE = 126
SIGNAL_BASE = 128

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


def run(command: Sequence[str], environ: Mapping[str, str], *, quiet: bool = False) -> int:
    """Run a program to its end and return its exit status, 128+N when signal N ended it.

    :param quiet: throw its standard output away and give it no input.
    :raise ToolNotFoundError: it is not there.
    :raise ToolNotExecutableError: it cannot be executed.
    """
    with _signals() as deliver_signals_to:
        try:
            with surroundings.as_given():
                process = subprocess.Popen(
                    list(command),
                    env=dict(environ),
                    close_fds=False,
                    stdin=subprocess.DEVNULL if quiet else None,
                    stdout=subprocess.DEVNULL if quiet else None,
                )
        except FileNotFoundError as error:
            raise ToolNotFoundError("cannot run", command[0], "no such program", _from_where(command[0])) from error
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ToolNotExecutableError("cannot run", command[0] or "''", why) from error
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
