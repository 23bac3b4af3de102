"""By what a VM is known to be ready."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.errors import QemuExitedError
from orchestrator.hypervisor.events import EventSource, GuestEvent
from orchestrator.launch.diagnosis import Evidence
from orchestrator.launch.lifecycle import Event
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind, Phase, Start
from orchestrator.timeline.recorder import Recorder
from orchestrator.vm.boot import Followed, VmBoot
from orchestrator.vm.describe import AGENT_ALIAS
from orchestrator.vm.request import ReadySign

NUMBER = "5e"
KERNEL = b"[    0.000000] Booting Linux on physical CPU 0x0\r\n[    1.500000] Run /init as init process\r\n"
AGENT = GuestEvent(
    source=EventSource.QEMU, name="VSERPORT_CHANGE", detail={"id": AGENT_ALIAS, "open": True}, received_ns=1
)


def boot(sign: ReadySign = ReadySign.ANY, timeout_s: float = 60.0) -> tuple[VmBoot, Recorder]:
    """Return a boot whose firmware has begun."""
    recorder = Recorder(time.monotonic_ns(), Start.COLD, Kind.VM)
    recorder.begin(Phase.FIRMWARE, "test")
    settings = Settings(state_dir=Path("/s"), runtime_dir=Path("/r"))
    return VmBoot(recorder, settings, timeout_s=timeout_s, number=NUMBER, sign=sign), recorder


def say(one: VmBoot, sign: ReadySign) -> None:
    """Have a guest show a sign."""
    if sign is ReadySign.RECORD:
        one.on_control_line(f"guestlaunch-ready {NUMBER}".encode())
    elif sign is ReadySign.AGENT:
        one.on_guest_event(AGENT)
    else:
        one.on_console(b"Debian GNU/Linux 12 host ttyAMA0\r\n\r\nhost login: ")


@pytest.mark.parametrize("sign", [ReadySign.RECORD, ReadySign.AGENT, ReadySign.LOGIN])
def test_each_sign_and_no_other(sign: ReadySign) -> None:
    """Any counts where any may; else the one that is wanted, and the timeline has its phases."""
    one, recorder = boot()
    one.on_console(KERNEL)
    say(one, sign)
    assert one.flag_sent()
    one.settle()
    assert None not in map(recorder.at_ns, (Phase.KERNEL, Phase.INITRD, Phase.WORKLOAD))
    for wanted in (ReadySign.RECORD, ReadySign.AGENT, ReadySign.LOGIN):
        one, _ = boot(wanted)
        one.on_console(KERNEL)
        say(one, sign)
        assert one.flag_sent() is (wanted is sign)


def test_what_is_no_sign() -> None:
    """Another VM's number; a port that firmware opens."""
    one, _ = boot()
    one.on_control_line(b"guestlaunch-ready 77")
    one.on_guest_event(AGENT)
    assert not one.flag_sent()
    one.on_control_line(b"guestlaunch-ready")
    assert one.flag_sent()


def test_why_it_is_not_ready() -> None:
    """It says what was waited for, and for how long."""
    one, recorder = boot(timeout_s=0.0)
    recorder.begin(Phase.FIRMWARE, "test")
    assert one.overdue(time.monotonic_ns() + 1)
    evidence = Evidence(
        phase=Phase.KERNEL, ready=False, exit_code=None, last_line="waiting", panic=None, allowed_s=None, uri=None
    )
    assert "the VM did not come up: phase kernel" in str(one.diagnose(Event.DEADLINE, evidence))


class StoppedGuest:
    """A guest that QEMU has stopped for an internal error, and that it is asked about."""

    def __init__(self) -> None:
        self.exited, self.halted, self.broken = threading.Event(), True, False
        self.exit_code = None

    def kill_if_broken(self) -> None:
        """Be killed, as the answer is yes."""
        self.halted, self.broken = False, True
        self.exited.set()


def test_a_guest_that_qemu_has_stopped() -> None:
    """QEMU lives on then: nobody waits for the deadline, and it is said."""
    domain, connection = SimpleNamespace(name="vm"), SimpleNamespace(uri="test:///", lost=threading.Event())
    settings = Settings(state_dir=Path("/s"), runtime_dir=Path("/r"))
    followed = Followed(cast("Any", StoppedGuest()), cast("Any", domain), cast("Any", connection), settings)
    with pytest.raises(QemuExitedError, match="QEMU stopped the guest: phase firmware: an internal error"):
        followed.wait(boot(timeout_s=600.0)[0], Stop(), lambda _: None)
