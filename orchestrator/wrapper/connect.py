"""Where the hv wrapper finds its orchestrator: a socket given, a daemon that runs, or one started for this launch.

In this order: `$GUESTLAUNCH_SOCKET`; the daemon's default socket, if it belongs to us or to root; else
`guestlaunchd --serve-fd 3` started in a new session on one end of a socket pair. The protocol is the same on all.
It is on the launch path: light modules only.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_CONNECT_SECONDS = 5.0
_SERVE_FD = 3
_SOCKET_NAME = "guestlaunchd.sock"
_SYSTEM_DIR = "/run/guestlaunch"


def orchestrator(env: Mapping[str, str]) -> socket.socket:
    """Return a connection to the orchestrator that is to carry out the launch.

    :raise ProtocolError: `$GUESTLAUNCH_SOCKET` does not answer, or its server is neither ours nor root's.
    :raise CapabilityError: there is no daemon and `guestlaunchd` cannot be started.
    """
    given = env.get("GUESTLAUNCH_SOCKET")
    if given:
        return _given(given)
    for path in default_sockets(env, os.geteuid()):
        if is_safe(path):
            try:
                return _open(path)
            except OSError:
                continue  # left behind by a daemon that died, or not to be trusted: do without
    return _spawn(env)


def default_sockets(env: Mapping[str, str], uid: int) -> list[str]:
    """Return the paths at which a daemon for this user may listen, the user's own first.

    The folders are those of `orchestrator.settings.directories`, which is too heavy for here; one that is set is the
    only one.
    """
    named, runtime = env.get("GUESTLAUNCH_RUNTIME_DIR"), env.get("XDG_RUNTIME_DIR", "")
    if named:
        folders = [os.path.abspath(named)]
    elif os.path.isabs(runtime):
        folders = [os.path.join(runtime, "guestlaunch"), *([_SYSTEM_DIR] if uid == 0 else [])]
    else:
        folders = [_SYSTEM_DIR if uid == 0 else os.path.join(env.get("TMPDIR") or "/tmp", f"guestlaunch-{uid}")]  # noqa: S108 - only taken when `is_safe`
    return [os.path.join(folder, _SOCKET_NAME) for folder in folders]


def is_safe(path: str) -> bool:
    """Return whether path is a socket that only we or root can have put there."""
    trusted = (0, os.geteuid())
    try:
        entry, folder = os.lstat(path), os.stat(os.path.dirname(path))
    except OSError:
        return False
    if not stat.S_ISSOCK(entry.st_mode) or entry.st_uid not in trusted:
        return False
    return folder.st_uid in trusted and not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _given(path: str) -> socket.socket:
    """Return a connection to the socket that the user or a guestlaunch command named."""
    try:
        return _open(path)
    except OSError as error:
        from orchestrator.errors import ProtocolError

        hint = "is the guestlaunch command or daemon that set GUESTLAUNCH_SOCKET still running?"
        raise ProtocolError("cannot connect to the orchestrator", path, error.strerror or error, hint) from error


def _open(path: str) -> socket.socket:
    """Return a connection to path, whose server runs as us or as root.

    :raise OSError: it does not answer, or somebody else does (PermissionError).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_CONNECT_SECONDS)
        sock.connect(path)
        layout = struct.Struct("3i")
        _pid, uid, _gid = layout.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size))
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    if uid not in (0, os.geteuid()):
        sock.close()
        raise PermissionError(errno.EPERM, f"its server runs as user {uid}, neither as you nor as root")
    return sock


def _program() -> str:
    """Return the path of guestlaunchd: beside this program, or beside the Python that runs it."""
    folders = [os.path.dirname(os.path.realpath(sys.argv[0])), os.path.dirname(sys.executable)]
    for folder in folders:
        path = os.path.join(folder, "guestlaunchd")
        if os.access(path, os.X_OK):
            return path
    from orchestrator.errors import CapabilityError

    hint = "reinstall guestlaunch, or start guestlaunchd yourself"
    raise CapabilityError("cannot start the orchestrator", "guestlaunchd", f"not found in {folders[0]}", hint)


def _spawn(env: Mapping[str, str]) -> socket.socket:
    """Start an orchestrator for this one launch and return the connection to it.

    It gets its own session, so that a terminal's signals reach it only through us. Its stderr stays ours: what
    keeps it from starting is then in libguestfs's log.
    """
    program = _program()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # Out of the way of the numbers that the child's descriptors get.
    source = os.dup(theirs.fileno()) if theirs.fileno() <= _SERVE_FD else theirs.fileno()
    try:
        os.posix_spawn(
            program,
            [program, "--serve-fd", str(_SERVE_FD)],
            dict(env),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, source, _SERVE_FD),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE],
        )
    except OSError as error:
        from orchestrator.errors import CapabilityError

        ours.close()
        raise CapabilityError("cannot start the orchestrator", program, error.strerror or error) from error
    finally:
        if source != theirs.fileno():
            os.close(source)
        theirs.close()
    return ours
