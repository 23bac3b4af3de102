"""Guests of the embedded driver, with real libvirt and QEMU: started, asked, listened to, ended; and their failures.

The guests have firmware at most: what counts here is what the host sees of them.
"""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# By way of our binding, which keeps libvirt from writing to stderr.
pytest.importorskip("orchestrator.hypervisor.binding", reason="python3-libvirt is not installed")

from orchestrator import errors
from orchestrator.domain.model import Arch
from orchestrator.hypervisor import failure, routing
from orchestrator.hypervisor.binding import libvirt
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.emulator import find_emulator
from orchestrator.hypervisor.events import EventSource, GuestEvent, Lifecycle, StopReason
from orchestrator.hypervisor.fw_cfg import examine
from orchestrator.hypervisor.guest import Guest
from tests.tiny_domains import tiny_domain

Create = Callable[..., Guest]


@pytest.fixture(autouse=True)
def opened_before_leftovers_are_counted(embedded: Connection, no_leftovers: None) -> None:
    """Order the fixtures: the root belongs to the whole session, what one test adds to it does not."""


def test_codes_are_libvirts() -> None:
    """The error and event numbers written down in the room are those of the libvirt in use."""
    for code in failure.Code:
        assert getattr(libvirt, f"VIR_ERR_{code.name}") == code
    for event in Lifecycle:
        assert getattr(libvirt, f"VIR_DOMAIN_EVENT_{event.name}") == event


def test_life_of_a_guest(embedded: Connection, create: Create) -> None:
    """A guest is created paused, runs, answers over QMP, and is gone with QEMU's own status after its end."""
    guest = create(tiny_domain("life"))
    assert guest.pid is not None
    assert f"guest={guest.name},".encode() in Path(f"/proc/{guest.pid}/cmdline").read_bytes()
    assert guest.qmp("query-status")["status"] == "prelaunch"
    guest.resume()
    assert guest.qmp("query-status")["status"] == "running"
    assert embedded.list_names() == ["life"]
    pid = guest.pid
    ending = guest.end(10)
    assert (ending.reason, ending.exit_code, ending.exit_seen, ending.forced) == (StopReason.SHUTDOWN, 0, True, False)
    assert embedded.list_names() == []
    assert not Path(f"/proc/{pid}").exists()
    assert guest.end(1) == ending


def test_a_guest_that_never_ran_ends_too(create: Create) -> None:
    """SIGTERM ends a guest that is still paused."""
    assert create(tiny_domain("paused")).end(10).exit_code == 0


def test_many_launches_leave_the_root_as_it_was(embedded: Connection, create: Create) -> None:
    """Neither files below the root nor descriptors grow with the number of guests."""
    assert embedded.root is not None
    counts = []
    for number in range(4):
        guest = create(tiny_domain(f"again-{number}"))
        guest.end(10)
        assert guest.log_file is not None
        guest.log_file.unlink()
        counts.append((len(list(embedded.root.path.rglob("*"))), len(list(Path("/proc/self/fd").iterdir()))))
    assert len(set(counts[1:])) == 1


