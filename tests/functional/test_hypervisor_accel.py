"""The accelerator's verdict with real probe guests: the appliances' own kernels."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.domain.model import Accel, Arch
from orchestrator.hypervisor.accel import choose_accel
from orchestrator.hypervisor.emulator import find_emulator, host_arch
from orchestrator.hypervisor.kvm_probe import probe


@pytest.mark.parametrize("arch", list(Arch))
def test_probe_guest_boots_an_appliances_kernel(appliance: dict[str, Path], arch: Arch) -> None:
    """The probe recognises a kernel that boots: under TCG that does not depend on the host."""
    result = probe(arch, find_emulator(arch), appliance[arch] / "kernel", deadline_s=200, accel=Accel.TCG)
    assert result.booted, result.reason


@pytest.mark.needs("qemu-system-x86_64")
def test_kernel_of_another_arch_does_not_boot(appliance: dict[str, Path]) -> None:
    """A probe with the wrong kernel fails within its deadline."""
    kernel = appliance[Arch.AARCH64] / "kernel"
    assert not probe(Arch.X86_64, find_emulator(Arch.X86_64), kernel, deadline_s=5, accel=Accel.TCG).booted


def test_verdict_on_this_host(appliance: dict[str, Path], tmp_path: Path) -> None:
    """Whatever this host's KVM is like, `auto` decides within the deadline, and next time at once and the same."""
    arch = host_arch()
    if arch is None:
        pytest.skip("no profile has this host's arch")

    def choose() -> tuple[Accel, str, float]:
        begin = time.monotonic()
        verdict = choose_accel(
            "auto",
            arch,
            emulator=find_emulator(arch),
            kernel=appliance[arch] / "kernel",
            state_dir=tmp_path,
            deadline_s=10,
        )
        return verdict.accel, verdict.reason, time.monotonic() - begin

    first = choose()
    assert first[2] < 15
    assert first[1]
    if "within" in first[1]:  # it took too long, which is tried once more
        first = choose()
    second = choose()
    assert second[:2] == first[:2]
    assert second[2] < 0.1
