"""Has the kernel end a QEMU whose owner is dead, even where everybody who guards the owner died at the same moment.

QEMU keeps the reading end of a pipe and never looks at it; the writing end is its owner's alone. Once that is gone, the
kernel sends QEMU the signal that is set on the reading end (fcntl(2): O_ASYNC, F_SETOWN, F_SETSIG): nobody else has to
be alive. Files that the guest leaves are not its business. Other programs that take long are tied in the same way: the
death of the thread that started one (prctl(2): PR_SET_PDEATHSIG) would be the wrong one to go by.

The root of a user namespace can signal only its own user's processes in this way: other QEMUs have guardians alone.
"""

from __future__ import annotations

import fcntl
import os
import signal

NAME = "owner"  # QEMU's name for the reading end, where it is handed over


class Tether:
    """A pipe between this process and a QEMU, or another program, of its own.

    :ivar reading: the end that QEMU is to hold until it ends; ours to hand over until `tie`.
    """

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()

    def tie(self, pid: int, number: signal.Signals = signal.SIGTERM) -> None:
        """From now on QEMU, which holds its end, gets a signal when `close` is called, or we are dead.

        :param pid: its process id; that of a process group with a minus before it.
        :raise OSError: it is gone.
        """
        # Last, as QEMU changes the flags of what it is handed, and they are common to all who hold it.
        fcntl.fcntl(self.reading, fcntl.F_SETOWN, pid)
        fcntl.fcntl(self.reading, fcntl.F_SETSIG, number)
        fcntl.fcntl(self.reading, fcntl.F_SETFL, fcntl.fcntl(self.reading, fcntl.F_GETFL) | os.O_ASYNC)
        os.close(self.reading)
        self.reading = -1

    def close(self) -> None:
        """Let go."""
        descriptors = (self.reading, self._writing)
        self.reading = self._writing = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)
