"""Decides whether a guest runs under KVM or TCG.

`auto` means KVM only for a guest of the host's own arch, and after a probe guest has booted (`kvm_proof`, 2026-11-22).
"""

from __future__ import annotations

import fcntl
import os
import re
from enum import StrEnum
from pathlib import Path

from orchestrator.domain.model import Accel, Arch
from orchestrator.errors import CapabilityError, UsageError, nearest
from orchestrator.hypervisor.emulator import host_arch
from orchestrator.values import dataclass

DEVICE = Path("/dev/kvm")
ASKED_FOR = "asked for"
_CREATE_VM = 0xAE01  # linux/kvm.h: KVM_CREATE_VM
# QEMU's and libvirt's ways of saying that KVM cannot be had after all.
_REFUSAL = re.compile(r"\bkvm\b|\bkvm_", re.IGNORECASE)


class AccelPolicy(StrEnum):
    """What the user asked for."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccelVerdict:
    """What a guest will run under, and why. `cached`: the reason was found out earlier in this boot of the host."""

    accel: Accel
    reason: str
    cached: bool = False


def choose_accel(
    policy: str,
    arch: Arch,
    *,
    emulator: str,
    kernel: Path,
    state_dir: Path,
    deadline_s: float,
) -> AccelVerdict:
    """Return the accelerator for a guest.

    :param policy: "auto", "kvm" or "tcg". Whoever insists on KVM is not asked for a proof.
    :param emulator: absolute path of QEMU; :param kernel: a kernel of the guest's arch, for the probe.
    :param deadline_s: how long a probe guest may take; a probe is made at most once a boot of the host.
    :raise CapabilityError: KVM was insisted on and cannot be had.
    """
    try:
        wanted = AccelPolicy(policy)
    except ValueError as error:
        raise UsageError("unknown accelerator policy", policy, "", nearest(policy, AccelPolicy)) from error
    if wanted is AccelPolicy.TCG:
        return AccelVerdict(accel=Accel.TCG, reason=ASKED_FOR)
    obstacle = _obstacle(arch)
    if wanted is AccelPolicy.KVM:
        if obstacle:
            raise CapabilityError("cannot use KVM for a guest of arch", arch, obstacle, "use --accel auto or tcg")
        return AccelVerdict(accel=Accel.KVM, reason=ASKED_FOR)
    if obstacle:
        return AccelVerdict(accel=Accel.TCG, reason=obstacle)
    from orchestrator.hypervisor import kvm_proof  # here: TCG needs no proof

    found, cached = kvm_proof.proven(arch, emulator, kernel, state_dir=state_dir, device=DEVICE, deadline_s=deadline_s)
    return AccelVerdict(accel=Accel.KVM if found.booted else Accel.TCG, reason=found.reason, cached=cached)


def is_refusal(why: str) -> bool:
    """Tell whether a start failed because QEMU or libvirt could not have KVM."""
    return _REFUSAL.search(why) is not None


def _obstacle(arch: Arch) -> str:
    """Return what rules KVM out without any trial, or an empty string."""
    host = host_arch()
    if arch != host:
        return f"the guest's arch {arch} is not the host's ({host or os.uname().machine})"
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{DEVICE}: {error.strerror}"
    try:
        _make_machine(descriptor)
    except OSError as error:
        return f"{DEVICE} opens but gives no machine: {error.strerror}"
    finally:
        os.close(descriptor)
    return ""


def _make_machine(device: int) -> None:
    """Have the kernel make an empty virtual machine, which is where most of what it may hold against KVM comes up.

    :raise OSError: it does not.
    """
    os.close(fcntl.ioctl(device, _CREATE_VM, 0))
