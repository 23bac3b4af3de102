"""Timelines on a terminal: one as a table with bars, two side by side with ratios; plain lines elsewhere.

Takes canonical lines (`orchestrator.records.record`). rich is imported only when something is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.records.filters import is_modelled
from orchestrator.records.provenance import accel_of
from orchestrator.records.record import kind_of
from orchestrator.timeline.durations import milliseconds
from orchestrator.timeline.phases import TRANSFER_PHASES, Kind, Phase

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from orchestrator.records.record import LaunchEvent as Event
    from orchestrator.records.record import PhaseEntry

WIDTH = 80
_BAR_CELLS = 18
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# After the tool has its appliance, time is the tool's own.
_NOT_LAUNCH = frozenset({Phase.WORKLOAD, Phase.SHUTDOWN})

_JUSTIFY: Mapping[str, Literal["left", "right"]] = {"left": "left", "right": "right"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One phase of two launches; times in ns, None where unseen. `ratio` is right over left."""

    name: str
    left_ns: int | None
    right_ns: int | None

    @property
    def ratio(self) -> float | None:
        """How many times longer the right one took."""
        return self.right_ns / self.left_ns if self.left_ns and self.right_ns is not None else None


def bar(fraction: float, cells: int = _BAR_CELLS) -> str:
    """Return a bar of at most `cells` characters, in steps of an eighth; something not 0 always shows."""
    eighths = max(round(min(max(fraction, 0.0), 1.0) * cells * 8), 1 if fraction > 0 else 0)
    return _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def headline(event: Event) -> str:
    """Return what a launch was, on one line."""
    if kind_of(event) == Kind.KERNEL:
        return _kernel_headline(event)
    if kind_of(event) == Kind.INSTALL:
        return _step_headline(event)
    if kind_of(event) == Kind.VM:
        return _vm_headline(event)
    dma = {True: "DMA on", False: "DMA off", None: "DMA not verified"}[event["fw_cfg_dma"]]
    way = dma if event["start"] == "cold" else event["start"]  # nothing of a clone crosses fw_cfg
    launched = (
        f"launched in {milliseconds(event['launch_ns'])}" if event["launch_ns"] is not None else _unlaunched(event)
    )
    accel = accel_of(event) + (" with a MODELLED trap cost" if is_modelled(event) else "")
    return f"{event['launch_id']}: {event['profile']}, {accel}, {way}, {event['outcome']}, {launched}"


def _kernel_headline(event: Event) -> str:
    """Return what a kernel's run was, and what came of it."""
    dma = {True: "DMA on", False: "DMA off", None: "DMA not verified"}[event["fw_cfg_dma"]]
    run = event.get("kernel_run")
    came = f"{run['verdict']} (exit status {run['exit_status']})" if run else event["outcome"]
    began = f", its command after {milliseconds(event['launch_ns'])}" if event["launch_ns"] is not None else ""
    version = f" of Linux {run['version']}" if run and run["version"] else ""
    return f"{event['launch_id']}: kernel run{version}, {event['profile']}, {accel_of(event)}, {dma}, {came}{began}"


def _step_headline(event: Event) -> str:
    """Return which step of an installation it was, and what came of it."""
    step = event.get("install")
    said = f"{step['step'].replace('_', ' ')} of {step['tree']}, {step['verdict']}" if step else event["outcome"]
    return f"{event['launch_id']}: {said}, {event['profile']}, {accel_of(event)}, {milliseconds(event['total_ns'])}"


def _vm_headline(event: Event) -> str:
    """Return which VM it was, and how long it took to be ready."""
    vm = event.get("vm")
    name = f"VM {vm['name']} {'created' if vm['created'] else 'started'}" if vm else "VM"
    told = f", told by {vm['told_by']}" if vm and vm["told_by"] else ""
    took = f"ready after {milliseconds(event['launch_ns'])}{told}" if event["launch_ns"] is not None else "not ready"
    return f"{event['launch_id']}: {name}, {event['profile']}, {accel_of(event)}, {event['outcome']}, {took}"


def _unlaunched(event: Event) -> str:
    """Return what is said in place of the time of a launch that has none."""
    if event["ready"]:
        return "launch flag not seen"
    ended = [one["name"] for one in event["phases"] if one["outcome"] in {"failure", "cancelled"}]
    return f"ended in {ended[-1]}" if ended else "not ready"


def compare(left: Event, right: Event) -> list[Row]:
    """Return the phases of two launches beside each other, then transfer and launch as wholes."""
    names = [one["name"] for one in left["phases"]]
    names += [one["name"] for one in right["phases"] if one["name"] not in names]
    durations = [{one["name"]: one["duration_ns"] for one in event["phases"]} for event in (left, right)]
    rows = [Row(name=n, left_ns=durations[0].get(n), right_ns=durations[1].get(n)) for n in names]
    rows = [row for row in rows if row.left_ns is not None or row.right_ns is not None]
    rows.append(Row(name="transfer", left_ns=left["transfer_ns"], right_ns=right["transfer_ns"]))
    rows.append(Row(name="launch", left_ns=left["launch_ns"], right_ns=right["launch_ns"]))
    return rows


