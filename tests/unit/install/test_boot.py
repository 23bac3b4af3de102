"""An installer and the system that it made, followed by what they show, and what their ends mean."""

from __future__ import annotations

import time

import pytest

from orchestrator.errors import GuestlaunchError, GuestPanicError, InstallationError, QemuExitedError
from orchestrator.install.boot import DiskBoot, InstallerBoot
from orchestrator.kernel.boot import Expected, KernelBoot
from orchestrator.launch.diagnosis import Evidence
from orchestrator.launch.lifecycle import Event
from orchestrator.settings import Deadlines
from orchestrator.timeline.phases import Kind, Phase, Start
from orchestrator.timeline.recorder import Recorder

NUMBER = "ab" * 16
HOUR_NS = 3600 * 10**9


def recorder() -> Recorder:
    """Return the recorder of a guest whose vCPUs run since now."""
    one = Recorder(time.monotonic_ns(), Start.COLD, Kind.INSTALL)
    one.begin(Phase.FIRMWARE, "test")
    return one


def installer(timeout_s: float = 3600.0) -> InstallerBoot:
    """Return what follows an installer."""
    what = Expected(
        number=NUMBER, own_init=False, program=False, transfers=True, initrd=True, traced=False, numbered=True
    )
    return InstallerBoot(recorder(), None, Deadlines(shutdown=1.0), what, timeout_s=timeout_s)


def disk(timeout_s: float = 3600.0) -> DiskBoot:
    """Return what follows a first boot."""
    return DiskBoot(recorder(), Deadlines(shutdown=1.0), timeout_s=timeout_s)


def diagnosed(one: KernelBoot, event: Event = Event.QEMU_GONE, exit_code: int = 0) -> GuestlaunchError | None:
    """Return what its end means."""
    seen = Evidence(
        phase=Phase.KERNEL, ready=False, exit_code=exit_code, last_line="Which disk?", panic=None, allowed_s=None,
        uri=None,
    )  # fmt: skip
    return one.diagnose(event, seen)


def test_a_record_of_this_installation_is_the_end() -> None:
    """Another's is none; afterwards there is time to take file systems apart, but not for ever."""
    one = installer()
    one.on_control_line(b"guestlaunch-exit 0 " + b"cd" * 16)
    one.on_control_line(b"guestlaunch-exit 0")
    assert not one.answered()
    one.on_control_line(b"guestlaunch-exit 0 " + NUMBER.encode())
    assert one.answered()
    one.note_acknowledged()
    assert (one.status, one.done, diagnosed(one)) == (0, True, None)
    now = time.monotonic_ns()
    assert not one.overdue(now + 500 * 10**9)
    assert one.overdue(now + HOUR_NS)
    assert "the installer did not end" in str(diagnosed(one, Event.DEADLINE))


def test_an_installer_without_a_record() -> None:
    """It has not succeeded, whatever its end: its own, its time's, QEMU's."""
    one = installer()
    error = diagnosed(one)
    assert isinstance(error, InstallationError)
    assert str(error).startswith("the installer ended without its record: phase kernel: ")
    assert "Which disk?" in str(error)
    late = installer(timeout_s=0.0)
    assert late.overdue(time.monotonic_ns() + 1)
    assert "the installer was not done in time" in str(diagnosed(late, Event.DEADLINE))
    assert isinstance(diagnosed(one, exit_code=1), QemuExitedError)
    one.on_panic()
    assert isinstance(diagnosed(one), GuestPanicError)


@pytest.mark.parametrize(
    ("console", "there"),
    [
        (b"Debian GNU/Linux 12 debian ttyAMA0\r\n\r\ndebian login: ", True),
        (b"\x1b[0mlocalhost login:", True),
        (b"last login: yesterday\r\n", False),
        (b"the login: prompt comes later", False),
        (b"debian login: root\r\nPassword: ", False),
    ],
)
def test_a_login_prompt_shows_that_a_system_is_there(console: bytes, there: bool) -> None:
    """At the end of what it says, in whichever pieces it comes."""
    one = disk()
    one.on_console(console)
    assert one.flag_sent() is there
    one = disk()
    for number in range(len(console)):
        one.on_console(console[number : number + 1])
        if one.flag_sent():
            break
    assert one.answered() is one.flag_sent()
    assert not one.answered()


def test_a_systems_own_record() -> None:
    """It counts as well as a prompt."""
    one = disk()
    one.on_control_line(b"guestlaunch-exit 0")
    assert not one.flag_sent()
    one.on_control_line(b"guestlaunch-ready")
    assert (one.flag_sent(), one.ready_by) == (True, "the system's record")
    one.note_acknowledged()
    assert (diagnosed(one), diagnosed(one, Event.DEADLINE)) == (None, None)
    assert one.overdue(time.monotonic_ns() + HOUR_NS)


def test_what_the_firmware_starts() -> None:
    """Its own word for the entry is kept; that one entry cannot be loaded is no end yet."""
    one = disk()
    one.on_console(b'BdsDxe: failed to load Boot0001 "UEFI Misc" from X: Not Found\r\n')
    one.on_console(
        b'\x1b[2JBdsDxe: loading Boot0007 "debian" from HD(1)\r\nBdsDxe: starting Boot0007 "debian" from HD(1)\r\n'
    )
    assert one.boot_entry == 'Boot0007 "debian"'
    assert not one.overdue(time.monotonic_ns() + HOUR_NS // 2)


@pytest.mark.parametrize("line", [b"UEFI Interactive Shell v2.2", b">>Start PXE over IPv4.", b"Shell> "])
def test_a_disk_that_does_not_boot(line: bytes) -> None:
    """The firmware goes on to other things."""
    one = disk()
    one.on_console(line + b"\r\n")
    assert one.overdue(time.monotonic_ns() + 10 * 10**9)
    assert str(diagnosed(one, Event.DEADLINE)).startswith("the disk does not boot: phase kernel: ")


def test_a_system_that_does_not_come_up() -> None:
    """It ended, or its time did."""
    assert "the installed system ended" in str(diagnosed(disk()))
    late = disk(timeout_s=0.0)
    assert late.overdue(time.monotonic_ns() + 1)
    assert "the installed system did not come up" in str(diagnosed(late, Event.DEADLINE))
