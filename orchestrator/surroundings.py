"""The state that each of our programs starts from, whatever its caller left it in: signals, descriptors, text, umask.

What is inherited through exec can break a program without a trace: an ignored SIGCHLD takes every exit status away, a
blocked SIGTERM makes a process that cannot be ended, a closed standard descriptor gives its number to the next socket.
Each program calls `settle` first. A program that is the user's own (a tool that `guestlaunch exec` runs) is started
within `as_given`, and finds what its user left.

Standard library and light modules only: the hv wrapper is one of the programs.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

# What people have ignored on purpose: nohup, a shell's `&`, `trap '' TERM`. A program that a person starts keeps it.
LEFT_TO_THE_USER = frozenset((
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP,
    signal.SIGTTIN, signal.SIGTTOU,
))  # fmt: skip
# Ignored by Python itself, which every program of ours relies on: a reader that went away is an error, not an end.
_PYTHONS = frozenset((signal.SIGPIPE, signal.SIGXFSZ))
_SERVERS_UMASK = 0o077
_OTHERS_WRITE = 0o022
_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")  # what Python sets LC_CTYPE to, for its children too (PEP 538)


class _Given:
    """What the process was started with, as far as it was changed: for programs of the user's."""

    mask: frozenset[int] = frozenset()
    ignored: frozenset[int] = frozenset()
    umask: int | None = None


def settle(*, keep: Collection[int] = (), umask: int | None = None) -> None:
    """Bring this process into the known state. Nothing else may have been started yet, neither thread nor process.

    Dispositions are the default but for `keep` and what Python ignores, the mask is empty, descriptors 0 to 2 are
    open, file names are UTF-8 (the process starts anew where its locale is another), and what is created is nobody
    else's to write to.

    :param keep: signals that stay ignored where they are.
    :param umask: exactly this; None keeps the caller's, but for others' right to write and for our own rights.
    """
    _speak_utf8()
    fill_descriptors()
    _settle_signals(keep)
    given = os.umask(_SERVERS_UMASK)
    _Given.umask = given
    os.umask(given & 0o077 | _OTHERS_WRITE if umask is None else umask)


def settle_server(*, keep: Collection[int] = ()) -> None:
    """Settle a program that serves: what it creates is its user's alone."""
    settle(keep=keep, umask=_SERVERS_UMASK)


def leave_directory() -> None:
    """Go where no file system is kept busy and nothing is found by accident."""
    sys.path[:] = [os.path.join(working_directory(), entry) for entry in sys.path]  # noqa: PTH118 - light; "" is it, too
    os.chdir("/")


def working_directory() -> str:
    """Return the working directory; one that was removed by the name that the kernel still knows it by."""
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib is too heavy for the wrapper
    except OSError:
        return f"/proc/{os.getpid()}/cwd"


def fill_descriptors() -> None:
    """Open /dev/null in the place of each standard descriptor that is closed, and make Python's streams of them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # Those below are open, so this is the lowest number there is.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 - it stays
            setattr(sys, name, stream)


def _speak_utf8() -> None:
    """Start this program anew in Python's UTF-8 mode, unless file names are UTF-8 already.

    Paths come from clients as bytes that are to be used unchanged, and they are shown and logged as UTF-8.
    """
    if os.environ.get("LC_CTYPE") in _COERCED and not _was_given(b"LC_CTYPE"):
        del os.environ["LC_CTYPE"]  # Python's own: the user's programs are to have the user's locale
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable or not sys.orig_argv:
        return
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - ourselves


def _was_given(name: bytes) -> bool:
    """Tell whether a variable was there when the process started."""
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - pathlib is too heavy for the wrapper
            return b"\0" + name + b"=" in b"\0" + file.read()
    except OSError:
        return True


def _settle_signals(keep: Collection[int]) -> None:
    _Given.mask = frozenset(signal.pthread_sigmask(signal.SIG_SETMASK, ()))
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals() - _PYTHONS}
    ignored = frozenset(number for number, handler in handlers.items() if handler is signal.SIG_IGN)
    # Whoever ignores SIGCHLD takes from programs what became of their children; no user means that.
    _Given.ignored = ignored - {signal.SIGCHLD}
    for number in ignored - frozenset(keep):
        signal.signal(number, signal.SIG_DFL)
    # Python's own handler, unless a kept SIGINT is ignored: the programs start with one that serves until here.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class as_given:  # noqa: N801 - used like a function
    """Within it, a process that is started finds the mask, the ignored signals and the umask that we were given.

    Only SIGCHLD is not ignored again.
    """

    def __enter__(self) -> None:
        """Put back what was given."""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _Given.mask)
        self._handlers = {
            number: signal.signal(number, signal.SIG_IGN)
            for number in _Given.ignored
            if signal.getsignal(number) is signal.SIG_DFL
        }
        self._umask = None if _Given.umask is None else os.umask(_Given.umask)

    def __exit__(self, *_: object) -> None:
        """Return to the known state."""
        if self._umask is not None:
            os.umask(self._umask)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
