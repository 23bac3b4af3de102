"""How far an installer has come, and then the system that it made; what their ends mean.

An installer counts as done once its record has come and been acknowledged, and its guest has ended by itself. A system
boots once it asks for a login on its console, or says `guestlaunch-ready` on the control port; then its power button
is pressed.
"""

from __future__ import annotations

import re
import time

from orchestrator.channel.ring import escape
from orchestrator.errors import GuestlaunchError, InstallationError, NoRecordError, TimedOutError
from orchestrator.kernel.boot import Expected, KernelBoot
from orchestrator.launch.diagnosis import Evidence
from orchestrator.launch.lifecycle import Event
from orchestrator.settings import Deadlines
from orchestrator.timeline.phases import Phase
from orchestrator.timeline.recorder import Recorder
from orchestrator.timeline.trace import TraceFile

_READY = re.compile(rb"guestlaunch-ready(?: ([0-9a-f]{1,64}))?\r?")
_PROMPT = re.compile(r"\S+ login: ?")
_PROMPT_BYTES = 256
# What edk2 says once no disk has anything to boot. That it starts an entry is what is hoped for.
_NO_DISK_BOOTS = re.compile(rb"UEFI Interactive Shell|^Shells? ?> ?$|>>Start (?:PXE|HTTP)|No bootable option or device")
_STARTS = re.compile(r'BdsDxe: starting (Boot[0-9A-F]{4} ".{0,200}") from')
# Between an installer's record and its guest's end, file systems are written back and taken apart.
_END_S = 600.0


class InstallerBoot(KernelBoot):
    """Follows an installer; see `orchestrator.launch.watch.FollowedLaunch`."""

    def __init__(
        self,
        recorder: Recorder,
        trace: TraceFile | None,
        deadlines: Deadlines,
        expected: Expected,
        *,
        timeout_s: float,
    ) -> None:
        super().__init__(recorder, trace, deadlines, expected, None, timeout_s=timeout_s)
        self._shutdown_s = max(deadlines.shutdown, _END_S)

    def diagnose(self, event: Event, seen: Evidence) -> GuestlaunchError | None:
        """Return why an installer ended; None for one whose record was acknowledged, and which then ended itself."""
        error = super().diagnose(event, seen)
        last = f"the console's last line: {seen.last_line}" if seen.last_line else "the console is empty"
        if isinstance(error, NoRecordError):
            hint = "guestlaunch help install says what an installer must do to be believed"
            return InstallationError("the installer ended without its record", f"phase {seen.phase}", last, hint)
        if isinstance(error, TimedOutError):
            hint = "it may have asked a question; --timeout allows more"
            return TimedOutError(
                "the installer was not done in time", f"phase {seen.phase}", f"{self._timeout_s:g} s; {last}", hint
            )
        if error is None and event is Event.DEADLINE:
            why = f"not within {self._shutdown_s:g} s after its record; {last}"
            return InstallationError("the installer did not end", f"phase {seen.phase}", why)
        return error


class DiskBoot(KernelBoot):
    """Follows the first boot of a system that was installed; see `orchestrator.launch.watch.FollowedLaunch`.

    :param number: which its record may carry.

    :ivar ready_by: what showed that the system is there.
    :ivar boot_entry: what the firmware said that it starts; None while it has said nothing.
    """

    falls_back = _NO_DISK_BOOTS
    what = "the installed system"
    error_type: type[GuestlaunchError] = InstallationError
    late_hint = "--boot-timeout allows more; has it a console on its serial port?"

    def __init__(self, recorder: Recorder, deadlines: Deadlines, *, timeout_s: float, number: str = "") -> None:
        expected = Expected(
            number=number, own_init=False, program=False, transfers=False, initrd=False, traced=False, numbered=True
        )
        super().__init__(recorder, None, deadlines, expected, None, timeout_s=timeout_s)
        self.ready_by: str | None = None
        self.boot_entry: str | None = None
        self._ready_due = False
        self._tail = b""

    def on_control_line(self, line: bytes) -> None:
        """Take a line that the guest wrote to its control port."""
        record = _READY.fullmatch(line)
        if record is not None and (record[1] or b"").decode() in {"", self._expected.number}:
            self._note_ready("the system's record")

    def on_console(self, block: bytes) -> None:
        """Take what the guest wrote to its serial console. A prompt is no whole line."""
        super().on_console(block)
        self._tail = (self._tail + block)[-_PROMPT_BYTES:]
        last = escape(re.split(rb"[\r\n]", self._tail)[-1])
        if _PROMPT.fullmatch(last.strip()):
            self._note_ready("a login prompt")

    def _on_console_line(self, raw: bytes) -> None:
        super()._on_console_line(raw)
        found = _STARTS.search(escape(raw))
        if found is not None:
            self.boot_entry = found[1]

    def _note_ready(self, sign: str) -> None:
        if self.ready_by is None:
            self.ready_by, self._ready_due = sign, True
            self._recorder.begin(Phase.WORKLOAD, sign)

    def flag_sent(self) -> bool:
        """Tell whether the system is there."""
        return self.ready_by is not None

    def answered(self) -> bool:
        """Tell, once, whether it is there."""
        due, self._ready_due = self._ready_due, False
        return due

    def overdue(self, now_ns: int) -> bool:
        """Tell whether the guest can only be ended."""
        return super().overdue(now_ns) if not self.flag_sent() or self.acknowledged else False

    def diagnose(self, event: Event, seen: Evidence) -> GuestlaunchError | None:
        """Return why the system ended; None for one that was there, and whose power button was pressed."""
        error = super().diagnose(event, seen)
        last = f"the console's last line: {seen.last_line}" if seen.last_line else "the console is empty"
        if isinstance(error, NoRecordError):
            why = f"neither a login prompt nor its record was seen; {last}"
            return self.error_type(f"{self.what} ended", f"phase {seen.phase}", why)
        if isinstance(error, TimedOutError):
            waited = time.monotonic_ns() - (self._recorder.at_ns(Phase.FIRMWARE) or time.monotonic_ns())
            why = f"neither a login prompt nor its record within {waited / 1e9:.0f} s; {last}"
            return TimedOutError(f"{self.what} did not come up", f"phase {seen.phase}", why, self.late_hint)
        return error

    def _returned(self, where: str, line: str) -> GuestlaunchError:
        why = f"the firmware found nothing to boot there, and went on: {line}"
        return self.error_type("the disk does not boot", where, why)
