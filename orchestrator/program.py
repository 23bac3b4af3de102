"""The outermost frame of our programs: every failure becomes one line on stderr and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from orchestrator import files
from orchestrator.errors import GuestlaunchError, too_many_files
from orchestrator.settings import default_state_dir

INTERRUPTED = 130
_BROKEN_PIPE = 141
_SIGNAL_BASE = 128
# What the host says of a file that it cannot be used, wherever we come upon it. One that is missing is our affair.
_OF_THE_HOST = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ELOOP,
     errno.ENAMETOOLONG, errno.ENOTDIR}
)  # fmt: skip


def guarded(program: str, body: Callable[[], int]) -> int:
    """Run a program's body and return its exit status; no traceback ever reaches the user.

    A reader of our output that went away is no failure worth a line; a file that the host does not let us use is
    named; a defect of ours is one line that says so and names the file that holds the traceback.
    """
    try:
        status = body()
        sys.stdout.flush()
        return status
    except GuestlaunchError as error:
        complain(program, str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence()
        return _BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the boundary of the program
        if isinstance(error, OSError) and error.errno in _OF_THE_HOST and error.filename is not None:
            complain(program, str(GuestlaunchError("cannot use", os.fsdecode(error.filename), error.strerror)))
        elif (limit := too_many_files(error)) is not None:
            complain(program, str(limit))
        else:
            complain(program, f"internal error: {error!r} (this is a bug; details: {_keep(program, error)})")
        return int(getattr(error, "exit_status", 1))  # some commands promise a status for whatever goes wrong


@contextlib.contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Make SIGTERM unwind the stack, as Ctrl-C does, so that what was made is removed; then exit with 143.

    A second one does not interrupt that. A handler that is there already, and a signal that our caller had ignored, are
    left alone.
    """

    def unwind(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, lambda *_: None)
        raise SystemExit(_SIGNAL_BASE + number)

    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if free:
        signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        if free:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def complain(program: str, text: str) -> None:
    """Write one line to stderr, if there is a stderr."""
    line = " ".join(f"{program}: {text}".splitlines()) + "\n"
    try:
        sys.stderr.write(line.encode("utf-8", "backslashreplace").decode())
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return


def _silence() -> None:
    """Point stdout to nowhere, so that the interpreter's last flush does not complain either."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _keep(program: str, error: Exception) -> str:
    """Write the traceback to a file and return its path."""
    text = "".join(traceback.format_exception(error))
    name = f"crash-{program}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
    for directory in (_log_directory(), Path(tempfile.gettempdir())):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / name
            files.write_whole(path, text.encode("utf-8", "backslashreplace"))
            return str(path)
        except OSError:
            continue
    return "nowhere to write them"


def _log_directory() -> Path:
    """Return the log directory without trusting the settings, which may be what failed."""
    named = os.environ.get("GUESTLAUNCH_STATE_DIR", "")
    try:
        return (Path(named) if named else default_state_dir(os.environ)) / "log"
    except GuestlaunchError:
        return Path(tempfile.gettempdir())
