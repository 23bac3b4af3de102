"""What a boot lets be seen, and how long a phase that cannot be seen may take."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.launch.boot import GUESTFSD_ALIAS, Boot, limits, observed_phases
from orchestrator.settings import Deadlines
from orchestrator.timeline.phases import Phase, Start
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile


def allowed(markers: set[str]) -> dict[Phase, float | None]:
    observed = observed_phases(traced=True, transfers=True, markers=markers)
    boot = Boot(Recorder(0), None, limits(Deadlines(), silent=Phase.GUESTFSD not in observed), observed, None)
    return {phase: boot.allowed_s(phase) for phase in (Phase.INITRD, Phase.INIT, Phase.GUESTFSD)}


def test_init_that_sends_no_markers() -> None:
    """An init that cannot be seen has libguestfs's own 20 minutes, what it starts included, after the initrd's time."""
    usual = Deadlines()
    seen = allowed({"initrd", "init", "guestfsd"})
    assert seen == {Phase.INITRD: usual.initrd, Phase.INIT: usual.init, Phase.GUESTFSD: usual.guestfsd}
    together = usual.initrd + 20 * 60
    assert allowed({"initrd"}) == {Phase.INITRD: together, Phase.INIT: None, Phase.GUESTFSD: None}


def test_a_clone_has_deadlines_of_its_own() -> None:
    """Restore, attach and gate are bounded, the phases of a boot are not there; guestfsd has its usual time."""
    usual = Deadlines()
    boot = Boot(Recorder(0, Start.WARM), None, limits(usual), {Phase.GATE, Phase.GUESTFSD}, None)
    found = {phase: boot.allowed_s(phase) for phase in (Phase.GATE, Phase.GUESTFSD, Phase.FIRMWARE, Phase.INIT)}
    assert found == {Phase.GATE: usual.gate, Phase.GUESTFSD: usual.guestfsd, Phase.FIRMWARE: None, Phase.INIT: None}


def test_a_clone_is_seen_to_open_its_port(tmp_path: Path) -> None:
    """QEMU's trace tells of it where nothing was transferred, too: its event of the same comes late, or never."""
    now_ns = time.time_ns()
    stamp = b"7@%d.%06d" % (now_ns // 10**9, now_ns // 1000 % 10**6)
    (tmp_path / "trace").write_bytes(
        stamp + b":virtio_serial_handle_control_message event 6, value 1\n"
        + stamp + b":virtio_serial_handle_control_message_port port 1\n"
    )  # fmt: skip
    recorder = Recorder(time.monotonic_ns(), Start.WARM)
    boot = Boot(recorder, TraceFile(tmp_path / "trace"), {}, {Phase.GATE, Phase.GUESTFSD}, "channel0")
    boot.follow()
    assert recorder.current() is not Phase.READY  # firmware may open ports: guestfsd is not there yet
    boot.on_control_line(b"guestlaunch-marker guestfsd 1.0 1.0")
    boot.follow()
    assert boot.flag_due
    assert recorder.current() is Phase.READY


def stamped(text: str) -> bytes:
    """Return a line of QEMU's trace, as of now."""
    now_ns = time.time_ns()
    return b"7@%d.%06d:%s\n" % (now_ns // 10**9, now_ns // 1000 % 10**6, text.encode())


OPENING = ("virtio_serial_handle_control_message event 6, value 1", "virtio_serial_handle_control_message_port port 1")
TAKEN = "virtio_serial_handle_control_message event 0, value 1"
FLAG = "virtio_console_flush_buf port 1, in_len 4, out_len 4"


class Traced:
    """A boot of an appliance with or without markers, and the trace that its QEMU writes."""

    def __init__(self, folder: Path, markers: set[str], *, measured: bool = True) -> None:
        self.path = folder / "trace.log"
        self.recorder = Recorder(time.monotonic_ns())
        observed = observed_phases(traced=measured, transfers=True, markers=markers)
        trace = TraceFile(self.path)
        self.boot = Boot(self.recorder, trace, limits(Deadlines()), observed, GUESTFSD_ALIAS, measured=measured)
        self.recorder.begin(Phase.FIRMWARE, "test")

    def write(self, *events: str) -> None:
        """Have QEMU trace some events, and look."""
        with self.path.open("ab") as file:
            file.writelines(map(stamped, events))
        self.boot.follow()


ALL = {"initrd", "init", "guestfsd"}


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("markers", [ALL, {"initrd"}, set()], ids=["markers", "its own init", "foreign"])
def test_firmware_that_opens_all_ports(tmp_path: Path, markers: set[str], measured: bool) -> None:
    """The launch is not ready by it, and its deadlines go on; guestfsd's opening is dated, not the firmware's."""
    traced = Traced(tmp_path, markers, measured=measured)
    boot, recorder = traced.boot, traced.recorder
    traced.write(TAKEN, *OPENING)
    boot.port_opened(GUESTFSD_ALIAS, time.monotonic_ns() - 10**9, "QEMU event")
    boot.follow()
    assert (boot.flag_sent(), recorder.at_ns(Phase.READY)) == (False, None)
    assert boot.overdue(time.monotonic_ns() + 10**15)
    firmware_ns = time.monotonic_ns()
    traced.write(TAKEN)
    for name in markers:
        boot.on_control_line(f"guestlaunch-marker {name} 0.00 0.00".encode())
    boot.follow()
    assert (boot.flag_sent(), recorder.at_ns(Phase.READY)) == (False, None)
    traced.write(*OPENING, FLAG)
    assert boot.flag_sent()
    opened_ns = recorder.at_ns(Phase.READY)
    assert opened_ns is not None
    assert opened_ns >= firmware_ns - 10**6  # a trace counts in microseconds, by another clock


def test_events_alone_that_tell_of_firmware_late(tmp_path: Path) -> None:
    """Without a trace: that firmware opened the port is no news of guestfsd's, even if QEMU tells it after a marker."""
    recorder = Recorder(time.monotonic_ns())
    boot = Boot(recorder, None, limits(Deadlines()), {Phase.FIRMWARE, Phase.GUESTFSD}, GUESTFSD_ALIAS)
    recorder.begin(Phase.FIRMWARE, "test")
    firmware_ns = time.monotonic_ns() - 2 * 10**9
    boot.on_control_line(b"guestlaunch-marker guestfsd 1.00 1.00")
    boot.port_opened(GUESTFSD_ALIAS, firmware_ns, "QEMU event")
    boot.follow()
    assert not boot.flag_sent()
    boot.port_opened(GUESTFSD_ALIAS, time.monotonic_ns(), "QEMU event")
    boot.follow()
    assert boot.flag_sent()


SELECT = "fw_cfg_select 0x1 key 0x{:04x} 'x', ret: 1"


@pytest.mark.parametrize(
    ("events", "failures"),
    [
        ((0x11, 0x12, 0x14, FLAG), ()),
        ((0x25, 0x12, 0x14, FLAG), ("an initrd went over fw_cfg, and no kernel did that is known of",)),
        ((0x14, FLAG), ("no transfer was seen",)),
        ((0x11, 0x14, FLAG), ("no transfer of the initrd was seen",)),
        ((0x11, 0x12, 0x14), ("the launch flag was not seen, although QEMU's trace was on",)),
        ((), ("QEMU's trace tells nothing: it is empty",)),
    ],
)
def test_what_is_no_proof(tmp_path: Path, events: tuple[int | str, ...], failures: tuple[str, ...]) -> None:
    """A launch that was ready, and whose trace does not show all that it should, says so."""
    traced = Traced(tmp_path, ALL)
    traced.write(*(SELECT.format(event) if isinstance(event, int) else event for event in events))
    traced.boot.flag_sent()
    assert traced.boot.proof_failures() == failures


def test_what_is_not_measured_is_not_held_against_a_launch(tmp_path: Path) -> None:
    """A trace that is only there to see that an appliance without markers is ready proves nothing, and need not."""
    traced = Traced(tmp_path, set(), measured=False)
    traced.write(*OPENING, FLAG)
    assert traced.boot.flag_sent()
    assert traced.boot.proof_failures() == ()


def test_a_trace_that_cannot_be_read_costs_no_launch_its_life(tmp_path: Path) -> None:
    """Without markers only the trace would tell that it is ready: no deadline then ends what QEMU says is open."""
    traced = Traced(tmp_path, set())
    traced.path.write_bytes(b"2026-11-26T07:00:00Z qemu: fw_cfg_select\n")
    traced.boot.follow()
    assert traced.boot.overdue(time.monotonic_ns() + 10**15)
    traced.boot.port_opened(GUESTFSD_ALIAS, time.monotonic_ns(), "QEMU event")
    assert not traced.boot.overdue(time.monotonic_ns() + 10**15)
    assert not traced.boot.flag_sent()
    assert traced.boot.served(time.monotonic_ns())
    assert "its first line is '2026-11-26T07:00:00Z qemu" in traced.boot.proof_failures()[0]


def test_a_recorder_learns_what_it_records() -> None:
    """What was noted before the start was decided stays; the current phase follows the new order."""
    recorder = Recorder(0)
    recorder.begin(Phase.STAGE, "test", 10)
    recorder.become(Start.WARM)
    recorder.begin(Phase.RESTORE, "test", 20)
    assert (recorder.origin_ns, recorder.at_ns(Phase.STAGE), recorder.current()) == (0, 10, Phase.RESTORE)
