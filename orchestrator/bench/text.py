"""A benchmark's result on a terminal: tables, outliers, counts, the verdict. Computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.bench.analysed import ComparisonEntry, IntervalEntry, SummaryEntry
from orchestrator.bench.compare import Difference
from orchestrator.bench.result import Analysis, Result, made_on
from orchestrator.bench.samples import columns
from orchestrator.bench.seed_text import seed_launches
from orchestrator.bench.start_text import starts
from orchestrator.bench.tools_text import tools
from orchestrator.records.provenance import kept_apart, mark
from orchestrator.timeline.durations import bare_milliseconds

_SAID: Mapping[str, str] = {
    Difference.FASTER: "faster",
    Difference.SLOWER: "slower",
    Difference.NONE: "=",
    Difference.UNDECIDED: "?",
}


# Five figures of ms; wider columns would not fit beside each other.
_WIDE_NS = 100_000 * 10**6


def render(result: Result) -> RenderableType:
    """Return a result as text for rich."""
    parts: list[RenderableType] = [Text(line, style="bold yellow") for line in _warnings(result)]
    analysis: Analysis = result["analysis"] or {}
    if analysis.get("failed_runs"):
        parts.append(
            Text(f"Failed runs: {analysis['failed_runs']}. The first: {_last(analysis['first_failure'])}", style="red")
        )
    if "seed" in analysis:
        parts += [*([seed_launches(analysis)] if analysis["seed"] else []), *_measured_lines(analysis)]
    elif "starts" in analysis:
        parts += [starts(result, analysis), *_outliers(result, analysis)]
    elif "tools" in analysis:
        parts.append(tools(result, analysis))
    elif "lines" in analysis:
        parts += [_sizes(analysis["sides"]), _sweep(analysis)]
    elif "comparisons" in analysis:
        first, second = (side["name"] for side in result["sides"])
        parts += [comparison(analysis["comparisons"], first, second), *_outliers(result, analysis)]
    elif "sides" in analysis:
        parts += [_sides(result, analysis["sides"]), *_outliers(result, analysis)]
    if result["counts"]:
        parts.append(_counts(result))
    if "verdict" in analysis:
        parts.append(Text(f"Verdict: {analysis['verdict']}", style="bold"))
    return Group(*parts)


def _warnings(result: Result) -> Iterator[str]:
    """Yield what has to be known before any figure is read."""
    if cost_ns := result["modelled_trap_cost_ns"]:
        yield _modelled(cost_ns, result["analysis"] or {})
    launches = result["environment"]["launches"]
    apart = kept_apart(made_on(result), launches.get("accel"))
    if said := mark(apart, arch=launches.get("arch"), accel=launches.get("accel")):
        yield f"Not on hardware: {said}"
    if not result["complete"]:
        yield not_complete(result)


def not_complete(result: Result) -> str:
    """Return the line that warns of a result that is not complete."""
    rounds = {sample["round"] for sample in result["samples"] if sample["round"] >= 0}
    why = f"ended by {result['ended_by']}" if result.get("ended_by") else "killed, or still running"
    return f"NOT COMPLETE: {why}; {len(rounds)} rounds were begun, and the last may lack sides."


def comparison(rows: Sequence[ComparisonEntry], first: str, second: str) -> RenderableType:
    """Return the comparison of two sides as two tables, each of which fits 80 columns."""
    if not rows:
        return Text("Nothing to compare: no metric was seen on both sides.", style="yellow")
    return Group(_medians(rows, first, second), _differences(rows))


def _medians(rows: Sequence[ComparisonEntry], first: str, second: str) -> Table:
    counts = sorted({(row["first"]["n"], row["second"]["n"]) for row in rows})
    runs = ", ".join(f"{a} and {b}" if a != b else str(a) for a, b in counts)
    unit, shown = _unit(one["high"] for row in rows for one in (row["first"], row["second"]))
    table = _table(f"A: {first}, B: {second}; medians and their 95 % intervals in {unit}, n = {runs}")
    for name in ("", "A", "interval", "B", "interval"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in rows:
        cells = (*_median(row["first"], shown), *_median(row["second"], shown))
        table.add_row(row["metric"].removeprefix("phase."), *cells)
    return table


def _differences(rows: Sequence[ComparisonEntry]) -> Table:
    table = _table("A / B: above 1, B is faster. p: permutation test, adjusted. effect: Cliff's delta")
    for name in ("", "A / B", "95 % interval", "p", "effect", "B is"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["metric"].removeprefix("phase."),
            "–" if row["ratio"] is None else _ratio(row["ratio"]),
            _interval(row["interval"], _ratio),
            "–" if row["p_adjusted"] is None else f"{row['p_adjusted']:.3f}",
            f"{row['effect']:+.2f}",
            _SAID[row["difference"]],
        )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE)


def _median(summary: SummaryEntry, shown: Callable[[float], str] = bare_milliseconds) -> tuple[str, str]:
    starred = shown(summary["median"]) + "*" * bool(summary["outliers"])
    return starred, _interval(summary["interval"], shown)


def _unit(values: Iterable[float]) -> tuple[str, Callable[[float], str]]:
    """Return the unit in which a table's times fit their columns, and how one is shown in it."""
    if max(values) < _WIDE_NS:
        return "ms", bare_milliseconds
    return "s", lambda ns: bare_milliseconds(ns / 1000)


