"""What is launched, decided: profile, request and settings become a `Domain`. Pure.

Files must have been staged, firmware found and the accelerator probed by others, who hand in the results.
"""

from __future__ import annotations

from orchestrator.domain.cmdline import fix_cmdline
from orchestrator.domain.model import (
    Accel,
    Arch,
    Channel,
    Disk,
    DiskBus,
    Domain,
    FileSource,
    FirmwareKind,
    Loader,
    Profile,
    Rom,
)
from orchestrator.errors import CapabilityError, FirmwareError
from orchestrator.values import dataclass

GUESTFSD_CHANNEL = "org.libguestfs.channel.0"  # guestfsd looks for this name
CONTROL_CHANNEL = "org.guestlaunch.control.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine of a guest, and what runs it. Memory in MiB; None leaves memory, CPUs or CPU to the profile."""

    profile: Profile
    emulator: str
    accel: Accel
    host_arch: Arch
    memory_mib: int | None = None
    vcpus: int | None = None
    cpu: str | None = None
    fw_cfg_dma: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """What a guest starts, and the disks that it finds.

    :ivar cmdline: as libguestfs wrote it; it is fixed up for the guest (see `cmdline`), unless it is `verbatim`.
    :ivar aslr: emulated guests, too, randomise their address spaces.
    :ivar loader: firmware staged for this launch, or `rom`; UEFI profiles need either, others use none.
    :ivar root: the appliance's root (see `appliance_root`); guestfsd leaves it out of its numbering.
    """

    kernel: str | None = None
    initrd: str | None = None
    cmdline: str = ""
    verbatim: bool = False
    aslr: bool = False
    loader: Loader | None = None
    rom: Rom | None = None
    disks: tuple[Disk, ...] = ()
    root: Disk | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The unix sockets that a guest's ports and console are joined to."""

    guestfsd_path: str | None = None
    control_path: str | None = None
    console_path: str | None = None


def design(name: str, uuid: str, machine: Machine, files: BootFiles, ports: Ports = Ports()) -> Domain:  # noqa: B008 - it is frozen
    """Return the domain to launch; what takes no decision is added by the caller.

    The machine type is the profile's. libguestfs's own `-machine` and `-cpu` are not asked for: it derives them from
    the arch it was built for and from its own guess at KVM. What users want goes in `cpu` or `extra_args`.

    :raise CapabilityError: the accelerator cannot run this guest or this CPU.
    :raise FirmwareError: a UEFI profile without loader.
    """
    profile, accel = machine.profile, machine.accel
    _check_accel(profile, accel, machine.host_arch)
    uefi = profile.firmware is FirmwareKind.UEFI
    if uefi and files.loader is None and files.rom is None:
        raise FirmwareError("cannot launch", f"profile {profile.name}", "it starts from UEFI and none was staged")
    channels = ((GUESTFSD_CHANNEL, ports.guestfsd_path), (CONTROL_CHANNEL, ports.control_path))
    return Domain(
        name=name,
        uuid=uuid,
        profile=profile,
        accel=accel,
        emulator=machine.emulator,
        memory_mib=machine.memory_mib or profile.memory_mib,
        vcpus=machine.vcpus or profile.vcpus,
        cpu=choose_cpu(profile, accel, machine.cpu),
        fw_cfg_dma=machine.fw_cfg_dma,
        loader=files.loader if uefi else None,
        rom=files.rom if uefi else None,
        kernel=files.kernel,
        initrd=files.initrd,
        cmdline=files.cmdline if files.verbatim else fix_cmdline(files.cmdline, profile, accel, aslr=files.aslr)[0],
        # Last, so that its address depends on nothing but the disks before it, which are the ones that count.
        disks=files.disks if files.root is None else (*files.disks, files.root),
        channels=tuple(Channel(name=port, path=path) for port, path in channels if path is not None),
        console_path=ports.console_path,
    )


def choose_cpu(profile: Profile, accel: Accel, asked: str | None = None) -> str:
    """Return the CPU in QEMU's spelling: what the user asked for, else the profile's for the accelerator.

    :raise CapabilityError: `host` was asked for without KVM, which alone can pass the host's CPU through.
    """
    if asked is None:
        return profile.cpu_kvm if accel is Accel.KVM else profile.cpu_tcg
    if accel is not Accel.KVM and asked.split(",")[0] == "host":
        hint = f"leave it out, or use cpu={profile.cpu_tcg}"
        raise CapabilityError("cannot use CPU", asked, f"the accelerator is {accel}, it needs kvm", hint)
    return asked


def appliance_root(overlay: str, name: str | None = None) -> Disk:
    """Return the appliance's root disk: this launch's own qcow2 overlay, which records its backing file's format.

    Nothing in it outlives the launch, so it is written without regard to crashes.

    :param name: by which our own appliance's initrd knows its root (2026-11-22): a user's disk may be a copy of the
        very appliance, UUID and all. It is no serial: those are what libguestfs lists as the labels of the tool's
        disks.
    """
    source = FileSource(path=overlay)
    alias = None if name is None else f"ua-{name}"
    return Disk(source=source, format="qcow2", described=True, bus=DiskBus.SCSI, cache="unsafe", alias=alias)


def _check_accel(profile: Profile, accel: Accel, host_arch: Arch) -> None:
    """Raise CapabilityError when KVM is to run a guest of another arch."""
    if accel is Accel.KVM and profile.arch is not host_arch:
        why = f"KVM runs guests of the host's arch only, which is {host_arch}"
        raise CapabilityError("cannot use KVM", f"profile {profile.name}", why, "use accel auto or tcg")
