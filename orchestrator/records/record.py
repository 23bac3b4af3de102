"""The canonical log line of a launch, `launch_finished`: values to the dictionary that is written.

Its JSON Schema is `launch_finished.schema.json` beside this module; `SCHEMA_VERSION` changes with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from datetime import UTC, datetime
from enum import StrEnum
from importlib import resources
from typing import Any, NotRequired, TypedDict

from orchestrator.records.provenance import NOWHERE, Provenance
from orchestrator.timeline.phases import TRANSFER_PHASES, Kind, Phase, Start, Tile
from orchestrator.values import dataclass

EVENT = "launch_finished"
PHASE_EVENT = "phase_finished"
# Other kinds have names of their own: who counts launches by the name, as dashboards do, counts nothing else.
EVENTS = {
    Kind.LAUNCH: EVENT,
    Kind.KERNEL: "kernel_run_finished",
    Kind.INSTALL: "install_step_finished",
    Kind.VM: "vm_boot_finished",
}
PHASE_EVENTS = {
    Kind.LAUNCH: PHASE_EVENT,
    Kind.KERNEL: "kernel_phase_finished",
    Kind.INSTALL: "install_phase_finished",
    Kind.VM: "vm_phase_finished",
}
CANONICAL = frozenset(EVENTS.values())
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FwCfg:
    """The fw_cfg path of a launch, as asked for and as verified.

    :ivar dma_property: QEMU's `dma_enabled`, read back over QMP; None when it could not be read.
    :ivar window_base: address of the register window in the guest's device tree (Arm only).
    :ivar window_size: its size in bytes.
    :ivar window_has_dma: whether the window includes the 8-byte DMA register at offset 16.
    :ivar register_answers: whether the DMA register itself reads as QEMU's signature.
    """

    requested: bool
    dma_property: bool | None = None
    window_base: int | None = None
    window_size: int | None = None
    window_has_dma: bool | None = None
    register_answers: bool | None = None
    unseen: str | None = None  # why a witness could not be asked

    @property
    def verified(self) -> bool | None:
        """True only when the device says DMA and, on Arm, the guest is told of its register."""
        if self.dma_property is None:
            return None
        return self.dma_property and self.window_has_dma is not False and self.register_answers is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRunRecord:
    """What came of a kernel's run.

    :ivar verdict: the cause of its exit status, one of `orchestrator.kernel.verdict.Cause`.
    :ivar exit_status: that of `guestlaunch kernel run`: the command's own, or the verdict's.
    :ivar kernel: the file that was given; `form` what it is, `started_as` what of it was started.
    :ivar version: the kernel's own, None where its file does not tell.
    :ivar command: what ran in the guest; empty for none.
    :ivar console_bytes: what the guest wrote to its serial console.
    :ivar tests: how many tests ended in each way, by TAP; empty where there were none.
    :ivar metrics: numbers that the command printed.
    """

    verdict: str
    exit_status: int
    kernel: str
    form: str
    started_as: str
    version: str | None
    cmdline: str
    command: tuple[str, ...] = ()
    console_bytes: int = 0
    tests: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallStepRecord:
    """What came of a step of an installation.

    :ivar installation: the same for all steps of one; `step` is installer or first_boot.
    :ivar verdict: done, or why not: failed (the installer says so), or one of `orchestrator.kernel.verdict.Cause`.
    :ivar location: the tree's; `tree` is what it says that it is, `verification` why it is believed.
    :ivar cmdline: the installer's whole command line.
    :ivar fetched_bytes: how much came over the network, in `fetch_ns`.
    :ivar told_by: what showed that the step was done; `boot_entry` what the firmware said that it starts.
    """

    installation: str
    step: str
    verdict: str
    location: str
    tree: str
    verification: str
    cmdline: str = ""
    fetched_bytes: int = 0
    fetch_ns: int = 0
    told_by: str | None = None
    boot_entry: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VmBootRecord:
    """What came of a VM that was made, or started again.

    :ivar name: the domain's; `created` tells whether it was made just now.
    :ivar image: what its disk was made of; `customised` tells whether anything was changed on it.
    :ivar told_by: what showed that it was ready; `boot_entry` what the firmware said that it starts.
    """

    name: str
    created: bool
    image: str
    customised: bool = False
    told_by: str | None = None
    boot_entry: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRecord:
    """Everything that is known of one finished launch. Sizes in bytes unless named otherwise."""

    launch_id: str
    start: Start
    profile: str
    arch: str | None  # None when the launch failed before it was decided, as with accel
    accel: str | None
    accel_reason: str
    fw_cfg: FwCfg
    outcome: str  # success, failure, cancelled
    tiles: tuple[Tile, ...]
    wall_start_ns: int
    connection: str
    exit_status: int | None = None
    error: str | None = None
    error_phase: str | None = None
    ready: bool = False
    kernel_bytes: int | None = None
    initrd_bytes: int | None = None
    memory_mib: int | None = None
    vcpus: int | None = None
    cpu: str | None = None
    disks: int = 0
    versions: Mapping[str, str | None] = field(default_factory=dict)
    appliance: Mapping[str, str | None] = field(default_factory=dict)
    console_tail: tuple[str, ...] = ()
    start_reason: str | None = None  # why the launch is cold, None when that was asked for
    template: str | None = None  # key of the template that was cloned
    proof_failures: tuple[str, ...] = ()  # why the dates of a launch that was ready prove nothing
    extra_args: tuple[str, ...] = ()  # the user's own QEMU arguments: a launch with them is not like the others
    provenance: Provenance = NOWHERE
    kind: Kind = Kind.LAUNCH
    kernel_run: KernelRunRecord | None = None  # for that kind of launch
    install: InstallStepRecord | None = None  # likewise
    vm: VmBootRecord | None = None  # likewise

    @property
    def total_ns(self) -> int:
        """Duration of the whole launch, which its tiles sum to."""
        return sum(tile.duration_ns or 0 for tile in self.tiles)

    @property
    def launch_ns(self) -> int | None:
        """From the client's start until the tool had its launch flag; None when it never had."""
        ready = next((t for t in self.tiles if t.name is Phase.WORKLOAD), None)
        return ready.start_ns if ready is not None else None


