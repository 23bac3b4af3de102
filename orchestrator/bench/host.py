"""The host as a benchmark found it: what a reader needs to judge a result, and whether another one compares.

What the launches themselves know (versions as booted, accelerator, digests) comes from their log lines.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.bench.result import FirmwareFile, HostFacts
from orchestrator.records.provenance import provenance

_PROGRAM_SECONDS = 20
_CPU_KEYS = ("model name", "Model", "CPU part", "cpu model")
# What must be the same in both results, when both know it, for nothing but the benchmarked thing to differ.
CONDITIONS = ("cpu_model", "kernel", "governor", "virtualization", "cpus")


def host() -> HostFacts:
    """Return the host's part of a result's environment. Unknown values are null."""
    made = provenance()
    return {
        "cpu_model": _cpu_model(),
        "cpus": os.cpu_count(),
        "arch": platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
        "memory_mib": _memory_mib(),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "virtualization": _said(("systemd-detect-virt",)),
        "load": list(os.getloadavg()),
        "qemu": _said(("qemu-system-aarch64", "--version")) or _said(("qemu-system-x86_64", "--version")),
        "libvirt": _said(("libvirtd", "--version")),
        "libguestfs": _said(("guestfish", "--version")),
        "python": platform.python_version(),
        "kind": None if made.host is None else str(made.host),
        "clock": None if made.clock is None else str(made.clock),
    }


def firmware(code: str | None) -> FirmwareFile:
    """Return path and digest of the firmware build that a benchmark used."""
    return {"path": code, "sha256": None if code is None else file_digest(Path(code))}


def file_digest(path: Path) -> str | None:
    """Return a file's SHA-256 in hex, None when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def of_launches(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what launches tell of themselves: one value, or a list where they differ; null where none knows."""
    seen: dict[str, list[Any]] = {}
    for event in events:
        facts = {key: event.get(key) for key in ("accel", "arch", "connection", "memory_mib", "vcpus", "cpu", "start")}
        facts |= {f"{key}_version": value for key, value in event.get("versions", {}).items()}
        facts |= {f"appliance_{key}": value for key, value in event.get("appliance", {}).items()}
        for key, value in facts.items():
            values = seen.setdefault(key, [])
            if value is not None and value not in values:
                values.append(value)
    return {key: None if not values else values[0] if len(values) == 1 else values for key, values in seen.items()}


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return, in words, the conditions in which two environments differ."""
    return [f"{key}: {first.get(key)} and {second.get(key)}" for key in CONDITIONS if first.get(key) != second.get(key)]


def _cpu_model() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return None
    for key in _CPU_KEYS:
        match = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        if match:
            return match[1].strip()
    return None


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").splitlines()[0]
    except (OSError, IndexError):
        return None


def _said(command: tuple[str, ...]) -> str | None:
    """Return the first line a program says, None when it is not there or says nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROGRAM_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines else None
