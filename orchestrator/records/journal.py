"""Events to systemd-journald, with level and values as fields of their own, by its native protocol.

The protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL) is a datagram of `KEY=value` lines, documented so that anybody can
write it. Bindings for it have to be compiled, or exist for the system's Python only: more trouble than they save. Which
events there are is `log`'s business. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterator, Mapping

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "guestlaunch"
PREFIX = "GUESTLAUNCH_"

# syslog(3) priorities.
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}
_SEND_SECONDS = 2.0
_NAME_LENGTH = 64
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Tell whether a descriptor leads to the journal, by what systemd says of it in JOURNAL_STREAM.

    The variable alone says nothing: it is inherited by processes whose output was redirected since.
    """
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def priority(level: str) -> int:
    """Return the syslog priority of a level; what is not known is a notice."""
    return _PRIORITIES.get(level, 5)


def prefixed(line: str, level: str) -> str:
    """Return a line with sd-daemon(3)'s level in front, for a journal that can only be reached over stderr."""
    return f"<{priority(level)}>{line}"


def fields(event: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the journal fields of an event's plain values: `launch_id` is GUESTLAUNCH_LAUNCH_ID, and so on.

    Values that are not known, or are made of others, have no field: they are in the message.
    """
    for key, value in event.items():
        name = PREFIX + re.sub(r"[^A-Z0-9]+", "_", key.upper())
        if isinstance(value, bool):
            yield name[:_NAME_LENGTH], str(value).lower()
        elif isinstance(value, str | int | float):
            yield name[:_NAME_LENGTH], str(value)


def encode(message: str, event: Mapping[str, object]) -> bytes:
    """Return the datagram of an event.

    :param message: the MESSAGE field: the whole event as one JSON line, as it stands in a log file.
    """
    head = (
        ("MESSAGE", message),
        ("PRIORITY", str(priority(str(event.get("level", ""))))),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
    )
    return b"".join(_field(name, value) for name, value in (*head, *fields(event)))


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def send(message: str, event: Mapping[str, object], *, path: str | None = None) -> bool:
    """Send an event to the journal; False when there is no journal to take it.

    :param path: journald's socket, when it is not where systemd has it.
    """
    data = encode(message, event)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(_SEND_SECONDS)
            sock.connect(path or SOCKET)
            try:
                sock.send(data)
            except OSError as error:
                if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                    raise
                _send_sealed(sock, data)
    except OSError:
        return False
    return True


def _send_sealed(sock: socket.socket, data: bytes) -> None:
    """Send what is too long for a datagram as a sealed file of memory, as the protocol asks."""
    descriptor = os.memfd_create("guestlaunch-event", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        # An empty datagram with the descriptor; socket.send_fds would ask for at least one byte of text.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("@i", descriptor))
        sock.sendmsg([], [rights])
    finally:
        os.close(descriptor)
