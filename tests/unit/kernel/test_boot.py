"""A kernel that is tried, followed by what it shows: how far it is, and what its end means. Nothing is taken for 0."""

from __future__ import annotations

import time

import pytest

from orchestrator.errors import (
    FirmwareRefusalError,
    GuestlaunchError,
    GuestPanicError,
    NoRecordError,
    NoUserSpaceError,
    QemuExitedError,
    TimedOutError,
)
from orchestrator.kernel.boot import Expected, KernelBoot
from orchestrator.kernel.verdict import Cause, judge
from orchestrator.launch.diagnosis import Evidence
from orchestrator.launch.lifecycle import Event
from orchestrator.settings import Deadlines
from orchestrator.timeline.phases import Kind, Phase, Start
from orchestrator.timeline.recorder import Recorder

NUMBER = "00112233445566778899aabbccddeeff"
REFUSAL = (
    b'BdsDxe: failed to load Boot0001 "UEFI Non-Block Boot Device" from VenMedia(1428F772): Not Found\r\n'
    b"UEFI Interactive Shell v2.2\r\n"
)
SECOND_NS = 10**9


def expected(*, own_init: bool = True, program: bool = False) -> Expected:
    return Expected(number=NUMBER, own_init=own_init, program=program, transfers=True, initrd=own_init, traced=True)


def boot(what: Expected, *, timeout_s: float | None = None, deadlines: Deadlines | None = None) -> KernelBoot:
    """Return what follows a guest whose vCPUs run since now."""
    recorder = Recorder(time.monotonic_ns(), Start.COLD, Kind.KERNEL)
    recorder.begin(Phase.FIRMWARE, "test")
    return KernelBoot(recorder, None, deadlines or Deadlines(), what, None, timeout_s=timeout_s)


def seen(exit_code: int | None = 0, phase: Phase = Phase.KERNEL) -> Evidence:
    return Evidence(
        phase=phase, ready=False, exit_code=exit_code, last_line="said", panic=None, allowed_s=5.0, uri=None
    )


def say(one: KernelBoot, *lines: bytes) -> None:
    for line in lines:
        one.on_control_line(line)


def record(status: int, number: str = NUMBER) -> bytes:
    return f"guestlaunch-exit {status} {number}".encode()


def cause(error: GuestlaunchError | None) -> Cause:
    return judge(error, None, acknowledged=False).cause


def test_a_record_that_is_acknowledged_is_the_end() -> None:
    """Markers, the record, its answer, the power off: the status is the command's."""
    one = boot(expected())
    assert not one.flag_sent()
    say(one, b"guestlaunch-marker initrd 1.0 1.1", b"guestlaunch-marker command 1.2 1.2")
    assert one.flag_sent()
    assert not one.answered()
    say(one, record(7))
    assert one.answered()
    assert not one.answered()
    say(one, record(7))
    assert one.answered()  # it asks again where the answer did not come
    assert not one.acknowledged
    one.note_acknowledged()
    assert one.done
    assert one.diagnose(Event.QEMU_GONE, seen()) is None
    assert judge(None, one.status, acknowledged=one.acknowledged).exit_status == 7


@pytest.mark.parametrize(
    "line",
    [
        record(0, "1" * 32),
        b"guestlaunch-exit 0",
        b"guestlaunch-exit 256 " + NUMBER.encode(),
        b"guestlaunch-exit -1 " + NUMBER.encode(),
        b"guestlaunch-exit  0 " + NUMBER.encode(),
        b"x" + record(0),
    ],
)
def test_nothing_else_is_a_record(line: bytes) -> None:
    """Another run's, one without a number, one that is no status: none of them ends a run with 0."""
    one = boot(expected())
    say(one, b"guestlaunch-marker command 1.2 1.2", line)
    assert not one.answered()
    assert isinstance(one.diagnose(Event.QEMU_GONE, seen()), NoRecordError)
    assert judge(None, one.status, acknowledged=one.acknowledged).exit_status != 0


def test_a_user_space_of_the_users_own_may_write_a_record() -> None:
    """It knows no number; its record counts all the same."""
    one = boot(expected(own_init=False))
    say(one, b"guestlaunch-exit 3")
    assert one.flag_sent()
    assert one.answered()
    assert one.status == 3


def test_a_record_that_was_not_acknowledged_is_none() -> None:
    """A guest that ended before it had its answer ended by itself: that is no verdict."""
    one = boot(expected())
    say(one, b"guestlaunch-marker command 1.2 1.2", record(0))
    error = one.diagnose(Event.QEMU_GONE, seen())
    assert cause(error) is Cause.UNJUDGED


