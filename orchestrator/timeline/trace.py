"""QEMU's trace of one launch: which fw_cfg key was selected when, and when the launch flag was passed on.

The lines come from QEMU's log trace back end with `-msg timestamp=on`:
`1383@1795347152.761005:fw_cfg_select 0x55af29530040 key 0x0011 'kernel_data', ret: 1` and
`1383@1795347170.041005:virtio_serial_handle_control_message event 6, value 1`,
`1383@1795347170.041006:virtio_serial_handle_control_message_port port 1` and
`1383@1795347170.061005:virtio_console_flush_buf port 1, in_len 4, out_len 4`. Keys are those of QEMU's
include/standard-headers/linux/qemu_fw_cfg.h. Reading only; QEMU writes the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.timeline.clock import Anchor
from orchestrator.timeline.phases import Boundary, Phase

KEY_KERNEL_DATA = 0x11
KEY_INITRD_DATA = 0x12

SELECT_EVENT = "fw_cfg_select"
FLUSH_EVENT = "virtio_console_flush_buf"
# The guest opened (event 6, value 1: VIRTIO_CONSOLE_PORT_OPEN) the port that the next line names.
CONTROL_EVENTS = ("virtio_serial_handle_control_message", "virtio_serial_handle_control_message_port")
_PORT_OPEN = (b"6", b"1")
_GUESTFSD_PORT = b"1"
# guestfsd's first write to its channel: GUESTFS_LAUNCH_FLAG, one XDR unsigned int.
_LAUNCH_FLAG_BYTES = 4

# A launch makes some 60 lines. A guest can have QEMU write as many as it likes: what comes after these is not read.
MOST_BYTES = 256 << 10

_SELECT = re.compile(rb"^\d+@(\d+)\.(\d{6}):fw_cfg_select 0x[0-9a-f]+ key 0x([0-9a-f]+) ")
_CONTROL = re.compile(
    rb"^\d+@(\d+)\.(\d{6}):virtio_serial_handle_control_message(?:_port port (\d+)| event (\d+), value (\d+))$"
)
_FLUSH = re.compile(rb"^\d+@(\d+)\.(\d{6}):virtio_console_flush_buf port (\d+), in_len (\d+), out_len (-?\d+)$")
_DATA = {KEY_KERNEL_DATA: Phase.FW_CFG_KERNEL, KEY_INITRD_DATA: Phase.FW_CFG_INITRD}
_SOURCE = "QEMU trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """One selection of a fw_cfg key; wall-clock nanoseconds."""

    wall_ns: int
    key: int


class TraceFile:
    """Follows the trace file of one launch as QEMU writes it.

    :ivar selections: the fw_cfg selections so far.
    :ivar opened_ns: wall-clock time at which the guest opened guestfsd's port, None until it did.
    :ivar flag_ns: wall-clock time at which QEMU passed the launch flag on, None until it did.
    :ivar used: guestfsd's port has passed something on that was not the flag, which comes first.
    :ivar full: it holds more than a launch can make, and is read no further.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.selections: list[Selection] = []
        self.opened_ns: int | None = None
        self.flag_ns: int | None = None
        self.used = False
        self.full = False
        self._opening_ns: int | None = None

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
            self._take(line)
        return bool(newline)

    def _take(self, line: bytes) -> None:
        """Take note of one line; lines of anything else are passed over."""
        if match := _SELECT.match(line):
            self.selections.append(Selection(wall_ns=_wall_ns(match), key=int(match.group(3), 16)))
        elif match := _CONTROL.match(line):
            if match.group(3) is None:
                self._opening_ns = _wall_ns(match) if match.group(4, 5) == _PORT_OPEN else None
            elif match.group(3) == _GUESTFSD_PORT and self._opening_ns is not None:
                self.opened_ns = self._opening_ns  # the last one: firmware may have opened it before
        elif self.flag_ns is None and (match := _FLUSH.match(line)) and match.group(3) == _GUESTFSD_PORT:
            if int(match.group(4)) == int(match.group(5)) == _LAUNCH_FLAG_BYTES:
                self.flag_ns = _wall_ns(match)
            elif int(match.group(4)) > _LAUNCH_FLAG_BYTES and int(match.group(5)) > 0:
                self.used = True


def _wall_ns(match: re.Match[bytes]) -> int:
    """Return a line's time stamp in wall-clock nanoseconds."""
    return int(match.group(1)) * 10**9 + int(match.group(2)) * 1000


def transfer_boundaries(selections: Sequence[Selection], anchor: Anchor) -> dict[Phase, Boundary]:
    """Return where the transfer phases, and the hand-off behind them, begin; unseen ones are left out.

    A blob's transfer starts with the selection of its data key and lasts until another key is
    selected; the hand-off starts with the first selection after the later blob.
    """
    found: dict[Phase, Boundary] = {}
    last = -1
    for index, selection in enumerate(selections):
        phase = _DATA.get(selection.key)
        if phase is None:
            continue
        last = index
        found.setdefault(phase, _boundary(selection, anchor))
    # Read while QEMU writes, the key between kernel and initrd (its size) may be the newest line: not the hand-off.
    following = next((s for s in selections[last + 1 :] if s.key not in _DATA), None)
    if len(found) == len(_DATA) and following is not None:
        found[Phase.FIRMWARE_HANDOFF] = _boundary(following, anchor)
    return found


def opened_boundary(trace: TraceFile, anchor: Anchor) -> Boundary | None:
    """Return when guestfsd opened its port, as QEMU's device dates it."""
    if trace.opened_ns is None:
        return None
    return Boundary(at_ns=anchor.to_monotonic(trace.opened_ns), source=f"{_SOURCE} {CONTROL_EVENTS[0]}")


def flag_boundary(trace: TraceFile, anchor: Anchor) -> Boundary | None:
    """Return when the tool had its launch flag, as QEMU's write to libguestfs's socket dates it."""
    if trace.flag_ns is None:
        return None
    return Boundary(at_ns=anchor.to_monotonic(trace.flag_ns), source=f"{_SOURCE} {FLUSH_EVENT}")


def _boundary(selection: Selection, anchor: Anchor) -> Boundary:
    return Boundary(at_ns=anchor.to_monotonic(selection.wall_ns), source=f"{_SOURCE} {SELECT_EVENT}")
