"""How far a kernel that is tried has come, and what its end means: trace, markers, console, panic device, exit record.

The record is the guest's word, over virtio-serial, that its command has ended and how; it carries this run's number,
and counts once all of the output is there. Nothing else means success. What cannot be seen ends nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.channel.port import LineBuffer
from orchestrator.channel.ring import escape
from orchestrator.channel.streams import Streams
from orchestrator.errors import (
    FirmwareRefusalError,
    GuestlaunchError,
    GuestPanicError,
    NoRecordError,
    NoUserSpaceError,
    QemuExitedError,
    TimedOutError,
)
from orchestrator.launch.boot import FULL_TRACE, merge_unseen
from orchestrator.launch.diagnosis import Evidence, deadline_variable, diagnose
from orchestrator.launch.lifecycle import Event
from orchestrator.settings import Deadlines
from orchestrator.timeline.markers import Marker, marker_boundaries, parse_marker
from orchestrator.timeline.phases import TRANSFER_PHASES, Boundary, Phase
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile, transfer_boundaries
from orchestrator.timeline.trace_lines import Blob

_RECORD = re.compile(rb"guestlaunch-exit (\d{1,3})(?: ([0-9a-f]{1,64}))?\r?")
# A line of the kernel's as CONFIG_PRINTK_TIME has it, with or without the thread or CPU that wrote it.
_STAMPED = re.compile(rb"(?:<\d{1,3}>)?\[ {0,12}(\d{1,10})\.(\d{6})\](?:\[ *[CT]\d+\])? (.*)", re.DOTALL)
_PANIC = re.compile(rb"Kernel panic - not syncing: ?(.{0,400})")
_FIRST_PROGRAM = re.compile(rb"Run (/\S{0,200}) as init process")
# What edk2 says when it goes on to other things than the kernel: that one came back, or was none. Its release builds
# say nothing of why; debug builds do, and their line comes with the console's tail.
_FALLS_BACK = re.compile(rb"BdsDxe: |UEFI Interactive Shell|Press ESC in \d+ seconds to skip|^Shell> ?$|>>Start PXE")
_MARKED = {"initrd": Phase.INITRD, "command": Phase.WORKLOAD}
_STUB = re.compile(rb"EFI stub: (?:ERROR|WARNING): .{0,200}")
# After a panic, or a refusal, what else is said of it comes within this.
_LAST_WORDS_NS = 3_000_000_000
_SOURCE = "time stamps on the console"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a run's guest is known to do.

    :ivar number: the run's own.
    :ivar own_init: our init is the guest's first program, so that markers and a record will come.
    :ivar numbered: whoever writes the record knows the number.
    :ivar program: what is started is an EFI program: firmware goes on behind it.
    :ivar transfers: firmware loads what there is over fw_cfg; `initrd` tells whether there is one.
    :ivar traced: QEMU's trace is on.
    """

    number: str
    own_init: bool
    program: bool
    transfers: bool
    initrd: bool
    traced: bool
    numbered: bool = False

    @property
    def blobs(self) -> frozenset[Blob]:
        """What firmware loads."""
        return frozenset({Blob.KERNEL, Blob.INITRD} if self.initrd else {Blob.KERNEL})


def limits(deadlines: Deadlines, expected: Expected) -> Mapping[Phase, float]:
    """Return the seconds that each phase may take of which an end can be seen.

    Where the user's own initrd tells nothing, no later one is bounded than that in which the firmware loads it.
    """
    allowed = {
        Phase.FIRMWARE: deadlines.firmware,
        Phase.FW_CFG_KERNEL: deadlines.transfer,
        Phase.FW_CFG_INITRD: deadlines.transfer,
        Phase.FIRMWARE_HANDOFF: deadlines.handoff,
        Phase.KERNEL: deadlines.kernel,
        Phase.INITRD: deadlines.initrd,
    }
    if expected.own_init:
        return allowed
    seen = (Phase.FIRMWARE, *TRANSFER_PHASES) if expected.transfers and expected.traced else ()
    return {phase: allowed[phase] for phase in seen}


