"""Why a guest ended: evidence to the one line that a user reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.errors import ConnectionLostError, DeadlineError, GuestPanicError, QemuExitedError
from orchestrator.launch.diagnosis import Evidence, deadline_variable, diagnose
from orchestrator.launch.lifecycle import Event
from orchestrator.settings import OWN_VARIABLES, Deadlines, load, variable
from orchestrator.timeline.phases import Phase

SEEN = Evidence(
    phase=Phase.INIT, ready=False, exit_code=0, last_line="udevd[42]: hello", panic=None, allowed_s=300.0, uri=None
)


@pytest.mark.parametrize(
    ("event", "seen", "kind", "says"),
    [
        (Event.QEMU_GONE, replace(SEEN, panic="no root"), GuestPanicError, "phase init: no root"),
        (Event.DEADLINE, SEEN, DeadlineError, r"300.0 s; .*udevd\[42\]: hello \(GUESTLAUNCH_DEADLINE_INIT"),
        (Event.QEMU_GONE, replace(SEEN, last_line=None), QemuExitedError, "exit status 0; the console is empty"),
        (Event.QEMU_GONE, replace(SEEN, ready=True, exit_code=137), QemuExitedError, "before its tool did.*137"),
        (
            Event.QEMU_GONE,
            replace(SEEN, broken=True),
            QemuExitedError,
            "stopped the guest: phase init: an internal error",
        ),
        (Event.FAILED, replace(SEEN, uri="qemu:///session"), ConnectionLostError, "qemu:///session"),
    ],
)
def test_each_end_has_its_own_line(event: Event, seen: Evidence, kind: type[Exception], says: str) -> None:
    """The class says what kind of end it was, the line what was seen."""
    with pytest.raises(kind, match=says) as caught:
        raise diagnose(event, seen) or AssertionError("no error")
    assert "\n" not in str(caught.value)


def test_orderly_end_after_service_is_no_error() -> None:
    """A guest that powered itself off once its tool had it did nothing wrong."""
    assert diagnose(Event.QEMU_GONE, replace(SEEN, ready=True)) is None


def test_named_variables_exist(tmp_path: object) -> None:
    """The variable that an error recommends is one that the settings take."""
    for phase in (
        Phase.FIRMWARE,
        Phase.FW_CFG_KERNEL,
        Phase.FIRMWARE_HANDOFF,
        Phase.KERNEL,
        Phase.INITRD,
        Phase.GUESTFSD,
    ):
        name = variable(deadline_variable(phase).lower())
        assert name not in OWN_VARIABLES
        assert load(environ={"HOME": str(tmp_path), name: "7"}).deadlines != Deadlines()
