"""The phases that tile a launch, their order, and the tiling rule. Pure values, no clocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum

from orchestrator.values import dataclass


class Phase(StrEnum):
    """A stretch of a launch; the comments say where each one begins."""

    PLAN = "plan"  # the hv wrapper (or command) started
    STAGE = "stage"  # the plan is made; files are put in place
    CONNECT = "connect"  # files are in place; a libvirt connection is needed
    CREATE = "create"  # connected; the domain is handed to libvirt
    QEMU = "qemu"  # libvirt started QEMU, paused; its fw_cfg path is verified
    FIRMWARE = "firmware"  # the vCPUs were resumed
    FW_CFG_KERNEL = "fw_cfg_kernel"  # fw_cfg key kernel_data was selected
    FW_CFG_INITRD = "fw_cfg_initrd"  # fw_cfg key initrd_data was selected
    FIRMWARE_HANDOFF = "firmware_handoff"  # the next fw_cfg key after both was selected
    KERNEL = "kernel"  # the guest kernel's clock started
    INITRD = "initrd"  # the initrd's /init started
    INIT = "init"  # the appliance's /init started
    GUESTFSD = "guestfsd"  # guestfsd was executed
    READY = "ready"  # guestfsd opened its channel to send the launch flag
    WORKLOAD = (
        "workload"  # the launch flag was handed to the tool; a kernel's run: the command was started; a VM: it is ready
    )
    SHUTDOWN = "shutdown"  # the tool asked for the end; a kernel's run: the command's exit record was acknowledged
    RESTORE = "restore"  # warm: the template's state is being loaded
    ATTACH = "attach"  # warm: the state is loaded; disks are plugged into the clone
    GATE = "gate"  # warm: disks are plugged; the vCPUs were resumed, the guest is let through to scan them
    CUSTOMISE = "customise"  # a VM: its disk is there; an appliance changes what is on it


class Kind(StrEnum):
    """What was launched."""

    LAUNCH = "launch"  # an appliance, for a tool
    KERNEL = "kernel"  # a kernel that somebody tries
    VM = "vm"  # a VM of somebody's, until it is ready
    INSTALL = "install"  # a step of an installation: the installer, or the first boot of what it made


class Start(StrEnum):
    """How a launch came to its running appliance."""

    COLD = "cold"
    WARM = "warm"
    STANDBY = "standby"


_BEFORE = (Phase.PLAN, Phase.STAGE, Phase.CONNECT, Phase.CREATE)
_BOOT = (
    Phase.QEMU,
    Phase.FIRMWARE,
    Phase.FW_CFG_KERNEL,
    Phase.FW_CFG_INITRD,
    Phase.FIRMWARE_HANDOFF,
    Phase.KERNEL,
    Phase.INITRD,
    Phase.INIT,
)
_CLONE = (Phase.RESTORE, Phase.ATTACH, Phase.GATE)
_AFTER = (Phase.GUESTFSD, Phase.READY, Phase.WORKLOAD, Phase.SHUTDOWN)

SEQUENCE: Mapping[Start, tuple[Phase, ...]] = {
    Start.COLD: _BEFORE + _BOOT + _AFTER,
    Start.WARM: _BEFORE + _CLONE + _AFTER,
    Start.STANDBY: (Phase.PLAN, Phase.ATTACH, Phase.GATE, *_AFTER),
}

# Whatever user space a kernel is given, its own init is all that is known of it.
_KERNEL_RUN = (*(phase for phase in _BEFORE + _BOOT if phase is not Phase.INIT), Phase.WORKLOAD, Phase.SHUTDOWN)
# It is made, and booted from its disk; of what it does when it is ready nothing is known.
_VM = (
    Phase.PLAN,
    Phase.STAGE,
    Phase.CUSTOMISE,
    Phase.CREATE,
    Phase.QEMU,
    Phase.FIRMWARE,
    Phase.KERNEL,
    Phase.INITRD,
    Phase.WORKLOAD,
)


def sequence(start: Start, kind: Kind = Kind.LAUNCH) -> tuple[Phase, ...]:
    """Return the phases of a launch, in order."""
    if kind is Kind.VM:
        return _VM
    return SEQUENCE[start] if kind is Kind.LAUNCH else _KERNEL_RUN


TRANSFER_PHASES = (Phase.FW_CFG_KERNEL, Phase.FW_CFG_INITRD)

# /proc/uptime, which dates the guest's own markers, counts in hundredths of a second: boundaries
# may seem to run backwards by that much, and by a little scheduling noise, without being wrong.
ORDER_TOLERANCE_NS = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Where a phase begins: host monotonic nanoseconds and the source that saw it."""

    at_ns: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One phase of a finished timeline; times in ns, `start_ns` relative to the launch's start.

    A phase whose beginning was not seen, as where an appliance of others marks none, has neither start nor duration: a
    guess would be indistinguishable from a measurement (2026-11-22). `reason` says why, and its time lies in the
    nearest earlier tile, which names it in `includes`.
    """

    name: Phase
    start_ns: int | None
    duration_ns: int | None
    outcome: str  # "success", "failure", "cancelled", "unseen", "not_reached"
    source: str | None = None
    reason: str | None = None
    includes: tuple[Phase, ...] = ()
    adjusted_ns: int = 0
    bytes: int | None = None

    @property
    def mb_per_s(self) -> float | None:
        """Rate of a transfer phase in MB/s (10**6 bytes), None where there is none, or its end was not seen."""
        if not self.bytes or not self.duration_ns or self.includes:
            return None
        return self.bytes / self.duration_ns * 1_000.0


@dataclass(slots=True)
class _Walk:
    """State of one pass over the phases."""

    origin: int
    last: int
    seen: list[tuple[Phase, int, int]] = field(default_factory=list)  # phase, at, adjusted
    unseen: dict[Phase, str] = field(default_factory=dict)


def order(start: Start, boundaries: Mapping[Phase, Boundary], kind: Kind = Kind.LAUNCH) -> tuple[Phase, ...]:
    """Return the phases of a launch in the order they ran.

    The two transfer phases run in the order of the boot code: edk2 loads the kernel first,
    QEMU's linuxboot option ROM for SeaBIOS the initrd.
    """
    phases = list(sequence(start, kind))
    kernel, initrd = (boundaries.get(phase) for phase in TRANSFER_PHASES)
    if kernel and initrd and initrd.at_ns < kernel.at_ns and Phase.FW_CFG_KERNEL in phases:
        at = phases.index(Phase.FW_CFG_KERNEL)
        phases[at], phases[at + 1] = phases[at + 1], phases[at]
    return tuple(phases)


def _place(
    phases: Sequence[Phase], boundaries: Mapping[Phase, Boundary], end_ns: int, why: Mapping[Phase, str]
) -> _Walk:
    """Walk the phases in order and sort out which boundaries hold."""
    origin = boundaries[phases[0]].at_ns
    walk = _Walk(origin=origin, last=origin)
    for phase in phases:
        boundary = boundaries.get(phase)
        if boundary is None:
            walk.unseen[phase] = why.get(phase, "no source reported it")
            continue
        at = min(max(boundary.at_ns, walk.last), end_ns)
        adjusted = abs(at - boundary.at_ns)
        if adjusted > ORDER_TOLERANCE_NS:
            walk.unseen[phase] = f"{boundary.source} dated it {adjusted / 1e6:.0f} ms out of order"
            continue
        walk.seen.append((phase, at, adjusted))
        walk.last = at
    return walk


def tile(
    start: Start,
    boundaries: Mapping[Phase, Boundary],
    end_ns: int,
    *,
    kind: Kind = Kind.LAUNCH,
    outcome: str = "success",
    at: Phase | None = None,
    why: Mapping[Phase, str] | None = None,
    sizes: Mapping[Phase, int] | None = None,
) -> tuple[Tile, ...]:
    """Lay the phases of a launch end to end; the known durations sum to `end_ns` - start exactly.

    :param boundaries: beginning of each phase that was seen; the first phase's must be there.
    :param end_ns: host monotonic time at which the launch was over.
    :param kind: what was launched, which decides the phases together with `start`.
    :param outcome: how the launch ended; the phase at which it did so bears it, all others that were seen succeeded.
    :param at: that phase, the last one reached if not given. After it comes nothing but the launch's end; where its
        beginning was not seen, the phase that holds its time bears the outcome.
    :param why: for phases without a boundary, the reason.
    :param sizes: bytes moved by a transfer phase.
    :raise ValueError: when the first boundary is missing or lies after the end.
    """
    phases = order(start, boundaries, kind)
    if phases[0] not in boundaries or boundaries[phases[0]].at_ns > end_ns:
        raise ValueError("a timeline needs its first boundary, before its end")
    walk = _place(phases, boundaries, end_ns, why or {})
    ends = [at for _, at, _ in walk.seen[1:]] + [end_ns]
    reached = phases.index(walk.seen[-1][0])
    if outcome != "success" and at in phases:
        reached = min(reached, phases.index(at))
    placed = {phase: (at, end, adjusted) for (phase, at, adjusted), end in zip(walk.seen, ends, strict=True)}
    bearer = [phase for phase in phases[: reached + 1] if phase in placed][-1]
    tiles: list[Tile] = []
    for index, phase in enumerate(phases):
        if phase not in placed:
            beyond = index > reached
            if beyond and phase not in boundaries and not (why or {}).get(phase):
                tiles.append(_absent(phase, "not_reached", "the launch ended before it"))
            else:
                tiles.append(_absent(phase, "unseen", walk.unseen[phase]))
            continue
        begin, end, adjusted = placed[phase]
        tiles.append(
            Tile(
                name=phase,
                start_ns=begin - walk.origin,
                duration_ns=end - begin,
                outcome=outcome if phase is bearer else "success",
                source=boundaries[phase].source,
                includes=_included(phases, index, placed, reached),
                adjusted_ns=adjusted,
                bytes=(sizes or {}).get(phase),
            )
        )
    return tuple(tiles)


def _absent(phase: Phase, outcome: str, reason: str) -> Tile:
    return Tile(name=phase, start_ns=None, duration_ns=None, outcome=outcome, reason=reason)


def _included(phases: Sequence[Phase], index: int, placed: Mapping[Phase, object], reached: int) -> tuple[Phase, ...]:
    """Name the unseen phases whose time this tile holds: those up to the next one seen."""
    included: list[Phase] = []
    for phase in phases[index + 1 : reached + 1]:
        if phase in placed:
            break
        included.append(phase)
    return tuple(included)
