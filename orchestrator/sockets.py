"""Unix sockets between programs of ours: where they lie, how long their paths may be, who is at the other end.

One rule for every program, the hv wrapper among them: standard library only, and light.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct

from orchestrator import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PATH_MAX_BYTES = 107  # sun_path holds 108, the closing NUL among them (unix(7))
SYSTEM_FOLDER = "/run/guestlaunch"
_UCRED = struct.Struct("3i")


def is_systems_root() -> bool:
    """Tell whether we are root where /run and /var are root's: not so in a user namespace that was only unshared."""
    try:
        return os.geteuid() == 0 == os.stat(os.path.dirname(SYSTEM_FOLDER)).st_uid
    except OSError:
        return os.geteuid() == 0


def runtime_folder(environ: Mapping[str, str]) -> str:
    """Return the folder that is for sockets unless one is set.

    An XDG_RUNTIME_DIR that is not there, or not ours alone, as su and sudo -E leave it behind, is passed over; so is a
    name that libvirt cannot be told.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and files.has_plain_name(runtime) and files.why_unsafe(runtime) is None:
        return os.path.join(runtime, "guestlaunch")
    if is_systems_root():
        return SYSTEM_FOLDER
    return os.path.join(_temporary(environ), f"guestlaunch-{os.geteuid()}")


def _temporary(environ: Mapping[str, str]) -> str:
    named = environ.get("TMPDIR", "")
    return named if named.startswith("/") and files.has_plain_name(named) else "/tmp"  # noqa: S108 - names below it are looked at before they are used


def too_long(path: str | os.PathLike[str]) -> str | None:
    """Return why the kernel does not take a path as a socket's; None when it does."""
    length = len(os.fsencode(path))
    return f"{length} bytes, the kernel takes {PATH_MAX_BYTES}" if length > PATH_MAX_BYTES else None


def is_trusted(path: str | os.PathLike[str]) -> bool:
    """Tell whether path is a socket that only we or root can have put there."""
    folder, name = os.path.split(os.path.abspath(path))
    try:
        descriptor = files.open_folder(folder, of_root=True)
    except OSError:
        return False
    try:
        found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return stat.S_ISSOCK(found.st_mode) and found.st_uid in {0, os.geteuid()}


def peer(sock: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end, as the kernel vouches for them since the connection was made."""
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def dial(path: str | os.PathLike[str], seconds: float) -> socket.socket:
    """Return a connection to a server that runs as us or as root.

    :raise OSError: it does not answer within the time, or somebody else does (PermissionError).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(os.fspath(path))
        _check_server(peer(sock)[1])
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_server(uid: int) -> None:
    if uid not in {0, os.geteuid()}:
        raise PermissionError(errno.EPERM, f"its server runs as user {uid}, neither as you nor as root")
