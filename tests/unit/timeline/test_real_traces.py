"""Traces as QEMU wrote them, of each profile on two releases (recorded by tools/traces): all of each is understood."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from orchestrator.launch.boot import GUESTFSD_ALIAS, Boot, limits, observed_phases
from orchestrator.settings import Deadlines
from orchestrator.timeline.clock import Anchor
from orchestrator.timeline.phases import TRANSFER_PHASES, Phase
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile, transfer_boundaries
from orchestrator.timeline.trace_lines import Blob

FOLDER = Path(__file__).resolve().parents[2] / "data" / "traces"
TRACES = sorted(path.name for path in FOLDER.glob("*.log.gz"))
ANCHOR = Anchor(monotonic_ns=0, wall_ns=0)
TAKEN = b"virtio_serial_handle_control_message event 0, value 1\n"


def lines_of(name: str) -> list[bytes]:
    """Return the lines of a trace."""
    with gzip.open(FOLDER / name) as file:
        return file.readlines()


def boot_of(path: Path, name: str) -> tuple[Boot, Recorder]:
    """Return what follows a boot by a trace alone, of an appliance that tells nothing."""
    recorder = Recorder(0)
    observed = observed_phases(traced=True, transfers="-bare" not in name, markers=())
    recorder.begin(Phase.FIRMWARE, "test", 0)
    return Boot(recorder, TraceFile(path), limits(Deadlines()), observed, GUESTFSD_ALIAS), recorder


def test_two_releases_and_every_profile() -> None:
    """What is tested here is there: a missing fixture would be no failure otherwise."""
    profiles = {"aarch64-uefi", "aarch64-bare", "x86_64-ovmf", "x86_64-seabios", "x86_64-bare"}
    for release in ("7.2", "10.0"):
        ours = [name for name in TRACES if name.startswith(f"qemu-{release}-")]
        assert {profile for profile in profiles if any(profile in name for name in ours)} == profiles
        assert any("own-init" in name for name in ours)


@pytest.mark.parametrize("name", TRACES)
def test_every_line_is_an_event(tmp_path: Path, name: str) -> None:
    """No line is passed over, and a launch that leaves such a trace proves what it says."""
    lines = lines_of(name)
    path = tmp_path / "trace.log"
    path.write_bytes(b"".join(lines))
    trace = TraceFile(path)
    assert trace.read_new()
    assert trace.events == len(lines)
    boot, _ = boot_of(path, name)
    boot.follow()
    assert boot.flag_sent()
    assert boot.proof_failures() == ()


@pytest.mark.parametrize("name", [name for name in TRACES if "-bare" not in name])
def test_transfer(tmp_path: Path, name: str) -> None:
    """Kernel and initrd are seen, whichever key they have, and the hand-off begins after both."""
    path = tmp_path / "trace.log"
    path.write_bytes(b"".join(lines_of(name)))
    trace = TraceFile(path)
    trace.read_new()
    found = transfer_boundaries(trace.selections, ANCHOR)
    kernel, initrd = (found[phase].at_ns for phase in TRANSFER_PHASES)
    assert max(kernel, initrd) < found[Phase.FIRMWARE_HANDOFF].at_ns
    assert (initrd < kernel) is ("seabios" in name)
    keys = {selection.key for selection in trace.selections if selection.blob is Blob.KERNEL}
    assert (keys == {0x11}) is not ("10.0" in name and "ovmf" in name)


@pytest.mark.parametrize("name", TRACES)
def test_ready_by_guestfsd_alone(tmp_path: Path, name: str) -> None:
    """Followed line by line: nothing counts before the launch flag, then guestfsd's opening is dated, no firmware's."""
    lines = lines_of(name)
    new_firmware = "10.0" in name and ("uefi" in name or "ovmf" in name)
    assert sum(line.endswith(TAKEN) for line in lines) == (2 if new_firmware else 1)
    flag = next(n for n, line in enumerate(lines) if b"virtio_console_flush_buf port 1, in_len 4, out_len 4" in line)
    last = max(n for n, line in enumerate(lines) if line.endswith(TAKEN))
    path = tmp_path / "trace.log"
    boot, recorder = boot_of(path, name)
    with path.open("ab") as file:
        for number, line in enumerate(lines):
            file.write(line)
            file.flush()
            boot.follow()
            assert boot.flag_sent() is (number >= flag)
            assert (recorder.at_ns(Phase.READY) is not None) is (number >= flag)
    driver = lines[last].partition(b"@")[2].partition(b":")[0]
    opened_ns = recorder.at_ns(Phase.READY)
    assert opened_ns is not None
    assert recorder.anchor.to_wall(opened_ns) > int(driver.replace(b".", b"")) * 1000
