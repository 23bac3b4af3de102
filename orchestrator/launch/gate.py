"""What is said at the gate of a template's init: its guest is heard to be there, rehearses a launch, is let through."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Mapping

from orchestrator.domain.cloning import Command, Plug, empty_slot, fits_slot, plugs, split_cmdline
from orchestrator.domain.cmdline import fix_cmdline
from orchestrator.domain.model import Arch, Disk, Handed
from orchestrator.errors import DeadlineError, DiskError, DiskInUseError, LaunchError, MonitorError, QemuExitedError
from orchestrator.hypervisor.failure import from_qemu_output
from orchestrator.hypervisor.guest import Guest
from orchestrator.hypervisor.handing import hand_over
from orchestrator.launch.assembly import store_secrets
from orchestrator.launch.boot import GUESTFSD_ALIAS
from orchestrator.launch.opened import files_of, require_checked
from orchestrator.launch.plan import Plan
from orchestrator.launch.stop import Stop
from orchestrator.launch.way import Asked, Place
from orchestrator.timeline.markers import parse_marker

_SAY_SECONDS = 10.0
_LOOK_MS = 250
_ENTROPY_BYTES = 64
GATE, REHEARSED, CLOCK = "gate", "rehearse", "clock"


def wait_for_marker(name: str, guest: Guest, place: Place, stop: Stop, deadline_s: float) -> None:
    """Serve a guest's ports until it sends a marker.

    :raise LaunchError: it ended, took too long, or was not to go on.
    """
    seen: list[str] = []

    def take(line: bytes) -> None:
        marker = parse_marker(line, 0)
        if marker is not None:
            seen.append(marker.name)

    before, place.control.listener = place.control.listener, take
    end = time.monotonic() + deadline_s
    what = f"the guest did not come to '{name}'"
    try:
        while name not in seen:
            if guest.exited.is_set():
                last = next(iter(place.console.ring.tail(1)), "nothing")
                raise QemuExitedError(what, guest.name, f"it ended; the console's last line: {last}")
            if stop.requested:
                raise LaunchError(what, guest.name, str(stop.reason))
            if time.monotonic() > end:
                raise DeadlineError(what, guest.name, f"not within {deadline_s:g} s")
            _serve(place, stop)
    finally:
        place.control.listener = before


def _serve(place: Place, stop: Stop) -> None:
    """Take what a guest sends meanwhile, for a moment."""
    poll = select.poll()
    ports = {port.fileno(): port for port in (place.console.port, place.control.port) if port.fileno() >= 0}
    for descriptor in (*ports, stop.fileno()):
        poll.register(descriptor, select.POLLIN)
    for descriptor, _ in poll.poll(_LOOK_MS):
        if descriptor in ports:
            ports[descriptor].handle()


def rehearse(guest: Guest, place: Place, stop: Stop, deadline_s: float) -> None:
    """Have a guest at its gate do once what a launch will do: its files are in memory then, its code is translated.

    :raise LaunchError: it ended, took too long, or was not to go on.
    """
    place.control.say("rehearse", _SAY_SECONDS)
    wait_for_marker(REHEARSED, guest, place, stop, deadline_s)


def _carry_out(guest: Guest, commands: Iterable[Command]) -> None:
    """Run QMP commands in order.

    :raise MonitorError: QEMU refused one; the human monitor's refusals are answers, too.
    """
    for command, arguments in commands:
        answer = guest.qmp(command, arguments)
        if command == "human-monitor-command" and answer.strip() != "OK":
            raise MonitorError("QEMU refused", arguments["command-line"], answer.strip(), domain=guest.name)


def attach(guest: Guest, disks: tuple[Disk, ...], arch: Arch, place: Place) -> None:
    """Plug a tool's disks into a clone at its gate, in their order; if the first does not fit its slot, `release` will.

    The clone runs: before its vCPUs ever did, QEMU would not keep what is in use elsewhere out of the slot.

    :raise DiskError: QEMU or libvirt refused one.
    """
    if fits_slot(disks):
        _attach_all(guest, disks, arch, place)


def _attach_all(guest: Guest, disks: tuple[Disk, ...], arch: Arch, place: Place) -> None:
    handed: Mapping[int, tuple[Handed, ...]] = {}
    if guest.confined:
        handed = {number: hand_over(guest, disk) for number, disk in enumerate(disks)}
    known = files_of(guest) if any(disk.graph for disk in disks) else {}
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


def release(guest: Guest, place: Place, plan: Plan, asked: Asked) -> None:
    """Let a clone through its gate, with fresh entropy, the host's time, and what its tool asks of /init.

    :raise MonitorError: QEMU cannot connect guestfsd's channel.
    :raise DiskError: QEMU or libvirt refused a disk.
    :raise LaunchError: the guest ended, took too long, or was not to go on.
    """
    request = asked.request
    if request.guestfsd_path is not None:
        # QEMU changes the back end of a port only while the guest runs.
        guest.join_channel(GUESTFSD_ALIAS, request.guestfsd_path)
    cmdline, _ = fix_cmdline(request.cmdline, plan.profile, plan.accel, aslr=asked.settings.guest_aslr)
    slot = fits_slot(plan.disks)
    words = (*split_cmdline(cmdline)[1], f"guestlaunch.disks={len(plan.disks)}", f"guestlaunch.slot={slot:d}")
    place.control.say(f"open {os.urandom(_ENTROPY_BYTES).hex()} {' '.join(words)}", _SAY_SECONDS)
    # A guest that has just woken up is busy with its disks: it is told the time when it is there to take it.
    wait_for_marker(CLOCK, guest, place, asked.stop, asked.settings.deadlines.gate)
    if not slot:
        _carry_out(guest, empty_slot().commands)
        _attach_all(guest, plan.disks, plan.profile.arch, place)
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    place.control.say(f"time {seconds}.{nanoseconds // 1000:06}", _SAY_SECONDS)
