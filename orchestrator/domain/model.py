"""A domain as values: what is launched, in libvirt's and QEMU's own terms. No I/O, no policy.

Standard library only: the launch request (see `orchestrator.launch.request`) is made of these.
"""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum

from orchestrator.values import dataclass


class Arch(StrEnum):
    """Guest architecture, as libvirt names it."""

    AARCH64 = "aarch64"
    X86_64 = "x86_64"


class Accel(StrEnum):
    """Accelerator that runs the guest."""

    KVM = "kvm"
    TCG = "tcg"


class FirmwareKind(StrEnum):
    """What the guest starts from."""

    UEFI = "uefi"
    SEABIOS = "bios"
    NONE = "none"  # QEMU's own boot stub


class InterfaceKind(StrEnum):
    """What a network interface that libvirt describes is joined to."""

    USER = "user"  # QEMU's own network, behind the host's address
    NETWORK = "network"  # one of libvirt's
    BRIDGE = "bridge"  # one of the host's


class GraphicsKind(StrEnum):
    """How the display of a user's own domain is looked at."""

    VNC = "vnc"
    SPICE = "spice"


class DiskBus(StrEnum):
    """Bus that a disk is attached to."""

    SCSI = "scsi"
    VIRTIO = "virtio"
    SATA = "sata"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A kind of guest (`configs/profiles/*.toml`). Sizes are in MiB, deadlines in seconds."""

    name: str
    arch: Arch
    machine: str
    firmware: FirmwareKind
    cpu_tcg: str
    cpu_kvm: str
    memory_mib: int
    vcpus: int
    console: str  # kernel's name for the first serial port: ttyAMA0, ttyS0
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A local file or block device. `path` is absolute."""

    path: str
    block_device: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSource:
    """A volume of a storage pool of libvirt's, on the host where the domain runs."""

    pool: str
    volume: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSource:
    """A disk reached over the network, as QEMU block driver options.

    `driver` is QEMU's protocol driver (nbd, https, ssh, rbd, iscsi, ...); `options` are its flattened
    blockdev options (`server.host`, `path`, ...). `secrets` maps an option that takes a secret
    object's id (`password-secret`, `key-secret`) to the secret text itself, so that it never
    appears on a command line.
    """

    driver: str
    options: tuple[tuple[str, str], ...]
    secrets: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """The image below an overlay of ours.

    :ivar pooled: it is a volume of a storage pool, libvirt's own; else somebody's file, whose owner stays as it is.
    """

    path: str
    format: str
    pooled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One disk, in the order the guest sees it.

    `described`: the image's backing chain records all its formats, or it has none, so that libvirt may describe
    it. Otherwise QEMU itself opens it, as it would for libguestfs (libvirt refuses a chain that leaves a format
    unsaid). Raw images need no chain: for them it changes nothing.
    `format` None asks QEMU to probe (only ever because the user's tool asked for that).
    `cache` is QEMU's cache mode. `shared_read` lets the backing file be open for writing elsewhere
    (libguestfs asks for it, `locking=off`, for its read-only overlays). `snapshot` throws writes
    away. Block sizes are bytes. `options` are QEMU's block options for files that the image names and that QEMU would
    not find by itself (`orchestrator.images.chain`). `graph` is QEMU's whole block graph as JSON, where it is to follow
    nothing of what headers say (`orchestrator.images.policy`), and `identities` are device and inode of its files.
    `boot_order` counts from 1; where one disk has one, nothing without one is booted.
    """

    source: FileSource | NetworkSource | VolumeSource
    format: str | None = None
    bus: DiskBus = DiskBus.SCSI
    readonly: bool = False
    snapshot: bool = False
    shared_read: bool = False
    cache: str | None = None
    serial: str | None = None
    alias: str | None = None  # libvirt's name for it ("ua-..."), which ends its SCSI identification
    discard: bool = False
    copy_on_read: bool = False
    described: bool = False
    logical_block_size: int | None = None
    physical_block_size: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    graph: str | None = None
    identities: tuple[tuple[int, int], ...] = ()
    backing: Backing | None = None
    boot_order: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """A disk's file that QEMU was given as a descriptor: its name for us, and for QEMU."""

    path: str
    name: str
    block_device: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """UEFI firmware: read-only code, and a variable store of the domain's own.

    :ivar code: empty where libvirt chooses it, on the host where the domain runs.
    :ivar nvram: the store; None has libvirt make and keep one.
    :ivar template: what libvirt makes it from.
    """

    code: str
    nvram: str | None = None
    template: str | None = None
    code_format: str = "raw"
    nvram_format: str = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rom:
    """UEFI firmware in flash that no file is behind: what is written to it is gone with the guest.

    :ivar code: goes to the start of the first flash; `variables` to that of the second.
    """

    code: str
    variables: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A virtio-serial port `name` joined to the unix socket `path`, which somebody listens on; None: to nothing yet.

    :ivar kept: libvirt makes the socket, and lets its clients open it.
    """

    name: str
    path: str | None
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One user-mode (or stream socket) virtio-net interface."""

    net: str | None = None  # "169.254.0.0/16"
    stream_path: str | None = None  # passt's unix socket


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """The virtio-net interface of a user's own domain; `source` names what it is joined to."""

    kind: InterfaceKind
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphics:
    """A display, with a keyboard and a tablet: `path` is the unix socket to look at it; None has libvirt make one."""

    kind: GraphicsKind
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What libvirt keeps of a domain for us: one element in a namespace of our own, with attributes."""

    namespace: str
    prefix: str
    name: str
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FwCfgFile:
    """A fw_cfg file of the user's own: `name` is what the guest knows it by, `path` where its content is."""

    name: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A directory that the guest may read: `tag` is what the guest mounts.

    :ivar socket: of the program that serves it by virtiofs and shares the guest's memory; None: QEMU does, by 9p.
    """

    path: str
    tag: str
    socket: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ram:
    """The guest's memory in a file.

    :ivar private: mapped copy-on-write: the file stays as it is, and all who map it share its pages.
    """

    path: str
    private: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A domain that continues a saved one, and so needs nothing to boot from.

    :ivar firmware: stands in for UEFI firmware, which the state brings along.
    :ivar flash: UEFI firmware where nothing can stand in for it.
    :ivar option_roms: those that QEMU added for the saved domain's kernel, by name.
    """

    firmware: str | None = None
    flash: Loader | None = None
    option_roms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Privileges:
    """Which of root's rights a QEMU that root starts keeps once it has opened what its command line names.

    :ivar user: user and group that it becomes; None: it stays root.
    :ivar option: QEMU's option for that: `-runas`, `-run-with` since 9.1.
    :ivar sandbox: it has seccomp filters.
    :ivar own_network: it has an empty network of its own.
    :ivar threads: how many it may have; `data_bytes` how much memory that it writes to. None for no bound.
    :ivar reason: why it stays root, or shares the host's network.
    """

    user: int | None
    option: str = "-runas"
    sandbox: bool = True
    own_network: bool = True
    threads: int | None = None
    data_bytes: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Everything that is launched. Paths are absolute; memory is in MiB. An empty emulator is libvirt's own choice."""

    name: str
    uuid: str
    profile: Profile
    accel: Accel
    emulator: str
    memory_mib: int
    vcpus: int
    cpu: str
    fw_cfg_dma: bool = True
    loader: Loader | None = None
    rom: Rom | None = None  # instead of a loader
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str = ""
    disks: tuple[Disk, ...] = ()
    channels: tuple[Channel, ...] = ()
    console_path: str | None = None  # unix socket that the first serial port connects to
    network: Network | None = None
    rng: bool = True
    trace_path: str | None = None  # QEMU log with the fw_cfg_select trace
    secret_paths: tuple[tuple[str, str], ...] = ()  # secret object id -> 0600 file that holds it
    extra_args: tuple[str, ...] = ()  # the user's own QEMU arguments, verbatim
    ram: Ram | None = None
    slot: bool = False  # the first disk's place is taken by a disk behind which the tool's is put later
    root_apart: bool = False  # its one disk is on a controller of its own, so that PCI slots are free (`layout`)
    later: tuple[Disk, ...] = ()  # disks whose PCI devices stand ready, with nothing behind them yet
    incoming: Incoming | None = None
    restarts: bool = False  # when its guest does; otherwise it ends then
    kept: bool = False  # a user's own domain: it restarts when its guest does, and has a console to connect to
    run_as: tuple[int, int] | None = None  # uid and gid of QEMU, where libvirt's daemon would choose another user
    fw_cfg_files: tuple[FwCfgFile, ...] = ()
    oem_strings: tuple[str, ...] = ()  # files, each of which holds one SMBIOS OEM string (type 11)
    share: Share | None = None
    panic_device: bool = False  # the guest's kernel can tell QEMU that it panicked
    interface: Interface | None = None  # of a user's own domain, which others change, too
    graphics: Graphics | None = None
    metadata: Metadata | None = None
    privileges: Privileges | None = None  # where they are not libvirt's daemon's, or the user's own