def test_two_guests_started_at_once(create: Create) -> None:
    """Guests started by two threads do not get each other's processes."""
    names = ("left", "right")
    guests: queue.SimpleQueue[Guest] = queue.SimpleQueue()
    threads = [threading.Thread(target=lambda n=name: guests.put(create(tiny_domain(n)))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for _ in names:
        guest = guests.get(timeout=1)
        assert f"guest={guest.name},".encode() in Path(f"/proc/{guest.pid}/cmdline").read_bytes()
        assert guest.end(10).exit_seen


def test_events_come_with_host_times(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener gets what it missed, then libvirt's and QEMU's events in order, dated on the monotonic clock."""
    monkeypatch.setattr(routing, "QMP_EVENTS", {"RESUME", "SHUTDOWN"})  # a guest without any program has no others
    before_ns = time.monotonic_ns()
    guest = create(tiny_domain("events"))
    seen: list[GuestEvent] = []
    stop = guest.on_event(seen.append)
    guest.resume()
    guest.end(10)
    stop()
    names = [(event.source, event.name) for event in seen]
    assert names[0] == (EventSource.LIBVIRT, "started")
    assert names[-1] == (EventSource.LIBVIRT, "stopped")
    assert names.index((EventSource.QEMU, "RESUME")) < names.index((EventSource.QEMU, "SHUTDOWN"))
    shutdown = next(event for event in seen if event.name == "SHUTDOWN")
    assert shutdown.detail == {"guest": False, "reason": "host-signal"}
    after_ns = time.monotonic_ns()
    for event in seen:
        assert before_ns <= event.received_ns <= after_ns
        if event.source is EventSource.QEMU:
            assert event.emitted_ns is not None
            assert before_ns <= event.emitted_ns <= event.received_ns


def test_killed_qemu_is_noticed_at_once(create: Create) -> None:
    """Somebody's SIGKILL on QEMU is noticed within a second, with the status a shell would show."""
    guest = create(tiny_domain("killed"))
    guest.resume()
    assert guest.pid is not None
    start = time.monotonic()
    os.kill(guest.pid, signal.SIGKILL)
    assert guest.exited.wait(1)
    assert guest.wait_exited(0) == 137
    assert guest.wait_gone(5 - (time.monotonic() - start)).reason in {StopReason.FAILED, StopReason.CRASHED}
    with pytest.raises(errors.QemuExitedError, match="137"):
        guest.qmp("query-status")


def test_stuck_qemu_is_killed_after_its_deadline(create: Create) -> None:
    """A QEMU that does not react to SIGTERM is killed when the deadline has passed, and the ending says so."""
    guest = create(tiny_domain("stuck"))
    assert guest.pid is not None
    os.kill(guest.pid, signal.SIGSTOP)
    with pytest.raises(errors.MonitorError, match=r"no answer within 0\.3 s"):
        guest.qmp("query-status", deadline_s=0.3)
    start = time.monotonic()
    ending = guest.end(0.5)
    assert ending.forced
    assert ending.exit_code == 137
    assert 0.5 <= time.monotonic() - start < 5


def test_waiting_for_a_running_guest_has_a_deadline(create: Create) -> None:
    """Waiting for the end of a guest that runs on is an error after the time given."""
    guest = create(tiny_domain("runs-on"))
    with pytest.raises(errors.DeadlineError):
        guest.wait_gone(0.2)
    with pytest.raises(errors.DeadlineError):
        guest.wait_exited(0.2)


def test_qmp_error_names_its_class(create: Create) -> None:
    """QEMU's refusal of a command is a monitor error with QEMU's class and words."""
    guest = create(tiny_domain("qmp"))
    with pytest.raises(errors.MonitorError, match="DeviceNotFound: Device '/nothing' not found"):
        guest.qmp("qom-get", {"path": "/nothing", "property": "x"})


@pytest.mark.parametrize("arch", list(Arch))
@pytest.mark.parametrize("dma", [True, False])
def test_fw_cfg_evidence(embedded: Connection, create: Create, arch: Arch, dma: bool) -> None:
    """Property, device tree and the register itself tell DMA on from off; the window's size alone does not."""
    pytest.importorskip("libfdt", reason="python3-libfdt is not installed")
    assert embedded.root is not None
    evidence = examine(create(tiny_domain("fw-cfg", arch, dma=dma)), arch, embedded.root.path)
    assert evidence.unseen == ""
    assert evidence.dma_enabled is dma
    assert evidence.register_answers is dma
    assert evidence.agrees
    if arch is Arch.AARCH64:
        assert evidence.node is not None
        assert (evidence.node.path, evidence.node.size) == ("/fw-cfg@9020000", 0x18)
        assert evidence.node.base == 0x9020000
        assert evidence.node.holds_dma_register
    else:
        assert evidence.node is None


def test_disk_in_use_names_the_disk(create: Create, tmp_path: Path) -> None:
    """A disk that another writer holds is named, and the guest that wanted it leaves nothing."""
    image = tmp_path / "with space, comma.img"
    image.write_bytes(bytes(1 << 20))
    create(tiny_domain("writer", disk=image))
    with pytest.raises(errors.DiskInUseError) as caught:
        create(tiny_domain("second", disk=image))
    assert str(image) in str(caught.value)


def test_users_disk_keeps_its_owner(create: Create, tmp_path: Path) -> None:
    """The root user's driver neither changes a disk's owner nor needs it changed."""
    if os.getuid() != 0:
        pytest.skip("only the superuser's libvirt could change owners")
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    image.chmod(0o600)
    os.chown(image, 65534, 65534)
    guest = create(tiny_domain("owner", disk=image))
    assert image.stat().st_uid == 65534
    guest.end(5)
    assert image.stat().st_uid == 65534
    assert os.listxattr(image) == []


def test_missing_disk_is_not_found(create: Create, tmp_path: Path) -> None:
    """A disk that is not there is a NotFoundError with its path."""
    with pytest.raises(errors.NotFoundError, match=r"gone\.img"):
        create(tiny_domain("no-disk", disk=tmp_path / "gone.img"))


def test_missing_emulator_is_a_capability(create: Create) -> None:
    """A domain whose QEMU is not installed says so."""
    xml = tiny_domain("no-qemu").replace("/qemu-system-aarch64<", "/qemu-system-none<")
    with pytest.raises(errors.CapabilityError, match="qemu-system-none"):
        create(xml)


def test_a_guest_that_comes_too_late(embedded: Connection) -> None:
    """A start that takes longer than it may is one clear error, and what comes of it after all is ended."""
    with pytest.raises(errors.DeadlineError, match="GUESTLAUNCH_DEADLINE_CREATE allows more"):
        embedded.create(tiny_domain("late"), deadline_s=0.001)
    assert embedded.root is not None
    log, pid_file = embedded.root.domain_log("late"), embedded.root.pid_file("late")
    end = time.monotonic() + 60
    while not log.exists() or pid_file.exists() or "late" in embedded.list_names():
        assert time.monotonic() < end
        time.sleep(0.05)
    log.unlink()


def test_name_in_use(create: Create) -> None:
    """A second guest of a name is refused, and the first one lives on."""
    guest = create(tiny_domain("same"))
    with pytest.raises(errors.HypervisorError, match="choose another name"):
        create(tiny_domain("same"))
    assert guest.qmp("query-status")["status"] == "prelaunch"


def test_bad_xml(create: Create) -> None:
    """XML that is none, and XML that libvirt refuses, are errors of their own, not of this code."""
    with pytest.raises(errors.HypervisorError, match="cannot read the domain's XML"):
        create("<domain")
    with pytest.raises(errors.HypervisorError):
        create(tiny_domain("bad").replace("<vcpu>1<", "<vcpu>some<"))


def test_qemus_own_refusal_is_shown(create: Create) -> None:
    """What QEMU says on stderr when it does not start is the reason shown, and it is reaped."""
    with pytest.raises(errors.HypervisorError, match="no-such-option") as caught:
        create(tiny_domain("refused", qemu_args=("-no-such-option",)))
    assert "\n" not in str(caught.value)


def test_define_start_undefine(embedded: Connection) -> None:
    """A stored domain is started, ended, and forgotten."""
    assert embedded.define(tiny_domain("stored")) == "stored"
    try:
        guest = embedded.start("stored", paused=True)
        assert guest.end(10).exit_code == 0
        assert guest.wait_gone(5).reason is StopReason.SHUTDOWN
        assert guest.log_file is not None
        guest.log_file.unlink()
        assert embedded.list_names() == ["stored"]
    finally:
        embedded.undefine("stored")
    assert embedded.list_names() == []
    with pytest.raises(errors.NotFoundError):
        embedded.start("stored")


def test_versions_are_those_of_the_programs(embedded: Connection) -> None:
    """The version of libvirt and the emulator's are reported as dotted numbers."""
    versions = embedded.versions(find_emulator(Arch.AARCH64))
    assert versions.libvirt.count(".") == 2
    assert versions.qemu is not None
    assert int(versions.qemu.split(".")[0]) >= 6


def test_write_lock_of_another_program(create: Create, tmp_path: Path) -> None:
    """A lock that is not a guest's counts as use too."""
    image = tmp_path / "held.img"
    image.write_bytes(bytes(1 << 20))
    with image.open("r+b") as held:
        # QEMU's locking protocol (block/file-posix.c): byte 100 + permission, here "write" held, and 200 + "unshared".
        # 16-bit l_type and l_whence, then start, length and a pid that must be 0 for an open file description lock.
        for byte in (101, 201):
            lock = fcntl.F_RDLCK.to_bytes(2, "little") + bytes(6)
            lock += byte.to_bytes(8, "little") + (1).to_bytes(8, "little") + bytes(8)
            fcntl.fcntl(held, fcntl.F_OFD_SETLK if hasattr(fcntl, "F_OFD_SETLK") else 37, lock)
        with pytest.raises(errors.DiskInUseError, match=r"held\.img"):
            create(tiny_domain("wants-it", disk=image))
