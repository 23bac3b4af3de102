"""What this host has for guests, and what a test needs of it: decided here for all tests.

Guests of a test run as fast as they can where that is the product's point: on an arm64 host with KVM, real or emulated
by tools/arm-host, those of that arch have KVM. Everywhere else they run by TCG, which every host has.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

_ROUTES = Path("/proc/net/route")
_QEMU = "qemu-system-"


def accel(profile: str = "aarch64-uefi") -> str:
    """Return the accelerator of a test's guests of that profile, or arch."""
    arm64 = platform.machine() == "aarch64" and profile.startswith("aarch64")
    return "kvm" if arm64 and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


# The option for guests of aarch64, which most tests have.
ACCEL = ("--accel", accel())


def lacking(needs: Iterable[str]) -> list[str]:
    """Return a reason for each thing that this host does not have.

    :param needs: names of programs, absolute paths, `network`, or `python:MODULE`.
    """
    return [reason for need in dict.fromkeys(needs) if (reason := _lacking(need))]


def _lacking(need: str) -> str:
    if need == "network":
        there = _ROUTES.exists() and len(_ROUTES.read_text("ascii").splitlines()) > 1
        return "" if there else "no network"
    if need.startswith("/"):
        return "" if Path(need).exists() else f"no {need}"
    if need.startswith("python:"):
        module = need.removeprefix("python:")
        return "" if importlib.util.find_spec(module) else f"no Python module {module}"
    return "" if shutil.which(need) else f"no {need}"


def program(name: str) -> str:
    """Return where a program is; skip the test where it is not installed."""
    if reasons := lacking([name]):
        pytest.skip(reasons[0])
    return str(shutil.which(name))


def needs_of(item: pytest.Item) -> list[str]:
    """Return what a test needs: what its marks `needs` name, and the QEMU of each arch that its parameters name.

    Only functional tests' parameters name guests that are launched.
    """
    named = [str(need) for mark in item.iter_markers("needs") for need in mark.args]
    callspec = getattr(item, "callspec", None)
    if callspec is None or not item.get_closest_marker("functional"):
        return named
    values = [value for value in callspec.params.values() if isinstance(value, str)]
    return named + [f"{_QEMU}{arch}" for arch in ("aarch64", "x86_64") if any(v.startswith(arch) for v in values)]


class Appliances(dict[str, Path]):
    """Appliances' directories by arch; asked for one whose guests this host cannot run, it skips the test."""

    def __missing__(self, arch: str) -> Path:
        """Say why there is none."""
        pytest.skip("; ".join(lacking([f"{_QEMU}{arch}"])) or f"no appliance for {arch}")