def test_a_qemu_whose_status_nobody_tells() -> None:
    """A daemon's QEMU is not our child: the record alone decides."""
    one = boot(expected())
    say(one, b"guestlaunch-marker command 1.2 1.2", record(0))
    assert isinstance(one.diagnose(Event.QEMU_GONE, seen(None)), NoRecordError)
    one.note_acknowledged()
    assert one.diagnose(Event.QEMU_GONE, seen(None)) is None
    assert isinstance(one.diagnose(Event.QEMU_GONE, seen(1)), QemuExitedError)


@pytest.mark.parametrize(
    "console",
    [
        b"[    1.234567] Kernel panic - not syncing: VFS: no root\n",
        b"[    1.234567][    T1] Kernel panic - not syncing: VFS: no root\r\n",
        b"<0>[    1.234567] Kernel panic - not syncing: VFS: no root\n",
    ],
)
def test_a_panic_on_the_console(console: bytes) -> None:
    """It is one with or without time stamps, once the guest has gone, or has had time to go."""
    one = boot(expected())
    one.on_console(b"[    0.000000] Booting Linux\n" + console)
    assert not one.overdue(time.monotonic_ns())
    assert one.overdue(time.monotonic_ns() + 5 * SECOND_NS)
    for event in (Event.QEMU_GONE, Event.DEADLINE):
        error = one.diagnose(event, seen())
        assert isinstance(error, GuestPanicError)
        assert "VFS: no root" in str(error)


def test_a_panic_of_a_kernel_that_does_not_tell_the_time() -> None:
    """Without CONFIG_PRINTK_TIME no line is stamped, that one neither."""
    one = boot(expected())
    one.on_console(b"Booting Linux\r\nKernel panic - not syncing: VFS: no root\r\n")
    assert cause(one.diagnose(Event.QEMU_GONE, seen())) is Cause.PANIC


def test_a_panic_that_only_qemu_was_told_of() -> None:
    """A quiet console is no way out."""
    one = boot(expected())
    one.on_panic()
    assert cause(one.diagnose(Event.QEMU_GONE, seen(exit_code=137))) is Cause.PANIC


def test_a_panic_after_the_record_is_one() -> None:
    """A kernel that panics while it switches the power off is no good one."""
    one = boot(expected())
    say(one, b"guestlaunch-marker command 1.2 1.2", record(0))
    assert one.answered()
    one.note_acknowledged()
    one.on_console(b"[    9.000000] Kernel panic - not syncing: too late\n")
    assert cause(one.diagnose(Event.QEMU_GONE, seen())) is Cause.PANIC


def test_words_about_a_panic_are_none() -> None:
    """Quoted, or printed by a guest that then went on to its record."""
    one = boot(expected())
    one.on_console(
        b"[    1.000000] test: log says Kernel panic - not syncing: no\nsaid: Kernel panic - not syncing: no\n"
    )
    assert isinstance(one.diagnose(Event.QEMU_GONE, seen()), NoRecordError)
    one.on_console(b"Kernel panic - not syncing: quoted at the beginning of a line\n")
    assert isinstance(one.diagnose(Event.QEMU_GONE, seen()), NoRecordError)
    one.on_console(b"[    2.000000] Kernel panic - not syncing: put into the kernel's log\n")
    say(one, b"guestlaunch-marker command 1.2 1.2", record(0))
    assert one.answered()
    one.note_acknowledged()
    assert one.diagnose(Event.QEMU_GONE, seen()) is None


def test_firmware_that_goes_on_to_other_things() -> None:
    """Its own line says so, and a debug build's or the stub's why."""
    one = boot(expected())
    one.on_console(b"EFI stub: ERROR: Failed to relocate kernel\r\n" + REFUSAL)
    assert one.overdue(time.monotonic_ns() + 5 * SECOND_NS)
    error = one.diagnose(Event.DEADLINE, seen(None))
    assert isinstance(error, FirmwareRefusalError)
    assert "Failed to relocate" in str(error)
    assert "Boot0001" in str(error)


def test_a_program_that_comes_back_was_not_refused() -> None:
    """An EFI program that ends is no kernel that was not started; there is no verdict."""
    one = boot(expected(own_init=False, program=True))
    one.on_console(REFUSAL)
    assert cause(one.diagnose(Event.DEADLINE, seen(None))) is Cause.UNJUDGED


