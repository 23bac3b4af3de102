"""What libvirt reports, turned into the project's error tree: by code, by text only where the code leaves it open.

Pure: libvirt's exception is only looked at through the methods it offers (`LibvirtFailure`), so nothing here
imports libvirt. Whether an operation is worth repeating is `retry`'s question.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Protocol

from orchestrator import errors


class Code(IntEnum):
    """The `VIR_ERR_*` numbers this project tells apart (libvirt's virterror.h; the numbers are ABI)."""

    INTERNAL_ERROR = 1
    NO_MEMORY = 2
    NO_SUPPORT = 3
    UNKNOWN_HOST = 4
    NO_CONNECT = 5
    INVALID_CONN = 6
    INVALID_ARG = 8
    OPERATION_FAILED = 9
    XML_ERROR = 27
    DOM_EXIST = 28
    OPERATION_DENIED = 29
    CONF_SYNTAX = 33
    XML_DETAIL = 35
    SYSTEM_ERROR = 38
    RPC = 39
    GNUTLS_ERROR = 40
    NO_DOMAIN = 42
    AUTH_FAILED = 45
    NO_STORAGE_POOL = 49
    NO_STORAGE_VOL = 50
    OPERATION_INVALID = 55
    CONFIG_UNSUPPORTED = 67
    OPERATION_TIMEOUT = 68
    OPERATION_ABORTED = 78
    AUTH_CANCELLED = 79
    OPERATION_UNSUPPORTED = 84
    SSH = 85
    AGENT_UNRESPONSIVE = 86
    RESOURCE_BUSY = 87
    ACCESS_DENIED = 88
    DBUS_SERVICE = 89
    XML_INVALID_SCHEMA = 92
    AUTH_UNAVAILABLE = 94
    LIBSSH = 98


class LibvirtFailure(Protocol):
    """The part of `libvirt.libvirtError` that is read here."""

    def get_error_code(self) -> int | None:
        """Return the `VIR_ERR_*` number, or None when libvirt has no record."""

    def get_error_message(self) -> str | None:
        """Return libvirt's message, which may hold QEMU's own output behind it."""


_KINDS: tuple[tuple[frozenset[Code], type[errors.GuestlaunchError], str], ...] = (
    (frozenset({Code.NO_SUPPORT, Code.CONFIG_UNSUPPORTED, Code.OPERATION_UNSUPPORTED}), errors.CapabilityError, ""),
    (
        frozenset({Code.INVALID_CONN, Code.RPC, Code.GNUTLS_ERROR, Code.SSH, Code.LIBSSH}),
        errors.ConnectionLostError,
        "check that libvirt's daemon runs and can be reached",
    ),
    (
        frozenset(
            {Code.AUTH_FAILED, Code.AUTH_CANCELLED, Code.AUTH_UNAVAILABLE, Code.ACCESS_DENIED, Code.OPERATION_DENIED}
        ),
        errors.HypervisorError,
        "check your rights on this libvirt connection",
    ),
    (
        frozenset({Code.XML_ERROR, Code.XML_DETAIL, Code.XML_INVALID_SCHEMA}),
        errors.HypervisorError,
        "libvirt does not accept this domain XML",
    ),
    (frozenset({Code.NO_DOMAIN, Code.NO_STORAGE_POOL, Code.NO_STORAGE_VOL}), errors.NotFoundError, ""),
    (frozenset({Code.DOM_EXIST}), errors.HypervisorError, "choose another name, or end that domain first"),
)
# Codes that libvirt uses for many things, with the wording of the case that is meant.
_REFINED: tuple[tuple[frozenset[Code], str, type[errors.GuestlaunchError], str], ...] = (
    (
        frozenset({Code.SYSTEM_ERROR}),
        "-sock': Permission denied",
        errors.HypervisorError,
        "this user may not use that daemon: the group libvirt may, and -c qemu:///session needs no rights",
    ),
    (
        frozenset({Code.OPERATION_INVALID, Code.OPERATION_FAILED}),
        "already exists",
        errors.HypervisorError,
        "choose another name, or end that domain first",
    ),
    (
        frozenset({Code.OPERATION_INVALID}),
        "already active",
        errors.HypervisorError,
        "choose another name, or end that domain first",
    ),
    (frozenset({Code.SYSTEM_ERROR}), "socket to", errors.ConnectionLostError, "check that libvirt's daemon runs"),
    (
        frozenset({Code.SYSTEM_ERROR}),
        "create lock file for device",
        errors.HypervisorError,
        "a daemon of another user's that was killed has left that file: have it removed",
    ),
    (
        frozenset({Code.OPERATION_FAILED}),
        "is locked by lock file",
        errors.HypervisorError,
        "end what has that console open",
    ),
)
# QEMU's start-up failures, and errno, reach us only as text inside these.
_QEMU_OUTPUT = frozenset({Code.INTERNAL_ERROR, Code.OPERATION_FAILED, Code.SYSTEM_ERROR})

# Wording of QEMU's block layer (block/file-posix.c, block.c), of libvirt's storage files, and of strerror. A file's
# name stands in it unescaped, whatever it is made of: hence the greedy middles, held by what follows the name.
_LOCK = re.compile(r"Failed to get (?:shared )?\"\w+\" lock|Failed to lock byte \d+")
_KVM_DENIED = re.compile(r"(?:initialize kvm|access KVM kernel module): Permission denied")
_LOCKED_FILE = re.compile(r"using the image \[(.*)\]\?", re.DOTALL)
_NAMED_FILE = re.compile(r"(?:[Cc]ould not open|access storage file|could not load \S+) '(.*)'(?:: [A-Z]|$)", re.DOTALL)
# Newer releases of libvirt name the domain there.
_PROLOGUE = re.compile(
    r"^.*?(?:unexpectedly closed the monitor|while connecting to monitor)(?: \(vm='.*?'\))?:\s*", re.DOTALL
)
_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z\s+")


def code_of(failure: LibvirtFailure) -> int | None:
    """Return libvirt's error code, or None."""
    return failure.get_error_code()


def message_of(failure: LibvirtFailure) -> str:
    """Return the useful part of the message: QEMU's own last complaint when there is one, on one line."""
    text = (failure.get_error_message() or str(failure)).strip()
    lines = [_STAMP.sub("", line).strip() for line in _PROLOGUE.sub("", text).splitlines()]
    lines = [line for line in lines if line]
    complaints = [line for line in lines if re.match(r"\S*qemu\S*: ", line) and "warning:" not in line]
    chosen = complaints or [line for line in lines if "warning:" not in line] or lines
    return re.sub(r"^\S*qemu[-\w]*: ", "", " ".join(chosen)) if chosen else text


def _first(pattern: re.Pattern[str], text: str) -> str:
    """Return the first group of the first match, or an empty string."""
    found = pattern.search(text)
    return found.group(1) if found else ""


def from_qemu_output(what: str, subject: str, text: str, why: str) -> errors.GuestlaunchError | None:
    """Return the error for a complaint of QEMU's own, or None when its text is not one that is known."""
    lock = _LOCK.search(text)
    if lock:
        hint = "another process has it open for writing: end that, or open the disk read-only"
        return errors.DiskInUseError("disk is in use", _first(_LOCKED_FILE, text) or subject, lock.group(), hint)
    if _KVM_DENIED.search(text):
        hint = "QEMU's user needs rights on /dev/kvm, as the group kvm has them; --accel tcg does without"
        return errors.HypervisorError(what, subject, why, hint)
    file = _first(_NAMED_FILE, text)
    if "No space left on device" in text:
        return errors.HypervisorError(what, file or subject, why, "free space where this file lies")
    if "Permission denied" in text and file:
        return errors.DiskError("cannot open", file, why, "check the permissions of the file and of its directories")
    if "No such file or directory" in text and file:
        return errors.NotFoundError("cannot open", file, why)
    return None


def _by_code(what: str, subject: str, code: int | None, text: str, why: str) -> errors.GuestlaunchError:
    """Choose the error class by libvirt's code; the text only refines a code that stands for many things."""
    if code == Code.NO_CONNECT:
        from orchestrator.distributions import Part  # here: no launch that works needs it
        from orchestrator.distributions import hint as from_where

        return errors.CapabilityError(what, subject, why, from_where(Part.LIBVIRT))
    for codes, kind, hint in _KINDS:
        if code in codes:
            return kind(what, subject, why, hint)
    for codes, wording, kind, hint in _REFINED:
        if code in codes and wording in text:
            return kind(what, subject, why, hint)
    known = from_qemu_output(what, subject, text, why) if code in _QEMU_OUTPUT else None
    return known or errors.HypervisorError(what, subject, why)


def translate(failure: LibvirtFailure, what: str, subject: object = "") -> errors.GuestlaunchError:
    """Return the project's error for a failure of libvirt; the caller raises it `from` that failure.

    :param what: what was tried, for example "cannot start domain".
    :param subject: the object concerned; the file that QEMU named takes its place when it named one.
    """
    code = code_of(failure)
    text = failure.get_error_message() or str(failure)
    return _by_code(what, str(subject), code, text, message_of(failure))
