"""What this host has and lacks for launches, as findings. Starts nothing but version queries and the KVM probe."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from orchestrator.appliance.fixed import check_version, verify
from orchestrator.appliance.store import resolve
from orchestrator.appliance.version import host_version
from orchestrator.distributions import QEMU, UEFI, Part, command, hint
from orchestrator.domain.model import Accel, Arch, FirmwareKind, Profile
from orchestrator.domain.profiles import load_profile, profile_names
from orchestrator.errors import GuestlaunchError, NotFoundError
from orchestrator.firmware.descriptors import find_firmware
from orchestrator.hypervisor.accel import DEVICE, AccelVerdict, choose_accel
from orchestrator.hypervisor.emulator import emulator_version, find_emulator, host_arch
from orchestrator.hypervisor.pflash import flash_formats
from orchestrator.settings import Settings, private_directory
from orchestrator.workload.environment import choose_appliance, wrapper_path

# A launch writes its overlay and log there; a build needs more and says so itself.
_ROOM_BYTES = 1 << 30
# Where the distributions put the driver, below /usr.
_LIBVIRT_DRIVERS = tuple(f"{lib}/libvirt/connection-driver/libvirt_driver_qemu.so" for lib in ("lib", "lib64", "lib/*"))
_MODULES = {"libvirt": Part.LIBVIRT_PYTHON, "guestfs": Part.GUESTFS_PYTHON, "libfdt": Part.LIBFDT_PYTHON}
_PROGRAMS = {"qemu-img": Part.QEMU_IMG, "guestfish": Part.GUESTFISH, "virt-df": Part.GUESTFS_TOOLS}


class Severity(StrEnum):
    """How a finding bears on launches."""

    OK = "ok"
    NOTE = "note"  # worth knowing; launches of the chosen profile work
    BAD = "bad"  # launches of the chosen profile cannot work


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at."""

    topic: str
    verdict: Severity
    detail: str


