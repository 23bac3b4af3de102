"""What host and guest say to each other at the gate: the guest arrives, rehearses a launch, is let through."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from orchestrator.domain.cloning import (
    Command,
    Plug,
    disk_words,
    empty_slot,
    fits_slot,
    network_words,
    plugs,
    split_cmdline,
    to_look_for,
)
from orchestrator.domain.model import Disk, Handed
from orchestrator.errors import DiskError, DiskInUseError, GuestlaunchError, MonitorError, StoppedError
from orchestrator.hypervisor.failure import from_qemu_output
from orchestrator.hypervisor.guest import Guest
from orchestrator.launch.boot import GUESTFSD_ALIAS, limits
from orchestrator.launch.context import LaunchSpec, Place
from orchestrator.launch.diagnosis import Evidence, diagnose
from orchestrator.launch.lifecycle import Event, Instruction, State, drive
from orchestrator.launch.staging import store_secrets
from orchestrator.launch.stop import Stop
from orchestrator.launch.watch import Watch
from orchestrator.settings import Settings
from orchestrator.timeline.markers import parse_marker
from orchestrator.timeline.phases import Phase

_SAY_SECONDS = 10.0
_ENTROPY_BYTES = 64
GATE, REHEARSED, CLOCK = "gate", "rehearse", "clock"


class Rehearsal:
    """Has a guest that serves no launch yet rehearse one at its gate, which leaves files cached and code translated.

    It goes through the table in `lifecycle`, and follows its guest on the way (`watch.Following`). Guest and files
    still belong to whoever made them.

    :param lost: set when the connection to libvirt broke.
    :param hold: called once the guest has rehearsed: saves it, or pauses it.
    """

    flag_due = False
    goes_on = False

    def __init__(
        self, guest: Guest, place: Place, lost: threading.Event, settings: Settings, hold: Callable[[], None]
    ) -> None:
        self._guest, self._place, self._lost, self._settings, self._hold = guest, place, lost, settings, hold
        self._error: Exception | None = None
        self._await(GATE, sum(limits(settings.deadlines).values()))

    def run(self, stop: Stop, *, at_gate: bool) -> None:
        """Rehearse; afterwards the guest is held at its gate.

        :param at_gate: the guest is there already; otherwise it is resumed first.
        :raise StoppedError: the end was asked for.
        :raise GuestlaunchError: it ended, panicked or took too long, or libvirt is gone.
        """
        self._stop = stop
        with Watch(self._guest, self._place, self, stop, self._lost, trace=self._place.trace) as self._watch:
            drive(self, stop, State.APPROACHING, Event.ANSWERED if at_gate else Event.BEGIN)
        if self._error is not None:
            raise self._error

    def do(self, instruction: Instruction) -> None:
        """Carry out an instruction; there is nothing here to release."""
        match instruction:
            case Instruction.RESUME:
                self._guest.resume()
            case Instruction.REHEARSE:
                self._await(REHEARSED, self._settings.deadlines.gate)
                self._place.control.say("rehearse", _SAY_SECONDS)
            case Instruction.HOLD:
                self._hold()
            case Instruction.REAP if not self._guest.exited.is_set():
                self._guest.kill()

    def wait(self) -> Event:
        """Wait for the guest, and remember why it ended."""
        event = self._watch.wait()
        if event is Event.STOP:
            why = f"the guest did not come to '{self._awaited}'"
            self._error = StoppedError(why, self._guest.name, str(self._stop.reason))
        elif event is not Event.ANSWERED:
            self._watch.drain()
            uri = self._settings.connect
            self._error = self._watch.explain(event, Phase.GATE, ready=False, allowed_s=self._allowed_s, uri=uri)
        return event

    def note(self, event: Event) -> None:
        """Nothing depends on it here."""

    def failed(self, raised: Exception, instruction: Instruction | None) -> None:
        """Remember the first exception."""
        del instruction
        self._error = self._error or raised

    def _await(self, marker: str, allowed_s: float) -> None:
        """Wait for this marker from now on, as long as some marker comes every `allowed_s` seconds."""
        self._awaited, self._allowed_s = marker, allowed_s
        self._sign_ns, self._answered = time.monotonic_ns(), False

    def on_control_line(self, line: bytes) -> None:
        """Take a line that the guest wrote to its control port."""
        marker = parse_marker(line, time.monotonic_ns())
        if marker is not None:
            self._sign_ns = marker.received_ns
            self._answered = self._answered or marker.name == self._awaited

    def follow(self) -> None:
        """There is nothing to see but what the control port brings."""

    def port_opened(self, alias: str, at_ns: int, source: str, *, opened: bool = True) -> None:
        """No tool waits for guestfsd's port."""

    def flag_sent(self) -> bool:
        """No tool waits for a launch flag."""
        return False

    def answered(self) -> bool:
        """Tell, once, whether the marker came."""
        answered, self._answered = self._answered, False
        return answered

    def overdue(self, now_ns: int) -> bool:
        """Tell whether no marker came for longer than allowed."""
        return now_ns - self._sign_ns > self._allowed_s * 1e9

    def diagnose(self, event: Event, seen: Evidence) -> GuestlaunchError | None:
        """Return why the guest ended."""
        return diagnose(event, seen)


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

    The clone is running: before its vCPUs first run, QEMU would let an image into the slot that is in use elsewhere.

    :raise DiskError: QEMU or libvirt refused one.
    """
    if fits_slot(spec.plan.disks):
        _attach_all(guest, place, spec)


def _attach_all(guest: Guest, place: Place, spec: LaunchSpec) -> None:
    disks, arch = spec.plan.disks, spec.plan.profile.arch
    handed: Mapping[int, tuple[Handed, ...]] = {}
    if guest.confined:
        from orchestrator.hypervisor.handing import hand_over  # here: others open their files themselves

        handed = {number: hand_over(guest, disk) for number, disk in enumerate(disks)}
    check: Callable[[Sequence[Disk]], None] | None = None
    if any(disk.graph for disk in disks):
        from orchestrator.hypervisor.opened import checking  # here: most launches trust their images

        check = checking(guest)
    steps = plugs(disks, arch, store_secrets(disks, place.data), handed)
    for i, (disk, plug) in enumerate(zip(disks, steps, strict=True)):
        if check is None or disk.graph is None:
            _attach(guest, disk, plug, handed.get(i, ()))
            continue
        *opening, plugging = plug.commands
        _attach(guest, disk, Plug(commands=tuple(opening)), handed.get(i, ()))
        check(disks[: i + 1])
        _attach(guest, disk, Plug(commands=(plugging,)), handed.get(i, ()))


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
    """Open a clone's gate, with fresh entropy and the options that its tool has for /init. It then asks for the time.

    :raise MonitorError: QEMU cannot connect guestfsd's channel.
    :raise GuestlaunchError: the guest ended, or does not listen.
    """
    if spec.request.guestfsd_path is not None:
        # QEMU changes the back end of a port only while the guest runs.
        guest.join_channel(GUESTFSD_ALIAS, spec.request.guestfsd_path)
    disks, network = spec.plan.disks, spec.request.network
    words = (*split_cmdline(spec.cmdline)[1], *disk_words(disks, spec.plan.profile.arch))
    if to_look_for(network, spec.request.extra_args, disks):
        words = (*words, "guestlaunch.pci=1", *network_words(network))
    place.control.say(f"open {os.urandom(_ENTROPY_BYTES).hex()} {' '.join(words)}", _SAY_SECONDS)


def let_through(guest: Guest, place: Place, spec: LaunchSpec) -> None:
    """Answer a guest that asks for the time: tell it, once the disks are there that did not fit its slot.

    A guest that has just woken up is busy with its disks: it gets the time when it is ready for it.

    :raise DiskError: QEMU or libvirt refused a disk.
    :raise GuestlaunchError: the guest ended, or does not listen.
    """
    if not fits_slot(spec.plan.disks):
        _carry_out(guest, empty_slot().commands)
        _attach_all(guest, place, spec)
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    place.control.say(f"time {seconds}.{nanoseconds // 1000:06}", _SAY_SECONDS)