class PhaseEntry(TypedDict):
    """One phase, as it stands in the log; what the keys mean is said in the schema."""

    name: str
    start_ns: int | None
    duration_ns: int | None
    outcome: str
    source: NotRequired[str]
    reason: NotRequired[str]
    includes: NotRequired[list[str]]
    adjusted_ns: NotRequired[int]
    bytes: NotRequired[int]
    mb_per_s: NotRequired[float | None]


class FwCfgEntry(TypedDict):
    """What was asked for of fw_cfg DMA, and what its witnesses said."""

    requested: bool
    dma_property: bool | None
    window_base: int | None
    window_size: int | None
    window_has_dma: bool | None
    register_answers: bool | None
    unseen: NotRequired[str | None]


class KernelRunEntry(TypedDict):
    """What came of a kernel's run."""

    verdict: str
    exit_status: int
    kernel: str
    form: str
    started_as: str
    version: str | None
    cmdline: str
    command: list[str]
    console_bytes: int
    tests: dict[str, int]
    metrics: dict[str, float]


class InstallStepEntry(TypedDict):
    """What came of a step of an installation."""

    installation: str
    step: str
    verdict: str
    location: str
    tree: str
    verification: str
    cmdline: str
    fetched_bytes: int
    fetch_ns: int
    told_by: str | None
    boot_entry: str | None


class VmBootEntry(TypedDict):
    """What came of a VM."""

    name: str
    created: bool
    image: str
    customised: bool
    told_by: str | None
    boot_entry: str | None


class LaunchEvent(TypedDict):
    """The canonical line. Older lines lack what is not required; what the keys mean is said in the schema."""

    event: str
    schema_version: int
    level: str
    timestamp: str
    launch_id: str
    kind: NotRequired[str]
    start: str
    start_reason: NotRequired[str | None]
    template: NotRequired[str | None]
    profile: str
    arch: str | None
    accel: str | None
    accel_reason: str
    fw_cfg_dma: bool | None
    fw_cfg: FwCfgEntry
    outcome: str
    ready: bool
    exit_status: int | None
    error: str | None
    error_phase: str | None
    wall_start_ns: int
    total_ns: int
    launch_ns: int | None
    transfer_ns: int | None
    transfer_mb_per_s: float | None
    phases: list[PhaseEntry]
    bytes: dict[str, int | None]
    memory_mib: int | None
    vcpus: int | None
    cpu: str | None
    disks: int
    connection: str
    versions: dict[str, str | None]
    appliance: dict[str, str | None]
    console_tail: list[str]
    extra_args: NotRequired[list[str]]
    host: NotRequired[str | None]
    clock: NotRequired[str | None]
    proof_failures: NotRequired[list[str]]
    kernel_run: NotRequired[KernelRunEntry | None]
    install: NotRequired[InstallStepEntry | None]
    vm: NotRequired[VmBootEntry | None]


