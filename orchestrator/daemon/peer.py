"""Who is at the other end of a unix socket, and whom we serve."""

from __future__ import annotations

import os
import socket

from orchestrator import sockets
from orchestrator.errors import ProtocolError
from orchestrator.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Process and user at the other end, as the kernel recorded them when the connection was made."""

    pid: int
    uid: int


def credentials(sock: socket.socket) -> Peer:
    """Return who connected."""
    pid, uid = sockets.peer(sock)
    return Peer(pid=pid, uid=uid)


def require_own(peer: Peer) -> None:
    """Refuse a peer that does not have our rights.

    A launch opens disks with the server's rights. Serving another user would lend them to that user,
    whatever the socket's mode allows; only root, who has them anyway, is let in besides ourselves.

    :raise ProtocolError: for anybody else.
    """
    own = os.geteuid()
    if peer.uid in {own, 0}:
        return
    raise ProtocolError(
        "connection refused",
        f"uid {peer.uid}",
        f"this guestlaunchd opens disks with the rights of uid {own} and serves nobody else",
        "start guestlaunchd as your own user, or run without one",
    )
