"""Exit statuses: different causes differ, and git bisect is never led astray."""

from __future__ import annotations

import pytest

from orchestrator.errors import (
    ApplianceError,
    CapabilityError,
    ConnectionLostError,
    DeadlineError,
    DiskError,
    FirmwareRefusalError,
    GuestlaunchError,
    GuestPanicError,
    HypervisorError,
    LaunchError,
    NoRecordError,
    NoUserSpaceError,
    QemuExitedError,
    TimedOutError,
)
from orchestrator.kernel.verdict import Cause, judge

BAD = range(1, 125)  # git-bisect(1): so are 126 and 127
SKIP = 125


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GuestPanicError("x"), 121),
        (FirmwareRefusalError("x"), 122),
        (NoUserSpaceError("x"), 123),
        (TimedOutError("x"), 124),
        (NoRecordError("x"), SKIP),
        (DiskError("x"), SKIP),
        (ApplianceError("x"), SKIP),
        (CapabilityError("x"), SKIP),
        (LaunchError("x"), SKIP),
        (DeadlineError("x"), SKIP),  # libvirt's, not a phase's of the guest
        (GuestlaunchError("x"), SKIP),
        (QemuExitedError("x"), 128),
        (HypervisorError("x"), 128),
        (ConnectionLostError("x"), 128),
    ],
)
def test_each_cause_has_its_status(error: GuestlaunchError, status: int) -> None:
    """Whatever was recorded before: an error is not outweighed by a command's 0."""
    judged = judge(error, 0, acknowledged=True)
    assert judged.exit_status == status
    assert judged.cause is not Cause.COMMAND


def test_no_two_causes_share_a_status() -> None:
    """Except that the command's own may be any."""
    statuses = [cause.exit_status for cause in Cause if cause.exit_status is not None]
    assert len(set(statuses)) == len(Cause) - 1


@pytest.mark.parametrize("acknowledged", [True, False])
@pytest.mark.parametrize("status", [None, 0, 7])
def test_the_commands_own_counts_only_with_its_record(status: int | None, *, acknowledged: bool) -> None:
    """Without one, or without the guest's knowing that we have it, nothing is 0."""
    judged = judge(None, status, acknowledged=acknowledged)
    if status is not None and acknowledged:
        assert (judged.cause, judged.exit_status) == (Cause.COMMAND, status)
    else:
        assert judged.exit_status not in {0, *BAD}


def test_what_is_not_the_kernels_fault_is_not_bad() -> None:
    """To git bisect: it is skipped, or the bisection stops."""
    for cause in (Cause.UNJUDGED, Cause.HYPERVISOR, Cause.INTERRUPTED):
        assert cause.exit_status == SKIP or (cause.exit_status or 0) > 127