def test_what_a_running_kernel_prints_is_no_refusal() -> None:
    """Words of the firmware's in a log of the kernel's are the kernel's."""
    one = boot(expected())
    one.on_console(b"[    0.000000] Booting Linux\n" + REFUSAL)
    assert not one.overdue(time.monotonic_ns() + 5 * SECOND_NS)


def test_phases_have_deadlines_until_the_command_runs() -> None:
    """Then it may take as long as it likes, unless the user says otherwise."""
    deadlines = Deadlines(firmware=10, transfer=10, handoff=10, kernel=10, initrd=10)
    one = boot(expected(), deadlines=deadlines)
    now = time.monotonic_ns()
    assert not one.overdue(now + 40 * SECOND_NS)  # no trace here: transfer, hand-off and kernel are the firmware's time
    assert one.overdue(now + 55 * SECOND_NS)
    assert isinstance(one.diagnose(Event.DEADLINE, seen(None, Phase.FIRMWARE)), NoUserSpaceError)
    one.on_console(b"[    0.000000] Booting Linux\n")
    assert one.current() is Phase.KERNEL
    assert one.overdue(now + 15 * SECOND_NS)
    say(one, b"guestlaunch-marker command 1.2 1.2")
    assert not one.overdue(now + 5000 * SECOND_NS)


def test_the_users_own_time() -> None:
    """It counts from the start of the run, whatever the guest does meanwhile."""
    one = boot(expected(), timeout_s=100)
    say(one, b"guestlaunch-marker command 1.2 1.2")
    assert not one.overdue(time.monotonic_ns() + 50 * SECOND_NS)
    late = boot(expected(), timeout_s=1e-9)
    assert late.overdue(time.monotonic_ns())
    error = late.diagnose(Event.DEADLINE, seen(None))
    assert isinstance(error, TimedOutError)
    assert cause(error) is Cause.TIMED_OUT


def test_what_cannot_be_seen_ends_nothing() -> None:
    """A quiet user space of the user's own may run for ever."""
    one = boot(expected(own_init=False))
    assert one.overdue(time.monotonic_ns() + 10**6 * SECOND_NS)  # a firmware that loads nothing is seen to
    one._recorder.begin(Phase.FIRMWARE_HANDOFF, "test")
    assert not one.overdue(time.monotonic_ns() + 10**6 * SECOND_NS)


def test_power_that_stays_on_takes_nothing_from_a_record() -> None:
    """A kernel without power off: the host ends it, and knows how the command did."""
    one = boot(expected(), deadlines=Deadlines(shutdown=5))
    say(one, b"guestlaunch-marker command 1.2 1.2", record(0))
    assert one.answered()
    one.note_acknowledged()
    assert not one.overdue(time.monotonic_ns())
    assert one.overdue(time.monotonic_ns() + 6 * SECOND_NS)
    assert one.diagnose(Event.DEADLINE, seen(None)) is None


def test_a_record_in_time_is_in_time() -> None:
    """The user's own time may be over while the power is switched off."""
    one = boot(expected(), timeout_s=0.3)
    say(one, b"guestlaunch-marker command 1.2 1.2", record(0))
    one.note_acknowledged()
    time.sleep(0.35)
    assert not one.overdue(time.monotonic_ns())
    assert one.diagnose(Event.QEMU_GONE, seen()) is None


def test_a_qemu_that_fails_is_not_the_kernels_fault() -> None:
    """Its status stops a bisection instead of leading it astray."""
    one = boot(expected())
    error = one.diagnose(Event.QEMU_GONE, seen(exit_code=139))
    assert isinstance(error, QemuExitedError)
    assert judge(error, None, acknowledged=False).exit_status == 128


def test_the_kernel_is_dated_by_its_console() -> None:
    """Of all lines the least delayed one counts; a kernel without markers of ours has a timeline, too."""
    one = boot(expected(own_init=False))
    one.on_console(b"[   90.000000] late\n[  100.000000] Run /init as init process\n[   95.0")
    one.on_console(b"00000] later\n")
    assert one.flag_sent()
    one.settle()
    recorder = one._recorder
    kernel, initrd = recorder.at_ns(Phase.KERNEL), recorder.at_ns(Phase.INITRD)
    assert kernel is not None
    assert initrd is not None
    assert initrd - kernel == 100 * SECOND_NS
    assert abs(time.monotonic_ns() - initrd) < 5 * SECOND_NS
