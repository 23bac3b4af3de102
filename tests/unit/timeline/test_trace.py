"""QEMU's trace file: lines to boundaries."""

from __future__ import annotations

from pathlib import Path

from orchestrator.timeline.clock import Anchor
from orchestrator.timeline.phases import Phase
from orchestrator.timeline.trace import TraceFile, flag_boundary, transfer_boundaries

ANCHOR = Anchor(monotonic_ns=1_000_000_000, wall_ns=1_795_347_152_000_000_000)


def line(micros: int, key: int) -> bytes:
    """Return one trace line as QEMU 7.2 writes it."""
    return b"1383@1795347152.%06d:fw_cfg_select 0x55af29530040 key 0x%04x 'name', ret: 1\n" % (micros, key)


def written(path: Path, *lines: bytes) -> TraceFile:
    """Return a trace file with these lines, read."""
    path.write_bytes(b"".join(lines))
    trace = TraceFile(path)
    trace.read_new()
    return trace


def test_uefi_order(tmp_path: Path) -> None:
    """Kernel, initrd, then the first other key: the three boundaries of a UEFI boot."""
    lines = [line(1, 0x19), line(10, 0x08), line(20, 0x11), line(520, 0x0B), line(530, 0x12), line(600, 0x14)]
    found = transfer_boundaries(written(tmp_path / "t", *lines).selections, ANCHOR)
    assert found[Phase.FW_CFG_KERNEL].at_ns == 1_000_020_000
    assert found[Phase.FW_CFG_INITRD].at_ns == 1_000_530_000
    assert found[Phase.FIRMWARE_HANDOFF].at_ns == 1_000_600_000


def test_transfer_that_never_ends_has_no_handoff(tmp_path: Path) -> None:
    """Without a later key, the end of the transfer was not seen."""
    found = transfer_boundaries(written(tmp_path / "t", line(20, 0x11)).selections, ANCHOR)
    assert set(found) == {Phase.FW_CFG_KERNEL}


def test_key_between_the_blobs_is_not_the_handoff(tmp_path: Path) -> None:
    """Read at the moment between kernel and initrd, the trace shows no hand-off yet."""
    found = transfer_boundaries(written(tmp_path / "t", line(20, 0x11), line(520, 0x0B)).selections, ANCHOR)
    assert set(found) == {Phase.FW_CFG_KERNEL}


def test_launch_flag_is_the_first_four_bytes(tmp_path: Path) -> None:
    """Marker lines and failed writes on other ports are not the launch flag."""
    flush = b"7@1795347152.%06d:virtio_console_flush_buf port %d, in_len %d, out_len %d\n"
    trace = written(
        tmp_path / "t", flush % (10, 2, 33, 33), flush % (20, 1, 4, -1), flush % (30, 1, 4, 4), flush % (40, 1, 4, 4)
    )
    boundary = flag_boundary(trace, ANCHOR)
    assert boundary is not None
    assert boundary.at_ns == 1_000_030_000
    assert flag_boundary(written(tmp_path / "u", line(1, 0x11)), ANCHOR) is None


def test_other_lines_are_passed_over(tmp_path: Path) -> None:
    """Warnings and torn lines in the log are not selections."""
    trace = written(tmp_path / "t", b"qemu-system-aarch64: warning: x\n", b"1383@17953\n", b"\n", line(5, 0x14)[:20])
    assert trace.selections == []


def test_follows_a_growing_file(tmp_path: Path) -> None:
    """Only whole lines are read, each once; a missing file has none."""
    path = tmp_path / "trace.log"
    trace = TraceFile(path)
    assert not trace.read_new()
    first, second = line(20, 0x11), line(30, 0x12)
    path.write_bytes(first + second[:10])
    assert trace.read_new()
    assert not trace.read_new()
    assert [s.key for s in trace.selections] == [0x11]
    path.write_bytes(first + second)
    assert trace.read_new()
    assert [s.key for s in trace.selections] == [0x11, 0x12]
