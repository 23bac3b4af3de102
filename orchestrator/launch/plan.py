"""What will be launched, decided and checked before anything is made: profile, appliance, firmware, accelerator.

Every refusal that can be known in advance is raised here, while there is nothing to clean up.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

from orchestrator.appliance.fixed import check_version, open_appliance, verify
from orchestrator.appliance.kernel_form import plain_kernel
from orchestrator.appliance.model import FILES, Appliance
from orchestrator.appliance.probe import check_initrd, require_kernel_arch
from orchestrator.appliance.version import host_version
from orchestrator.domain.cmdline import Change, fix_cmdline
from orchestrator.domain.model import Accel, Arch, Disk, FileSource, FirmwareKind, NetworkSource, Profile
from orchestrator.domain.profiles import load_profile
from orchestrator.domain.xml import unspeakable
from orchestrator.errors import ApplianceError, CapabilityError, DiskError
from orchestrator.files import open_image
from orchestrator.firmware.descriptors import Firmware, find_firmware, firmware_with_code
from orchestrator.hypervisor.accel import AccelVerdict, choose_accel
from orchestrator.hypervisor.emulator import find_emulator, host_arch
from orchestrator.hypervisor.pflash import flash_formats
from orchestrator.images.chain import read_chain
from orchestrator.launch.request import LaunchRequest, is_libguestfs_variables
from orchestrator.remembered import Remembered
from orchestrator.settings import Settings
from orchestrator.values import dataclass

# edk2 keeps its variables in the first 768 KiB of the 64 MiB of flash (ArmVirtPkg/VarStore.fdf.inc).
_VARIABLES_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One launch, decided. Sizes in bytes.

    :ivar appliance: None when kernel and initrd are not an appliance's (a domain of the user's own).
    :ivar firmware: None for profiles that start without UEFI.
    :ivar kernel: path of the kernel's file in the form that the profile starts.
    :ivar changes: what `design` will change in the kernel command line.
    """

    profile: Profile
    emulator: str
    host_arch: Arch
    accel: Accel
    accel_reason: str
    firmware: Firmware | None
    appliance: Appliance | None
    disks: tuple[Disk, ...]
    kernel: str
    kernel_bytes: int
    initrd_bytes: int
    libguestfs: str | None
    changes: tuple[Change, ...] = ()


def make_plan(request: LaunchRequest, settings: Settings) -> Plan:
    """Decide everything about a launch.

    :raise GuestlaunchError: with the class that fits, for each thing that cannot work.
    """
    profile = load_profile(settings.profile)
    appliance = _appliance(request, settings, profile)
    if appliance is None:
        require_kernel_arch(Path(request.kernel), profile.arch)
        check_initrd(Path(request.initrd))
    library = host_version(settings.state_dir / "cache" / "libguestfs.json")
    if appliance is not None and library is not None:
        check_version(appliance, library)
    disks = tuple(resolve(disk, request.cwd, settings) for disk in request.disks)
    for disk in disks:
        check_disk(disk)
    host = host_arch()
    if host is None:
        raise CapabilityError("cannot launch", "this host", "its arch is neither aarch64 nor x86_64")
    emulator = find_emulator(profile.arch, native=host)
    kernel = _kernel(request, settings, profile, appliance)
    verdict = _accel(request, settings, profile, emulator)
    return Plan(
        profile=profile,
        emulator=emulator,
        host_arch=host,
        accel=verdict.accel,
        accel_reason=verdict.reason,
        firmware=choose_firmware(request, profile),
        appliance=appliance,
        disks=disks,
        kernel=kernel,
        kernel_bytes=_size(kernel, "kernel"),
        initrd_bytes=_size(request.initrd, "initrd"),
        libguestfs=library,
        changes=fix_cmdline(request.cmdline, profile, verdict.accel, aslr=settings.guest_aslr)[1],
    )


def _kernel(request: LaunchRequest, settings: Settings, profile: Profile, appliance: Appliance | None) -> str:
    """Return the kernel's file: a plain image; unpacked for x86 without firmware, where nothing would unpack it.

    :raise ApplianceError: the appliance has none.
    """
    if appliance is None or (profile.arch, profile.firmware) != (Arch.X86_64, FirmwareKind.NONE):
        return os.fspath(plain_kernel(Path(request.kernel), settings.state_dir / "cache"))
    if appliance.vmlinux is None:
        hint = f"build it again, or use another profile than {profile.name}"
        raise ApplianceError("cannot use the appliance", appliance.path, "it has no unpacked kernel (vmlinux)", hint)
    return os.fspath(appliance.vmlinux)


