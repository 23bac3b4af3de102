"""Machines side by side on a terminal: one row for each result that people have sent, or that was measured here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.bench import seed, start_sides
from orchestrator.records.provenance import LABELS, SIGNS, mark
from orchestrator.report.submission import Figure, Submission

_NONE = "–"
# Whose launches without DMA and with it are told, the first that are there; then whose transfers by themselves.
_PAIRS = ((start_sides.COLD_WITHOUT_DMA, start_sides.COLD), ("DMA off", "DMA on"), tuple(seed.NAIVE.values()))
_TRANSFERS = tuple(seed.TRANSFER.values())


def machines(submissions: Sequence[Submission]) -> RenderableType:
    """Return the table: hardware first, and never a figure of two machines together."""
    table = Table(title="machines: launches in s; transfer in ms a MB", title_justify="left", box=SIMPLE)
    table.add_column("", overflow="fold", min_width=20)  # the only one that may be broken, whatever a CPU is called
    table.add_column("on", no_wrap=True)
    for name in ("DMA off", "DMA on", "off", "on", "n", "halved"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in sorted(submissions, key=lambda one: LABELS.index(one.machine.label)):
        table.add_row(*_row(one))
    return Group(table, *(Text(line) for line in _legend(submissions)))


def _row(one: Submission) -> tuple[str, ...]:
    off, on = launches(one)
    cells = [_seconds(figure) for figure in (off, on)]
    cells += [_a_megabyte(figure) for figure in transfers(one)]
    accel = (one.accel or "-") + SIGNS.get(one.machine.label, "") + ("*" if one.modelled_trap_cost_ns else "")
    count = str(min(figure.runs for figure in (off, on) if figure)) if off or on else _NONE
    return (f"{one.machine.cpu_model or one.machine.arch}, {one.date}", accel, *cells, count, one.halved or _NONE)


def launches(one: Submission) -> tuple[Figure | None, Figure | None]:
    """Return a machine's launch without DMA and with it: ours, or else those of a plain UEFI launch."""
    for off, on in _PAIRS:
        found = one.figure(off, "launch") or one.figure(off, "wall"), one.figure(on, "launch") or one.figure(on, "wall")
        if found[0] or found[1]:
            return found
    return None, None


def transfers(one: Submission) -> tuple[Figure | None, Figure | None]:
    """Return a machine's transfers by themselves without DMA and with it, of the largest size that was measured."""
    for off, on in (_TRANSFERS, ("DMA off", "DMA on")):
        found = one.figure(off, "transfer"), one.figure(on, "transfer")
        if any(figure and figure.megabytes for figure in found):
            return found
    return None, None


def _seconds(figure: Figure | None) -> str:
    return _NONE if figure is None else f"{figure.median_ns / 1e9:.2f}"


def _a_megabyte(figure: Figure | None) -> str:
    if figure is None or not figure.megabytes:
        return _NONE
    return f"{figure.median_ns / 1e6 / figure.megabytes:.3g}"


def _legend(submissions: Iterable[Submission]) -> Iterator[str]:
    """Yield what the signs in the table mean."""
    shown = {one.machine.label for one in submissions}
    yield from (f"{sign} not on hardware: {mark(label)}" for label, sign in SIGNS.items() if label in shown)
    if any(one.modelled_trap_cost_ns for one in submissions):
        yield "* with a MODELLED trap cost"
