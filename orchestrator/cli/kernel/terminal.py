"""The terminal and its signals while a kernel runs: signals end the run, keys go to the guest's console."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from orchestrator.launch.stop import Stop

ESCAPE = b"\x1d"  # Ctrl-], as virsh's console has it
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNAL_BASE = 128


@contextlib.contextmanager
def stopping() -> Iterator[tuple[Stop, list[int]]]:
    """Have signals end what runs; yields what does so, and those that came.

    Once one came, those that follow change nothing, not even afterwards: what there is to say is still said. What our
    caller had ignored stays so.
    """
    came: list[int] = []
    with Stop() as stop:

        def end(number: int, _frame: FrameType | None) -> None:
            came.append(number)
            stop.request(f"signal {signal.Signals(number).name}")

        before = {}
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, end)
        try:
            yield stop, came
        finally:
            for number, handler in before.items() if not came else ():
                signal.signal(number, handler)


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Give each key to the guest while standard input and output are a terminal."""
    if not (os.isatty(0) and os.isatty(1)):
        yield
        return
    import termios  # here: most runs have a command, and no use for it
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
