"""The fw_cfg_select trace: lines to boundaries."""

from __future__ import annotations

from pathlib import Path

from orchestrator.timeline.clock import Anchor
from orchestrator.timeline.fwcfg import SelectTrace, parse, transfer_boundaries
from orchestrator.timeline.phases import Phase

ANCHOR = Anchor(monotonic_ns=1_000_000_000, wall_ns=1_795_347_152_000_000_000)


def line(micros: int, key: int) -> bytes:
    """Return one trace line as QEMU 7.2 writes it."""
    return b"1383@1795347152.%06d:fw_cfg_select 0x55af29530040 key 0x%04x 'name', ret: 1\n" % (micros, key)


def test_uefi_order() -> None:
    """Kernel, initrd, then the first other key: the three boundaries of a UEFI boot."""
    text = b"".join([line(1, 0x19), line(10, 0x08), line(20, 0x11), line(520, 0x0B), line(530, 0x12), line(600, 0x14)])
    found = transfer_boundaries(list(parse(text.splitlines())), ANCHOR)
    assert found[Phase.FW_CFG_KERNEL].at_ns == 1_000_020_000
    assert found[Phase.FW_CFG_INITRD].at_ns == 1_000_530_000
    assert found[Phase.FIRMWARE_HANDOFF].at_ns == 1_000_600_000


def test_transfer_that_never_ends_has_no_handoff() -> None:
    """Without a later key, the end of the transfer was not seen."""
    found = transfer_boundaries(list(parse([line(20, 0x11)])), ANCHOR)
    assert set(found) == {Phase.FW_CFG_KERNEL}


def test_other_lines_are_passed_over() -> None:
    """Warnings and torn lines in the log are not selections."""
    assert list(parse([b"qemu-system-aarch64: warning: x", b"1383@17953", b""])) == []


def test_follows_a_growing_file(tmp_path: Path) -> None:
    """Only whole lines are read, each once; a missing file has none."""
    path = tmp_path / "trace.log"
    trace = SelectTrace(path)
    assert trace.read_new() == ()
    first, second = line(20, 0x11), line(30, 0x12)
    path.write_bytes(first + second[:10])
    assert [s.key for s in trace.read_new()] == [0x11]
    path.write_bytes(first + second)
    assert [s.key for s in trace.read_new()] == [0x12]
    assert [s.key for s in trace.selections] == [0x11, 0x12]