class KernelBoot:
    """Follows one kernel that is tried; see `orchestrator.launch.watch.FollowedLaunch`.

    :param streams: those of the command, None where none is run.
    :param timeout_s: how long the run may take in all.

    :ivar status: how the command ended, by its record; None until that came.
    :ivar acknowledged: the guest was told that its record is here.
    """

    flag_due = False
    goes_on = True
    falls_back = _FALLS_BACK

    def __init__(
        self,
        recorder: Recorder,
        trace: TraceFile | None,
        deadlines: Deadlines,
        expected: Expected,
        streams: Streams | None,
        *,
        timeout_s: float | None = None,
    ) -> None:
        self._recorder, self._trace, self._expected, self._streams = recorder, trace, expected, streams
        self._timeout_s, self._shutdown_s = timeout_s, deadlines.shutdown
        self._lines = LineBuffer(self._on_console_line)
        self._markers: dict[str, Marker] = {}
        self._zero_ns: int | None = None  # when the kernel's clock began, by its console
        self._first_program_uptime_ns: int | None = None
        self._kernel_seen_ns: int | None = None
        self._sign_ns = 0
        self._panic: tuple[int, str] | None = None
        self._panicked = False  # its kernel told QEMU so
        self._refused: tuple[int, str] | None = None
        self._stub: str | None = None
        self._record_ns: int | None = None
        self._answer_due = False
        self._acknowledged_ns: int | None = None
        self.status: int | None = None
        observed = {Phase.FIRMWARE, Phase.INITRD}
        if expected.transfers and trace is not None:
            observed |= {*TRANSFER_PHASES, Phase.FIRMWARE_HANDOFF}
        self._limits = limits(deadlines, expected)
        self._allowed = merge_unseen(self._limits, observed, recorder.sequence)

    @property
    def acknowledged(self) -> bool:
        """Whether the guest was told that its record is here."""
        return self._acknowledged_ns is not None

    @property
    def done(self) -> bool:
        """Whether there is a record."""
        return self.acknowledged

    def current(self) -> Phase:
        """Return the latest phase whose beginning was seen."""
        phase, sequence = self._recorder.current(), self._recorder.sequence
        if self._kernel_seen_ns is not None and sequence.index(phase) < sequence.index(Phase.KERNEL):
            return Phase.KERNEL
        return phase

    def on_control_line(self, line: bytes) -> None:
        """Take a line that the guest wrote to its control port."""
        now = time.monotonic_ns()
        marker = parse_marker(line, now)
        if marker is not None:
            self._sign_ns = now
            if marker.name in _MARKED:
                self._markers.setdefault(marker.name, marker)
            if marker.name == "command" and self._streams is not None:
                self._streams.stdin.open()
            return
        record = _RECORD.fullmatch(line)
        if record is None or int(record[1]) > 255 or self.acknowledged:
            return
        if (self._expected.own_init or self._expected.numbered) and (
            record[2] or b""
        ).decode() != self._expected.number:
            return
        self._panic = None  # what was printed was no panic: the guest lives
        self._record_ns, self.status = now, int(record[1])
        self._answer_due = True

    def on_console(self, block: bytes) -> None:
        """Take what the guest wrote to its serial console."""
        self._lines.feed(block)

    def on_panic(self) -> None:
        """Take note that the guest's kernel told QEMU of its panic. May be called on another thread."""
        self._panicked = True

    def _on_console_line(self, raw: bytes) -> None:
        now, line = time.monotonic_ns(), raw.rstrip(b"\r").lstrip(b"\r")
        stamped = _STAMPED.fullmatch(line)
        text = stamped[3] if stamped is not None else line
        if stamped is not None:
            uptime_ns = int(stamped[1]) * 10**9 + int(stamped[2]) * 1000
            zero = now - uptime_ns
            self._zero_ns = zero if self._zero_ns is None else min(zero, self._zero_ns)
            self._kernel_seen_ns = self._kernel_seen_ns or now
            if self._first_program_uptime_ns is None and _FIRST_PROGRAM.match(text):
                self._first_program_uptime_ns = uptime_ns
        # A kernel that puts its time before each line does so before this one: without it, somebody else's words.
        its_own = stamped is not None or self._kernel_seen_ns is None
        if self._panic is None and its_own and (panic := _PANIC.match(text)):
            self._panic = (now, escape(panic[1]))
        if stub := _STUB.match(line):
            self._stub = escape(stub[0])
        if self._refused is None and self._kernel_seen_ns is None and self.falls_back.search(escape(line).encode()):
            self._refused = (now, escape(line).strip())

    def port_opened(self, alias: str, at_ns: int, source: str, *, opened: bool = True) -> None:
        """Ports tell nothing here: firmware opens them as well."""

    def follow(self) -> None:
        """Bring the recorder up to date with the trace and the markers."""
        if self._trace is not None and self._trace.read_new() and self._expected.transfers:
            found = transfer_boundaries(self._trace.selections, self._recorder.anchor, self._expected.blobs)
            self._recorder.take(found)
        self._recorder.take(self._marked())

    def _marked(self) -> dict[Phase, Boundary]:
        found = marker_boundaries(self._markers.values(), _MARKED)
        found.pop(Phase.KERNEL, None)  # an estimate that later lines improve: `settle` takes it
        return found

    def flag_sent(self) -> bool:
        """Tell whether the command runs; without one, whether there is a user space."""
        if self._expected.own_init:
            return "command" in self._markers
        return "initrd" in self._markers or self._first_program_uptime_ns is not None or self._record_ns is not None

    def answered(self) -> bool:
        """Tell, once, whether the record is here and the client has all of the output."""
        if not self._answer_due or (self._streams is not None and not self._streams.whole):
            return False
        self._answer_due = False
        return True

    def note_acknowledged(self) -> None:
        """Take note that the guest was told so."""
        self._acknowledged_ns = self._acknowledged_ns or time.monotonic_ns()

    def served(self, until_ns: int) -> bool:
        """Tell whether the command ran, or user space was there, before the end was asked for."""
        del until_ns
        return self.flag_sent()

    def overdue(self, now_ns: int) -> bool:
        """Tell whether the guest can only be ended: it was refused, has panicked, or has gone on for too long."""
        if self._timed_out(now_ns):
            return True
        for said in (self._refused, self._panic):
            if said is not None and now_ns - said[0] > _LAST_WORDS_NS:
                return True
        if self._acknowledged_ns is not None:
            return now_ns - self._acknowledged_ns > self._shutdown_s * 1e9
        if self._record_ns is not None:
            ended = self._streams is None or all(output.ended for output in self._streams.outputs)
            return not ended and now_ns - self._record_ns > self._shutdown_s * 1e9
        if self.flag_sent():
            return False
        phase = self.current()
        seconds = self.allowed_s(phase)
        began = self._recorder.at_ns(phase) or self._kernel_seen_ns or now_ns
        return seconds is not None and now_ns - max(began, self._sign_ns) > seconds * 1e9

    def _timed_out(self, now_ns: int) -> bool:
        if self._timeout_s is None or self.acknowledged:
            return False
        return now_ns - self._recorder.origin_ns > self._timeout_s * 1e9

    def allowed_s(self, phase: Phase) -> float | None:
        """Return how long a phase may take, in seconds, those after it that cannot be seen included; None: no bound."""
        if phase is Phase.KERNEL:
            return self._limits.get(phase)
        return self._allowed.get(phase)

    def settle(self) -> None:
        """Take the last of the trace, and the final estimate of the kernel's start."""
        self.follow()
        by_marker = marker_boundaries(self._markers.values(), _MARKED).get(Phase.KERNEL)
        if by_marker is not None:
            self._recorder.take({Phase.KERNEL: by_marker})
        if self._zero_ns is not None:
            self._recorder.take({Phase.KERNEL: Boundary(at_ns=self._zero_ns, source=_SOURCE)})
            if self._first_program_uptime_ns is not None:
                began = self._zero_ns + self._first_program_uptime_ns
                self._recorder.take({Phase.INITRD: Boundary(at_ns=began, source=_SOURCE)})

    def proof_failures(self) -> tuple[str, ...]:
        """Return why the dates of a run prove nothing; no reasons if all is well."""
        if self._trace is None or not self._expected.transfers:
            return ()
        if self._trace.full:
            return (f"{FULL_TRACE}",)
        if self._trace.why_unreadable is not None:
            return (f"QEMU's trace tells nothing: {self._trace.why_unreadable}",)
        wanted = TRANSFER_PHASES if self._expected.initrd else TRANSFER_PHASES[:1]
        missing = [str(phase) for phase in wanted if self._recorder.at_ns(phase) is None]
        return (f"no transfer was seen: {', '.join(missing)}",) if missing else ()

    def diagnose(self, event: Event, seen: Evidence) -> GuestlaunchError | None:
        """Return why a guest ended; None for one whose record was acknowledged."""
        last = f"the console's last line: {seen.last_line}" if seen.last_line else "the console is empty"
        where = f"phase {seen.phase}"
        if event is Event.FAILED or (seen.broken and event is Event.QEMU_GONE):
            return diagnose(event, seen)
        if self._panicked or self._panic is not None:
            words = self._panic[1] if self._panic is not None else last
            return GuestPanicError("the kernel panicked", where, words)
        if self._refused is not None and self._record_ns is None:
            return self._returned(where, self._refused[1])
        if event is Event.DEADLINE:
            return self._late(where, last, seen)
        if seen.exit_code not in {0, None}:  # None: a daemon's QEMU, whose status nobody tells us
            return QemuExitedError("QEMU failed", where, f"exit status {seen.exit_code}; {last}")
        if self.acknowledged:
            return None
        hint = "a program of yours may write it: guestlaunch help exit-status" if not self._expected.own_init else ""
        return NoRecordError("the guest ended without an exit record", where, last, hint)

    def _returned(self, where: str, line: str) -> GuestlaunchError:
        """Return what it means that the firmware went on to other things."""
        if self._expected.program:
            return NoRecordError("the EFI program came back to the firmware", where, f"which went on: {line}")
        why = f"it went on to other things: {line}"
        if self._stub is not None:
            why = f"{self._stub}; then {why}"
        return FirmwareRefusalError("the firmware did not start the kernel", where, why)

    def _late(self, where: str, last: str, seen: Evidence) -> GuestlaunchError | None:
        if self._timed_out(time.monotonic_ns()):
            return TimedOutError("the run was not over in time", where, f"{self._timeout_s:g} s; {last}")
        if self.acknowledged:
            return None  # how the command ended is known; that the power stays on is another matter
        if self._record_ns is not None:
            why = f"its exit record came, and not the end of its output within {self._shutdown_s:g} s"
            return NoRecordError("the command's output is not whole", where, why)
        hint = f"GUESTLAUNCH_{deadline_variable(seen.phase)} allows more"
        return NoUserSpaceError("no user space", where, f"not over after {seen.allowed_s} s; {last}", hint)
