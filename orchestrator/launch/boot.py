"""How far a boot, or a clone behind its gate, has come: trace, markers and port events, with a deadline a phase.

A deadline counts from the last sign of progress: the beginning of the phase, or any marker of the guest's since.
What cannot be seen ends nothing: that some time has passed is no evidence of a launch flag, nor of its absence.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from orchestrator.errors import GuestlaunchError
from orchestrator.launch.diagnosis import Evidence, diagnose
from orchestrator.launch.lifecycle import Event
from orchestrator.settings import Deadlines
from orchestrator.timeline.markers import Marker, dates_a_phase, marker_boundaries, parse_marker
from orchestrator.timeline.phases import ORDER_TOLERANCE_NS, TRANSFER_PHASES, Boundary, Phase
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile, flag_boundary, opened_boundary, transfer_boundaries

_FLAG_SOON_NS = 2_000_000_000
_MARKED = (Phase.INITRD, Phase.INIT, Phase.GUESTFSD)
# libvirt's alias of the first channel of a domain, which `design` makes guestfsd's.
GUESTFSD_ALIAS = "channel0"
NO_MARKERS = "the appliance sends no markers"
NO_MARKER = "the appliance's init is libguestfs's own, which sends no markers"
NO_TRACE = "QEMU's trace is off"
NO_FLAG = "QEMU's trace did not show the launch flag"
FULL_TRACE = "the guest had QEMU trace more than a launch does"
# QEMU reports of one port at most once a second, and what is true at the end of that second in any case.
_REPORTED_NS = 2_000_000_000
# A guest tells its uptime in hundredths of a second.
_UPTIME_NS = 10_000_000


def limits(deadlines: Deadlines, *, silent: bool = False) -> Mapping[Phase, float]:
    """Return the seconds that each phase of a boot may take.

    :param silent: the appliance's init tells nothing, so that only the two phases together can be bounded.
    """
    return {
        Phase.FIRMWARE: deadlines.firmware,
        Phase.FW_CFG_KERNEL: deadlines.transfer,
        Phase.FW_CFG_INITRD: deadlines.transfer,
        Phase.FIRMWARE_HANDOFF: deadlines.handoff,
        Phase.KERNEL: deadlines.kernel,
        Phase.INITRD: deadlines.initrd,
        Phase.INIT: deadlines.silent if silent else deadlines.init,
        Phase.GUESTFSD: 0.0 if silent else deadlines.guestfsd,
        # Behind the gate a clone does what a cold boot does in its init: whatever boots cold must start warm, too.
        Phase.GATE: max(deadlines.gate, deadlines.init),
    }


class Boot:
    """Follows one boot, or a clone's way from its gate.

    :param observed: phases whose beginning can be seen while the guest boots; the time allowed to a phase that
        cannot be seen is added to the one before it.
    :param guestfsd_alias: libvirt's alias of guestfsd's channel.
    :param awaits: name of the marker that the host is to answer; `answered` reports it once.
    :param measured: the trace is there to date the launch, and not only to see that it is ready.
    """

    def __init__(
        self,
        recorder: Recorder,
        trace: TraceFile | None,
        allowed: Mapping[Phase, float],
        observed: Collection[Phase],
        guestfsd_alias: str | None,
        *,
        awaits: str | None = None,
        measured: bool = True,
    ) -> None:
        self._recorder, self._trace, self._measured = recorder, trace, measured
        self._alias = guestfsd_alias
        self._transfers = Phase.FW_CFG_KERNEL in observed
        self._allowed = merge_unseen(allowed, observed, recorder.sequence)
        self._tells_of_guestfsd = Phase.GUESTFSD in observed
        self._awaits, self._answered = awaits, False
        self._opened: Boundary | None = None  # by QEMU's events, whoever opened it
        self._heard_ns: int | None = None  # when we learned that somebody had opened the port
        self._opened_ns: int | None = None  # when we learned that guestfsd had
        self._sign_ns = 0
        self._markers: dict[str, Marker] = {}

    goes_on = False
    done = True

    @property
    def flag_due(self) -> bool:
        """Tell whether guestfsd's channel was just opened, so that its launch flag follows at once."""
        opened_ns = self._opened_ns if self._tells_of_guestfsd else self._heard_ns
        return opened_ns is not None and time.monotonic_ns() - opened_ns < _FLAG_SOON_NS

    def current(self) -> Phase:
        """Return the latest phase whose beginning was seen."""
        return self._recorder.current()

    def on_control_line(self, line: bytes) -> None:
        """Take a line that the guest wrote to its control port."""
        marker = parse_marker(line, time.monotonic_ns())
        if marker is None:
            return
        self._sign_ns = marker.received_ns
        # The first of each name counts. A guest may send as many as it likes: no more than these are held.
        if dates_a_phase(marker):
            self._markers.setdefault(marker.name, marker)
        elif marker.name == self._awaits:
            self._awaits, self._answered = None, True

    def answered(self) -> bool:
        """Tell, once, whether the guest has sent the marker that the host is to answer."""
        answered, self._answered = self._answered, False
        return answered

    def port_opened(self, alias: str, at_ns: int, source: str, *, opened: bool = True) -> None:
        """Take note that the guest opened or closed a virtio-serial port."""
        if self._alias is not None and alias == self._alias:
            self._opened = Boundary(at_ns=at_ns, source=source) if opened else None
            self._heard_ns = time.monotonic_ns() if opened else self._heard_ns

    def follow(self) -> None:
        """Bring the recorder up to date with the trace and the markers."""
        if self._trace is not None and self._trace.read_new() and self._transfers:
            # An initrd that travels alone, where QEMU itself places the kernel, has no end that could be seen.
            self._recorder.take(transfer_boundaries(self._trace.selections, self._recorder.anchor))
        # The kernel's start is an estimate that later markers improve: `settle` takes it last.
        found = marker_boundaries(self._markers.values())
        self._recorder.take({phase: boundary for phase, boundary in found.items() if phase is not Phase.KERNEL})
        opened = self._opening(found)
        if opened is not None:
            self._recorder.take({Phase.READY: opened})
            self._opened_ns = self._opened_ns or time.monotonic_ns()

    def _opening(self, found: Mapping[Phase, Boundary]) -> Boundary | None:
        """Return when guestfsd opened its port. Firmware may open all ports, too.

        Where the guest tells of guestfsd, no opening before that is guestfsd's. Where it does not, the launch flag says
        which one was: the last before it.

        :param found: what the markers say.
        """
        trace = self._trace
        traced = opened_boundary(trace, self._recorder.anchor) if trace is not None else None
        if not self._tells_of_guestfsd:
            return traced if trace is not None and trace.flag_ns is not None else None
        if Phase.GUESTFSD not in found:
            return None
        # The trace forgets what firmware did as soon as the kernel's driver takes the device. QEMU's events may tell
        # of it so late that firmware's opening still stands: its date, or what they have reported since, shows that.
        if traced is not None or self._opened is None:
            return traced
        told_ns = self._markers[str(Phase.GUESTFSD)].received_ns
        late = self._opened.at_ns >= found[Phase.KERNEL].at_ns - _UPTIME_NS
        return self._opened if late or time.monotonic_ns() - told_ns > _REPORTED_NS else None

    @property
    def _open_unseen(self) -> bool:
        """Whether only QEMU's events show that the port is open, since there is no trace to show anything."""
        blind = self._trace is None or self._trace.full or self._trace.why_unreadable is not None
        return blind and self._opened is not None

    def proof_failures(self) -> tuple[str, ...]:
        """Return why the dates of a launch that was ready prove nothing; no reasons if all is well.

        What was not asked for is no failure, nor what no launch can have in the same circumstances.
        """
        if self._trace is None or not self._measured:
            return ()
        if self._trace.why_unreadable is not None:
            return (f"QEMU's trace tells nothing: {self._trace.why_unreadable}",)
        failures = []
        if self._transfers:
            kernel, initrd = (self._recorder.at_ns(phase) is not None for phase in TRANSFER_PHASES)
            if initrd and not kernel:
                failures.append("an initrd went over fw_cfg, and no kernel did that is known of")
            elif not (kernel and initrd):
                failures.append("no transfer of the initrd was seen" if kernel else "no transfer was seen")
        if self._recorder.at_ns(Phase.WORKLOAD) is None:
            failures.append("the launch flag was not seen, although QEMU's trace was on")
        return tuple(failures)

    def flag_sent(self) -> bool:
        """Tell whether the tool has its launch flag, and note when; without a trace, the open port must do."""
        # QEMU may report that the port is open later than it is, as it limits the rate of these reports.
        boundary = flag_boundary(self._trace, self._recorder.anchor) if self._trace is not None else None
        if boundary is not None:
            self._recorder.take({Phase.WORKLOAD: boundary})
            return True
        if self._trace is None or self._trace.full:
            if self._opened_ns is None and (self._tells_of_guestfsd or self._opened is None):
                return False
            self._recorder.unseen(Phase.WORKLOAD, NO_TRACE if self._trace is None else FULL_TRACE)
            return True
        if self._trace.used:
            self._recorder.unseen(Phase.WORKLOAD, NO_FLAG)
            return True
        return False

    def served(self, until_ns: int) -> bool:
        """Tell, once QEMU is gone, whether the tool had its guest before it asked for the end.

        A trace that is whole says so for certain. One that did not even show guestfsd's port, of which QEMU's events
        told, is not whole: then the tool, which asked for the end in order, is believed.
        """
        flag = flag_boundary(self._trace, self._recorder.anchor) if self._trace is not None else None
        if flag is not None and flag.at_ns > until_ns + ORDER_TOLERANCE_NS:
            return False
        if self.flag_sent():
            return True
        whole = self._trace is not None and self._trace.opened_ns is not None
        told = str(Phase.GUESTFSD) in self._markers or not self._tells_of_guestfsd
        if whole or not (self._opened_ns is not None or (told and self._opened is not None)):
            return False
        self._recorder.unseen(Phase.WORKLOAD, NO_FLAG)
        return True

    def overdue(self, now_ns: int) -> bool:
        """Tell whether the current phase has gone on for longer than it may without a sign of progress."""
        if not self._tells_of_guestfsd and self._open_unseen:
            return False  # it may be ready, and nothing would show it
        phase = self.current()
        began = self._recorder.at_ns(phase)
        seconds = self._allowed.get(phase)
        return began is not None and seconds is not None and now_ns - max(began, self._sign_ns) > seconds * 1e9

    def allowed_s(self, phase: Phase) -> float | None:
        """Return how long a phase may take, in seconds, those after it that cannot be seen included; None: no bound."""
        return self._allowed.get(phase)

    def diagnose(self, event: Event, seen: Evidence) -> GuestlaunchError | None:
        """Return why the guest ended; None when it had served its tool and ended normally."""
        return diagnose(event, seen)

    def settle(self) -> None:
        """Take the last of the trace and the final estimate of the kernel's start."""
        self.follow()
        kernel: Boundary | None = marker_boundaries(self._markers.values()).get(Phase.KERNEL)
        if kernel is not None:
            self._recorder.take({Phase.KERNEL: kernel})


def merge_unseen(
    allowed: Mapping[Phase, float], observed: Collection[Phase], sequence: Sequence[Phase]
) -> Mapping[Phase, float]:
    """Add the time of each phase that cannot be seen to the last one before it that can."""
    merged: dict[Phase, float] = {}
    holder: Phase | None = None
    for phase in sequence:
        if phase not in allowed:
            continue
        if holder is None or phase in observed:
            holder = phase
            merged[phase] = 0.0
        merged[holder] += allowed[phase]
    return merged


def observed_phases(*, traced: bool, transfers: bool, markers: Collection[str]) -> set[Phase]:
    """Return the phases whose beginning can be seen live.

    :param traced: QEMU's trace is followed; `transfers`: there is firmware that loads over fw_cfg.
    :param markers: events that the appliance tells of.
    """
    seen = {Phase.FIRMWARE}
    if traced and transfers:
        seen |= {*TRANSFER_PHASES, Phase.FIRMWARE_HANDOFF}
    return seen | {phase for phase in _MARKED if phase in markers}
