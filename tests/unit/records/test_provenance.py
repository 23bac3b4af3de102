"""Where a launch was made: each kind of host as its files tell it, and what has to be said beside its figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.records.provenance import (
    INSTRUCTION_CLOCK,
    LABELS,
    NOWHERE,
    Clock,
    HostKind,
    Provenance,
    detect,
    kept_apart,
    mark,
    marked,
    of_event,
    provenance,
)
from tests.simulated_launches import BARE, EMULATED, INSTRUCTIONS, VIRTUALISED, event

PC = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse2 {}\n"
ARM = "processor\t: 0\nCPU implementer\t: {}\nCPU part\t: 0xd0c\n"
CLOCKS = "sys/devices/system/clocksource/clocksource0/available_clocksource"
VIRT = "linux,dummy-virt\0"
NEOVERSE = ARM.format("0x41")
COMPATIBLE = "proc/device-tree/compatible"
VENDOR = "sys/class/dmi/id/sys_vendor"
PRODUCT = "sys/class/dmi/id/product_name"


def host(root: Path, files: Mapping[str, str]) -> Provenance:
    """Return what a host with these files is taken for."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return detect(root)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"proc/cpuinfo": PC.format("")}, BARE, id="PC"),
        pytest.param({"proc/cpuinfo": PC.format(""), VENDOR: "Dell Inc.\n"}, BARE, id="PC of a known make"),
        pytest.param({"proc/cpuinfo": PC.format("hypervisor"), CLOCKS: "tsc kvm-clock\n"}, VIRTUALISED, id="KVM guest"),
        pytest.param({"proc/cpuinfo": PC.format(""), VENDOR: "QEMU\n"}, VIRTUALISED, id="KVM guest without the flag"),
        pytest.param(
            {"proc/cpuinfo": PC.format("hypervisor"), VENDOR: "QEMU\n", CLOCKS: "tsc hpet acpi_pm\n"}, EMULATED,
            id="TCG guest, no clock of a hypervisor",
        ),
        pytest.param({"proc/cpuinfo": PC.format("").replace("Some", "QEMU TCG")}, EMULATED, id="max"),
        pytest.param(
            {"proc/cpuinfo": PC.format("hypervisor"), "proc/xen/capabilities": "control_d\n"}, BARE, id="Xen's dom0"
        ),
        pytest.param({"proc/cpuinfo": NEOVERSE, COMPATIBLE: "apm,mustang\0apm,xgene\0"}, BARE, id="Mustang"),
        pytest.param({"proc/cpuinfo": NEOVERSE, VENDOR: "Ampere(R)\n"}, BARE, id="Arm server with ACPI"),
        pytest.param({"proc/cpuinfo": NEOVERSE, COMPATIBLE: VIRT}, VIRTUALISED, id="Arm guest"),
        pytest.param(
            {"proc/cpuinfo": NEOVERSE, COMPATIBLE: VIRT, "dev/kvm": ""}, EMULATED,
            id="Arm guest with a KVM of its own",
        ),
        pytest.param({"proc/cpuinfo": ARM.format("0x00"), COMPATIBLE: VIRT}, EMULATED, id="Arm max"),
        pytest.param(
            {"proc/cpuinfo": NEOVERSE, "proc/device-tree/hypervisor/compatible": "xen,xen\0"}, VIRTUALISED,
            id="Arm guest of Xen",
        ),
        pytest.param(
            {"proc/cpuinfo": NEOVERSE, VENDOR: "Amazon EC2\n", PRODUCT: "m6g.large\n"}, VIRTUALISED, id="m6g"
        ),
        pytest.param({"proc/cpuinfo": NEOVERSE, VENDOR: "Amazon EC2\n", PRODUCT: "m6g.metal\n"}, BARE, id="metal"),
        pytest.param({"proc/cpuinfo": NEOVERSE}, NOWHERE, id="Arm container that is shown nothing"),
        pytest.param({}, NOWHERE, id="nothing to be read"),
        pytest.param(
            {"proc/cpuinfo": NEOVERSE, COMPATIBLE: VIRT,
             "proc/cmdline": "quiet guestlaunch.host=emulated guestlaunch.clock=instructions\n"},
            INSTRUCTIONS, id="told of its instruction clock",
        ),
        pytest.param({"proc/cmdline": "guestlaunch.clock=instructions\n"}, INSTRUCTIONS, id="an emulator's clock"),
        pytest.param(
            {"proc/cpuinfo": PC.format(""), "proc/cmdline": "guestlaunch.host=emulated guestlaunch.clock=host\n"},
            EMULATED,
            id="told that it is emulated",
        ),
        pytest.param(
            {"proc/cpuinfo": PC.format("hypervisor"), "proc/cmdline": "guestlaunch.host=bare guestlaunch.clock=host\n"},
            VIRTUALISED, id="no word makes more of it",
        ),
    ],
)  # fmt: skip
def test_each_kind_of_host(tmp_path: Path, files: Mapping[str, str], expected: Provenance) -> None:
    """A host is known by its files; of an emulated one only a word on its command line tells the clock."""
    found = host(tmp_path, files)
    assert found.host == expected.host
    told = "guestlaunch.clock" in files.get("proc/cmdline", "")
    assert found.clock == (expected.clock if told or expected.host is not HostKind.EMULATED else None)


