"""The power button of a system that is there: it is pressed, whatever the system does in that moment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.errors import DeadlineError, GuestlaunchError, MonitorError
from orchestrator.firmware.descriptors import Firmware
from orchestrator.install.boot import DiskBoot
from orchestrator.install.start import DiskStart, KeptMachine
from orchestrator.kernel.start import Attached
from orchestrator.settings import Deadlines
from orchestrator.timeline.phases import Kind, Phase, Start
from orchestrator.timeline.recorder import Recorder


@pytest.mark.parametrize(
    ("pressing", "saying"),
    [(None, None), (MonitorError("QEMU has ended"), None), (None, DeadlineError("nobody listens"))],
)
def test_a_system_that_is_there_counts(pressing: GuestlaunchError | None, saying: GuestlaunchError | None) -> None:
    """It may end by itself before the button is pressed, or before it is told."""
    done: list[str] = []

    def told(what: str, error: GuestlaunchError | None) -> None:
        done.append(what)
        if error is not None:
            raise error

    firmware = Firmware(
        code="/code",
        code_format="raw",
        nvram_template="/vars",
        nvram_format="raw",
        description="",
        descriptor=Path("/"),
    )
    recorder = Recorder(1, Start.COLD, Kind.INSTALL)
    start = DiskStart(
        Attached(), cast("Any", None), cast("Any", SimpleNamespace(launch_id="1")), recorder,
        machine=KeptMachine(firmware=firmware, nvram=Path("/nvram")), timeout_s=1.0,
    )  # fmt: skip
    start.following = DiskBoot(recorder, Deadlines(), timeout_s=1.0)
    guest = SimpleNamespace(qmp=lambda command: told(command, pressing))
    place = SimpleNamespace(control=SimpleNamespace(say=lambda line, _: told(line, saying)))
    start.let_through(cast("Any", guest), cast("Any", place))
    assert start.following.acknowledged
    assert recorder.at_ns(Phase.SHUTDOWN) is not None
    assert done == ["system_powerdown"] + ([] if pressing else ["acknowledged"])
