"""The page's verdict boxes: each figure of a verdict as a tile with its interval and what may be said of it."""

from __future__ import annotations

from orchestrator.bench.result import Analysis, Result
from orchestrator.report.observed import Observed, Ratio

Tile = dict[str, str]

_NAMES = {"transfer": "transfer", "launch": "launch", "wall": "whole run", "answer": "first answer"}


def observed_tiles(found: Observed) -> list[Tile]:
    """Return the tiles of what ordinary launches say."""
    seen: dict[str, Ratio | None] = {"transfer": found.transfer, "launch": found.launch}
    tiles = [
        _tile(name, one.ratio, (one.low, one.high), one.difference) for name, one in seen.items() if one is not None
    ]
    return [*tiles, _halved(found.halved)]


def result_tiles(result: Result) -> list[Tile]:
    """Return the tiles of a benchmark's result; none when it compares nothing."""
    analysis: Analysis = result["analysis"] or {}
    wanted = ("transfer", "launch") if result["kind"] == "fw-cfg" else ("wall", "answer")
    by_name = {row["metric"]: row for row in analysis.get("comparisons", ())}
    tiles = []
    for name in wanted:
        row = by_name.get(name)
        if row is not None and row["ratio"] is not None:
            interval = row["interval"] and (row["interval"]["low"], row["interval"]["high"])
            tiles.append(_tile(_NAMES[name], row["ratio"], interval, row["difference"]))
    return [*tiles, _halved(analysis["halved"])] if "halved" in analysis else tiles


def _tile(name: str, ratio: float, interval: tuple[float, float] | None, difference: str) -> Tile:
    shown = 1 / ratio if difference == "slower" else ratio
    spread = f"{interval[0]:.2f}–{interval[1]:.2f}" if interval else "too few runs for an interval"
    return {
        "name": name,
        "value": f"{shown:.1f}×" if shown >= 10 else f"{shown:.2f}×",
        "says": difference,
        "note": f"ratio {spread}" if interval else spread,
        "tone": {"faster": "good", "slower": "bad"}.get(difference, "plain"),
    }


def _halved(answer: str) -> Tile:
    return {
        "name": "launch halved",
        "value": answer,
        "says": "",
        "note": "yes only when the whole interval is at 2 or more",
        "tone": "good" if answer == "yes" else "plain",
    }
