"""What can be set: frozen values with their defaults."""

from __future__ import annotations

import os
from dataclasses import field
from pathlib import Path

from orchestrator.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each stage of a launch may go on without a sign of progress, in seconds.

    The page guestlaunch.toml(5) is made from these lines and from those of `Settings`.

    :ivar connect: connecting to libvirt.
    :ivar create: the start of QEMU by libvirt.
    :ivar firmware: the firmware, until it asks for the kernel.
    :ivar transfer: each of the two downloads over fw_cfg.
    :ivar handoff: from the end of the downloads to the kernel's start.
    :ivar kernel: the kernel, until the initrd's init starts.
    :ivar initrd: the initrd, until the appliance's init starts.
    :ivar init: the appliance's init, until guestfsd starts.
    :ivar guestfsd: until guestfsd, once it runs, opens its channel.
    :ivar silent: instead of the last two where the appliance's init is libguestfs's own, which tells of no progress;
        libguestfs itself allows as much.
    :ivar restore: loading a template's state into a clone.
    :ivar gate: from the start of a clone's vCPUs until its guest is past the gate; never less than `init`.
    :ivar shutdown: the guest's own shutdown, before it is killed.
    :ivar kvm_probe: the probe guest that shows whether KVM works.
    """

    connect: float = 90.0
    create: float = 90.0
    firmware: float = 120.0
    transfer: float = 120.0
    handoff: float = 120.0
    kernel: float = 180.0
    initrd: float = 120.0
    init: float = 300.0
    guestfsd: float = 120.0
    silent: float = 1200.0
    restore: float = 60.0
    gate: float = 300.0
    shutdown: float = 60.0
    kvm_probe: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Paths are absolute.

    The page guestlaunch.toml(5) is made from these lines; what a key takes and its default are added to them.

    :ivar state_dir: where appliances, templates, logs and libvirt's private files are kept. By default
        /var/lib/guestlaunch for root, else $XDG_STATE_HOME/guestlaunch (~/.local/state/guestlaunch).
    :ivar runtime_dir: where sockets are. By default $XDG_RUNTIME_DIR/guestlaunch where that directory is the user's
        own, else /run/guestlaunch for root and $TMPDIR/guestlaunch-UID (/tmp/guestlaunch-UID) for others.
    :ivar profile: the kind of guest: its architecture, machine, firmware and CPU.
    :ivar connect: the libvirt connection: qemu:///session, qemu:///system or, for `guestlaunch domain` and `vm`, a
        remote one. By default a private qemu:///embed, for which no daemon has to run.
    :ivar fw_cfg_dma: how the firmware gets kernel and initrd from QEMU: by fw_cfg's DMA interface (on) or a few bytes
        at a time (off).
    :ivar accel: the accelerator. `auto` takes KVM for a guest of the host's architecture once a probe guest has booted
        under it, else TCG.
    :ivar start: how launches start. `auto` clones a template where one fits the launch, else boots; `warm` makes the
        template first where there is none; `cold` always boots.
    :ivar learn: whether `auto` has a template built in the background, at idle priority, when a launch booted for want
        of one. guestlaunchd, where it keeps clones ready, does so in any case.
    :ivar learned_templates: how many such templates there may be. Those that were not cloned for longest go first.
        Templates that were asked for do not count, and stay.
    :ivar learned_mib: how much space they may take together, in MiB.
    :ivar appliance: the directory of a fixed appliance. By default the newest one that was built for the guest's
        architecture.
    :ivar memory_mib: the guest's memory in MiB. By default what the tool asks for.
    :ivar vcpus: the guest's number of virtual CPUs. By default what the tool asks for.
    :ivar cpu: the guest's CPU model. By default the profile's.
    :ivar timeline: a file that takes each launch's timeline as one line of JSON; `-` is standard output.
    :ivar log: the event log. By default log/events.jsonl in the state directory; `-` is standard error, or the journal
        where standard error leads there.
    :ivar confine: `auto`: a QEMU that root starts over the private connection runs as a user of its own, without any
        privileges. `off`: it stays root.
    :ivar guest_aslr: whether emulated guests, too, lay out their address spaces at random, which is slower. Templates
        of the two kinds are kept apart. Under KVM guests always do.
    :ivar settled_nvram: whether firmware starts with the variables that it left after the boot of a template, in which
        no disk of a user's had part. `off`: with those of its package, as a machine that was never switched on.
    :ivar console_kib: how much of the end of the guest's console is kept, in KiB.
    :ivar measure: `off` leaves out all that is only there to date phases.
    :ivar keep_launches: how many launches the store of launches keeps; 0 keeps all.
    :ivar keep_days: for how many days it keeps them; 0 keeps them for ever.
    :ivar standby: how many clones guestlaunchd keeps ready for each kind of launch; 0 for none.
    :ivar standby_memory_mib: how much memory of their own all these clones may have together, in MiB.
    :ivar image_policy: what disk images may name. `trusted`: any file or server as their backing or data file, as with
        libguestfs itself. `untrusted`: only files below `image_roots`; no format is guessed, and nothing is connected
        to. By default `untrusted` for the disks of a job, `trusted` for those of a tool.
    :ivar image_roots: the directories below which untrusted images, and all that they name, must lie. By default each
        image's own directory.
    :ivar image_max_gib: how large a disk an untrusted image may be, in GiB.
    :ivar metrics_listen: HOST:PORT where guestlaunchd answers Prometheus at /metrics. By default nowhere.
    :ivar otlp_endpoint: the base URL of an OpenTelemetry collector that takes launches as traces. By default
        OpenTelemetry's own variables decide.
    """

    state_dir: Path
    runtime_dir: Path
    profile: str = "aarch64-uefi"
    connect: str | None = None
    fw_cfg_dma: bool = True
    accel: str = "auto"
    start: str = "auto"
    learn: bool = True
    learned_templates: int = 8
    learned_mib: int = 4096
    appliance: Path | None = None
    memory_mib: int | None = None
    vcpus: int | None = None
    cpu: str | None = None
    timeline: str | None = None
    log: str | None = None
    confine: str = "auto"
    guest_aslr: bool = False
    settled_nvram: bool = True
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
    def ends_with_us(self) -> bool:
        """Whether domains do: the driver of libvirt's is then in our own process, whatever root it has."""
        return self.connect is None or self.connect.partition("?")[0] == "qemu:///embed"

    @property
    def log_target(self) -> str:
        """Where events are logged: a file's path, or "-" for stderr."""
        return self.log or os.fspath(self.state_dir / "log/events.jsonl")

    @property
    def trusts_images(self) -> bool:
        """Whether disk images may name what they like."""
        return self.image_policy != "untrusted"

    @property
    def appliance_store(self) -> Path:
        """Where built appliances are kept."""
        return self.state_dir / "appliances"
