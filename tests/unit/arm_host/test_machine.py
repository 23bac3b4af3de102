"""QEMU's arguments for the emulated host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.records.provenance import Clock, HostKind, Provenance, detect
from tools.arm_host.machine import Parts, Shape, command_line, quoted

PARTS = Parts(
    kernel="/c/kernel",
    initrd="/c/initrd",
    disks=("/proc/self/fd/7", "/c/a,b"),
    ram="/c/ram",
    writes_ram=False,
    console="/proc/self/fd/5",
    agent=8,
    monitor=9,
    incoming=True,
)


def test_the_clock_counts_instructions_unless_real_time_is_asked_for() -> None:
    """With the instruction clock there is one thread for all CPUs, as QEMU wants it."""
    counted, real = command_line(Shape(), PARTS), command_line(Shape(real_time=True), PARTS)
    assert counted[counted.index("-icount") + 1] == "shift=0,sleep=on"
    assert "tcg,thread=single" in counted
    assert "-icount" not in real
    assert "tcg,thread=multi" in real


def test_guestlaunch_is_told_where_it_is(tmp_path: Path) -> None:
    """What is launched there says that the host is emulated, and by which clock it is timed."""
    found = {}
    (tmp_path / "proc").mkdir()
    for real_time in (False, True):
        line = command_line(Shape(real_time=real_time), PARTS)
        (tmp_path / "proc/cmdline").write_text(line[line.index("-append") + 1])
        found[real_time] = detect(tmp_path)
    emulated = HostKind.EMULATED
    assert found[False] == Provenance(host=emulated, clock=Clock.INSTRUCTIONS)
    assert found[True] == Provenance(host=emulated, clock=Clock.HOST)


def test_a_saved_machine_is_not_written_to() -> None:
    """Its memory is mapped for itself alone where it is only used, and shared with the file where it is made."""
    assert any("share=off" in word for word in command_line(Shape(), PARTS))
    assert any("share=on" in word for word in command_line(Shape(), replace(PARTS, writes_ram=True)))


def test_only_a_machine_that_goes_on_waits_for_a_state() -> None:
    """The first boot starts by itself."""
    assert command_line(Shape(), PARTS)[-2:] == ["-incoming", "defer"]
    assert "-incoming" not in command_line(Shape(), replace(PARTS, incoming=False))


def test_a_host_has_el2_and_what_was_asked_for() -> None:
    """KVM works in it because its CPU has the exception level for hypervisors."""
    line = command_line(Shape(cpu="max", smp=2, memory_mib=3000), PARTS)
    assert "virtualization=on" in line[line.index("-machine") + 1]
    assert [line[line.index(option) + 1] for option in ("-cpu", "-smp", "-m")] == ["max", "2", "3000M"]


def test_commas_in_paths_are_doubled() -> None:
    """A path is one value for QEMU, whatever it is called."""
    assert quoted("/a,b") == "/a,,b"
    assert any(word.startswith("file=/c/a,,b,") for word in command_line(Shape(), PARTS))
