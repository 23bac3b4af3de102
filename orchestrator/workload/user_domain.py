"""Plans a domain of the user's own, by the same policy as launches.

The domain is printed, or handed to a libvirt daemon, which then owns it, and makes its variable store where it keeps
those. Launches of appliances are `orchestrator.launch`'s.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from orchestrator.appliance.kernel_form import Form, form_of
from orchestrator.appliance.probe import check_initrd, require_kernel_arch
from orchestrator.appliance.store import resolve
from orchestrator.domain.model import Accel, Arch, Disk, Domain, FileSource, FirmwareKind, Loader, Profile
from orchestrator.domain.policy import BootFiles, Machine, design
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import ApplianceError, CapabilityError, DiskError, NotFoundError, UsageError
from orchestrator.firmware.descriptors import find_firmware
from orchestrator.hypervisor.accel import choose_accel
from orchestrator.hypervisor.emulator import find_emulator, host_arch
from orchestrator.hypervisor.pflash import flash_formats
from orchestrator.images.header import qcow_format
from orchestrator.settings import Settings


class BootSource(StrEnum):
    """What a domain starts."""

    APPLIANCE = "appliance"
    KERNEL = "kernel"
    DISK = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A domain as the user describes it. Paths are absolute; None leaves the choice to the profile.

    :ivar disks: in guest order. Image formats are told apart by their first bytes, raw unless qcow2.
    """

    name: str
    boot: BootSource
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    disks: Sequence[Path] = ()


def plan_domain(wish: Wish, settings: Settings, disks: tuple[Disk, ...] | None = None) -> Domain:
    """Return the domain for a wish; nothing is made, not even its variable store.

    On another host, its libvirt chooses QEMU and firmware.

    :param disks: instead of the wish's own.
    :raise GuestlaunchError: a file is missing or does not fit, or the host lacks what is needed.
    """
    profile = load_profile(settings.profile)
    here = _is_here(settings.connect)
    if disks is None:
        kernel, initrd, cmdline = _payload(wish, settings, profile, here=here)
        disks = tuple(_disk(path, here=here) for path in wish.disks)
    else:
        kernel, initrd, cmdline = None, None, ""
    root = _root(settings, profile) if wish.boot is BootSource.APPLIANCE else None
    host = host_arch() if here else profile.arch
    if host is None:
        raise CapabilityError("cannot launch", "this host", "its arch is neither aarch64 nor x86_64")
    emulator = find_emulator(profile.arch, native=host) if here else ""
    domain = design(
        wish.name,
        str(uuid.uuid4()),
        Machine(
            profile=profile,
            emulator=emulator,
            accel=_accel(settings, profile.arch, emulator, kernel, here=here),
            host_arch=host,
            memory_mib=settings.memory_mib,
            vcpus=settings.vcpus,
            cpu=settings.cpu,
            fw_cfg_dma=settings.fw_cfg_dma,
        ),
        BootFiles(
            kernel=None if kernel is None else str(kernel),
            initrd=None if initrd is None else str(initrd),
            cmdline=cmdline,
            aslr=settings.guest_aslr,
            loader=_loader(profile, here=here) if profile.firmware is FirmwareKind.UEFI else None,
            disks=disks,
            root=root,
        ),
    )
    return replace(domain, kept=wish.boot is not BootSource.APPLIANCE)


def _loader(profile: Profile, *, here: bool) -> Loader:
    if not here:
        return Loader(code="")
    firmware = find_firmware(profile.arch, profile.machine, formats=flash_formats())
    return Loader(
        code=firmware.code,
        template=firmware.nvram_template,
        code_format=firmware.code_format,
        nvram_format=firmware.nvram_format,
    )


def _is_here(uri: str | None) -> bool:
    """Tell whether a libvirt URI means this host, whose files can be looked at."""
    if uri is None:
        return True
    from orchestrator.hypervisor.connection import is_local  # here: brings libvirt

    return is_local(uri)


def _payload(wish: Wish, settings: Settings, profile: Profile, *, here: bool) -> tuple[Path | None, Path | None, str]:
    """Return kernel, initrd and command line."""
    if wish.boot is BootSource.DISK:
        if not wish.disks:
            raise UsageError("nothing to boot", wish.name, "no disk", "give --disk FILE or --kernel FILE")
        return None, None, ""
    if wish.boot is BootSource.APPLIANCE:
        appliance = resolve(settings.appliance_store, profile.arch)
        return (
            appliance.kernel,
            appliance.initrd,
            wish.cmdline or f"console={profile.console} root=UUID={appliance.root_uuid}",
        )
    if wish.kernel is None:
        raise UsageError("nothing to boot", wish.name, "no kernel", "give --kernel FILE")
    if here:
        require_kernel_arch(wish.kernel, profile.arch)
        if form_of(wish.kernel) is Form.GZIP:
            raise ApplianceError(
                "cannot use the kernel", wish.kernel, "nobody unpacks gzip at a start", "gunzip it first"
            )
        if wish.initrd is not None:
            check_initrd(wish.initrd)
    return wish.kernel, wish.initrd, wish.cmdline


def _root(settings: Settings, profile: Profile) -> Disk:
    """Return an appliance's root as a launch would see it, without the launch's own overlay."""
    appliance = resolve(settings.appliance_store, profile.arch)
    return Disk(source=FileSource(path=str(appliance.root)), format="raw", readonly=True, alias="ua-appliance")


def _accel(settings: Settings, arch: Arch, emulator: str, kernel: Path | None, *, here: bool) -> Accel:
    """Decide the accelerator; without a kernel to probe KVM with, an appliance's will do."""
    if not here:  # nothing can be proven there
        return Accel.KVM if settings.accel == "kvm" else Accel.TCG
    if kernel is None and settings.accel == "auto" and arch is host_arch():
        try:
            kernel = resolve(settings.appliance_store, arch).kernel
        except NotFoundError:
            return Accel.TCG  # KVM that nothing has proven may hang the guest
    return choose_accel(
        settings.accel,
        arch,
        emulator=emulator,
        kernel=kernel or Path("/nonexistent"),  # only looked at when KVM is to be proven, and then it is there
        state_dir=settings.state_dir,
        deadline_s=settings.deadlines.kvm_probe,
    ).accel


def _disk(path: Path, *, here: bool) -> Disk:
    """Return a disk of the user's; on another host, its name must tell the format.

    :raise DiskError: it is missing or cannot be read.
    """
    if not here:
        qcow2 = path.suffix == ".qcow2"
        source = FileSource(path=str(path), block_device=path.is_relative_to("/dev"))
        return Disk(source=source, format="qcow2" if qcow2 else "raw", described=qcow2)
    try:
        with path.open("rb") as stream:
            qcow2 = qcow_format(stream.read(8)) == "qcow2"
    except OSError as error:
        raise DiskError("cannot open the disk", path, error.strerror or error) from error
    source = FileSource(path=str(path), block_device=path.is_block_device())
    return Disk(source=source, format="qcow2" if qcow2 else "raw", described=qcow2)
