"""The modelled trap cost: builds the TCG plugin `trapcost.c` on first use and names the QEMU argument that loads it.

An instrument, not a measurement of hardware: whoever uses it labels its figures as modelled.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from orchestrator.compiled import shared_object
from orchestrator.domain.model import Arch, FirmwareKind, Profile
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.hypervisor.emulator import emulator_version
from orchestrator.records.filters import INSTRUMENT_MARK

# QEMU's `virt` board: the fw_cfg device's window in its memory map (hw/arm/virt.c); the data register comes first.
DATA_REGISTER = 0x0902_0000
# The file name marks a launch as modelled: reports look for it in the canonical line.
PLUGIN_NAME = INSTRUMENT_MARK

_UNITS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6}
_COST = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms)")
_MAX_NS = 10_000_000


def parse_cost(text: str) -> int:
    """Return a cost such as "5.9us" in nanoseconds.

    :raise UsageError: when it is not a time with its unit, or not between 1 ns and 10 ms.
    """
    match = _COST.fullmatch(text.strip())
    cost = round(float(match.group(1)) * _UNITS[match.group(2)]) if match else 0
    if not 0 < cost <= _MAX_NS:
        raise UsageError("bad trap cost", text, "expected a time of up to 10 ms with its unit", "for example 5.9us")
    return cost


def check_profile(profile: Profile, accel: str) -> None:
    """Refuse what the model does not hold for.

    :raise CapabilityError: another guest than Arm `virt` with UEFI, or another accelerator than TCG.
    """
    if profile.arch is not Arch.AARCH64 or profile.firmware is not FirmwareKind.UEFI:
        why = "it models the register loads of aarch64 UEFI firmware only"
        raise CapabilityError("cannot model the trap cost", profile.name, why, "use --profile aarch64-uefi")
    if accel != "tcg":
        raise CapabilityError(
            "cannot model the trap cost", accel, "under KVM traps cost what they cost", "leave --trap-cost out"
        )


def build(cache: Path, emulator: str) -> Path:
    """Return the plugin, compiled for this source and compiler; a plugin built before is used again.

    :param cache: directory to keep it in.
    :raise CapabilityError: no C compiler, it failed, or this QEMU takes no plugins.
    """
    _require_plugins(emulator)
    return shared_object(
        __package__,
        "trapcost.c",
        cache,
        name=PLUGIN_NAME,
        purpose="cannot model the trap cost",
        macros={"PLUGIN_API": _interface(emulator)},
    )


def plugin_value(plugin: Path, cost_ns: int) -> str:
    """Return the value of QEMU's `-plugin` option.

    :raise UsageError: when the plugin's path cannot be written in an option list.
    """
    if "," in str(plugin):
        raise UsageError("cannot model the trap cost", plugin, "QEMU takes no comma in a plugin's path")
    return f"{plugin},cost_ns={cost_ns},base={DATA_REGISTER:#x}"


def _interface(emulator: str) -> int:
    """Return the version of QEMU's plugin interface to speak (its qemu-plugin.h; trapcost.c says what differs).

    QEMU before 9.0 serves no later one than the first, and from then on none before the second.
    """
    version = emulator_version(shutil.which(emulator) or emulator)
    major, minor = map(int, version.split(".")[:2])
    return 1 if major < 9 else 2 if (major, minor) == (9, 0) else 3


def _require_plugins(emulator: str) -> None:
    try:
        answer = subprocess.run([emulator, "-help"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CapabilityError("cannot run QEMU", emulator, error, "install it") from error
    if "\n-plugin " not in answer:
        raise CapabilityError("cannot model the trap cost", emulator, "this QEMU was built without TCG plugins")
