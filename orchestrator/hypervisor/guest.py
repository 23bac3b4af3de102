"""One running domain: resumed, asked over QMP, listened to, and ended so that nothing of it stays.

Made by `connection`. What a launch makes of its events and of its end is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import tether
from orchestrator.domain.model import Privileges
from orchestrator.errors import ConnectionLostError, DeadlineError, GuestlaunchError, QemuExitedError
from orchestrator.hypervisor import confinement
from orchestrator.hypervisor.binding import libvirt
from orchestrator.hypervisor.events import EventFeed, EventSource, GuestEvent, Listener, StopReason, stops_a_guest
from orchestrator.hypervisor.monitor import Monitor
from orchestrator.hypervisor.process import Process
from orchestrator.values import dataclass

CLEARED_S = 10.0  # for libvirt to clear away a guest whose QEMU is dead
_STATUS_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a guest ended.

    :ivar reason: libvirt's word for it, or what QEMU's own status says where libvirt could not hear QEMU's last words.
    :ivar exit_code: QEMU's exit status, 128 + signal when a signal ended it.
    :ivar exit_seen: the status is the process's own, not derived from the reason.
    :ivar forced: it had to be killed.
    """

    reason: StopReason
    exit_code: int
    exit_seen: bool
    forced: bool = False


class Guest:
    """One domain and its QEMU.

    :ivar pid: QEMU's process id, or None where the host does not show it (remote, other user).
    :ivar log_file: what QEMU wrote to stderr and its trace, where the embedded driver keeps it, else None.
    :ivar confinement: what root's QEMU may still do; None where that is not for us to say.
    :ivar disk_error: what QEMU said when it stopped the guest for a disk's error, else None.
    :ivar halted: it was stopped after it had begun to run, and nobody has asked QEMU why.
    :ivar broken: QEMU stopped it for an error of its own or of KVM's, and was killed for that.
    :ivar exited: set as soon as QEMU is dead or libvirt reports the domain stopped; never cleared.
    """

    def __init__(
        self,
        domain: libvirt.virDomain,
        feed: EventFeed,
        *,
        process: Process | None,
        lost: threading.Event,
        log_file: Path | None,
    ) -> None:
        self.name: str = domain.name()
        self.uuid: str = domain.UUIDString()
        self.log_file = log_file
        self.confinement: confinement.Confinement | None = None
        self._privileges: Privileges | None = None
        self.exited = threading.Event()
        self.disk_error: GuestEvent | None = None
        self.halted = self.broken = False
        self._domain = domain
        self._feed = feed
        self._process = process
        self._tether: tether.Tether | None = None
        self._lost = lost
        embedded = log_file is not None
        self._monitor = Monitor(domain, embedded=embedded, exited=self.exited, exit_code=lambda: self.exit_code)
        self._changed = threading.Condition()
        self._stopped: StopReason | None = None
        self._has_run = False
        self._forced = False
        feed.listen(self._note)
        if process is not None:
            process.call_at_end(self.wake)

    @property
    def pid(self) -> int | None:
        """QEMU's process id, or None."""
        return self._process.pid if self._process else None

    @property
    def pidfd(self) -> int | None:
        """A descriptor that turns readable when QEMU ends, or None. It belongs to the guest; do not close it."""
        return self._process.pidfd if self._process and self._process.pidfd >= 0 else None

    @property
    def exit_code(self) -> int | None:
        """QEMU's exit status as `Ending` has it, or None while it runs."""
        if self._process is not None and self._process.exit_code is not None:
            return self._process.exit_code
        return None if self._stopped is None else self._stopped.exit_code

    def on_event(self, listener: Listener) -> Callable[[], None]:
        """Pass every event to listener, the ones since the start first; return a function that stops it.

        It is called on libvirt's event thread: it must be quick and must not use this guest or its connection.
        """
        return self._feed.listen(listener)

    def resume(self) -> None:
        """Let the paused guest run.

        :raise HypervisorError: libvirt or QEMU refused; :raise QemuExitedError: QEMU is gone.
        """
        self._monitor.call("cannot resume domain", self._domain.resume)

    def suspend(self) -> None:
        """Stop the guest's vCPUs, until `resume`.

        :raise HypervisorError: libvirt or QEMU refused; :raise QemuExitedError: QEMU is gone.
        """
        self._monitor.call("cannot suspend domain", self._domain.suspend)

    def set_nice(self, value: int) -> None:
        """Give QEMU's threads a nice value. Where it could not be taken back, or QEMU is not here, nothing happens."""
        if self._process is not None:
            self._process.set_nice(value)

    @property
    def confined(self) -> bool:
        """Whether QEMU can open nothing by itself any more: what it needs is handed to it."""
        return self._privileges is not None and self._privileges.user is not None

    @property
    def user(self) -> int:
        """The user that a confined QEMU runs as."""
        assert self._privileges is not None and self._privileges.user is not None  # noqa: PT018 - see `confined`
        return self._privileges.user

    def confine(self, privileges: Privileges | None, shared: str | None = None) -> None:
        """Bound what QEMU may use, and take note of what it may still do.

        :param shared: why it shares the host's network although it was not to.
        """
        self._privileges = privileges
        if self.pid is not None:
            confinement.bound(self.pid, privileges)
            self.confinement = confinement.confinement(self.pid, privileges, shared)

    def tie(self) -> None:
        """Have the kernel end QEMU should this process die, and whoever guards it die too.

        Where that is impossible, the guardians must suffice.
        """
        if self._process is None:
            return
        tied = tether.Tether()
        try:
            self.qmp("getfd", {"fdname": tether.NAME}, files=[tied.reading])
            tied.tie(self._process.pid)
        except (GuestlaunchError, OSError):
            tied.close()
            return
        self._tether = tied
        if self.exited.is_set():
            tied.close()

    def private_mib(self) -> int:
        """Return how much memory QEMU shares with nobody, in MiB; 0 where that cannot be seen."""
        return self._process.private_mib() if self._process is not None else 0

    def xml(self) -> str:
        """Return the live domain XML."""
        return self._monitor.call("cannot describe domain", lambda: self._domain.XMLDesc(0))

    def qmp(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        deadline_s: float | None = None,
        files: Sequence[int] = (),
    ) -> Any:  # noqa: ANN401 - see `Monitor.qmp`
        """Run one QMP command and return its `return` value; see `Monitor.qmp`."""
        return self._monitor.qmp(command, arguments, deadline_s=deadline_s, files=files)

    def attach_device(self, xml: str) -> None:
        """Plug a device, given as libvirt XML, into the running guest."""
        self._monitor.call("cannot attach device to domain", lambda: self._domain.attachDevice(xml))

    def join_channel(self, alias: str, path: str) -> None:
        """Join a channel (by libvirt's alias), which was joined to nothing, to a unix socket.

        Only while the guest runs: QEMU changes the back end of a port at no other time (2026-11-24).

        :raise MonitorError: QEMU cannot connect to it.
        """
        self._monitor.join_channel(alias, path, connected=self.confined)

    def terminate(self) -> None:
        """Ask QEMU to end, as a SIGTERM does: it writes back what it holds and exits with status 0. Does not wait."""
        if self._process is None or not self._process.send(signal.SIGTERM):
            # libvirt sends the SIGTERM for us, and waits for a while, which is not for the caller.
            self._in_background(lambda: self._domain.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_GRACEFUL))

    def wait_exited(self, deadline_s: float) -> int:
        """Wait until QEMU is dead and return its exit code; libvirt may still be clearing up (see `wait_gone`).

        :raise DeadlineError: it still runs after deadline_s seconds.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.exited.is_set() or self._lost.is_set(), deadline_s)
        if self.exited.is_set() and self.exit_code is not None:
            return self.exit_code
        # Only libvirt knows then, and its word may take a moment longer.
        return self.wait_gone(CLEARED_S if self.exited.is_set() else 0.0).exit_code

    def wait_gone(self, deadline_s: float) -> Ending:
        """Wait until libvirt has cleared the guest away, and say how it ended.

        :raise DeadlineError: it is still there after deadline_s seconds.
        :raise ConnectionLostError: nobody will tell any more.
        """
        end = time.monotonic() + deadline_s
        with self._changed:
            while self._stopped is None and not self._lost.is_set():
                left_s = end - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    break
        if self._stopped is None:
            self._settle_without_event()
        if self._stopped is None:
            if self._lost.is_set():
                raise ConnectionLostError("cannot watch domain", self.name, "the connection is lost")
            why = f"still there after {deadline_s:g} s"
            raise DeadlineError("domain did not end", self.name, why)
        return self._ending(self._stopped)

    def end(self, deadline_s: float = 60.0) -> Ending:
        """End the guest and wait until it is gone from libvirt: SIGTERM, then, after deadline_s seconds, SIGKILL.

        A defined domain keeps its definition, and the log file stays for whoever wants to read it. Ending a guest that
        has ended already is fine.

        :raise HypervisorError: it could not be ended by any means.
        """
        if not self.exited.is_set():
            self.terminate()
            if not self.exited.wait(deadline_s):
                self._forced = True
                self.kill()
        try:
            ending = self.wait_gone(CLEARED_S)
        except DeadlineError:
            self._forced = True
            with contextlib.suppress(QemuExitedError):
                self._monitor.call("cannot end domain", self._domain.destroy, deadline_s=2 * CLEARED_S)
            ending = self.wait_gone(CLEARED_S)
        if self._process is not None:
            self._process.close()
        return ending

    def remove(self, deadline_s: float = 60.0) -> Ending:
        """End the guest as `end` does, and remove its log: the very last that libvirt does is to write a line to it.

        :raise HypervisorError: it could not be ended by any means.
        """
        try:
            return self.end(deadline_s)
        finally:
            self.remove_log()

    def remove_log(self) -> None:
        """Remove the log, if it is here."""
        if self.log_file is not None:
            self.log_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End QEMU by SIGKILL. Does not wait, and what it had not written back is lost."""
        if self._process is None or not self._process.send(signal.SIGKILL):
            self._in_background(self._domain.destroy)

    def kill_if_broken(self) -> None:
        """End a QEMU that has stopped its guest for an error of its own or of KVM's: it would stand still for ever."""
        self.halted = False
        with contextlib.suppress(GuestlaunchError):
            self.broken = self.qmp("query-status", deadline_s=_STATUS_SECONDS)["status"] == "internal-error"
        if self.broken:
            self.kill()

    def wake(self) -> None:
        """Have those who wait look again: the process ended, or the connection was lost."""
        if self._process is not None and self._process.ended.is_set():
            self.exited.set()
            if self._tether is not None:
                self._tether.close()
        with self._changed:
            self._changed.notify_all()

    def _note(self, event: GuestEvent) -> None:
        """Take note of the end, and of what stops the guest, on the event thread."""
        if self.disk_error is None and stops_a_guest(event):
            self.disk_error = event
        if event.source is EventSource.LIBVIRT and event.name in {"resumed", "suspended"}:
            self._has_run = self._has_run or event.name == "resumed"
            self.halted = self._has_run and event.name == "suspended"
        if event.source is EventSource.LIBVIRT and event.name == "stopped":
            with self._changed:
                self._stopped = event.detail.get("reason", StopReason.UNKNOWN)
                self.exited.set()
                self._changed.notify_all()

    def _settle_without_event(self) -> None:
        """Ask libvirt whether the domain is gone, for the case that its event was missed."""
        if not self._monitor.inactive():
            return
        with self._changed:
            self._stopped = self._stopped or StopReason.UNKNOWN
        self.exited.set()

    def _ending(self, reason: StopReason) -> Ending:
        seen = self._process.exit_code if self._process else None
        code = reason.exit_code if seen is None else seen
        # libvirt says "failed" where it has not read QEMU's SHUTDOWN event. QEMU answers a command at its last brace;
        # if it ends before it has read the end of the line, the kernel resets the connection, event and all.
        if seen == 0 and reason is StopReason.FAILED:
            reason = StopReason.SHUTDOWN
        return Ending(reason=reason, exit_code=code, exit_seen=seen is not None, forced=self._forced)

    def _in_background(self, function: Callable[[], object]) -> None:
        def run() -> None:
            try:
                function()
            except libvirt.libvirtError:
                return  # it is gone, or the next rung of the ladder follows

        threading.Thread(target=run, name=f"end-{self.name}", daemon=True).start()
