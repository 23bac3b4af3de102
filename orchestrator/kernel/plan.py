"""What a kernel's run will be, decided and checked before anything is made. Refusals come from here."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator.appliance.fixed import open_appliance
from orchestrator.appliance.kernel_form import Form, unified_section
from orchestrator.appliance.model import Appliance
from orchestrator.appliance.probe import check_initrd
from orchestrator.appliance.store import resolve as resolve_appliance
from orchestrator.domain.cmdline import split_words
from orchestrator.domain.model import Accel, Arch, Disk, FileSource, FirmwareKind, Profile
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import ApplianceError, CapabilityError, FirmwareError, NotFoundError
from orchestrator.firmware.descriptors import Firmware, find_firmware
from orchestrator.hypervisor.accel import choose_accel
from orchestrator.hypervisor.emulator import find_emulator, host_arch
from orchestrator.hypervisor.pflash import flash_formats
from orchestrator.kernel.builtin import INIT, archive, busybox, joined_size
from orchestrator.kernel.image import KernelImage, kernel_image
from orchestrator.kernel.inputs import check_firmware, disk_format
from orchestrator.kernel.modules import lacks_driver, module_entries, wanted
from orchestrator.kernel.request import SHARE_AT, KernelRequest
from orchestrator.kernel.share import ShareBy, choose
from orchestrator.launch.plan import Plan, check_disk, resolve
from orchestrator.launch.request import LaunchRequest
from orchestrator.settings import Settings

# Parameters of which a user's own stands for ours; a pattern, as consoles are many.
_OURS = (("console", "console={console}"), ("panic", "panic=-1"))
# An emulated timer on a busy host is late, which an x86 kernel takes for a broken one, and panics: that would be a
# verdict on the host (seen 2026-11-26).
_EMULATED_X86 = "no_timer_check"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPlan:
    """One run, decided: what launches need to know of it, and what they do not know.

    :ivar number: this run's own, by which the guest's words about its end are known.
    :ivar own_initrd: our archive, empty where the user's initrds are all.
    :ivar modules: how many modules are in it.
    :ivar sharing: how a directory is shared, and the program that serves it, if the way takes one.
    """

    request: KernelRequest
    launch: LaunchRequest
    plan: Plan
    image: KernelImage
    number: str
    own_initrd: bytes
    modules: int
    sharing: tuple[ShareBy, Path | None] = (ShareBy.P9, None)


def plan_run(request: KernelRequest, settings: Settings) -> KernelPlan:
    """Decide everything about a run.

    :raise GuestlaunchError: with the class that fits, for each thing that cannot work.
    """
    request.check()
    profile = load_profile(settings.profile)
    _check_told(request, profile)
    cache = settings.state_dir / "cache"
    image = kernel_image(request.kernel, profile, cache, unpack=request.unpack)
    unified = image.form == Form.UNIFIED
    given = bool(request.initrds or request.own_init)
    if unified and given and _takes_none(request.kernel, profile.arch):
        image = kernel_image(request.kernel, profile, cache, unpack=True)
    for path in request.initrds:
        check_initrd(path)
    number = secrets.token_hex(16)
    sharing = _sharing(request, image)
    own, modules = _own_initrd(request, settings, profile.arch, image, number, share_by=sharing[0])
    # Firmware adds a word of its own to the command line if there is an initrd, and hides the image's by that.
    if unified and (given or image.started != request.kernel):
        request, own = _with_its_parts(request, own)
    host = host_arch()
    if host is None:
        raise CapabilityError("cannot run a kernel", "this host", "its arch is neither aarch64 nor x86_64")
    emulator = find_emulator(profile.arch, native=host)
    accel, reason = _accel(settings, profile.arch, emulator, image)
    disks = tuple(_disk(path, settings, readonly=readonly) for path, readonly in request.disks)
    # One that is started as it is has its own command line, which any other would replace.
    its_own = unified and image.started == request.kernel and not request.cmdline and not given
    cmdline = "" if its_own else command_line(request, profile, accel)
    launch = LaunchRequest(kernel=os.fspath(image.started), initrd="", cmdline=cmdline, disks=disks, console=False)
    plan = Plan(
        profile=profile,
        emulator=emulator,
        host_arch=host,
        accel=accel,
        accel_reason=reason,
        firmware=_firmware(request, profile),
        appliance=None,
        disks=disks,
        kernel=os.fspath(image.started),
        kernel_bytes=_size(image.started),
        initrd_bytes=_initrd_bytes(request, own),
        libguestfs=None,
    )
    return KernelPlan(
        request=request, launch=launch, plan=plan, image=image, number=number, own_initrd=own, modules=modules,
        sharing=sharing,
    )  # fmt: skip


def _sharing(request: KernelRequest, image: KernelImage) -> tuple[ShareBy, Path | None]:
    """Decide how a directory is shared, if one is."""
    if request.share is None:
        return ShareBy.P9, None
    lacks = partial(lacks_driver, request.modules, request.kernel, image.version)
    return choose(request.share_by, request.share, lacks)


def _takes_none(unified: Path, arch: Arch) -> bool:
    """Tell whether a unified image cannot be started with an initrd of the user's, so that the kernel in it has to be.

    One that brings an initrd takes no other, and QEMU for x86 takes one only for a kernel of its own form.
    """
    return arch is Arch.X86_64 or bool(unified_section(unified, b".initrd"))


def _with_its_parts(request: KernelRequest, own: bytes) -> tuple[KernelRequest, bytes]:
    """Return a request and its initrd with what a unified image brings, where the user brings nothing."""
    if not request.cmdline:
        text = unified_section(request.kernel, b".cmdline").rstrip(b"\0\n").decode("utf-8", "replace")
        request = replace(request, cmdline=text)
    if not request.initrds and not own:
        own = unified_section(request.kernel, b".initrd")
    return request, own


def command_line(request: KernelRequest, profile: Profile, accel: Accel) -> str:
    """Return the kernel's command line: what is needed for a verdict, where the user says nothing of it, then theirs.

    A kernel that panics restarts at once, which ends its run. Nothing else is added: it is theirs that is tried.
    """
    theirs = split_words(request.cmdline)
    end = theirs.index("--") if "--" in theirs else len(theirs)
    given = {word.partition("=")[0] for word in theirs[:end]}
    ours = [text.format(console=profile.console) for name, text in _OURS if name not in given]
    if (profile.arch, accel) == (Arch.X86_64, Accel.TCG) and _EMULATED_X86 not in given:
        ours.append(_EMULATED_X86)
    if request.own_init:
        theirs = [word for word in theirs[:end] if not word.startswith("rdinit=")] + theirs[end:]
        ours.append(f"rdinit={INIT}")
    return " ".join([*ours, *theirs])


def _own_initrd(
    request: KernelRequest, settings: Settings, arch: Arch, image: KernelImage, number: str, *, share_by: ShareBy
) -> tuple[bytes, int]:
    """Return our archive, and how many modules are in it."""
    if not request.own_init:
        return b"", 0
    if image.is_program:
        hint = "leave COMMAND and --initrd builtin out"
        raise ApplianceError("cannot run a command", request.kernel, "it is an EFI program, and no kernel", hint)
    appliance = _appliance(settings, arch)
    names = wanted(
        disks=bool(request.disks),
        share=None if request.share is None else share_by,
        fw_cfg=bool(request.fw_cfg),
        credentials=bool(request.credentials),
    )
    modules = module_entries(request.modules, request.kernel, image.version, appliance, names)
    made = archive(
        busybox(arch, appliance),
        modules,
        number=number,
        command=request.command,
        share=None if request.share is None else SHARE_AT,
        share_by=share_by,
    )
    return made, max(0, len(modules) - 1)  # a directory is among them


def _appliance(settings: Settings, arch: Arch) -> Appliance | None:
    """Return an appliance of an arch whose busybox and modules are of use: the one that is set, ours, or None.

    :raise GuestlaunchError: it is damaged.
    """
    if settings.appliance is not None:
        chosen = open_appliance(settings.appliance)
        return chosen if chosen.arch is arch else None
    try:
        return resolve_appliance(settings.appliance_store, arch)
    except NotFoundError:
        return None


def _check_told(request: KernelRequest, profile: Profile) -> None:
    if request.credentials and (profile.arch, profile.firmware) == (Arch.AARCH64, FirmwareKind.NONE):
        raise CapabilityError(
            "cannot pass credentials",
            f"profile {profile.name}",
            "without firmware nobody tells the guest of SMBIOS",
            "use aarch64-uefi, or --fw-cfg opt/io.systemd.credentials/NAME=VALUE",
        )
    if request.share is not None and not request.share.is_dir():
        raise CapabilityError("cannot share the directory", request.share, "no such directory")
    if request.share is not None and re.search(r"[,\x00-\x1f]", os.fspath(request.share)):
        raise CapabilityError("cannot share the directory", request.share, "QEMU cannot be told its name", "rename it")


def _accel(settings: Settings, arch: Arch, emulator: str, image: KernelImage) -> tuple[Accel, str]:
    """Decide the accelerator. That KVM works is proven with an appliance's kernel, not with the one that is tried."""
    kernel = image.started
    if settings.accel == "auto" and arch is host_arch():
        appliance = _appliance(settings, arch)
        if appliance is None:
            return Accel.TCG, "there is no appliance to prove with that KVM works"
        kernel = appliance.kernel
    verdict = choose_accel(
        settings.accel,
        arch,
        emulator=emulator,
        kernel=kernel,
        state_dir=settings.state_dir,
        deadline_s=settings.deadlines.kvm_probe,
    )
    return verdict.accel, verdict.reason


