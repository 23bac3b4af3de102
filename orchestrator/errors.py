"""The exception tree: every failure a user can meet, as one clear line.

Each error states `what failed: which object: why (what to do)`. Classes are semantic: callers
dispatch on the class, never on the text. Nothing here knows how an error is shown.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


def _one_line(text: object) -> str:
    """Return text on a single line, with control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ` (did you mean 'X'?)` for the choice closest to word, or an empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else ""


def is_full(error: OSError) -> bool:
    """Tell whether there was no room on a file system, or a user may have no more of it."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


class GuestlaunchError(Exception):
    """Base of every error that guestlaunch raises on purpose.

    :param what: what failed, for example "cannot open disk".
    :param subject: the object concerned: a path, a name, an option.
    :param why: the cause.
    :param hint: what the user can do about it.
    """

    exit_status = 1

    def __init__(self, what: str, subject: object = "", why: object = "", hint: str = "") -> None:
        self.what = what
        self.subject = str(subject)
        self.why = str(why)
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        line = ": ".join(_one_line(part) for part in (self.what, self.subject, self.why) if part)
        return f"{line} ({_one_line(self.hint)})" if self.hint else line


class UsageError(GuestlaunchError):
    """The user's input was wrong: an option, a job file, a settings key."""

    exit_status = 2


class SettingsError(UsageError):
    """A settings file, variable or profile could not be understood."""


class NotFoundError(GuestlaunchError):
    """Something named by the user does not exist."""


class CapabilityError(GuestlaunchError):
    """The host lacks a program, a firmware or a feature that the request needs."""


class ApplianceError(GuestlaunchError):
    """An appliance is missing, damaged, of the wrong arch, or could not be built."""


class FirmwareError(CapabilityError):
    """No firmware fits the profile, or its files are unusable."""


class DiskError(GuestlaunchError):
    """A disk cannot be used as asked."""


class DiskInUseError(DiskError):
    """Another process holds the disk open for writing."""


class HypervisorError(GuestlaunchError):
    """libvirt or QEMU refused or failed."""


class ConnectionLostError(HypervisorError):
    """The libvirt connection broke."""


class MonitorError(HypervisorError):
    """QEMU's monitor (QMP) answered with an error or not at all."""


class TranslationError(UsageError):
    """A QEMU argument from the libguestfs direct back end could not be translated."""


class LaunchError(GuestlaunchError):
    """A launch did not become ready."""


class StoppedError(LaunchError):
    """The end was asked for before a launch was ready: it is cancelled, not failed."""


class GuestPanicError(LaunchError):
    """The guest's kernel panicked."""


class DeadlineError(LaunchError):
    """A phase did not end within its deadline."""


class NoUserSpaceError(DeadlineError):
    """A kernel that was tried did not come to its user space in time."""


class TimedOutError(DeadlineError):
    """A run was not over by the time that its user gave it."""


class FirmwareRefusalError(LaunchError):
    """The firmware did not start the kernel."""


class NoRecordError(LaunchError):
    """A guest ended without saying how its command did: nothing can be said of it."""


class LocationError(GuestlaunchError):
    """A tree to install from cannot be had, is not known, or is not what its checksums and signatures say."""


class InstallationError(LaunchError):
    """An installer did not come to its good end, or what it installed does not boot."""


class VmError(LaunchError):
    """A VM did not become ready."""


class QemuExitedError(LaunchError):
    """QEMU ended before the launch or the workload did."""


class TransferPathError(LaunchError):
    """The fw_cfg path in force is not the one that was asked for."""


class WorkloadError(GuestlaunchError):
    """The workload itself failed."""


class ProtocolError(GuestlaunchError):
    """The orchestrator and its client did not understand each other."""


def too_many_files(error: BaseException) -> CapabilityError | None:
    """Return what an error says of the limits on open files, None where it says nothing of them."""
    what = "cannot go on"
    if not isinstance(error, OSError) or error.errno not in {errno.EMFILE, errno.ENFILE}:
        return None
    if error.errno == errno.ENFILE:
        return CapabilityError(what, "the host", "it has too many open files (fs.file-max)", "raise that by sysctl")
    import resource  # here: the wrapper starts often, and meets no limit

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    hint = "raise the limit: ulimit -n 1024"
    return CapabilityError(what, "too many open files", f"a process may have {most} (ulimit -n)", hint)
