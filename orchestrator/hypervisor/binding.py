"""libvirt's bindings, loaded so that nothing is printed to a user's terminal, and the event loop they need.

The rest of this room takes `libvirt` and `libvirt_qemu` from here. libvirt reads its log settings once, while it is
being imported; without any it writes to stderr. A user's own LIBVIRT_LOG_OUTPUTS is honoured.
"""

from __future__ import annotations

import atexit
import os
import threading
import time

__all__ = ["library_version", "libvirt", "libvirt_qemu", "start_event_loop"]

_LOG_VARIABLE = "LIBVIRT_LOG_OUTPUTS"

_given = os.environ.get(_LOG_VARIABLE)
if _given is None:
    os.environ[_LOG_VARIABLE] = "4:file:/dev/null"  # every failure reaches us as an exception anyway
try:
    import libvirt
    import libvirt_qemu
finally:
    if _given is None:
        # Programs that a launch starts use libvirt too, and keep their own defaults.
        del os.environ[_LOG_VARIABLE]

_lock = threading.Lock()
_started, _over = threading.Event(), threading.Event()
_END_SECONDS = 2.0


def _quiet(_context: object, _error: list[object]) -> None:
    """Take libvirt's error reports, which it would print to stderr; the exceptions carry the same."""


libvirt.registerErrorHandler(_quiet, None)


def _run_loop() -> None:
    while not _over.is_set():
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            time.sleep(0.01)  # poll(2) failed once; without this thread every call would wait for ever


def library_version() -> int:
    """Return the version of libvirt's library: major * 1,000,000 + minor * 1,000 + release."""
    return int(libvirt.getVersion())


def start_event_loop() -> None:
    """Run libvirt's default event loop on a daemon thread, once a process. Call before opening a connection."""
    with _lock:
        if not _started.is_set():
            libvirt.virEventRegisterDefaultImpl()
            waker = libvirt.virEventAddTimeout(-1, lambda *_: None, None)
            thread = threading.Thread(target=_run_loop, name="libvirt-events", daemon=True)
            thread.start()
            atexit.register(_end_loop, os.getpid(), thread, waker)
            _started.set()


def _end_loop(process: int, thread: threading.Thread, waker: int) -> None:
    """Have the loop's thread gone before the interpreter is: what it called afterwards would be no longer there.

    In a child that this process has forked there is no such thread, and libvirt's lock may be held for ever.
    """
    if os.getpid() != process:
        return
    _over.set()
    libvirt.virEventUpdateTimeout(waker, 0)
    thread.join(_END_SECONDS)
