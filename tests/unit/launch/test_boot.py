"""What a boot lets be seen, and how long a phase that cannot be seen may take."""

from __future__ import annotations

from orchestrator.launch.boot import Boot, limits, observed_phases
from orchestrator.settings import Deadlines
from orchestrator.timeline.phases import Phase
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
