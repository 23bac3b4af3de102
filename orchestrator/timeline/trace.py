"""QEMU's trace of one launch: which fw_cfg key was selected when, and when the launch flag was passed on.

The lines come from QEMU's log trace back end with `-msg timestamp=on`; `trace_lines` has those of fw_cfg. The others
are `1383@1795347170.041005:virtio_serial_handle_control_message event 6, value 1`,
`1383@1795347170.041006:virtio_serial_handle_control_message_port port 1` and
`1383@1795347170.061005:virtio_console_flush_buf port 1, in_len 4, out_len 4`. Reading only; QEMU writes the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from orchestrator.timeline.clock import Anchor
from orchestrator.timeline.phases import Boundary, Phase
from orchestrator.timeline.trace_lines import ADD_FILE, PREFIX, SELECT, Blob, Directory, wall_ns
from orchestrator.values import dataclass

SELECT_EVENT = "fw_cfg_select"
FLUSH_EVENT = "virtio_console_flush_buf"
CONTROL_EVENT = "virtio_serial_handle_control_message"
# A driver has taken the device, from then on anew (event 0: VIRTIO_CONSOLE_DEVICE_READY); the guest opened (event 6:
# VIRTIO_CONSOLE_PORT_OPEN) the port that the next line names.
_DEVICE_READY, _PORT_OPEN = (b"0", b"1"), (b"6", b"1")
_GUESTFSD_PORT = b"1"
# guestfsd's first write to its channel: GUESTFS_LAUNCH_FLAG, one XDR unsigned int.
_LAUNCH_FLAG_BYTES = 4

# A launch makes some 80 lines. A guest can make QEMU write any number: nothing is read beyond this.
MOST_BYTES = 256 << 10

_SELECT, _ADD_FILE = re.compile(PREFIX + SELECT), re.compile(PREFIX + ADD_FILE)
_CONTROL = re.compile(PREFIX + rb"virtio_serial_handle_control_message(?:_port port (\d+)| event (\d+), value (\d+))$")
_FLUSH = re.compile(PREFIX + rb"virtio_console_flush_buf port (\d+), in_len (\d{1,18}), out_len (-?\d{1,18})$")
_DATA = {Blob.KERNEL: Phase.FW_CFG_KERNEL, Blob.INITRD: Phase.FW_CFG_INITRD}
_SOURCE = "QEMU trace"
_LONGEST_QUOTE = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """One selection of a fw_cfg key; wall-clock nanoseconds.

    :ivar blob: what the key stood for then, None for what is not loaded to be booted.
    """

    wall_ns: int
    key: int
    blob: Blob | None = None


class TraceFile:
    """Follows the trace file of one launch as QEMU writes it.

    Firmware may drive the virtio-serial device, too. Whenever a driver takes the device over, what the ports did before
    is forgotten: that was the previous driver.

    :ivar selections: the fw_cfg selections so far.
    :ivar opened_ns: wall-clock time at which the guest opened guestfsd's port, the last time before the launch flag;
        None until it did.
    :ivar flag_ns: wall-clock time at which QEMU passed the launch flag on, None until it did.
    :ivar used: guestfsd's port has passed something on that was not the flag, which comes first.
    :ivar full: it holds more than a launch can make, and is read no further.
    :ivar events: how many of the lines were events.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.selections: list[Selection] = []
        self.opened_ns: int | None = None
        self.flag_ns: int | None = None
        self.used = False
        self.full = False
        self.events = 0
        self._opening_ns: int | None = None
        self._files = Directory()
        self._unread: bytes | None = None  # the first line that was no event

    def read_new(self) -> bool:
        """Read the whole lines written since the last call; tell whether there were any.

        :raise OSError: when the file exists and cannot be read.
        """
        if self.full:
            return False
        try:
            with self._path.open("rb") as file:
                self.full = os.fstat(file.fileno()).st_size < self._offset  # it was cut off
                file.seek(self._offset)
                block = file.read(MOST_BYTES)
        except FileNotFoundError:
            return False
        self.full = self.full or self._offset + len(block) >= MOST_BYTES
        whole, newline, _ = block.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.split(b"\n") if newline else ():
            if self._take(line):
                self.events += 1
            elif self._unread is None and line:
                self._unread = line[:_LONGEST_QUOTE]
        return bool(newline)

    @property
    def why_unreadable(self) -> str | None:
        """Why nothing is known from this file; None as soon as one line of it was an event."""
        if self.events:
            return None
        if self._unread is None:
            return "it is empty"
        return f"its first line is {repr(self._unread)[1:]}"

    def _take(self, line: bytes) -> bool:
        """Take note of one line; tell whether it is an event's."""
        if match := _SELECT.match(line):
            key = int(match.group(3), 16)
            at = wall_ns(*match.group(1, 2))
            self.selections.append(Selection(wall_ns=at, key=key, blob=self._files.blob(key)))
        elif match := _CONTROL.match(line):
            self._control(match)
        elif match := _FLUSH.match(line):
            if match.group(3) == _GUESTFSD_PORT:
                self._passed_on(wall_ns(*match.group(1, 2)), int(match.group(4)), int(match.group(5)))
        elif match := _ADD_FILE.match(line):
            self._files.add(int(match.group(3)), match.group(4))
        return match is not None

    def _control(self, match: re.Match[bytes]) -> None:
        """Take a control message of the guest's driver, or the line that names its port."""
        if match.group(3) is not None:
            if match.group(3) == _GUESTFSD_PORT and self._opening_ns is not None and self.flag_ns is None:
                self.opened_ns = self._opening_ns
        elif match.group(4, 5) == _DEVICE_READY:
            self.opened_ns = self.flag_ns = self._opening_ns = None
            self.used = False
        else:
            self._opening_ns = wall_ns(*match.group(1, 2)) if match.group(4, 5) == _PORT_OPEN else None

    def _passed_on(self, at_ns: int, offered: int, taken: int) -> None:
        """Take note of what QEMU passed on from guestfsd's port."""
        if self.flag_ns is not None:
            return
        if offered == taken == _LAUNCH_FLAG_BYTES:
            self.flag_ns = at_ns
        elif offered > _LAUNCH_FLAG_BYTES and taken > 0:
            self.used = True


