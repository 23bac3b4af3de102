"""What clients ask and are told, beyond the framing: messages checked into values, values into messages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import ProtocolError
from orchestrator.launch.launcher import Snapshot
from orchestrator.records.record import LaunchRecord
from orchestrator.values import dataclass
from orchestrator.wrapper import protocol

# A start older than this is no start of a program that has just been connected to us.
_ORIGIN_LIMIT_NS = 600 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchMessage:
    """A launch message, checked. `console` are the client's standard input and output."""

    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    origin_ns: int
    console: tuple[int, int]

    @classmethod
    def read(cls, message: dict[str, Any], fds: Sequence[int]) -> LaunchMessage:
        """Check a launch message.

        :raise ProtocolError: when it is not one, or of another version.
        """
        if message.get("protocol") != protocol.VERSION:
            raise ProtocolError(
                "launch refused",
                f"protocol {message.get('protocol')}",
                f"this guestlaunchd speaks {protocol.VERSION}",
                "restart guestlaunchd after an upgrade",
            )
        words, cwd, env = message.get("argv"), message.get("cwd"), message.get("env")
        if not isinstance(words, list) or not isinstance(cwd, str) or not isinstance(env, dict) or len(fds) < 2:
            raise ProtocolError("launch refused", "message", "it lacks argv, cwd, env or descriptors")
        now = time.monotonic_ns()
        started = message.get("started_ns")
        sane = isinstance(started, int) and now - _ORIGIN_LIMIT_NS < started <= now
        return cls(
            argv=tuple(map(str, words)),
            cwd=cwd,
            env={str(key): str(value) for key, value in env.items()},
            origin_ns=int(started) if sane and started else now,
            console=(fds[0], fds[1]),
        )


def answer(record: LaunchRecord) -> dict[str, Any]:
    """Return the client's answer for a launch that came to its end: why it failed, or QEMU's exit status or signal."""
    if record.outcome == "failure":
        return protocol.exit_message(1, record.error or "")
    status = record.exit_status or 0
    if status < 0:
        return protocol.exit_message(1, record.error or "", signal=-status)
    return protocol.exit_message(status, record.error or "" if status else "")


def describe(snapshot: Snapshot, now_ns: int) -> dict[str, Any]:
    """Return a running launch as it is shown."""
    return {
        "launch_id": snapshot.launch_id,
        "profile": snapshot.profile,
        "accel": snapshot.accel,
        "phase": str(snapshot.phase),
        "ready": snapshot.ready,
        "error": snapshot.error,
        "elapsed_s": (now_ns - snapshot.started_ns) / 1e9,
        "client_pid": snapshot.client_pid,
    }
