"""The benchmark of whole tools, computed: each tool on each disk, by each side, against the reference."""

from __future__ import annotations

from orchestrator.bench.analysed import ToolEntry
from orchestrator.bench.result import Analysis, Result
from orchestrator.bench.samples import columns, task_name
from orchestrator.bench.start_analysis import against
from orchestrator.bench.start_sides import REFERENCE


def analyse_tools(result: Result) -> Analysis:
    """Return `tools`, a row for each tool on each disk, with what it took by each side and its ratio to the reference.

    Rows are in the order of the first runs' names: by tool, then by disk.
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
    return {"tools": rows}