def test_the_signature_of_an_emulator(tmp_path: Path) -> None:
    """Where the kernel shows CPUID, QEMU without KVM is known by its signature, whatever else it looks like."""
    files = {"proc/cpuinfo": PC.format("hypervisor"), CLOCKS: "kvm-clock\n"}
    assert host(tmp_path, files).host is HostKind.VIRTUALISED
    device = tmp_path / "dev/cpu/0/cpuid"
    device.parent.mkdir(parents=True)
    with device.open("wb") as file:
        os.pwrite(file.fileno(), b"\x01\x00\x00\x40TCGTCGTCGTCG", 0x4000_0000)
    assert detect(tmp_path).host is HostKind.EMULATED


def test_this_host_is_asked_once() -> None:
    """The answer for this process is the same each time, and one of the labels."""
    assert provenance() is provenance()
    assert provenance().label in LABELS


def test_what_is_said_beside_figures() -> None:
    """Hardware needs no word; all else has one, and under KVM so has a host that is not known."""
    assert marked("kvm", BARE.label) == "kvm"
    assert marked("kvm", VIRTUALISED.label) == "kvm (virtualised host)"
    assert marked("kvm", EMULATED.label, arch="aarch64") == "kvm (emulated Arm host)"
    assert marked("kvm", INSTRUCTIONS.label, arch="aarch64") == "kvm (emulated Arm host, instruction clock)"
    assert marked("tcg", INSTRUCTIONS.label, arch="aarch64") == "tcg (emulated host, instruction clock)"
    assert marked("kvm", NOWHERE.label) == "kvm (host not known)"
    assert marked("tcg", NOWHERE.label) == "tcg"
    assert all(mark(label, accel="kvm") for label in LABELS if label != HostKind.BARE)


def test_what_keeps_results_apart() -> None:
    """Under KVM each kind of host does; what TCG takes on a virtual host is what it takes on another CPU."""
    assert len({kept_apart(label, "kvm") for label in LABELS}) == len(LABELS)
    assert {label for label in LABELS if kept_apart(label, "tcg")} == {HostKind.EMULATED, INSTRUCTION_CLOCK}


@pytest.mark.parametrize("line", [{}, {"host": None, "clock": None}, {"host": ["bare"], "clock": {}}, {"host": "Bare"}])
def test_old_and_damaged_lines(line: Mapping[str, object]) -> None:
    """A line that does not say it, or says something else, is of a host that is not known."""
    assert of_event(line) == NOWHERE


def test_a_line_says_where_it_was_made() -> None:
    """What a record knows comes back from its line."""
    for made in (BARE, VIRTUALISED, EMULATED, INSTRUCTIONS, Provenance(host=HostKind.EMULATED, clock=None), NOWHERE):
        assert of_event(event(1, provenance=made)) == made
    assert of_event(event(1, provenance=INSTRUCTIONS)).clock is Clock.INSTRUCTIONS