def _disk(path: Path, settings: Settings, *, readonly: bool) -> Disk:
    """Return a disk of the user's."""
    disk = Disk(source=FileSource(path=os.fspath(path)), format=disk_format(path), readonly=readonly)
    resolved = resolve(disk, os.fspath(Path.cwd()), settings)
    check_disk(resolved)
    return resolved


def _firmware(request: KernelRequest, profile: Profile) -> Firmware | None:
    """Choose the firmware: the host's usual, or the files that the user named.

    :raise FirmwareError: there is none, or the profile has no use for any.
    """
    code, variables = request.firmware
    if profile.firmware is not FirmwareKind.UEFI:
        if code or variables:
            why = "it starts without UEFI firmware"
            raise FirmwareError("cannot use the firmware", code or variables, f"profile {profile.name}: {why}")
        return None
    for path in filter(None, (code, variables)):
        check_firmware(path)
    if code and variables:
        return Firmware(
            code=os.fspath(code),
            code_format="raw",
            nvram_template=os.fspath(variables),
            nvram_format="raw",
            description="named by the user",
            descriptor=code,
        )
    usual = find_firmware(profile.arch, profile.machine, formats=flash_formats())
    if code is not None:
        usual = replace(usual, code=os.fspath(code), code_format="raw", description="named by the user")
    if variables is not None:
        usual = replace(usual, nvram_template=os.fspath(variables), nvram_format="raw")
    return usual


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ApplianceError("cannot read the kernel", path, error.strerror or error) from error


def _initrd_bytes(request: KernelRequest, own: bytes) -> int:
    try:
        return joined_size(request.initrds, own)
    except OSError as error:
        raise ApplianceError("cannot read the initrd", error.filename, error.strerror or error) from error
