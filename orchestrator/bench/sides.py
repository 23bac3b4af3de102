"""The sides that benchmarks compare, as programs with environments: ours, stock libguestfs, QEMU started directly.

All sides do the same work: guestfish with the same disk runs the same script. Running them is `rounds`'s business.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.bench import disks
from orchestrator.bench.rounds import ANSWER, RunEnd, Side
from orchestrator.domain.model import Accel, Arch, FirmwareKind, Profile
from orchestrator.errors import UsageError
from orchestrator.firmware.descriptors import find_firmware
from orchestrator.hypervisor.emulator import find_emulator
from orchestrator.hypervisor.pflash import flash_formats
from orchestrator.settings import is_setting, variable
from orchestrator.timeline.phases import Start

PROGRAM = "guestlaunch"
_CONSOLE = {Arch.AARCH64: "ttyAMA0", Arch.X86_64: "ttyS0"}
# Decide how libguestfs launches; the others (memory, directories, debugging) hold for every side alike.
_LAUNCHING = (
    "LIBGUESTFS_BACKEND", "LIBGUESTFS_BACKEND_SETTINGS", "LIBGUESTFS_ATTACH_METHOD", "LIBGUESTFS_HV",
    "LIBGUESTFS_QEMU", "LIBGUESTFS_PATH", "LIBGUESTFS_APPEND",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What guestfish does in one run, and what that run is timed for."""

    path: Path
    ends: frozenset[RunEnd]
    answer: str = ANSWER
    inspects: bool = False  # by `-i`: finds the operating system and mounts it before the script


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What each side does: guestfish runs each script on `disk`."""

    disk: Path
    scripts: tuple[Script, ...]

    def guestfish(self, script: Script) -> tuple[str, ...]:
        """Return the arguments of guestfish."""
        return ("--ro", "-a", str(self.disk), *(["-i"] if script.inspects else []), "-f", str(script.path))


def make_work(
    folder: Path, *, disk: Path | None = None, apart: bool = False, parameters: Sequence[tuple[str, str]] = ()
) -> Work:
    """Write the scripts, and a small disk with a file system unless one is given.

    :param apart: time `run` to the exit and `list-filesystems` to its answer in runs of their own.
    :param parameters: guestfish commands that come first, with their arguments, such as ("set-smp", "2").
    :raise CapabilityError: when a disk is to be made and a program for that is missing.
    """
    if disk is None:
        disk = folder / "disk.img"
        disks.file_system(disk)
    elif not disk.exists():
        raise UsageError("cannot use the disk", disk, "it does not exist")
    elif disk.is_dir():
        raise UsageError("cannot use the disk", disk, "it is a directory")
    first = "".join(f"{command} {arguments}\n" for command, arguments in parameters)
    whole, run_only = f"{first}run\nlist-filesystems\n", f"{first}run\n"
    if not apart:
        scripts: tuple[Script, ...] = (_script(folder / "work.fish", whole, *RunEnd),)
    else:
        scripts = (
            _script(folder / "run.fish", run_only, RunEnd.EXIT),
            _script(folder / "answer.fish", whole, RunEnd.ANSWER),
        )
    return Work(disk=disk.absolute(), scripts=scripts)


def with_inspection(work: Work, folder: Path) -> Work:
    """Return the work with inspection (`-i`) added, timed to its answer: the operating system that was found."""
    script = _script(folder / "inspection.fish", "inspect-get-roots\n", RunEnd.ANSWER)
    return replace(work, scripts=(*work.scripts, replace(script, answer="inspection", inspects=True)))


def _script(path: Path, text: str, *ends: RunEnd) -> Script:
    path.write_text(text, encoding="utf-8")
    return Script(path=path.absolute(), ends=frozenset(ends))


def plugin_parameter(plugin: str) -> tuple[str, str]:
    """Return the guestfish command that gives QEMU a `-plugin` option in every launch."""
    return "config", f"-plugin {shlex.quote(plugin)}"


def ours(
    name: str,
    work: Work,
    options: Mapping[str, str],
    environ: Mapping[str, str],
    facts: Mapping[str, str] | None = None,
) -> tuple[Side, ...]:
    """Return guestlaunch with options (by name, such as `fw-cfg-dma`), which are among its facts."""
    given = [part for key, value in options.items() for part in (f"--{key}", value)]
    program = (sys.executable, "-m", "orchestrator.cli.main", "guestfish", *given, "--timeline", "{timeline}", "--")
    stated = {key.replace("-", "_"): value for key, value in options.items()} | dict(facts or {})
    return _sides(name, work, program, _on_path(environ), {"program": PROGRAM, **stated})


def served(
    name: str,
    work: Work,
    options: Mapping[str, str],
    environ: Mapping[str, str],
    facts: Mapping[str, str],
    *,
    start: Start | None = None,
) -> tuple[Side, ...]:
    """Return plain guestfish, which launches through the server that environ names; otherwise as `ours`.

    :param start: how each of its launches must come about to be counted.
    """
    given = [f"{variable(key.replace('-', '_'))}={value}" for key, value in options.items()]
    launcher = ("env", *given, f"{variable('timeline')}={{timeline}}")
    stated = {key.replace("-", "_"): value for key, value in options.items()} | dict(facts)
    told = {"program": PROGRAM, **stated}
    return _sides(name, work, (*launcher, "guestfish"), environ, told, start=start, launcher=launcher)


def _sides(
    name: str,
    work: Work,
    program: tuple[str, ...],
    environ: Mapping[str, str],
    facts: Mapping[str, str],
    *,
    start: Start | None = None,
    launcher: tuple[str, ...] = (),
) -> tuple[Side, ...]:
    """Return a side for each of the scripts."""
    return tuple(
        Side(
            name=name,
            command=(*program, *work.guestfish(script)),
            environ=environ,
            ends=script.ends,
            facts=facts,
            answer=script.answer,
            start=start,
            launcher=launcher,
        )
        for script in work.scripts
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
        if key not in _LAUNCHING and not is_setting(key) and not key.startswith("GUESTLAUNCH_")
    }


def stock(
    name: str, work: Work, accel: Accel, environ: Mapping[str, str], *, appliance: Path | None = None
) -> tuple[Side, ...]:
    """Return stock libguestfs with its direct back end, of the host's arch.

    :param appliance: a fixed one with libguestfs's own init; None for the one that libguestfs makes itself.
    """
    variables = _plain(environ)
    variables["LIBGUESTFS_BACKEND"] = "direct"
    variables["LIBGUESTFS_BACKEND_SETTINGS"] = f"force_{accel}"
    if appliance is not None:
        variables["LIBGUESTFS_PATH"] = str(appliance)
    facts = {"program": "stock libguestfs", "accel": str(accel), "arch": os.uname().machine}
    return _sides(name, work, ("guestfish",), variables, facts)


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
    cpu: str | None = None,
) -> tuple[Side, ...]:
    """Return QEMU started directly by libguestfs with its own arguments, made fit for the profile's machine.

    :param appliance: the fixed appliance both sides boot.
    :param folder: where the program that stands for QEMU is written.
    :param cpu: CPU model instead of the profile's.
    """
    program = folder / f"direct-{profile.name}-{'dma' if fw_cfg_dma else 'mmio'}"
    program.write_text(_direct_program(profile, accel, fw_cfg_dma=fw_cfg_dma, cpu=cpu), encoding="utf-8")
    program.chmod(0o755)
    variables = _plain(environ)
    variables |= {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_HV": str(program),
        "LIBGUESTFS_PATH": str(appliance),
        "LIBGUESTFS_BACKEND_SETTINGS": f"force_{accel}",
    }
    facts = {"program": "QEMU started directly", "accel": str(accel), "arch": str(profile.arch)}
    return _sides(name, work, ("guestfish",), variables, facts)


def _direct_program(profile: Profile, accel: Accel, *, fw_cfg_dma: bool, cpu: str | None) -> str:
    """Return a shell program that is QEMU to libguestfs: the host's own arguments give way to the profile's."""
    cpu = cpu or (profile.cpu_kvm if accel is Accel.KVM else profile.cpu_tcg)
    device = "fw_cfg_mem" if profile.arch is Arch.AARCH64 else "fw_cfg_io"
    extra = ["-global", f"{device}.dma_enabled={'on' if fw_cfg_dma else 'off'}"]
    if profile.firmware is FirmwareKind.UEFI:
        firmware = find_firmware(profile.arch, profile.machine, formats=flash_formats())
        for path, image_format, option in (
            (firmware.code, firmware.code_format, "readonly=on"),
            (firmware.nvram_template, firmware.nvram_format, "snapshot=on"),
        ):
            extra += ["-drive", f"if=pflash,format={image_format},{option},file={path}"]
    return _DIRECT.format(
        qemu=shlex.quote(find_emulator(profile.arch)),
        machine=shlex.quote(f"{profile.machine},accel={accel}"),
        cpu=shlex.quote(cpu),
        console=_CONSOLE[profile.arch],
        extra=shlex.join(extra),
    )


# On Arm, libguestfs gives its own guests firmware: the profile's takes its place.
# libguestfs probes its hypervisor (-help, -device ?, QMP) before it launches: a probe gets a machine too, no firmware.
_DIRECT = """\
#!/bin/sh
left=$#
boots=
while [ "$left" -gt 0 ]; do
    argument=$1; shift; left=$((left - 1))
    case $argument in
    -no-hpet) continue ;;
    -machine|-cpu|-global|-rtc|-append|-drive)
        value=$1; shift; left=$((left - 1))
        case "$argument $value" in
        "-global kvm-pit"*|"-rtc driftfix"*|-machine*|-cpu*|"-drive if=pflash"*) continue ;;
        -append*) boots=yes; value=$(printf '%s' "$value" | sed 's/console=ttyS0/console={console}/') ;;
        esac
        set -- "$@" "$argument" "$value" ;;
    *) set -- "$@" "$argument" ;;
    esac
done
[ -z "$boots" ] || set -- "$@" {extra}
exec {qemu} -machine {machine} -cpu {cpu} "$@"
"""
