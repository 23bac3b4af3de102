"""The server's side of its guardian: started with the private root, replaced when it dies, told when all is in order.

What the guardian does is `leftovers`'s part.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from orchestrator.errors import CapabilityError
from orchestrator.hypervisor import leftovers

_PAUSE_S = 1.0  # between guardians that die, so that one that dies at once does not keep a processor busy
_DISMISSED_S = 5.0


class Guardian:
    """The process that cleans up after us, whatever becomes of us.

    It learns that we are dead by the end of a pipe, which nobody closes but the kernel: until our last thread is dead,
    libvirt may make folders again that were removed. It has its own session: a terminal's Ctrl-C is not for it.

    :param root: what it is to remove.
    :raise CapabilityError: it cannot be started.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read_end, self._write_end = os.pipe()
        self._dismissed = threading.Event()
        self._changing = threading.Lock()
        try:
            self._process = self._start()
        except OSError as error:
            os.close(self._read_end)
            os.close(self._write_end)
            raise CapabilityError("cannot start the guardian of", root, error) from error
        threading.Thread(target=self._replace, name="guardian", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", leftovers.__file__, str(self._root)],
            stdin=self._read_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _replace(self) -> None:
        """Start another one each time that it dies."""
        while not self._dismissed.is_set():
            began = time.monotonic()
            self._process.wait()
            if self._dismissed.wait(max(0.0, began + _PAUSE_S - time.monotonic())):
                return
            with self._changing, contextlib.suppress(OSError):
                if not self._dismissed.is_set():
                    self._process = self._start()

    def dismiss(self) -> None:
        """Have it end now, and wait for it: there is nothing left to clean up."""
        with self._changing:
            self._dismissed.set()
        with contextlib.suppress(OSError):
            os.write(self._write_end, b"\n")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DISMISSED_S)