def transfer_boundaries(
    selections: Sequence[Selection], anchor: Anchor, blobs: Collection[Blob] = frozenset(_DATA)
) -> dict[Phase, Boundary]:
    """Return where the transfer phases, and the hand-off behind them, begin; unseen ones are left out.

    A blob's transfer starts with the selection of its data key and lasts until another key is
    selected; the hand-off starts with the first selection after the later blob.

    :param blobs: what there is to be transferred.
    """
    found: dict[Phase, Boundary] = {}
    last = -1
    for index, selection in enumerate(selections):
        if selection.blob is None:
            continue
        last = index
        if selection.blob in _DATA:  # the time of a shim, which is loaded between them, is the kernel's
            found.setdefault(_DATA[selection.blob], _boundary(selection, anchor))
    # Read while QEMU writes, the key between kernel and initrd (its size) may be the newest line: not the hand-off.
    following = next(iter(selections[last + 1 :]), None)
    if len(found) == len(blobs) and following is not None:
        found[Phase.FIRMWARE_HANDOFF] = _boundary(following, anchor)
    return found


def opened_boundary(trace: TraceFile, anchor: Anchor) -> Boundary | None:
    """Return when guestfsd opened its port, as QEMU's device dates it."""
    if trace.opened_ns is None:
        return None
    return Boundary(at_ns=anchor.to_monotonic(trace.opened_ns), source=f"{_SOURCE} {CONTROL_EVENT}")


def flag_boundary(trace: TraceFile, anchor: Anchor) -> Boundary | None:
    """Return when the tool had its launch flag, as QEMU's write to libguestfs's socket dates it."""
    if trace.flag_ns is None:
        return None
    return Boundary(at_ns=anchor.to_monotonic(trace.flag_ns), source=f"{_SOURCE} {FLUSH_EVENT}")


def _boundary(selection: Selection, anchor: Anchor) -> Boundary:
    return Boundary(at_ns=anchor.to_monotonic(selection.wall_ns), source=f"{_SOURCE} {SELECT_EVENT}")
