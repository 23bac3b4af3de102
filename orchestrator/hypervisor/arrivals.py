"""Tells when a file is written in a folder: by inotify(7), which costs nothing while nothing happens.

Where the kernel has no instance of it to give, or a folder is not there yet, a few milliseconds pass for news.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from pathlib import Path

_IN_MODIFY, _IN_CLOSE_WRITE, _IN_CREATE = 0x2, 0x8, 0x100
_EVENT = struct.Struct("iIII")  # its last is the length of the name that follows
_LARGEST = 1 << 14
_BLIND_MS = 3


class Arrivals:
    """What is written in some folders, from now on. One thread waits and closes it, any other may stop it."""

    def __init__(self, *folders: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._stopping = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._notices = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._blind = False
        self._closing = threading.Lock()
        for folder in folders:
            self.watch(folder)

    def watch(self, folder: Path) -> None:
        """Tell of this folder, too. What is in it already is not told."""
        wanted = _IN_MODIFY | _IN_CLOSE_WRITE | _IN_CREATE
        self._blind |= self._libc.inotify_add_watch(self._notices, os.fsencode(folder), wanted) < 0

    def wait(self) -> set[str] | None:
        """Return the names of what was written, all of them perhaps if that is empty; None once it is stopped."""
        poll = select.poll()
        poll.register(self._stopping, select.POLLIN)
        if self._notices >= 0:
            poll.register(self._notices, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(_BLIND_MS if self._blind else None)]
        if self._stopping in ready:
            return None
        return self._names() if ready else set()

    def _names(self) -> set[str]:
        data, names, at = os.read(self._notices, _LARGEST), set(), 0
        while at < len(data):
            *_, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            names.add(os.fsdecode(data[at : at + length].rstrip(b"\0")))
            at += length
        return names

    def stop(self) -> None:
        """Have whoever waits return."""
        with self._closing:
            if self._stopping >= 0:
                os.eventfd_write(self._stopping, 1)

    def close(self) -> None:
        """Watch no more. It takes the kernel some 10 ms: it waits for all CPUs to take note."""
        with self._closing:
            descriptors = (self._stopping, self._notices)
            self._stopping = self._notices = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)
