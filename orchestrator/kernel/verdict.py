"""What a kernel's run came to, and the exit status that says so.

`git bisect run` takes 0 for good, 125 for "cannot be tested", 1 to 124, 126 and 127 for bad, and stops at anything
above. So whatever is not the kernel's fault is 125 or above: a file that is missing, a host that lacks something, a
guest that ended without its record.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.errors import (
    DiskError,
    FirmwareRefusalError,
    GuestlaunchError,
    GuestPanicError,
    HypervisorError,
    NoUserSpaceError,
    QemuExitedError,
    TimedOutError,
)
from orchestrator.program import INTERRUPTED

PANIC, REFUSED, NO_USER_SPACE, TIMED_OUT, UNJUDGED, FAILED = 121, 122, 123, 124, 125, 128


class Cause(StrEnum):
    """Why a run ended as it did."""

    COMMAND = "command"  # the command has ended, and its record is acknowledged
    PANIC = "panic"
    REFUSED = "refused"  # the firmware did not start it
    NO_USER_SPACE = "no_user_space"  # not by the deadline of a phase
    TIMED_OUT = "timed_out"  # the user's own time was over
    UNJUDGED = "unjudged"
    HYPERVISOR = "hypervisor"  # QEMU or libvirt failed
    INTERRUPTED = "interrupted"

    @property
    def exit_status(self) -> int | None:
        """The status that stands for it; None where the command's own does."""
        return _STATUS[self]


_STATUS = {
    Cause.COMMAND: None,
    Cause.PANIC: PANIC,
    Cause.REFUSED: REFUSED,
    Cause.NO_USER_SPACE: NO_USER_SPACE,
    Cause.TIMED_OUT: TIMED_OUT,
    Cause.UNJUDGED: UNJUDGED,
    Cause.HYPERVISOR: FAILED,
    Cause.INTERRUPTED: INTERRUPTED,
}
_CAUSES: tuple[tuple[type[GuestlaunchError], Cause], ...] = (
    (GuestPanicError, Cause.PANIC),
    (FirmwareRefusalError, Cause.REFUSED),
    (TimedOutError, Cause.TIMED_OUT),
    (NoUserSpaceError, Cause.NO_USER_SPACE),
    (DiskError, Cause.UNJUDGED),  # the host had no room
    (QemuExitedError, Cause.HYPERVISOR),
    (HypervisorError, Cause.HYPERVISOR),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Why a run ended as it did, and the exit status that says so."""

    cause: Cause
    exit_status: int


def judge(
    error: GuestlaunchError | None, status: int | None, *, acknowledged: bool, tests_failed: bool | None = False
) -> Judgement:
    """Return what a run came to.

    :param error: why it failed, if it did.
    :param status: the command's own, by its record; `acknowledged`: the guest was told that we have it.
    :param tests_failed: whether any test failed, where tests are asked for; None when none was seen.
    """
    if error is not None:
        cause = next((cause for kind, cause in _CAUSES if isinstance(error, kind)), Cause.UNJUDGED)
    elif status is not None and acknowledged:
        if status == 0 and tests_failed is None:
            return Judgement(cause=Cause.UNJUDGED, exit_status=UNJUDGED)
        return Judgement(cause=Cause.COMMAND, exit_status=status or int(bool(tests_failed)))
    else:
        cause = Cause.INTERRUPTED
    own = cause.exit_status
    return Judgement(cause=cause, exit_status=UNJUDGED if own is None else own)
