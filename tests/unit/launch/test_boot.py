"""What a boot lets be seen, and how long a phase that cannot be seen may take."""

from __future__ import annotations

from orchestrator.launch.boot import Boot, limits, observed_phases
from orchestrator.settings import Deadlines
from orchestrator.timeline.phases import Phase, Start
from orchestrator.timeline.recorder import Recorder


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


def test_a_recorder_learns_what_it_records() -> None:
    """What was noted before the start was decided stays; the current phase follows the new order."""
    recorder = Recorder(0)
    recorder.begin(Phase.STAGE, "test", 10)
    recorder.become(Start.WARM)
    recorder.begin(Phase.RESTORE, "test", 20)
    assert (recorder.origin_ns, recorder.at_ns(Phase.STAGE), recorder.current()) == (0, 10, Phase.RESTORE)
