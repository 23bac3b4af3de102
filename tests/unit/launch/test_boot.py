"""What a boot lets be seen, and how long a phase that cannot be seen may take."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.launch.boot import Boot, limits, observed_phases
from orchestrator.settings import Deadlines
from orchestrator.timeline.phases import Phase, Start
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile


def allowed(markers: set[str]) -> dict[Phase, float | None]:
    observed = observed_phases(traced=True, transfers=True, markers=markers)
    boot = Boot(Recorder(0), None, limits(Deadlines()), observed, None)
    return {phase: boot.allowed_s(phase) for phase in (Phase.INITRD, Phase.INIT, Phase.GUESTFSD)}


def test_init_that_sends_no_markers() -> None:
    """The time of an init that cannot be seen, and of what it starts, is the initrd's, which can."""
    usual = Deadlines()
    seen = allowed({"initrd", "init", "guestfsd"})
    assert seen == {Phase.INITRD: usual.initrd, Phase.INIT: usual.init, Phase.GUESTFSD: usual.guestfsd}
    together = usual.initrd + usual.init + usual.guestfsd
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


def test_a_recorder_learns_what_it_records() -> None:
    """What was noted before the start was decided stays; the current phase follows the new order."""
    recorder = Recorder(0)
    recorder.begin(Phase.STAGE, "test", 10)
    recorder.become(Start.WARM)
    recorder.begin(Phase.RESTORE, "test", 20)
    assert (recorder.origin_ns, recorder.at_ns(Phase.STAGE), recorder.current()) == (0, 10, Phase.RESTORE)