def examine(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is found, in reading order. Only what the chosen profile needs can be bad."""
    chosen = load_profile(settings.profile)
    yield Finding(topic="host", verdict=Severity.OK, detail=_host())
    yield _checked("wrapper", lambda: str(wrapper_path()), needed=True)
    libvirt = _checked("libvirt", lambda: _libvirt(settings), needed=True)
    yield libvirt
    yield _libguestfs()
    for arch in Arch:
        yield _checked(f"qemu {arch}", partial(_qemu, arch), needed=arch is chosen.arch)
    yield from _firmware(settings)
    for arch in Arch:
        yield _checked(f"appliance {arch}", partial(_appliance, settings, arch, environ), needed=arch is chosen.arch)
    yield from _accels(settings, chosen.name)
    yield _checked("state", lambda: _room(settings.state_dir), needed=True)
    yield _checked("runtime", lambda: _room(private_directory(settings.runtime_dir)), needed=True)
    yield _packages(chosen, libvirt_works=libvirt.verdict is Severity.OK)


def _checked(topic: str, look: Callable[[], str], *, needed: bool) -> Finding:
    """Turn what a look finds, or the error it raises, into a finding."""
    try:
        return Finding(topic=topic, verdict=Severity.OK, detail=look())
    except (GuestlaunchError, OSError) as error:
        return Finding(topic=topic, verdict=Severity.BAD if needed else Severity.NOTE, detail=str(error))


def _host() -> str:
    known = host_arch()
    system = (
        platform.freedesktop_os_release().get("PRETTY_NAME", "unknown system")
        if Path("/etc/os-release").exists()
        else ""
    )
    cpus = len(os.sched_getaffinity(0))
    versions = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{known or platform.machine()}, {cpus} CPUs, {system}, {versions}"


def _libvirt(settings: Settings) -> str:
    from orchestrator.hypervisor.connect import open_connection  # here: libvirt may be what is missing

    with open_connection(settings.connect, settings.state_dir, runtime_dir=settings.runtime_dir) as connection:
        return f"{connection.versions().libvirt}, {settings.connect or 'qemu:///embed'} opens"


def _libguestfs() -> Finding:
    library = host_version()
    if library is None:
        detail = f"no libguestfs on this host: guestfish and the bindings are missing ({hint(Part.GUESTFISH)})"
        return Finding(topic="libguestfs", verdict=Severity.BAD, detail=detail)
    if not _importable("guestfs"):
        detail = f"{library}; no Python bindings, so no jobs ({hint(Part.GUESTFS_PYTHON)})"
        return Finding(topic="libguestfs", verdict=Severity.NOTE, detail=detail)
    return Finding(topic="libguestfs", verdict=Severity.OK, detail=f"{library}, with Python bindings")


def _importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _there(look: Callable[[], object]) -> bool:
    try:
        look()
    except (GuestlaunchError, OSError):
        return False
    return True


def _absent(*, libvirt_works: bool) -> Iterator[Part]:
    """Yield what the distribution has and this host has not."""
    for name in (name for name in profile_names() if load_profile(name).firmware is FirmwareKind.UEFI):
        profile = load_profile(name)
        if not _there(partial(find_emulator, profile.arch)):
            yield QEMU[profile.arch]
        if not _there(partial(find_firmware, profile.arch, profile.machine, formats=flash_formats())):
            yield UEFI[profile.arch]
    if not libvirt_works and not any(any(Path("/usr").glob(pattern)) for pattern in _LIBVIRT_DRIVERS):
        yield Part.LIBVIRT
    for module, part in _MODULES.items():
        if not _importable(module):
            yield part
    for program, part in _PROGRAMS.items():
        if shutil.which(program) is None:
            yield part


def _packages(chosen: Profile, *, libvirt_works: bool) -> Finding:
    """Say how to install what is absent, all of it by one command."""
    absent = list(_absent(libvirt_works=libvirt_works))
    if not absent:
        return Finding(topic="packages", verdict=Severity.OK, detail="all there")
    needed = {QEMU[chosen.arch], Part.LIBVIRT, Part.LIBVIRT_PYTHON, Part.QEMU_IMG, Part.GUESTFISH}
    if chosen.firmware is FirmwareKind.UEFI:
        needed.add(UEFI[chosen.arch])
    verdict = Severity.BAD if needed.intersection(absent) else Severity.NOTE
    detail = f"not there: {', '.join(absent)} ({command(absent)})"
    return Finding(topic="packages", verdict=verdict, detail=detail)


def _qemu(arch: Arch) -> str:
    emulator = find_emulator(arch)
    return f"{emulator_version(emulator)}, {emulator}"


def _firmware(settings: Settings) -> Iterator[Finding]:
    """Yield the firmware of each UEFI profile, and the candidates passed over."""
    for name in profile_names():
        profile = load_profile(name)
        if profile.firmware is not FirmwareKind.UEFI:
            continue
        needed = name == settings.profile
        try:
            found = find_firmware(profile.arch, profile.machine, formats=flash_formats())
        except GuestlaunchError as error:
            verdict = Severity.BAD if needed else Severity.NOTE
            yield Finding(topic=f"firmware {name}", verdict=verdict, detail=str(error))
            continue
        detail = f"{found.code} ({found.descriptor.name})"
        skipped = [
            f"{one.descriptor.name}: {one.reason}" for one in found.skipped if one.reason != f"not for {profile.arch}"
        ]
        if skipped:
            detail += f"; passed over: {'; '.join(skipped)}"
        yield Finding(topic=f"firmware {name}", verdict=Severity.OK, detail=detail)


def _appliance(settings: Settings, arch: Arch, environ: Mapping[str, str]) -> str:
    if arch is load_profile(settings.profile).arch:
        path, _ = choose_appliance(settings, environ)
        if path != _built(settings, arch):
            return f"{path} (named by the settings or LIBGUESTFS_PATH)"
    appliance = resolve(settings.appliance_store, arch)
    verify(appliance)
    library = host_version()
    if library is not None:
        check_version(appliance, library)
    manifest = appliance.manifest
    about = "" if manifest is None else f", libguestfs {manifest.libguestfs}, Linux {manifest.kernel}"
    return f"{appliance.path}{about}"


def _built(settings: Settings, arch: Arch) -> Path | None:
    try:
        return resolve(settings.appliance_store, arch).path
    except NotFoundError:
        return None


def _accels(settings: Settings, needed: str) -> Iterator[Finding]:
    """Yield what guests of each profile run under, which is the same for all of an arch.

    KVM that is there, and that `auto` does without, is worth a note.
    """

    @functools.cache
    def verdict_for(arch: Arch) -> AccelVerdict:
        return _accel(settings, arch)

    def told(arch: Arch) -> str:
        verdict = verdict_for(arch)
        return f"{verdict.accel}: {verdict.reason}{' (found out earlier)' if verdict.cached else ''}"

    for name in profile_names():
        arch = load_profile(name).arch
        finding = _checked(f"accel {name}", partial(told, arch), needed=name == needed)
        if finding.verdict is Severity.OK and _passed_over(settings, arch, verdict_for(arch)):
            finding = replace(finding, verdict=Severity.NOTE)
        yield finding


def _accel(settings: Settings, arch: Arch) -> AccelVerdict:
    """Decide as a launch does; where the probe guest took too long, once more, as the next launch would."""
    choose = partial(
        choose_accel,
        settings.accel,
        arch,
        emulator=find_emulator(arch),
        kernel=resolve(settings.appliance_store, arch).kernel,
        state_dir=settings.state_dir,
        deadline_s=settings.deadlines.kvm_probe,
    )
    first = choose()
    again = first if first.cached or first.accel is Accel.KVM else choose()
    return again if again.accel is Accel.KVM else first


def _passed_over(settings: Settings, arch: Arch, verdict: AccelVerdict) -> bool:
    return settings.accel == "auto" and verdict.accel is Accel.TCG and arch is host_arch() and DEVICE.exists()


def _room(path: Path) -> str:
    """Return a directory with its free space.

    :raise NotFoundError: it cannot be written to, or has too little space.
    """
    there = next(one for one in (path, *path.parents) if one.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise NotFoundError("no usable directory", path, "we cannot write to it", "set GUESTLAUNCH_STATE_DIR")
    free = shutil.disk_usage(there).free
    return f"{path}, {free / 2**30:.1f} GiB free" + ("" if free >= _ROOM_BYTES else " (little: launches may fail)")
