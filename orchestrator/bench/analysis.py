"""From samples to figures: what a benchmark's result says, as JSON-ready values and as lines for a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from orchestrator.bench import compare, host, seed, seed_analysis, start_analysis, tools, tools_analysis
from orchestrator.bench.analysed import ComparisonEntry, LineEntry, SummaryEntry
from orchestrator.bench.compare import Columns, Comparison
from orchestrator.bench.result import Analysis, Result, made_on
from orchestrator.bench.samples import columns, summary, transfer_point
from orchestrator.bench.statistics import (
    ALPHA,
    CONFIDENCE,
    MIN_SAMPLES,
    adjust,
    difference_p,
    fit_line,
    ratio_interval,
    summarize,
)
from orchestrator.errors import UsageError
from orchestrator.records.provenance import kept_apart
from orchestrator.records.record import LaunchEvent

PRIMARY = {
    "fw-cfg": ("transfer", "launch"),
    "launch": ("wall", "answer"),
    start_analysis.KIND: tuple(start_analysis.TIMED.values()),
}


def metrics_of(
    event: LaunchEvent | None, *, wall_ns: int | None, answers: Mapping[str, int | None]
) -> dict[str, int | None]:
    """Return a sample's metrics in ns, from its outside boundaries and its launch's canonical line.

    :param answers: the time to the answer by what it is called.
    """
    metrics: dict[str, int | None] = {"wall": wall_ns, **answers}
    if event is not None:
        metrics |= {"launch": event["launch_ns"], "transfer": event["transfer_ns"], "total": event["total_ns"]}
        metrics |= {f"phase.{phase['name']}": phase["duration_ns"] for phase in event["phases"]}
    return metrics


def analyse(result: Result) -> Analysis:
    """Return the analysis of a result, by its kind.

    :raise UsageError: when its sides must not be compared.
    """
    # A tool that cannot be had fails in its warm-up, and is then left out.
    failed = [s for s in result["samples"] if not s["ok"] and (s["round"] >= 0 or result["kind"] != tools.KIND)]
    base: Analysis = {
        "confidence": CONFIDENCE,
        "alpha": ALPHA,
        "failed_runs": len(failed),
        "first_failure": failed[0].get("error") if failed else None,
    }
    if result["kind"] == "sweep":
        sizes = {side["name"]: _summaries(columns(result, side["name"])) for side in result["sides"]}
        return base | {"lines": _sweep_lines(result, [side["name"] for side in result["sides"]]), "sides": sizes}
    base["sides"] = {side["name"]: _summaries(columns(result, side["name"])) for side in result["sides"]}
    if result["kind"] == start_analysis.KIND:
        _require_same_accel(result)
        return base | start_analysis.analyse_starts(result)
    if result["kind"] == tools.KIND:
        _require_same_accel(result)
        return base | tools_analysis.analyse_tools(result)
    if result["kind"] == seed.KIND:
        _require_same_accel(result)
        return base | seed_analysis.analyse_seed(result, _sweep_lines(result, tuple(seed.TRANSFER.values())))
    if result["kind"] == "matrix" or len(result["sides"]) != 2:
        return base
    return base | _pairwise(result)


def _pairwise(result: Result) -> Analysis:
    first, second = (side["name"] for side in result["sides"])
    _require_same_accel(result)
    rounds = sorted({s["round"] for s in result["samples"] if s["round"] >= 0})
    a, b = columns(result, first, rounds), columns(result, second, rounds)
    rows = compare.compare(a, b, paired=True, primary=PRIMARY.get(result["kind"], ()))
    found: Analysis = {"comparisons": [comparison_to_dict(row) for row in rows]}
    if result["kind"] == "fw-cfg":
        accel = str(facts(result)["accel"])
        said = compare.verdict(
            a, b, rows, accel=accel, arch=facts(result)["arch"], made_on=facts(result)["made_on"],
            modelled_trap_cost_ns=result["modelled_trap_cost_ns"],
        )  # fmt: skip
        same = len({side["facts"].get("fw_cfg_dma") for side in result["sides"]}) == 1
        found |= {"verdict": said.same_text} if same else {"verdict": said.text, "halved": str(said.halved)}
    return found | _modelled(result)


def _modelled(result: Result) -> Analysis:
    """Return how long the download should take by the model: the accesses that were counted without DMA × the cost."""
    cost_ns = result["modelled_trap_cost_ns"]
    counted = next((row["accesses"] for row in result["counts"] if not row["fw_cfg_dma"]), None)
    return {"modelled_download_ns": counted * cost_ns} if cost_ns and counted else {}


def facts(result: Result) -> dict[str, Any]:
    """Return what decides whether results compare: accel, arch, kind of host, modelled trap cost."""
    launches = result["environment"]["launches"]
    accel = launches.get("accel")
    return {
        "accel": accel,
        "made_on": kept_apart(made_on(result), accel),
        "arch": launches.get("arch"),
        "modelled_trap_cost_ns": result["modelled_trap_cost_ns"],
    }


def _require_same_accel(result: Result) -> None:
    accels = {accel for s in result["samples"] if s["ok"] and (accel := s.get("accel"))}
    if len(accels) > 1:
        why = f"its runs used different accelerators: {', '.join(sorted(accels))}"
        raise UsageError("cannot compare the sides", result["kind"], why, "name one with --accel")


def _sweep_lines(result: Result, sides: Sequence[str]) -> list[LineEntry]:
    lines: list[LineEntry] = []
    for side in sides:
        good = [s for s in result["samples"] if s["side"] == side and s["round"] >= 0]
        points = [point for sample in good if (point := transfer_point(sample))]
        fit = fit_line([mb for mb, _ in points], [ms for _, ms in points])
        lines.append(
            {
                "side": side,
                "ms_per_mb": fit.slope if fit else None,
                "interval": [fit.interval.low, fit.interval.high] if fit else None,
                "at_zero_ms": fit.intercept if fit else None,
                "mb_per_s": 1e3 / fit.slope if fit and fit.slope > 0 else None,
            }
        )
    return lines


def _summaries(side: Columns) -> dict[str, SummaryEntry]:
    seen = {name: [value for value in values if value is not None] for name, values in side.items()}
    return {name: summary(summarize(values)) for name, values in seen.items() if values}


def comparison_to_dict(row: Comparison) -> ComparisonEntry:
    """Return a comparison as JSON-ready values."""
    told = {"first": summary(row.first), "second": summary(row.second), "difference": str(row.difference)}
    return cast("ComparisonEntry", dataclasses.asdict(row) | told)


def compare_results(first: Result, second: Result, subject: str) -> dict[str, Any]:
    """Compare two result files side by side (each side of the first with the same of the second), unpaired.

    :raise UsageError: when accelerator, guest arch or trap cost differ, or they have no side in common.
    """
    compare.require_comparable(facts(first), facts(second), subject)
    common = [s["name"] for s in first["sides"] if s["name"] in {t["name"] for t in second["sides"]}]
    if not common:
        raise UsageError("cannot compare results", subject, "they have no side in common")
    primary = PRIMARY.get(first["kind"], ())
    sides = {}
    for name in common:
        rows = compare.compare(columns(first, name), columns(second, name), paired=False, primary=primary)
        sides[name] = [comparison_to_dict(row) for row in rows]
    return {
        "sides": sides,
        "conditions_that_differ": host.differences(first["environment"]["host"], second["environment"]["host"]),
    }


def regressions(baseline: Result, current: Result, *, tolerance: float, subject: str) -> list[dict[str, Any]]:
    """Return the metrics that a baseline is held to, each with `times` (the baseline's median) and the judgement.

    Slower: the permutation test rules out, at its level for all metrics together, that the current result is the
    baseline times (1 + tolerance) or less.

    :param tolerance: what may be slower, as a fraction.
    :raise UsageError: when the two must not be compared, or have too few runs for a judgement.
    """
    judged = []
    for side, rows in compare_results(baseline, current, subject)["sides"].items():
        a, b = columns(current, side), columns(baseline, side)
        held = (*PRIMARY.get(current["kind"], ()), "wall") if current["kind"] not in ("sweep", tools.KIND) else tuple(a)
        for row in rows:
            metric = row["metric"]
            if metric not in held:
                continue
            now, then = ([value for value in values[metric] if value is not None] for values in (a, b))
            p = difference_p(now, then, paired=False, factor=1 + tolerance)
            interval = ratio_interval(now, then, paired=False)
            if p is None or interval is None:
                why = f"{side}, {metric}: {row['first']['n']} and {row['second']['n']} runs"
                raise UsageError("cannot judge", subject, why, f"measure at least {MIN_SAMPLES} runs each")
            times = row["second"]["median"] / row["first"]["median"]
            judged.append(
                {"side": side, "metric": metric, "times": times, "interval": dataclasses.asdict(interval), "p_value": p}
            )
    for row, p in zip(judged, adjust([row["p_value"] for row in judged]), strict=True):
        row["slower"] = p is not None and p <= ALPHA and row["times"] > 1 + tolerance
    if not judged:
        raise UsageError("cannot judge", subject, "they have no metric in common")
    return judged
