"""What is said at the gate of a template's init: its guest is heard to be there, rehearses a launch, is let through.

Waiting is `watch`'s, so that a stop, a death, a panic, a lost connection and a deadline mean here what they mean
anywhere.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from orchestrator.domain.cloning import Command, Plug, empty_slot, fits_slot, plugs, split_cmdline
from orchestrator.domain.model import Disk, Handed
from orchestrator.errors import DiskError, DiskInUseError, MonitorError, StoppedError
from orchestrator.hypervisor.disk_error import stopped_by_disk
from orchestrator.hypervisor.failure import from_qemu_output
from orchestrator.hypervisor.guest import Guest
from orchestrator.hypervisor.handing import hand_over
from orchestrator.launch.boot import GUESTFSD_ALIAS
from orchestrator.launch.context import LaunchSpec, Place
from orchestrator.launch.diagnosis import Evidence, diagnose
from orchestrator.launch.lifecycle import Event
from orchestrator.launch.opened import files_of, require_checked
from orchestrator.launch.staging import store_secrets
from orchestrator.launch.stop import Stop
from orchestrator.launch.watch import Ends, Watch
from orchestrator.launch.written import Written
from orchestrator.timeline.markers import parse_marker
from orchestrator.timeline.phases import Phase

_SAY_SECONDS = 10.0
_ENTROPY_BYTES = 64
GATE, REHEARSED, CLOCK = "gate", "rehearse", "clock"


class Wait:
    """Follows a guest until it sends one marker (`watch.Following`).

    :param allowed_s: seconds that it may go on without any marker.
    """

    flag_due = False

    def __init__(self, name: str, allowed_s: float) -> None:
        self._name, self._allowed_s = name, allowed_s
        self._sign_ns, self._answered = time.monotonic_ns(), False

    def on_control_line(self, line: bytes) -> None:
        """Take a line that the guest wrote to its control port."""
        marker = parse_marker(line, time.monotonic_ns())
        if marker is not None:
            self._sign_ns = marker.received_ns
            self._answered = self._answered or marker.name == self._name

    def follow(self) -> None:
        """Nothing more is to be seen than what the control port brings."""

    def port_opened(self, alias: str, at_ns: int, source: str, *, opened: bool = True) -> None:
        """No tool waits for guestfsd's port."""

    def flag_sent(self) -> bool:
        """No tool waits for a launch flag."""
        return False

    def answered(self) -> bool:
        """Tell whether the marker came."""
        return self._answered

    def overdue(self, now_ns: int) -> bool:
        """Tell whether no marker came for longer than allowed."""
        return now_ns - self._sign_ns > self._allowed_s * 1e9


def wait_for_marker(
    name: str, guest: Guest, place: Place, stop: Stop, *, lost: threading.Event, deadline_s: float
) -> None:
    """Serve a guest's ports until it sends a marker.

    :param lost: set when the connection to libvirt broke.
    :param deadline_s: how long it may go on without sending any.
    :raise StoppedError: the end was asked for.
    :raise GuestlaunchError: it ended, panicked or took too long, or libvirt is gone.
    """
    wait = Wait(name, deadline_s)
    before, place.control.listener = place.control.listener, wait.on_control_line
    try:
        written = Written(guest, place.data / "trace.log")
        ends = Ends(console=place.console, control=place.control.port, written=written)
        with Watch(guest, stop, ends, wait, lost) as watch:
            event = watch.wait()
            if event is Event.ANSWERED:
                return
            watch.drain()
    finally:
        place.control.listener = before
    if event is Event.STOP:
        raise StoppedError(f"the guest did not come to '{name}'", guest.name, str(stop.reason))
    stopped = stopped_by_disk(guest)
    if stopped is not None:
        raise stopped
    evidence = Evidence(
        phase=Phase.GATE,
        ready=False,
        exit_code=guest.exit_code,
        last_line=next(iter(place.console.ring.tail(1)), None),
        panic=place.console.ring.panic(),
        allowed_s=deadline_s,
        uri=None,
    )
    error = diagnose(event, evidence)
    assert error is not None  # none is only for a guest that was ready
    raise error


