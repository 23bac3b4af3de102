"""A guest that never stops talking costs its launch neither memory, nor disk, nor time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.channel.console import Console
from orchestrator.channel.control import Control
from orchestrator.channel.port import listening
from orchestrator.channel.ring import ConsoleRing
from orchestrator.domain.arguments import TRACE_EVENTS
from orchestrator.launch.boot import FULL_TRACE, Boot
from orchestrator.launch.stop import Stop
from orchestrator.launch.watch import Watch
from orchestrator.timeline.phases import Phase, Start
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile
from tests.floods import (
    MARKER,
    TracedGuest,
    disk_kib,
    grow,
    listen_to,
    memory_kib,
    silent_guest,
    stuck_client,
    talking,
    written,
)

_BYTES = 48 << 20  # tests/performance has a gigabyte
_MOST_KIB = 5 << 10
_SELECT = b"1383@1795347152.000001:fw_cfg_select 0x55af29530040 key 0x0014 'cmdline_size', ret: 1\n"


@pytest.fixture
def total_bytes() -> int:
    """How much a guest says."""
    return _BYTES


def boot(trace: Path | None) -> Boot:
    return Boot(Recorder(time.monotonic_ns(), Start.WARM), TraceFile(trace) if trace else None, {}, (), "channel0")


@pytest.mark.parametrize("text", [MARKER, b"x", b"\n", b"guestlaunch-marker " + b"y" * 5000 + b" 1 2\n"])
def test_control_port(tmp_path: Path, total_bytes: int, text: bytes) -> None:
    """Markers, one endless line, or nothing but line ends: we stop listening, and keep nothing of it."""
    with listening(tmp_path / "c") as listener:
        control, follower = Control(listener), boot(None)
        control.listener = follower.on_control_line
        before = memory_kib()
        with talking(tmp_path / "c", text, total_bytes) as done:
            listen_to(control.port, done)
            follower.follow()
            assert control.port.fileno() == -1
            assert memory_kib() - before < _MOST_KIB
        control.port.drain()
        control.port.close()


@pytest.mark.parametrize("text", [b"a line of the kernel\r\n", b"\x1b]", b"\xff"])
def test_console(tmp_path: Path, total_bytes: int, text: bytes) -> None:
    """What its client does not read is forgotten, and what is told of it is short."""
    ours, theirs = stuck_client()
    with listening(tmp_path / "c") as listener, ours, theirs:
        console = Console(listener, ConsoleRing(256 << 10), (ours.fileno(), ours.fileno()))
        before = memory_kib()
        with talking(tmp_path / "c", text, total_bytes) as done:
            listen_to(console.port, done)
        console.port.drain()
        assert memory_kib() - before < _MOST_KIB
        assert len(console.ring.content()) == 256 << 10
        assert sum(map(len, console.ring.tail(40))) <= 40 * 401
        console.port.close()


def test_console_of_single_bytes_to_a_client_that_does_not_read(tmp_path: Path) -> None:
    """A serial port comes in small pieces: each costs about as much as without a client, however far that is behind."""

    def cost(client: tuple[int, int] | None, path: Path) -> float:
        with listening(path) as listener:
            console = Console(listener, ConsoleRing(256 << 10), client)
            console._from_guest(bytes(2 << 20))
            began = time.thread_time()
            for _ in range(20_000):
                console._from_guest(b"0123456789abcdef")
            return time.thread_time() - began

    ours, theirs = stuck_client()
    with ours, theirs:
        alone = cost(None, tmp_path / "alone")
        assert cost((ours.fileno(), ours.fileno()), tmp_path / "stuck") < 10 * alone + 0.02


@pytest.fixture
def stop() -> Iterator[Stop]:
    with Stop() as one:
        yield one


def test_a_client_that_does_not_read_is_waited_for_asleep(tmp_path: Path, stop: Stop) -> None:
    """While the guest says nothing and its client takes nothing, the launch's thread does nothing."""
    ours, theirs = stuck_client()
    follower = SimpleNamespace(
        follow=lambda: None, flag_sent=lambda: True, overdue=lambda _: False, flag_due=False, on_control_line=None,
        goes_on=False,
    )  # fmt: skip
    with listening(tmp_path / "c") as listener, listening(tmp_path / "d") as other, ours, theirs:
        console = Console(listener, ConsoleRing(1024), (ours.fileno(), ours.fileno()))
        console._from_guest(bytes(1 << 20))
        place: Any = SimpleNamespace(console=console, control=Control(other), streams=None)
        with Watch(
            silent_guest(log_file=None), place, cast("Any", follower), stop, threading.Event(), trace=None
        ) as watch:
            watch.wait()  # the launch flag
            polls, began = 0, time.monotonic()
            while time.monotonic() - began < 0.5:
                watch._poll()
                polls += 1
        assert polls < 5
        assert console.output_fd >= 0


def test_trace_and_log_stay_small(tmp_path: Path, total_bytes: int) -> None:
    """QEMU is told to trace no more, what it has written goes, and its log is emptied whenever it is long."""
    trace, log = tmp_path / "trace.log", tmp_path / "domain.log"
    guest = TracedGuest(log)
    files = written(guest, trace)
    before = memory_kib()
    follower = boot(trace)
    grow(trace, _SELECT, total_bytes)
    grow(log, b"qemu-system-aarch64: virtio-serial-bus: Guest failure in adding port 1\n", total_bytes)
    follower.follow()
    files.look()
    follower.follow()
    assert sorted(guest.silenced) == sorted(TRACE_EVENTS)
    assert (disk_kib(trace), disk_kib(log)) == (0, 0)
    assert files.suspicious
    assert memory_kib() - before < _MOST_KIB
    grow(log, b"again\n", 1 << 20)
    time.sleep(files.look_ms / 1000)
    files.look()
    assert disk_kib(log) == 0


def test_a_trace_that_was_cut_off_dates_nothing_more(tmp_path: Path) -> None:
    """What was emptied before it was read whole is as good as full: no launch waits for what it would have shown."""
    trace = tmp_path / "trace.log"
    trace.write_bytes(_SELECT * 400)
    following = TraceFile(trace)
    assert following.read_new()
    assert not following.full
    trace.write_bytes(b"")
    assert not following.read_new()
    assert following.full


def test_a_full_trace_dates_nothing_more(tmp_path: Path) -> None:
    """The launch flag is then seen by the port that opens, and the record says why it has no time."""
    trace = tmp_path / "trace.log"
    grow(trace, _SELECT, 1 << 20)
    recorder = Recorder(time.monotonic_ns(), Start.WARM)
    follower = Boot(recorder, TraceFile(trace), {}, (), "channel0")
    follower.follow()
    assert not follower.flag_sent()
    follower.port_opened("channel0", time.monotonic_ns(), "QEMU event")
    follower.follow()
    assert follower.flag_sent()
    recorder.finish()
    assert next(tile.reason for tile in recorder.tiles() if tile.name is Phase.WORKLOAD) == FULL_TRACE


def test_a_usual_launch_is_traced_to_its_flag(tmp_path: Path) -> None:
    """Some hundred lines are left alone; at the flag the trace ends, once."""
    trace = tmp_path / "trace.log"
    grow(trace, _SELECT, 0)
    trace.write_bytes(_SELECT * 400)
    guest = TracedGuest()
    files = written(guest, trace)
    files.look()
    assert guest.silenced == []
    files.stop_tracing()
    files.stop_tracing()
    assert sorted(guest.silenced) == sorted(TRACE_EVENTS)
