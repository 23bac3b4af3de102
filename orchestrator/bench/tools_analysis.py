"""The benchmark of whole tools, computed: each tool on each disk, by each side, against the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.bench.analysed import GainEntry, ToolEntry
from orchestrator.bench.result import Analysis, Result
from orchestrator.bench.samples import columns, task_name
from orchestrator.bench.start_analysis import against
from orchestrator.bench.start_sides import REFERENCE
from orchestrator.bench.tools import AT_ONCE, DISKS, IN_TURN


def analyse_tools(result: Result) -> Analysis:
    """Return `tools`, a row for each tool on each disk, with what it took by each side and its ratio to the reference.

    Rows are in the order of the first runs' names: by tool, then by disk. `gains` has a row for each side that did
    several disks both in turn and at once.
    """
    rounds = sorted({sample["round"] for sample in result["samples"] if sample["round"] >= 0})
    sides = {side["name"]: columns(result, side["name"], rounds) for side in result["sides"]}
    known = sides.get(REFERENCE, {})
    tasks = {task_name(s): (s["tool"], s["disk"]) for s in result["samples"] if s["round"] >= 0 and "tool" in s}
    rows: list[ToolEntry] = [
        {
            "tool": tool,
            "disk": disk,
            "times": {name: against(side.get(task, ()), known.get(task, ())) for name, side in sides.items()},
        }
        for task, (tool, disk) in sorted(tasks.items(), key=lambda one: one[1])
    ]
    disks = dict.fromkeys(row["disk"] for row in rows)
    gains = [_gain(name, disk, side) for disk in disks for name, side in sides.items()]
    return {"tools": rows, "gains": [gain for gain in gains if gain is not None]}


def _gain(side: str, disk: str, seen: Mapping[str, Sequence[float | None]]) -> GainEntry | None:
    in_turn, at_once = (seen.get(f"{tool}, {disk}", ()) for tool in (IN_TURN, AT_ONCE))
    found = against(in_turn, at_once)
    if found is None or found["ratio"] is None:
        return None
    took_s = found["median"] / found["ratio"] / 1e9
    n = min(sum(one is not None for one in runs) for runs in (in_turn, at_once))
    return {
        "side": side, "disk": disk, "n": n, "ratio": found["ratio"],
        "ratio_interval": found["ratio_interval"], "per_minute": 60 * DISKS / took_s,
    }  # fmt: skip
