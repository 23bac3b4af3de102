"""Why a launch ended that should not have: what was seen or raised, turned into the error that says so. No I/O."""

from __future__ import annotations

import errno
from pathlib import Path

from orchestrator.errors import (
    ConnectionLostError,
    DeadlineError,
    GuestlaunchError,
    GuestPanicError,
    LaunchError,
    QemuExitedError,
    too_many_files,
)
from orchestrator.launch.lifecycle import Event
from orchestrator.timeline.phases import Phase
from orchestrator.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a guest at its end.

    :ivar ready: its tool had the launch flag.
    :ivar exit_code: QEMU's exit status, None while it runs.
    :ivar last_line: last line of the console, escaped.
    :ivar panic: the kernel's own words.
    :ivar broken: QEMU had stopped the guest for an error of its own or of KVM's.
    :ivar allowed_s: seconds that the phase may take.
    """

    phase: Phase
    ready: bool
    exit_code: int | None
    last_line: str | None
    panic: str | None
    allowed_s: float | None
    uri: str | None
    broken: bool = False


def diagnose(event: Event, seen: Evidence) -> GuestlaunchError | None:
    """Return what an event means; None when a guest that had served its tool ended normally."""
    last = f"the console's last line: {seen.last_line}" if seen.last_line else "the console is empty"
    where = f"phase {seen.phase}"
    if event is Event.FAILED:
        hint = "see the log of the libvirt daemon"
        return ConnectionLostError("the connection to libvirt broke", seen.uri or "qemu:///embed", where, hint)
    if seen.panic is not None:
        return GuestPanicError("the guest's kernel panicked", where, seen.panic)
    if event is Event.DEADLINE:
        hint = f"GUESTLAUNCH_{deadline_variable(seen.phase)} allows more"
        return DeadlineError("the launch took too long", where, f"not over after {seen.allowed_s} s; {last}", hint)
    if seen.broken:
        why = "an internal error of QEMU's, or of KVM's: for example no room for the guest's memory"
        return QemuExitedError("QEMU stopped the guest", where, f"{why}; {last}")
    if not seen.ready:
        return QemuExitedError("QEMU ended before the launch was ready", where, f"exit status {seen.exit_code}; {last}")
    if seen.exit_code != 0:
        return QemuExitedError("QEMU ended before its tool did", where, f"exit status {seen.exit_code}; {last}")
    return None


def system_error(error: OSError, where: str, state_dir: Path) -> LaunchError:
    """Return an operating system's error as one for the user; all that a launch writes is in two directories."""
    if (limit := too_many_files(error)) is not None:
        return LaunchError("cannot launch", limit.subject, limit.why, limit.hint)
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    hint = "free some space there" if full else ""
    return LaunchError("cannot launch", error.filename or (state_dir if full else where), error.strerror or error, hint)


def defect(raised: BaseException, phase: Phase) -> LaunchError:
    """Return an unforeseen exception as an error for the user."""
    where = f"phase {phase}"
    if not isinstance(raised, Exception):
        return LaunchError("the launch was interrupted", where, type(raised).__name__)
    error = LaunchError("internal error", where, repr(raised), "this is a bug; the log has more")
    error.__cause__ = raised
    return error


def deadline_variable(phase: Phase) -> str:
    """Return the variable, without its prefix, of the deadline that bounds a phase."""
    named = {Phase.FW_CFG_KERNEL: "transfer", Phase.FW_CFG_INITRD: "transfer", Phase.FIRMWARE_HANDOFF: "handoff"}
    return f"DEADLINE_{named.get(phase, str(phase)).upper()}"
