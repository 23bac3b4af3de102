"""Who gives way to whom on this host.

Nice values and scheduling policies count only within a session where the kernel schedules sessions as groups
(sched(7), "The autogroup feature": Debian's kernels do): an idle process of a session of its own got as much of a CPU
as a busy one of another, and QEMU is given a session by libvirt (2026-11-27). So what is to give way says so of its
session, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import time
from pathlib import Path

LOWEST = 19
_SYS_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13
# The kernel takes a change from all users but root in a tenth of a second.
_TRIES, _TRY_AGAIN_S = 5, 0.1


def session_nice(pid: int | None = None) -> int:
    """Return the nice value of a process's session, None for our own; 0 where sessions have none."""
    with contextlib.suppress(OSError):
        nice = re.search(r" nice (-?\d+)", Path(f"/proc/{pid or 'self'}/autogroup").read_text(encoding="ascii"))
        return int(nice[1]) if nice else 0
    return 0


def set_session_nice(value: int, pid: int | None = None) -> bool:
    """Give a process's session a nice value, None for our own; tell whether it has it."""
    for attempt in range(_TRIES):
        try:
            Path(f"/proc/{pid or 'self'}/autogroup").write_text(str(value), encoding="ascii")
        except BlockingIOError:
            if attempt + 1 < _TRIES:
                time.sleep(_TRY_AGAIN_S)
        except OSError:
            return False
        else:
            return True
    return False


def pass_on(child: int) -> None:
    """Have a process that we started, in a session of its own, give way as our session does."""
    own = session_nice()
    if own:
        set_session_nice(own, child)


def take_over() -> None:
    """Give way, in our session of our own, as the session of the process does that started us."""
    parent = session_nice(os.getppid())
    if parent and os.getsid(0) == os.getpid():
        set_session_nice(parent)


def give_way() -> None:
    """Give way to all others on this host, as far as the kernel lets us, with our whole session.

    What we start inherits it; what has a session of its own then is to be told (`pass_on`).
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    set_session_nice(LOWEST)
    number = _SYS_IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)