def to_event(record: LaunchRecord) -> LaunchEvent:
    """Return the canonical line, JSON-ready."""
    moved = [t for t in record.tiles if t.name in TRANSFER_PHASES]
    whole = all(t.duration_ns is not None for t in moved) and bool(moved)
    transfer_ns = sum(t.duration_ns or 0 for t in moved) if whole else None
    moved_bytes = (record.kernel_bytes or 0) + (record.initrd_bytes or 0)
    return {
        "event": EVENTS[record.kind],
        "schema_version": SCHEMA_VERSION,
        "level": "info" if record.outcome == "success" and not record.proof_failures else "error",
        "timestamp": datetime.fromtimestamp((record.wall_start_ns + record.total_ns) / 1e9, UTC).isoformat(),
        "launch_id": record.launch_id,
        "kind": str(record.kind),
        "start": str(record.start),
        "start_reason": record.start_reason,
        "template": record.template,
        "profile": record.profile,
        "arch": record.arch,
        "accel": record.accel,
        "accel_reason": record.accel_reason,
        "fw_cfg_dma": record.fw_cfg.verified,
        "fw_cfg": {
            "requested": record.fw_cfg.requested,
            "dma_property": record.fw_cfg.dma_property,
            "window_base": record.fw_cfg.window_base,
            "window_size": record.fw_cfg.window_size,
            "window_has_dma": record.fw_cfg.window_has_dma,
            "register_answers": record.fw_cfg.register_answers,
            "unseen": record.fw_cfg.unseen,
        },
        "outcome": record.outcome,
        "ready": record.ready,
        "exit_status": record.exit_status,
        "error": record.error,
        "error_phase": record.error_phase,
        "wall_start_ns": record.wall_start_ns,
        "total_ns": record.total_ns,
        "launch_ns": record.launch_ns,
        "transfer_ns": transfer_ns,
        "transfer_mb_per_s": moved_bytes / transfer_ns * 1e3 if transfer_ns and moved_bytes else None,
        "phases": [tile_to_dict(t) for t in record.tiles],
        "bytes": {"kernel": record.kernel_bytes, "initrd": record.initrd_bytes},
        "memory_mib": record.memory_mib,
        "vcpus": record.vcpus,
        "cpu": record.cpu,
        "disks": record.disks,
        "connection": record.connection,
        "versions": dict(record.versions),
        "appliance": dict(record.appliance),
        "console_tail": list(record.console_tail),
        "extra_args": list(record.extra_args),
        "host": _value(record.provenance.host),
        "clock": _value(record.provenance.clock),
        "proof_failures": list(record.proof_failures),
        "kernel_run": None if record.kernel_run is None else _run_to_dict(record.kernel_run),
        "install": None if record.install is None else _step_to_dict(record.install),
        "vm": None if record.vm is None else _vm_to_dict(record.vm),
    }


def _run_to_dict(run: KernelRunRecord) -> KernelRunEntry:
    return {
        "verdict": run.verdict,
        "exit_status": run.exit_status,
        "kernel": run.kernel,
        "form": run.form,
        "started_as": run.started_as,
        "version": run.version,
        "cmdline": run.cmdline,
        "command": list(run.command),
        "console_bytes": run.console_bytes,
        "tests": dict(run.tests),
        "metrics": dict(run.metrics),
    }


def _step_to_dict(step: InstallStepRecord) -> InstallStepEntry:
    return {
        "installation": step.installation,
        "step": step.step,
        "verdict": step.verdict,
        "location": step.location,
        "tree": step.tree,
        "verification": step.verification,
        "cmdline": step.cmdline,
        "fetched_bytes": step.fetched_bytes,
        "fetch_ns": step.fetch_ns,
        "told_by": step.told_by,
        "boot_entry": step.boot_entry,
    }


def _vm_to_dict(vm: VmBootRecord) -> VmBootEntry:
    return {
        "name": vm.name,
        "created": vm.created,
        "image": vm.image,
        "customised": vm.customised,
        "told_by": vm.told_by,
        "boot_entry": vm.boot_entry,
    }


def _value(name: StrEnum | None) -> str | None:
    return None if name is None else str(name)


def tile_to_dict(tile: Tile) -> PhaseEntry:
    """Return one phase as it stands in the log."""
    entry: PhaseEntry = {
        "name": str(tile.name),
        "start_ns": tile.start_ns,
        "duration_ns": tile.duration_ns,
        "outcome": tile.outcome,
    }
    if tile.source is not None:
        entry["source"] = tile.source
    if tile.reason is not None:
        entry["reason"] = tile.reason
    if tile.includes:
        entry["includes"] = [str(phase) for phase in tile.includes]
    if tile.adjusted_ns:
        entry["adjusted_ns"] = tile.adjusted_ns
    if tile.bytes is not None:
        entry["bytes"] = tile.bytes
        entry["mb_per_s"] = tile.mb_per_s
    return entry


def seen(phases: Iterable[PhaseEntry]) -> Iterator[tuple[PhaseEntry, int, int]]:
    """Yield the phases that were seen, each with its start and its duration in ns."""
    for phase in phases:
        start_ns, duration_ns = phase["start_ns"], phase["duration_ns"]
        if start_ns is not None and duration_ns is not None:
            yield phase, start_ns, duration_ns


def phase_event(record: LaunchRecord, tile: Tile) -> dict[str, Any]:
    """Return the event of one phase: the phase as it stands in the canonical line, and which kind of launch it was."""
    entry = {("phase" if key == "name" else key): value for key, value in tile_to_dict(tile).items()}
    return {
        "event": PHASE_EVENTS[record.kind],
        "launch_id": record.launch_id,
        "start": str(record.start),
        "profile": record.profile,
        "accel": record.accel,
        "host": _value(record.provenance.host),
        "clock": _value(record.provenance.clock),
        "fw_cfg_dma": record.fw_cfg.verified,
        **entry,
    }


def kind_of(event: Mapping[str, Any]) -> str:
    """Return what was launched, by a canonical line; those without a kind are older than kinds are."""
    return str(event.get("kind") or Kind.LAUNCH)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the canonical line."""
    text = resources.files(__package__).joinpath("launch_finished.schema.json").read_text("utf-8")
    return dict(json.loads(text))
