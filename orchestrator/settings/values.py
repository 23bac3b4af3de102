"""What can be set: frozen values with their defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each stage of a launch may go on without a sign of progress, in seconds.

    `transfer` holds for each fw_cfg phase. A clone has at its gate what a boot has in its init, if that is more.
    """

    connect: float = 60.0
    create: float = 60.0
    firmware: float = 120.0
    transfer: float = 120.0
    handoff: float = 120.0
    kernel: float = 180.0
    initrd: float = 120.0
    init: float = 300.0
    guestfsd: float = 120.0
    restore: float = 60.0
    gate: float = 300.0
    shutdown: float = 60.0
    kvm_probe: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Paths are absolute.

    :ivar connect: libvirt URI; None means the private `qemu:///embed` under the state directory.
    :ivar accel: "auto", "kvm" or "tcg".
    :ivar start: "cold", "warm" or "auto": warm where a template serves the launch, else cold.
    :ivar appliance: a fixed appliance's directory; None means the newest one built for the arch.
    :ivar timeline: where each launch's canonical line is also written: a file, or "-".
    :ivar log: where events are logged: a file, or "-" for stderr; None means `state_dir/log/events.jsonl`.
    :ivar confine: "auto": a QEMU that root starts has a user of its own and no rights; "off": it stays root.
    :ivar guest_aslr: False has an emulated guest lay out its programs without randomness, which is faster.
    :ivar console_kib: how much of the guest's console is kept, in KiB.
    :ivar measure: False turns off all that is only there to date phases.
    :ivar keep_launches: how many launches the store keeps; `keep_days` how long, in days. 0 keeps all.
    :ivar standby: how many clones a daemon keeps ready, for each kind of launch; 0 for none.
    :ivar standby_memory_mib: how much memory of their own all these may have together.
    :ivar image_policy: "trusted", "untrusted", or None: trusted for a tool's own command line, untrusted for jobs.
    :ivar image_roots: below which untrusted images, and all that they name, must lie; none: each image's own directory.
    :ivar image_max_gib: how large a disk an untrusted image may be.
    :ivar metrics_listen: HOST:PORT where the daemon answers Prometheus; None for nowhere.
    :ivar otlp_endpoint: base address of an OpenTelemetry collector; None leaves it to OpenTelemetry's own variables.
    """

    state_dir: Path
    runtime_dir: Path
    profile: str = "aarch64-uefi"
    connect: str | None = None
    fw_cfg_dma: bool = True
    accel: str = "auto"
    start: str = "auto"
    appliance: Path | None = None
    memory_mib: int | None = None
    vcpus: int | None = None
    cpu: str | None = None
    timeline: str | None = None
    log: str | None = None
    confine: str = "auto"
    guest_aslr: bool = False
    console_kib: int = 256
    measure: bool = True
    keep_launches: int = 250_000
    keep_days: int = 400
    standby: int = 1
    standby_memory_mib: int = 2048
    image_policy: str | None = None
    image_roots: tuple[Path, ...] = ()
    image_max_gib: int = 16_384
    metrics_listen: str | None = None
    otlp_endpoint: str | None = None
    deadlines: Deadlines = field(default_factory=Deadlines)

    @property
    def log_target(self) -> str:
        """Where events are logged: a file's path, or "-" for stderr."""
        return self.log or os.fspath(self.state_dir / "log/events.jsonl")

    @property
    def appliance_store(self) -> Path:
        """Where built appliances are kept."""
        return self.state_dir / "appliances"
