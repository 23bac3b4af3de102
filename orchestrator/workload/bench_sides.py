"""The sides that benchmarks compare, as programs with environments: ours, stock libguestfs, QEMU started directly.

All sides do the same work: guestfish with the same disk runs the same script. Running them is `bench`'s business.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.domain.model import Accel, Arch, FirmwareKind, Profile
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.firmware.descriptors import find_firmware
from orchestrator.settings import is_setting
from orchestrator.workload.bench import Side

PROGRAM = "guestlaunch"
_DISK_BYTES = 64 << 20
_CONSOLE = {Arch.AARCH64: "ttyAMA0", Arch.X86_64: "ttyS0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What each side does: guestfish runs `script` on `disk`."""

    disk: Path
    script: Path

    @property
    def guestfish(self) -> tuple[str, ...]:
        """The arguments of guestfish."""
        return ("--ro", "-a", str(self.disk), "-f", str(self.script))


def make_work(folder: Path, *, disk: Path | None = None, plugin: str | None = None) -> Work:
    """Write the script, and a small disk with a file system unless one is given.

    :param plugin: value of QEMU's `-plugin` option for every launch.
    :raise CapabilityError: when mkfs.ext4 is needed and is not there.
    """
    if disk is None:
        disk = folder / "disk.img"
        with disk.open("wb") as file:
            file.truncate(_DISK_BYTES)
        mkfs = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")
        if mkfs is None:
            raise CapabilityError("cannot make a disk for the benchmark", "mkfs.ext4", "not found", "name a --disk")
        subprocess.run([mkfs, "-q", "-F", str(disk)], check=True, capture_output=True, timeout=60)
    elif not disk.exists():
        raise UsageError("cannot use the disk", disk, "it does not exist")
    script = folder / "work.fish"
    parameters = f"config -plugin {shlex.quote(plugin)}\n" if plugin else ""
    script.write_text(f"{parameters}run\nlist-filesystems\n", encoding="utf-8")
    return Work(disk=disk.absolute(), script=script.absolute())


def ours(name: str, work: Work, settings: Mapping[str, str], environ: Mapping[str, str]) -> Side:
    """Return guestlaunch with settings (by option name, such as `fw-cfg-dma`)."""
    options = [part for key, value in settings.items() for part in (f"--{key}", value)]
    command = (
        sys.executable, "-m", "orchestrator.cli.main", "guestfish", *options, "--timeline", "{timeline}", "--",
        *work.guestfish,
    )  # fmt: skip
    return Side(
        name=name,
        command=command,
        environ=_on_path(environ),
        facts={"program": PROGRAM, **{key.replace("-", "_"): value for key, value in settings.items()}},
    )


def _on_path(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with our own programs found first."""
    scripts = os.fspath(Path(sys.executable).parent)
    return {**environ, "PATH": os.pathsep.join((scripts, environ.get("PATH", os.defpath)))}


def _plain(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without anything that would make libguestfs launch through us."""
    return {
        key: value
        for key, value in environ.items()
        if not key.startswith("LIBGUESTFS_") and not is_setting(key) and not key.startswith("GUESTLAUNCH_")
    }


def stock(name: str, work: Work, accel: Accel, environ: Mapping[str, str]) -> Side:
    """Return stock libguestfs: its own appliance and its direct back end, of the host's arch."""
    variables = _plain(environ)
    variables["LIBGUESTFS_BACKEND"] = "direct"
    variables["LIBGUESTFS_BACKEND_SETTINGS"] = f"force_{accel}"
    return Side(
        name=name,
        command=("guestfish", *work.guestfish),
        environ=variables,
        facts={"program": "stock libguestfs", "accel": str(accel), "arch": os.uname().machine},
    )


def direct(
    name: str,
    work: Work,
    *,
    profile: Profile,
    accel: Accel,
    appliance: Path,
    folder: Path,
    environ: Mapping[str, str],
    fw_cfg_dma: bool = True,
) -> Side:
    """Return QEMU started directly by libguestfs with its own arguments, made fit for the profile's machine.

    :param appliance: the fixed appliance both sides boot.
    :param folder: where the program that stands for QEMU is written.
    """
    program = folder / f"direct-{profile.name}-{'dma' if fw_cfg_dma else 'mmio'}"
    program.write_text(_direct_program(profile, accel, fw_cfg_dma=fw_cfg_dma), encoding="utf-8")
    program.chmod(0o755)
    variables = _plain(environ)
    variables |= {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_HV": str(program),
        "LIBGUESTFS_PATH": str(appliance),
        "LIBGUESTFS_BACKEND_SETTINGS": f"force_{accel}",
        "LIBGUESTFS_MEMSIZE": str(profile.memory_mib),
    }
    return Side(
        name=name,
        command=("guestfish", *work.guestfish),
        environ=variables,
        facts={"program": "QEMU started directly", "accel": str(accel), "arch": str(profile.arch)},
    )


def _direct_program(profile: Profile, accel: Accel, *, fw_cfg_dma: bool) -> str:
    """Return a shell program that is QEMU to libguestfs: the host's own arguments give way to the profile's."""
    cpu = profile.cpu_kvm if accel is Accel.KVM else profile.cpu_tcg
    device = "fw_cfg_mem" if profile.arch is Arch.AARCH64 else "fw_cfg_io"
    extra = ["-global", f"{device}.dma_enabled={'on' if fw_cfg_dma else 'off'}"]
    if profile.firmware is FirmwareKind.UEFI:
        firmware = find_firmware(profile.arch, profile.machine)
        for path, image_format, option in (
            (firmware.code, firmware.code_format, "readonly=on"),
            (firmware.nvram_template, firmware.nvram_format, "snapshot=on"),
        ):
            extra += ["-drive", f"if=pflash,format={image_format},{option},file={path}"]
    return _DIRECT.format(
        qemu=f"qemu-system-{profile.arch}",
        machine=f"{profile.machine},accel={accel}",
        cpu=cpu,
        console=_CONSOLE[profile.arch],
        extra=shlex.join(extra),
    )


# libguestfs probes its hypervisor (-help, -device ?, QMP) before it launches: a probe gets a machine too, no firmware.
_DIRECT = """\
#!/bin/sh
left=$#
boots=
while [ "$left" -gt 0 ]; do
    argument=$1; shift; left=$((left - 1))
    case $argument in
    -no-hpet) continue ;;
    -machine|-cpu|-global|-rtc|-append)
        value=$1; shift; left=$((left - 1))
        case "$argument $value" in
        "-global kvm-pit"*|"-rtc driftfix"*|-machine*|-cpu*) continue ;;
        -append*) boots=yes; value=$(printf '%s' "$value" | sed 's/console=ttyS0/console={console}/') ;;
        esac
        set -- "$@" "$argument" "$value" ;;
    *) set -- "$@" "$argument" ;;
    esac
done
[ -z "$boots" ] || set -- "$@" {extra}
exec {qemu} -machine {machine} -cpu {cpu} "$@"
"""