def _outliers(result: Result, analysis: Analysis) -> list[Text]:
    """Return the outliers of the metrics that matter most, by name."""
    lines = []
    for side, metrics in analysis.get("sides", {}).items():
        for metric in ("wall", "answer", "inspection", "launch", "transfer"):
            summary = metrics.get(metric)
            if summary and summary["outliers"]:
                seen = [v for v in columns(result, side)[metric] if v is not None]
                values = ", ".join(bare_milliseconds(seen[position]) for position in summary["outliers"])
                lines.append(f"  {side}: {metric}: {values} ms")
    return [Text("\n".join(["* Outliers, none of them left out of any figure:", *lines]))] if lines else []


def _modelled(cost_ns: int, analysis: Analysis) -> str:
    text = f"MODELLED trap cost: {cost_ns / 1e3:g} µs an access to the fw_cfg data register"
    download_ns = analysis.get("modelled_download_ns")
    return text if download_ns is None else f"{text}; by the model the download takes {download_ns / 1e9:.1f} s"


def _last(text: str | None) -> str:
    """Return the last line of what a failed run said, with control characters escaped."""
    line = (text or "").strip().rpartition("\n")[2]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _ratio(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _interval(interval: IntervalEntry | None, shown: Callable[[float], str]) -> str:
    return "–" if interval is None else f"{shown(interval['low'])} – {shown(interval['high'])}"


def _sides(result: Result, sides: Mapping[str, Mapping[str, SummaryEntry]]) -> Table:
    table = _table("medians in ms, with the 95 % interval of the launch")
    metrics = [m for m in ("wall", "transfer", "launch") if any(m in side for side in sides.values())]
    table.add_column("", overflow="fold")
    table.add_column("on")
    for name in ("n", *metrics, "interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, side in sides.items():
        accels = {accel for s in result["samples"] if s["side"] == name and (accel := s.get("accel"))}
        medians = [_median(side[m])[0] if m in side else "–" for m in metrics]
        interval = _interval(side["launch"]["interval"], bare_milliseconds) if "launch" in side else "–"
        count = str(side["wall"]["n"]) if "wall" in side else "0"
        table.add_row(name, " + ".join(sorted(accels)), count, *medians, interval)
    return table


def _counts(result: Result) -> Table:
    table = _table("fw_cfg accesses, counted in runs of their own (DMA: operations)")
    for name in ("DMA", "payload bytes", "for it", "predicted", "all until then"):
        table.add_column(name, justify="left" if name == "DMA" else "right")
    for row in result["counts"]:
        predicted = "–" if row["predicted"] is None else f"{row['predicted']:,}"
        table.add_row(
            "on" if row["fw_cfg_dma"] else "off", f"{row['payload_bytes']:,}", f"{row['accesses']:,}", predicted,
            f"{row['accesses_total']:,}",
        )  # fmt: skip
    return table


def _sizes(sides: Mapping[str, Mapping[str, SummaryEntry]]) -> Table:
    table = _table("medians in ms")
    table.add_column("")
    for name in sides:
        table.add_column(name, justify="right")
    metrics = dict.fromkeys(metric for side in sides.values() for metric in side)
    for metric in sorted(metrics, key=lambda name: float(name.split()[1])):
        cells = [_median(side[metric])[0] if metric in side else "–" for side in sides.values()]
        table.add_row(metric.removeprefix("transfer "), *cells)
    return table


def _measured_lines(analysis: Analysis) -> list[Table]:
    """Return the table of the lines where there is one; parts of the experiment have no transfers."""
    return [_sweep(analysis)] if any(line["ms_per_mb"] is not None for line in analysis["lines"]) else []


def _sweep(analysis: Analysis) -> Table:
    table = _table("transfer time by payload size (Theil-Sen line)")
    for name in ("", "ms a MB", "95 % interval", "MB/s", "at 0 MB, ms"):
        table.add_column(name, justify="left" if not name else "right")
    for line in analysis["lines"]:
        if line["ms_per_mb"] is None or line["interval"] is None:
            table.add_row(line["side"], *["–"] * 4)
            continue
        low, high = line["interval"]
        rate = "–" if line["mb_per_s"] is None else _ratio(line["mb_per_s"])
        table.add_row(
            line["side"], f"{line['ms_per_mb']:.3g}", f"{low:.3g} – {high:.3g}", rate, f"{line['at_zero_ms']:.3g}"
        )
    return table
