"""Where the hv wrapper finds its orchestrator: a socket given, a daemon that runs, or one started for this launch.

In this order: `$GUESTLAUNCH_SOCKET`, unless that is a command's own server, which has ended; the daemon's default
socket, if it belongs to us or to root; else `guestlaunchd --serve-fd 3` started in a new session on one end of a
socket pair. The protocol is the same on all. One that turns out to see other files than we do gives way to one of our
own, even where the user named it: no answer of its could be right.
It is on the launch path: light modules only.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys

from orchestrator import sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from orchestrator.errors import ProtocolError

_CONNECT_SECONDS = 5.0
_SERVE_FD = 3
_SOCKET_NAME = "guestlaunchd.sock"
# What a command says of its own server; OWN_SERVER tells it from a socket that the user named.
_OWN_SERVER = "GUESTLAUNCH_OWN_SERVER"
_OF_A_COMMAND = ("GUESTLAUNCH_SOCKET", _OWN_SERVER, "GUESTLAUNCH_CLIENT", "GUESTLAUNCH_QUIET")

_spawned: list[int] = []  # at most one: the process id of the orchestrator that was started


def orchestrator(env: MutableMapping[str, str]) -> socket.socket:
    """Return a connection to the orchestrator that is to carry out the launch.

    A tool may outlive the command that started it, as `guestfish --listen` does, and with it the command's own server.
    What env says of that one is then taken out, and the launch finds its way as if nothing had been said.

    :raise ProtocolError: `$GUESTLAUNCH_SOCKET` does not answer, or its server is neither ours nor root's.
    :raise CapabilityError: there is no daemon and `guestlaunchd` cannot be started.
    """
    given = env.get("GUESTLAUNCH_SOCKET")
    if given:
        try:
            return sockets.dial(given, _CONNECT_SECONDS)
        except OSError as error:
            if not _forget(env, error):
                raise _no_answer(given, error) from error
    for path in default_sockets(env):
        if sockets.is_trusted(path):
            try:
                return sockets.dial(path, _CONNECT_SECONDS)
            except OSError:
                continue  # left behind by a daemon that died, or not to be trusted: do without
    return own(env)


def is_shared(sock: socket.socket) -> bool:
    """Return whether a connection leads to a server that was there before us: its socket has a name."""
    return bool(sock.getpeername())


def is_a_daemons(sock: socket.socket, env: Mapping[str, str]) -> bool:
    """Return whether a connection leads to a daemon, not to a server that begins with this launch or its command."""
    return is_shared(sock) and not env.get(_OWN_SERVER)


def forget_ended_server(env: MutableMapping[str, str]) -> None:
    """Take a command's own server out of env if it has ended."""
    path = env.get("GUESTLAUNCH_SOCKET")
    if path and env.get(_OWN_SERVER):
        try:
            sockets.dial(path, _CONNECT_SECONDS).close()
        except OSError as error:
            _forget(env, error)


def _forget(env: MutableMapping[str, str], error: OSError) -> bool:
    """Forget what a command said of its own server if that is how one that has ended answers; tell whether it is."""
    ended = bool(env.get(_OWN_SERVER)) and error.errno in (errno.ENOENT, errno.ECONNREFUSED)
    for name in _OF_A_COMMAND if ended else ():
        env.pop(name, None)
    return ended


def default_sockets(env: Mapping[str, str]) -> list[str]:
    """Return the paths at which a daemon for this user may listen, the user's own first.

    A folder that is set is the only one.
    """
    named = env.get("GUESTLAUNCH_RUNTIME_DIR")
    if named:
        folders = [os.path.abspath(named)]
    else:
        folders = [sockets.runtime_folder(env), *([sockets.SYSTEM_FOLDER] if sockets.is_systems_root() else [])]
    return [os.path.join(folder, _SOCKET_NAME) for folder in dict.fromkeys(folders)]


def _no_answer(path: str, error: OSError) -> ProtocolError:
    """Return what is wrong with the socket that the user or a guestlaunch command named."""
    from orchestrator.errors import ProtocolError

    hint = "is the guestlaunch command or daemon that set GUESTLAUNCH_SOCKET still running?"
    return ProtocolError("cannot connect to the orchestrator", path, error.strerror or error, hint)


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


def own(env: Mapping[str, str]) -> socket.socket:
    """Start an orchestrator for this one launch and return the connection to it.

    It gets its own session, so that a terminal's signals reach it only through us. Its stderr stays ours: what
    keeps it from starting is then in libguestfs's log.
    """
    program = _program()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # Out of the way of the numbers that the child's descriptors get.
    source = os.dup(theirs.fileno()) if theirs.fileno() <= _SERVE_FD else theirs.fileno()
    try:
        _spawned.append(
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


def see_off(seconds: float) -> None:
    """Wait, not for ever, for the orchestrator that was started for this launch: whoever starts a process reaps it."""
    import select

    for pid in _spawned:
        try:
            pidfd = os.pidfd_open(pid)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(seconds * 1000)
            os.waitpid(pid, os.WNOHANG)
        except OSError:
            continue  # children that end are nobody's business where SIGCHLD is ignored