def rehearse(guest: Guest, place: Place, stop: Stop, *, lost: threading.Event, deadline_s: float) -> None:
    """Have a guest at its gate do once what a launch will do: its files are in memory then, its code is translated.

    :raise StoppedError, GuestlaunchError: as `wait_for_marker`.
    """
    place.control.say("rehearse", _SAY_SECONDS)
    wait_for_marker(REHEARSED, guest, place, stop, lost=lost, deadline_s=deadline_s)


def _carry_out(guest: Guest, commands: Iterable[Command]) -> None:
    """Run QMP commands in order.

    :raise MonitorError: QEMU refused one; the human monitor's refusals are answers, too.
    """
    for command, arguments in commands:
        answer = guest.qmp(command, arguments)
        if command == "human-monitor-command" and answer.strip() != "OK":
            raise MonitorError("QEMU refused", arguments["command-line"], answer.strip())


def attach(guest: Guest, place: Place, spec: LaunchSpec) -> None:
    """Plug a tool's disks into a clone at its gate, in their order, unless the first does not fit: `let_through` will.

    The clone runs: before its vCPUs ever did, QEMU would not keep what is in use elsewhere out of the slot.

    :raise DiskError: QEMU or libvirt refused one.
    """
    if fits_slot(spec.plan.disks):
        _attach_all(guest, place, spec)


def _attach_all(guest: Guest, place: Place, spec: LaunchSpec) -> None:
    disks, arch = spec.plan.disks, spec.plan.profile.arch
    handed: Mapping[int, tuple[Handed, ...]] = {}
    if guest.confined:
        handed = {number: hand_over(guest, disk) for number, disk in enumerate(disks)}
    known = files_of(guest) if any(disk.graph for disk in disks) else Counter()
    steps = plugs(disks, arch, store_secrets(disks, place.data), handed)
    for i, (disk, plug) in enumerate(zip(disks, steps, strict=True)):
        if disk.graph is None:
            _attach(guest, disk, plug, handed.get(i, ()))
            continue
        *opening, plugging = plug.commands
        _attach(guest, disk, Plug(commands=tuple(opening)), ())
        require_checked(files_of(guest), disks[: i + 1], known)
        _attach(guest, disk, Plug(commands=(plugging,)), ())


def _attach(guest: Guest, disk: Disk, plug: Plug, handed: tuple[Handed, ...]) -> None:
    try:
        if plug.xml is not None:
            guest.attach_device(plug.xml)
        _carry_out(guest, plug.commands)
    except (MonitorError, DiskInUseError) as error:
        where, why = str(getattr(disk.source, "path", None) or "a network disk"), str(error.why).strip()
        for file in handed:
            why = why.replace(file.name, file.path)
        known = from_qemu_output("cannot attach the disk", where, why, why)
        raise (known or DiskError("cannot attach the disk", where, why)) from error


def open_gate(guest: Guest, place: Place, spec: LaunchSpec) -> None:
    """Open a clone's gate, with fresh entropy and what its tool asks of /init. It will ask for the time.

    :raise MonitorError: QEMU cannot connect guestfsd's channel.
    :raise GuestlaunchError: the guest ended, or does not listen.
    """
    if spec.request.guestfsd_path is not None:
        # QEMU changes the back end of a port only while the guest runs.
        guest.join_channel(GUESTFSD_ALIAS, spec.request.guestfsd_path)
    disks = spec.plan.disks
    slot = fits_slot(disks)
    words = (*split_cmdline(spec.cmdline)[1], f"guestlaunch.disks={len(disks)}", f"guestlaunch.slot={slot:d}")
    place.control.say(f"open {os.urandom(_ENTROPY_BYTES).hex()} {' '.join(words)}", _SAY_SECONDS)


def let_through(guest: Guest, place: Place, spec: LaunchSpec) -> None:
    """Answer a guest that asks for the time: tell it, once the disks are there that did not fit its slot.

    A guest that has just woken up is busy with its disks: it is told the time when it is there to take it.

    :raise DiskError: QEMU or libvirt refused a disk.
    :raise GuestlaunchError: the guest ended, or does not listen.
    """
    if not fits_slot(spec.plan.disks):
        _carry_out(guest, empty_slot().commands)
        _attach_all(guest, place, spec)
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    place.control.say(f"time {seconds}.{nanoseconds // 1000:06}", _SAY_SECONDS)
