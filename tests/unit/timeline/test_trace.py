"""QEMU's trace file: lines to boundaries."""

from __future__ import annotations

from pathlib import Path

from orchestrator.timeline.clock import Anchor
from orchestrator.timeline.phases import Phase
from orchestrator.timeline.trace import TraceFile, flag_boundary, transfer_boundaries
from orchestrator.timeline.trace_lines import Blob

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


def added(index: int, name: bytes) -> bytes:
    """Return the line of a file that QEMU adds to its directory."""
    return b"1383@1795347152.000000:fw_cfg_add_file 0x55af29530040 #%d: %s (8210432 bytes)\n" % (index, name)


# As QEMU 10 adds them for a PC: sorted by name, each moving up those behind it.
FILES = [
    added(0, b"etc/e820"), added(0, b"etc/boot/kernel"), added(2, b"etc/smbios/smbios-tables"),
    added(0, b"bootorder"), added(3, b"etc/my (odd) file: #1"),
]  # fmt: skip
KERNEL_FILE = 0x21


def test_a_kernel_by_its_name(tmp_path: Path) -> None:
    """Firmware that reads the kernel from a named file, whose key is its place in the directory, transfers a kernel."""
    lines = [*FILES, line(20, KERNEL_FILE), line(520, 0x0B), line(530, 0x12), line(600, 0x14)]
    trace = written(tmp_path / "t", *lines)
    assert [s.blob for s in trace.selections] == [Blob.KERNEL, None, Blob.INITRD, None]
    found = transfer_boundaries(trace.selections, ANCHOR)
    assert found[Phase.FW_CFG_KERNEL].at_ns == 1_000_020_000
    assert found[Phase.FIRMWARE_HANDOFF].at_ns == 1_000_600_000


def test_initrd_and_shim_by_their_names(tmp_path: Path) -> None:
    """A shim is neither kernel nor initrd, and its selection ends nothing."""
    files = [added(0, b"etc/boot/initrd"), added(1, b"etc/boot/kernel"), added(2, b"etc/boot/shim")]
    lines = [*files, line(10, 0x21), line(20, 0x22), line(30, 0x20), line(40, 0x19)]
    trace = written(tmp_path / "t", *lines)
    assert [s.blob for s in trace.selections] == [Blob.KERNEL, Blob.SHIM, Blob.INITRD, None]
    assert transfer_boundaries(trace.selections, ANCHOR)[Phase.FIRMWARE_HANDOFF].at_ns == 1_000_040_000


def test_a_directory_that_cannot_be_replayed_names_nothing(tmp_path: Path) -> None:
    """When a line of it is missing, all places are unknown: no file is taken for another."""
    trace = written(tmp_path / "t", *FILES[1:], line(20, KERNEL_FILE), line(530, 0x12), line(600, 0x14))
    assert [s.blob for s in trace.selections] == [None, Blob.INITRD, None]
    assert set(transfer_boundaries(trace.selections, ANCHOR)) == {Phase.FW_CFG_INITRD}


def test_what_firmware_did_to_a_port_is_forgotten(tmp_path: Path) -> None:
    """When the kernel's driver takes the device, neither an opening nor a write before that is guestfsd's."""
    control = b"7@1795347152.%06d:virtio_serial_handle_control_message event %d, value 1\n"
    port = b"7@1795347152.%06d:virtio_serial_handle_control_message_port port %d\n"
    flush = b"7@1795347152.%06d:virtio_console_flush_buf port 1, in_len %d, out_len %d\n"
    opening = [control % (20, 6), port % (21, 1)]
    firmware = [control % (10, 0), *opening, control % (22, 6), port % (23, 2), flush % (24, 4, 4), flush % (25, 9, 9)]
    trace = written(tmp_path / "t", *firmware)
    assert (trace.opened_ns, trace.flag_ns) == (1795347152_000_020_000, 1795347152_000_024_000)
    trace = written(tmp_path / "u", *firmware, control % (30, 0))
    assert (trace.opened_ns, trace.flag_ns, trace.used) == (None, None, False)
    guestfsd = [control % (40, 6), port % (41, 1), flush % (50, 4, 4), control % (60, 6), port % (61, 1)]
    trace = written(tmp_path / "v", *firmware, control % (30, 0), *guestfsd)
    assert (trace.opened_ns, trace.flag_ns) == (1795347152_000_040_000, 1795347152_000_050_000)


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
    assert trace.events == 0


def test_a_trace_of_an_unknown_kind_says_so(tmp_path: Path) -> None:
    """Events behind a prefix that is not known are no empty timeline: why nothing is known can be told."""
    other = b"2026-11-26T07:00:00.000001Z qemu-system-aarch64(7:main): fw_cfg_select 0x1 key 0x0011 'x', ret: 1\n"
    assert "qemu-system-aarch64(7:main)" in str(written(tmp_path / "t", other).why_unreadable)
    assert written(tmp_path / "u").why_unreadable == "it is empty"
    assert written(tmp_path / "v", b"a warning\n", line(1, 0x19)).why_unreadable is None
    assert written(tmp_path / "w", b"\x1b[31m\xff\n").why_unreadable == r"its first line is '\x1b[31m\xff'"


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
