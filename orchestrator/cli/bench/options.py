"""The options that all measuring benchmarks share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import collected, json_option

# A generic class since click 8.4 alone.
if TYPE_CHECKING:
    _ParamType = click.ParamType[float]
else:
    _ParamType = click.ParamType
_MOST_S = 1e9
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|)")


class _Seconds(_ParamType):
    """A duration such as 90s, 20m or 1.5h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's signature
        """Return seconds."""
        match = _DURATION.fullmatch(str(value).strip())
        if match is None or not 0 < float(match[1]) < _MOST_S:
            self.fail(f"{value!r} is no duration such as 90s, 20m or 1.5h", param, ctx)
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """How a benchmark is to run: what all of them share."""

    runs: int
    warm_ups: int
    time_budget: float | None
    deadline: float
    seed: int
    out: Path | None
    disk: Path | None
    as_json: bool


# Adds what all measuring commands share; they receive it as `plan`.
plan_options = collected(
    "plan",
    RunPlan,
    click.option("--runs", type=click.IntRange(1), default=10, show_default=True, help="Rounds that count."),
    click.option("--warm-ups", type=click.IntRange(0), default=1, show_default=True, help="Rounds not counted."),
    click.option("--time-budget", type=_Seconds(), help="Start no round that would end after this."),
    click.option("--deadline", type=_Seconds(), default="10m", show_default=True, help="For a single run."),
    click.option("--seed", type=int, default=1, show_default=True, help="Seed of the random order."),
    click.option("--out", type=click.Path(path_type=Path), help="Result file; else below the state directory."),
    click.option("--disk", type=click.Path(path_type=Path), help="Disk that every run uses; a small one is made."),
    json_option,
)

resume_option = click.option(
    "--resume", type=click.Path(path_type=Path), metavar="FILE",
    help="Go on with an interrupted result, or begin it there.",
)  # fmt: skip