def show_timeline(event: Event, console: Console | None = None) -> None:
    """Draw one launch: a table with bars on a terminal, one line a phase elsewhere."""
    out = console or _console()
    if not out.is_terminal:
        _lines(out, _timeline_lines(event))
        return
    out.print(headline(event), highlight=False, markup=False)
    if event["error"]:
        out.print(event["error"], style="red", highlight=False, markup=False)
    for reason in event.get("proof_failures", ()):
        out.print(f"PROOF FAILED: {reason}", style="bold red", highlight=False, markup=False)
    out.print(_timeline_table(event))


def show_comparison(left: Event, right: Event, titles: tuple[str, str], console: Console | None = None) -> None:
    """Draw two launches side by side, with the ratio of each phase."""
    out = console or _console()
    rows = compare(left, right)
    if not out.is_terminal:
        _lines(out, _comparison_lines(rows, titles))
        return
    out.print(_comparison_table(rows, titles))


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """List things: a table with a head on a terminal, elsewhere lines whose columns stand below each other."""
    out = console or _console()
    if out.is_terminal:
        from rich.text import Text  # here: see the module

        table = _table(*((title, "left") for title in columns))
        for row in rows:
            table.add_row(*map(Text, row))
        out.print(table)
        return
    widths = [max((len(row[at]) for row in rows), default=0) for at in range(len(columns))]
    _lines(out, (" ".join(map(str.ljust, row, widths)).rstrip() for row in rows))


def _console() -> Console:
    from rich.console import Console  # here: see the module

    found = Console(file=sys.stdout)
    return Console(file=sys.stdout, width=min(found.width, WIDTH)) if found.is_terminal else found


def _lines(out: Console, lines: Iterator[str]) -> None:
    """Write lines as they are, whatever their length: they are for other programs."""
    for line in lines:
        out.file.write(line + "\n")


def _timeline_lines(event: Event) -> Iterator[str]:
    yield headline(event)
    if event["error"]:
        yield f"error: {event['error']}"
    for reason in event.get("proof_failures", ()):
        yield f"PROOF FAILED: {reason}"
    for one in event["phases"]:
        if one["duration_ns"] is None:
            yield f"{one['name']:<17}{'-':>12}  {one['outcome']}: {one.get('reason', '')}"
        else:
            yield f"{one['name']:<17}{milliseconds(one['duration_ns']):>12}  {_rate(one)}".rstrip()
    yield f"{'total':<17}{milliseconds(event['total_ns']):>12}"


def _comparison_lines(rows: Sequence[Row], titles: tuple[str, str]) -> Iterator[str]:
    yield f"{'phase':<17}{titles[0]:>14}{titles[1]:>14}{'ratio':>10}"
    for row in rows:
        yield f"{row.name:<17}{milliseconds(row.left_ns):>14}{milliseconds(row.right_ns):>14}{_times(row.ratio):>10}"


def _rate(phase: PhaseEntry) -> str:
    """Return a transfer's size and rate, empty for other phases."""
    if phase.get("bytes") is None:
        return ""
    rate = phase.get("mb_per_s")
    return f"{phase['bytes'] / 1e6:.1f} MB" + (f", {rate:.0f} MB/s" if rate is not None else "")


def _times(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.1f}x"


def _style(name: str) -> str:
    if name in TRANSFER_PHASES or name == "transfer":
        return "bold cyan"
    return "dim" if name in _NOT_LAUNCH else ""


def _table(*columns: tuple[str, str]) -> Table:
    from rich import box  # here: see the module
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for title, justify in columns:
        # Notes give way when there is no room; names and times never do.
        kept = len(Phase.FIRMWARE_HANDOFF) if title == "phase" else len("9999.9 ms") if justify == "right" else None
        table.add_column(title, justify=_JUSTIFY[justify], no_wrap=True, overflow="ellipsis", min_width=kept)
    return table


def _timeline_table(event: Event) -> Table:
    table = _table(("phase", "left"), ("starts", "right"), ("takes", "right"), ("", "left"), ("", "left"))
    table.columns[3].min_width = _BAR_CELLS
    longest = max((one["duration_ns"] or 0 for one in event["phases"] if one["name"] not in _NOT_LAUNCH), default=0)
    for one in event["phases"]:
        if one["outcome"] == "not_reached":
            continue
        name, taken = one["name"], one["duration_ns"]
        drawn = "" if taken is None or not longest else bar(taken / longest)
        note = one.get("reason", "") if taken is None else _rate(one)
        table.add_row(name, milliseconds(one["start_ns"]), milliseconds(taken), drawn, note, style=_style(name))
    table.add_section()
    table.add_row("total", "", milliseconds(event["total_ns"]), "", "")
    return table


def _comparison_table(rows: Sequence[Row], titles: tuple[str, str]) -> Table:
    table = _table(("phase", "left"), (titles[0], "right"), (titles[1], "right"), ("ratio", "right"), ("", "left"))
    launch = [row for row in rows if row.name not in {*_NOT_LAUNCH, "transfer", "launch"}]
    longest = max((value for row in launch for value in (row.left_ns, row.right_ns) if value), default=0)
    for row in rows:
        if row.name == "transfer":
            table.add_section()
        pair = ""
        if longest and row in launch:
            pair = "\n".join(bar((value or 0) / longest, 20) for value in (row.left_ns, row.right_ns))
        times = (milliseconds(row.left_ns), milliseconds(row.right_ns), _times(row.ratio))
        table.add_row(row.name, *times, pair, style=_style(row.name))
    return table
