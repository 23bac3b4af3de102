"""QEMU's `fw_cfg_select` trace: which key was selected when, and from that the transfer's boundaries.

The lines come from QEMU's log trace back end with `-msg timestamp=on`, as in
`1383@1795347152.761005:fw_cfg_select 0x55af29530040 key 0x0011 'kernel_data', ret: 1`. Keys are those of
QEMU's include/standard-headers/linux/qemu_fw_cfg.h. Reading only; QEMU writes the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.timeline.clock import Anchor
from orchestrator.timeline.phases import Boundary, Phase

KEY_KERNEL_DATA = 0x11
KEY_INITRD_DATA = 0x12

_LINE = re.compile(rb"^\d+@(\d+)\.(\d{6}):fw_cfg_select 0x[0-9a-f]+ key 0x([0-9a-f]+) ")
_DATA = {KEY_KERNEL_DATA: Phase.FW_CFG_KERNEL, KEY_INITRD_DATA: Phase.FW_CFG_INITRD}
_SOURCE = "QEMU trace fw_cfg_select"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """One selection of a fw_cfg key; wall-clock nanoseconds."""

    wall_ns: int
    key: int


class SelectTrace:
    """Follows the trace file of one launch as QEMU writes it.

    :raise OSError: from `read_new` when the file exists and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.selections: list[Selection] = []

    def read_new(self) -> Sequence[Selection]:
        """Read the whole lines written since the last call and return their selections."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                block = file.read()
        except FileNotFoundError:
            return ()
        whole, newline, _ = block.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        new = list(parse(whole.split(b"\n")))
        self.selections.extend(new)
        return new


def parse(lines: Iterable[bytes]) -> Iterable[Selection]:
    """Yield the selections in trace lines; lines of anything else are passed over."""
    for line in lines:
        match = _LINE.match(line)
        if match:
            seconds, micros, key = match.groups()
            yield Selection(wall_ns=int(seconds) * 10**9 + int(micros) * 1000, key=int(key, 16))


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
    following = next((s for s in selections[last + 1 :] if s.key not in _DATA), None) if last >= 0 else None
    if following is not None:
        found[Phase.FIRMWARE_HANDOFF] = _boundary(following, anchor)
    return found


def _boundary(selection: Selection, anchor: Anchor) -> Boundary:
    return Boundary(at_ns=anchor.to_monotonic(selection.wall_ns), source=_SOURCE)
