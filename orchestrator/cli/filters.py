"""The options that choose recorded launches, shared by `report`, `history` and `timeline`."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import collected
from orchestrator.records.filters import Filters
from orchestrator.records.provenance import LABELS
from orchestrator.timeline.phases import Kind

# A generic class since click 8.4 alone.
if TYPE_CHECKING:
    _ParamType = click.ParamType[int]
else:
    _ParamType = click.ParamType
_AGO = re.compile(r"(\d+)\s*(m|h|d|w)")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class PointInTime(_ParamType):
    """A point in time: an ISO date or time (local), or an age such as 90m, 12h, 1d, 2w. In ns since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's signature
        """Return wall-clock nanoseconds."""
        if isinstance(value, int):
            return value
        if match := _AGO.fullmatch(value.strip()):
            return time.time_ns() - int(match[1]) * _SECONDS[match[2]] * 10**9
        try:
            return int(dt.datetime.fromisoformat(value).timestamp()) * 10**9
        except ValueError:
            self.fail(f"{value!r} is neither a date such as 2026-01-31 nor an age such as 12h or 2d", param, ctx)


def _filters(fw_cfg_dma: str | None, **chosen: Any) -> Filters:  # noqa: ANN401 - click's options
    return Filters(fw_cfg_dma=None if fw_cfg_dma is None else fw_cfg_dma == "on", **chosen)


# Adds the options to a command; it receives them together as `filters`.
filter_options = collected(
    "filters",
    _filters,
    click.option("--since", "since_ns", type=PointInTime(), help="A date, a time or an age such as 12h or 2d."),
    click.option("--until", "until_ns", type=PointInTime(), help="A date, a time or an age."),
    click.option("--profile", metavar="NAME", help="Kind of guest."),
    click.option("--accel", type=click.Choice(["kvm", "tcg"]), help="Accelerator."),
    click.option("--made-on", type=click.Choice(LABELS), help="Kind of host."),
    click.option("--start", type=click.Choice(["cold", "warm", "standby"]), help="Kind of start."),
    click.option("--kind", type=click.Choice([str(kind) for kind in Kind]), help="What was launched."),
    click.option("--fw-cfg-dma", type=click.Choice(["on", "off"]), help="As verified."),
    click.option(
        "--outcome", type=click.Choice(["success", "failure", "cancelled"]), help="Only launches that ended so."
    ),
)
