"""Asks libvirt about one domain, and its QEMU by QMP: each call with a deadline, each failure as an error of ours."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from orchestrator.errors import GuestlaunchError, HypervisorError, MonitorError, QemuExitedError
from orchestrator.hypervisor import bounded
from orchestrator.hypervisor.binding import libvirt, libvirt_qemu
from orchestrator.hypervisor.failure import Code, translate

T = TypeVar("T")

_QMP_DEADLINE_S = 30.0
_DAEMON_DEADLINE_S = 90.0  # a daemon that is paused for a minute, as by a snapshot of its host, answers after all
_GONE_CODES = frozenset({Code.NO_DOMAIN, Code.OPERATION_INVALID})


class Monitor:
    """What is asked of one domain. Several threads may ask.

    :param embedded: there is no daemon to wait for.
    :param exited: set once QEMU is dead; :param exit_code: returns its exit status, None while that is not known.
    """

    def __init__(
        self,
        domain: libvirt.virDomain,
        *,
        embedded: bool,
        exited: threading.Event,
        exit_code: Callable[[], int | None],
    ) -> None:
        self._domain, self._name = domain, domain.name()
        self._deadline_s = _QMP_DEADLINE_S if embedded else _DAEMON_DEADLINE_S
        self._exited, self._exit_code = exited, exit_code

    def qmp(  # QMP's answers have as many shapes as there are commands
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        deadline_s: float | None = None,
        files: Sequence[int] = (),
    ) -> Any:  # noqa: ANN401
        """Run one QMP command and return its `return` value.

        :param files: descriptors that go with it; QEMU gets copies.
        :param deadline_s: as in `call`.
        :raise MonitorError: QEMU answered with an error (`why` starts with its class), or not in time.
        :raise QemuExitedError: QEMU is gone.
        """
        text = json.dumps({"execute": command, **({"arguments": dict(arguments)} if arguments else {})})
        what = f"QMP command {command} failed"

        def ask() -> str:
            if files:
                return libvirt_qemu.qemuMonitorCommandWithFiles(self._domain, text, list(files), 0)[0]
            return libvirt_qemu.qemuMonitorCommand(self._domain, text, 0)

        answer = self.call(what, ask, kind=MonitorError, deadline_s=deadline_s)
        reply = json.loads(answer)
        if "return" not in reply:
            error = reply.get("error", {})
            why = f"{error.get('class', 'no answer')}: {error.get('desc', answer)}"
            raise MonitorError(what, self._name, why)
        return reply["return"]

    def join_channel(self, alias: str, path: str, *, connected: bool) -> None:
        """Join a channel (by libvirt's alias), which was joined to nothing, to a unix socket.

        :param connected: QEMU may connect to nothing, and is given a connected one.
        :raise MonitorError: QEMU cannot connect to it.
        """
        if connected:
            self._join_connected(alias, path)
            return
        remote = {"type": "unix", "data": {"path": path}}
        backend = {"type": "socket", "data": {"addr": remote, "server": False}}
        self.qmp("chardev-change", {"id": f"char{alias}", "backend": backend})

    def _join_connected(self, alias: str, path: str) -> None:
        """Join a channel to a socket that is connected for QEMU, which may not do so itself."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            try:
                peer.connect(path)
            except OSError as error:
                raise MonitorError("cannot connect to", path, error.strerror or error) from error
            self.qmp("getfd", {"fdname": alias}, files=[peer.fileno()])
        backend = {"type": "socket", "data": {"addr": {"type": "fd", "data": {"str": alias}}, "server": False}}
        self.qmp("chardev-change", {"id": f"char{alias}", "backend": backend})

    def inactive(self) -> bool:
        """Tell whether libvirt has no such domain running."""
        try:
            return not self._domain.isActive()
        except libvirt.libvirtError as failure:
            return failure.get_error_code() == Code.NO_DOMAIN

    def call(
        self,
        what: str,
        function: Callable[[], T],
        *,
        kind: type[HypervisorError] = HypervisorError,
        deadline_s: float | None = None,
    ) -> T:
        """Return what a call into libvirt returns.

        :param what: what failed, should it fail.
        :param kind: the error that it is then, where nothing more is known.
        :param deadline_s: how long it may take; None for the time that QEMU, and a daemon before it, may need.
        :raise HypervisorError: libvirt or QEMU refused, or did not answer in time.
        :raise QemuExitedError: QEMU is gone.
        """
        try:
            return bounded.call(function, deadline_s or self._deadline_s, name=f"call-{self._name}")
        except TimeoutError as error:
            raise kind(what, self._name, str(error)) from None
        except libvirt.libvirtError as failure:
            raise self._error(failure, what, kind) from failure

    def _error(self, failure: libvirt.libvirtError, what: str, kind: type[HypervisorError]) -> GuestlaunchError:
        error = translate(failure, what, self._name)
        if self._exited.is_set() or (failure.get_error_code() in _GONE_CODES and self.inactive()):
            code = self._exit_code()
            why = "QEMU has ended" if code is None else f"QEMU has ended with status {code}"
            return QemuExitedError(what, self._name, why)
        if type(error) is HypervisorError and kind is not HypervisorError:
            return kind(what, self._name, error.why, error.hint)
        return error
