"""QMP, as far as saving and restoring a machine takes it: QEMU's monitor on one end of a socket pair."""

from __future__ import annotations

import array
import json
import socket
import time
from typing import Any

from orchestrator.errors import MonitorError

_TICK_S = 0.02
_PATIENCE_S = 120


class Monitor:
    """A connection to QEMU's monitor, ready for commands."""

    def __init__(self, end: socket.socket) -> None:
        """Greet QEMU.

        :raise MonitorError: it is gone, or says nothing.
        """
        end.settimeout(_PATIENCE_S)
        self._end = end
        self._file = end.makefile("rb")
        self._read()
        self.execute("qmp_capabilities")

    def execute(self, command: str, *, descriptor: int | None = None, **arguments: object) -> Any:  # noqa: ANN401 - QEMU's answer
        """Run a command and return its answer.

        :param descriptor: one that goes along.
        :raise MonitorError: QEMU refuses, or is gone.
        """
        words = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        along = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            self._end.sendmsg([words], along)
        except OSError as error:
            raise MonitorError("QEMU's monitor failed", command, error.strerror or error) from error
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise MonitorError("QEMU refused", command, answer["error"].get("desc", ""))

    def _read(self) -> dict[str, Any]:
        try:
            line = self._file.readline()
        except OSError as error:
            raise MonitorError("QEMU's monitor failed", "arm-host", error.strerror or error) from error
        if not line:
            raise MonitorError("QEMU's monitor failed", "arm-host", "QEMU has ended")
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else {}

    def _prepare(self) -> None:
        """Have the memory, which is a file of its own, left out of the stream."""
        capability = {"capability": "x-ignore-shared", "state": True}
        self.execute("migrate-set-capabilities", capabilities=[capability])

    def save(self, descriptor: int) -> None:
        """Stop the machine and write its state; its memory and disks are as they are to be kept.

        :raise MonitorError: it cannot be saved.
        """
        self.execute("stop")
        self._prepare()
        self.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.execute("getfd", descriptor=descriptor, fdname="state")
        self.execute("migrate", uri="fd:state")
        self._wait()

    def restore(self, descriptor: int) -> None:
        """Read a machine's state and let it go on.

        :raise MonitorError: it is not of such a machine.
        """
        self._prepare()
        self.execute("getfd", descriptor=descriptor, fdname="state")
        self.execute("migrate-incoming", uri="fd:state")
        self._wait()
        self.execute("cont")

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE_S
        while (status := self.execute("query-migrate").get("status")) != "completed":
            if status in {"failed", "cancelled"} or time.monotonic() > end:
                raise MonitorError("cannot save or restore the machine", "arm-host", status or "not done in time")
            time.sleep(_TICK_S)
