"""The seed's experiment, computed: what each side takes, what a MB costs, and whether DMA halves the launch.

The launch without DMA is compared with the one with it, as `compare` does. A host on which it takes too long to be
measured often enough is answered by a straight line through transfers of several sizes: a launch without DMA is one
with it, and what the line says that its payload takes longer.
"""

from __future__ import annotations

from orchestrator.bench import compare
from orchestrator.bench.analysed import IntervalEntry, LineEntry, OwnEntry, PredictedEntry, SeedEntry
from orchestrator.bench.compare import Columns, Halved
from orchestrator.bench.result import Analysis, Result, made_on
from orchestrator.bench.samples import columns, summary
from orchestrator.bench.seed import NAIVE, STOCK, TRANSFER
from orchestrator.bench.start_sides import COLD, COLD_WITHOUT_DMA, STANDBY, WARM
from orchestrator.bench.statistics import summarize
from orchestrator.records.provenance import kept_apart, marked
from orchestrator.timeline.phases import Phase

PRIMARY = ("transfer", "launch")
_SHOWN = ("wall", "launch", "transfer")
# What is done before the guest's QEMU is there.
_BEFORE = (Phase.PLAN, Phase.STAGE, Phase.CONNECT, Phase.CREATE)
# In the order of the table.
SIDES = (STOCK, NAIVE[False], NAIVE[True], COLD_WITHOUT_DMA, COLD, WARM, STANDBY)


def analyse_seed(result: Result, lines: list[LineEntry]) -> Analysis:
    """Return `seed`, a row for each side that launches; the lines through the transfers; the verdict.

    :param lines: what a MB takes, for each side of transfers.
    """
    rounds = sorted({sample["round"] for sample in result["samples"] if sample["round"] >= 0})
    sides = {side["name"]: columns(result, side["name"], rounds) for side in result["sides"]}
    rows: list[SeedEntry] = []
    for name in (name for name in SIDES if name in sides):
        seen = {metric: [v for v in sides[name].get(metric, ()) if v is not None] for metric in _SHOWN}
        wall, launch, transfer = (summary(summarize(seen[m])) if seen[m] else None for m in _SHOWN)
        rows.append({"side": name, "wall": wall, "launch": launch, "transfer": transfer, "own": own(sides[name])})
    off, on = sides.get(COLD_WITHOUT_DMA, {}), sides.get(COLD, {})
    compared = compare.compare(off, on, paired=True, primary=PRIMARY)
    launches = result["environment"]["launches"]
    accel, arch = str(launches.get("accel")), launches.get("arch")
    apart = kept_apart(made_on(result), accel)
    said = compare.verdict(off, on, compared, accel=accel, arch=arch, made_on=apart, modelled_trap_cost_ns=None)
    by_line = predicted(result, lines, [value for value in on.get("launch", ()) if value is not None])
    found: Analysis = {
        "seed": rows, "lines": lines, "predicted": by_line, "halved": str(said.halved), "verdict": said.text,
    }  # fmt: skip
    if said.halved is not Halved.UNDECIDED or by_line is None:
        return found
    text = _by_line(by_line)
    if said.launch is not None:
        text = f"{said.measured}; {text}"
    found["halved"] = by_line["halved"]
    found["verdict"] = f"{text}: launch halved: {by_line['halved']}, on {marked(accel, apart, arch=arch)}"
    return found


def own(side: Columns) -> OwnEntry | None:
    """Return what was done on the host: before there was a guest, and after the tool was done with it.

    Medians in ns, which are instructions by an instruction clock; None for launches that are not ours.
    """
    phases = {name: [v for v in side.get(f"phase.{name}", ()) if v is not None] for name in (*_BEFORE, Phase.SHUTDOWN)}
    seen = {name: summarize(values).median for name, values in phases.items() if values}
    if Phase.PLAN not in seen:
        return None
    before = sum(value for name, value in seen.items() if name is not Phase.SHUTDOWN)
    return {"before_ns": before, "after_ns": seen.get(Phase.SHUTDOWN, 0.0)}


def predicted(result: Result, lines: list[LineEntry], launches_ns: list[float]) -> PredictedEntry | None:
    """Return what a launch without DMA takes by the lines, and by how much one with DMA is faster, with an interval.

    The interval is as wide as it can be: the least that the slopes allow with the slowest launch, the most with the
    fastest. None where a line, or a launch, is missing.

    :param launches_ns: launches with DMA.
    """
    without, with_dma = (_slope(lines, TRANSFER[dma]) for dma in (False, True))
    payload = next((side["facts"].get("payload_bytes") for side in result["sides"] if side["name"] == COLD), None)
    if without is None or with_dma is None or not launches_ns or not isinstance(payload, int):
        return None
    mb = payload / 1e6
    saved = mb * (without[0] - with_dma[0])
    least = max(mb * (without[1] - with_dma[2]), 0.0)
    most = max(mb * (without[2] - with_dma[1]), 0.0)
    middle, low, high = summarize(launches_ns).median, min(launches_ns), max(launches_ns)
    interval: IntervalEntry = {"low": 1 + least * 1e6 / high, "high": 1 + most * 1e6 / low}
    halved = Halved.UNDECIDED
    if interval["low"] >= compare.HALF:
        halved = Halved.YES
    elif interval["high"] < compare.HALF:
        halved = Halved.NO
    return {
        "payload_bytes": payload,
        "megabytes": sorted({size // 10**6 for s in result["samples"] if s["ok"] and (size := s.get("size_bytes"))}),
        "saved_ns": saved * 1e6,
        "launch_off_ns": middle + saved * 1e6,
        "launch_on_ns": middle,
        "launches": len(launches_ns),
        "ratio": 1 + saved * 1e6 / middle,
        "interval": interval,
        "halved": str(halved),
    }


def _slope(lines: list[LineEntry], side: str) -> tuple[float, float, float] | None:
    """Return how many ms a MB takes by a side's line, at least and at most; None where there is no line."""
    for line in lines:
        if line["side"] == side and line["ms_per_mb"] is not None and line["interval"] is not None:
            low, high = line["interval"]
            return line["ms_per_mb"], low, high
    return None


def _by_line(found: PredictedEntry) -> str:
    low, high = found["interval"]["low"], found["interval"]["high"]
    return (
        f"by a line through transfers of {', '.join(map(str, found['megabytes']))} MB a launch of"
        f" {found['launch_on_ns'] / 1e9:.2f} s (n = {found['launches']}) takes {found['launch_off_ns'] / 1e9:.2f} s"
        f" without DMA, {compare.times(found['ratio'])}× ({compare.times(low)}–{compare.times(high)})"
    )