def _size(path: str, what: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise ApplianceError(f"cannot read the {what}", path, error.strerror or error) from error


def _appliance(request: LaunchRequest, settings: Settings, profile: Profile) -> Appliance | None:
    """Open the appliance that the request's files belong to, and check that it fits.

    :raise ApplianceError: it is damaged, or of another arch than the profile.
    """
    if request.root is None:
        return None
    directories = {Path(path).parent for path in (request.kernel, request.initrd, request.root)}
    names = tuple(Path(path).name for path in (request.kernel, request.initrd, request.root))
    if len(directories) != 1 or names != FILES:
        raise ApplianceError(
            "cannot use the appliance",
            ", ".join(sorted(map(str, directories))),
            "kernel, initrd and root are not the files of one fixed appliance",
            "set LIBGUESTFS_PATH to a fixed appliance, see guestlaunch appliance build",
        )
    appliance = open_appliance(directories.pop())
    verify(appliance, verified=Remembered(settings.state_dir / "cache/verified.json"))
    if appliance.arch is not profile.arch:
        raise ApplianceError(
            "cannot use the appliance",
            appliance.path,
            f"it is for {appliance.arch}, profile {profile.name} is for {profile.arch}",
            f"use an {profile.arch} appliance or another profile",
        )
    return appliance


def check_disk(disk: Disk) -> None:
    """Check that a local disk can be opened as asked.

    :raise DiskError: it is missing, not a file or block device, or not readable (writable); or libvirt cannot be told
        its name, which QEMU's monitor could in part: so that is the same for every start.
    """
    if not isinstance(disk.source, FileSource):
        return
    path = Path(disk.source.path)
    character = unspeakable(disk.source.path)
    if character is not None:
        what = "a byte that is no UTF-8" if character.encode("utf-8", "replace") == b"?" else f"{character!r}"
        hint = "rename it, or make a link of another name to it"
        raise DiskError("cannot open the disk", path, f"libvirt cannot be told its name, which has {what}", hint)
    try:
        descriptor = open_image(path, os.O_RDONLY if disk.readonly or disk.snapshot else os.O_RDWR)
    except FileNotFoundError as error:
        raise DiskError("cannot open the disk", path, "no such file", "check its path") from error
    except OSError as error:
        what = "give an image" if error.errno == errno.EINVAL else "check its permissions, or open it read-only"
        raise DiskError("cannot open the disk", path, error.strerror or error, what) from error
    os.close(descriptor)


def resolve(disk: Disk, cwd: str, settings: Settings) -> Disk:
    """Tell block devices from files, which QEMU opens by different drivers, and find what the image names.

    :raise ImagePolicyError: the image is not trusted, and names what it may not.
    :raise DiskError: it names what nothing can be read from.
    """
    if not settings.trusts_images:
        return _resolve_untrusted(disk, cwd, settings)
    if not isinstance(disk.source, FileSource):
        return disk
    path = disk.source.path
    source = replace(disk.source, block_device=Path(path).is_block_device())
    chain = read_chain(path, disk.format, cwd)
    for name in chain.files[1:]:
        if Path(name).is_fifo():  # QEMU would wait for somebody at the other end
            raise DiskError("cannot use the disk", path, f"{name}, which it names, is a pipe")
    return replace(disk, source=source, options=chain.options)


def _resolve_untrusted(disk: Disk, cwd: str, settings: Settings) -> Disk:
    from orchestrator.images.policy import ImagePolicyError, confine_disk  # here: most launches trust their images

    if isinstance(disk.source, FileSource):
        found = confine_disk(disk.source.path, disk.format, cwd, settings, overlay=disk.shared_read)
        return replace(disk, format=found.format, graph=found.graph, identities=tuple(sorted(found.identities)))
    if disk.format == "raw":
        return disk
    assert isinstance(disk.source, NetworkSource)  # tools know no volumes
    why = "image policy untrusted: the header of a disk on the network cannot be checked"
    raise ImagePolicyError("cannot use the disk", disk.source.driver, why, "give its format as raw")


def _accel(request: LaunchRequest, settings: Settings, profile: Profile, emulator: str) -> AccelVerdict:
    """Decide the accelerator; the tool's wish (`force_tcg`, `force_kvm`) counts where the settings have none."""
    policy = request.accel if settings.accel == "auto" and request.accel else settings.accel
    return choose_accel(
        policy,
        profile.arch,
        emulator=emulator,
        kernel=Path(request.kernel),
        state_dir=settings.state_dir,
        deadline_s=settings.deadlines.kvm_probe,
    )


def named_firmware(request: LaunchRequest, profile: Profile) -> tuple[str, str] | None:
    """Return the pflash pair, code and variables, that the client named for such a guest.

    libguestfs on Arm names one, whatever the guest; it is Arm's firmware, and for no other guest.
    """
    if request.pflash is None or (
        is_libguestfs_variables(Path(request.pflash[1])) and profile.arch is not Arch.AARCH64
    ):
        return None
    return request.pflash


def choose_firmware(request: LaunchRequest, profile: Profile) -> Firmware | None:
    """Choose the firmware: the client's own pflash pair where it named one, else by QEMU's descriptors.

    For guests of its own arch, libguestfs on Arm names installed code and a copy of the variables that goes with it
    (lib/launch-direct.c), another file for each launch. A template depends on what it is a copy of.

    :raise FirmwareError: none fits.
    """
    if profile.firmware is not FirmwareKind.UEFI:
        return None
    named = named_firmware(request, profile)
    if named is not None:
        code, variables = named
        if is_libguestfs_variables(Path(variables)):
            known = firmware_with_code(code, profile.arch, profile.machine)
            if known is not None and _is_copy(variables, known.nvram_template):
                return known
        return Firmware(
            code=code,
            code_format="raw",
            nvram_template=variables,
            nvram_format="raw",
            description="named by the client",
            descriptor=Path(code),
        )
    return find_firmware(profile.arch, profile.machine, formats=flash_formats())


def _is_copy(variables: str, template: str) -> bool:
    """Tell whether a file has the variables of this template."""
    try:
        with Path(variables).open("rb") as copy, Path(template).open("rb") as original:
            same_size = os.fstat(copy.fileno()).st_size == os.fstat(original.fileno()).st_size
            return same_size and copy.read(_VARIABLES_BYTES) == original.read(_VARIABLES_BYTES)
    except OSError:
        return False


def appliance_versions(plan: Plan) -> dict[str, str | None]:
    """Return what the log says of the appliance that was booted."""
    appliance = plan.appliance
    if appliance is None:
        return {}
    manifest = appliance.manifest
    said: dict[str, str | None] = {"path": str(appliance.path), "root_uuid": appliance.root_uuid}
    if manifest is not None:
        said |= {f"{name}_digest": manifest.files[name].digest for name in FILES}
    return said
