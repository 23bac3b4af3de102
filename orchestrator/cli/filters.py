"""The options that choose recorded launches, shared by `report`, `history` and `timeline`."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.records.filters import Filters

_F = TypeVar("_F", bound=Callable[..., Any])
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


def filter_options(function: _F) -> _F:
    """Add the options to a command; it receives them together as `filters`."""

    def with_filters(**options: Any) -> object:  # noqa: ANN401 - click's options
        dma = options.pop("fw_cfg_dma_chosen")
        filters = Filters(
            since_ns=options.pop("since"),
            until_ns=options.pop("until"),
            profile=options.pop("only_profile"),
            accel=options.pop("only_accel"),
            start=options.pop("only_start"),
            fw_cfg_dma=None if dma is None else dma == "on",
            outcome=options.pop("outcome"),
        )
        return function(filters=filters, **options)

    with_filters.__name__, with_filters.__doc__ = function.__name__, function.__doc__
    decorated: Any = with_filters
    outcomes = click.Choice(["success", "failure", "cancelled"])
    for option in (
        click.option("--outcome", type=outcomes, help="Only launches that ended so."),
        click.option("--fw-cfg-dma", "fw_cfg_dma_chosen", type=click.Choice(["on", "off"]), help="As verified."),
        click.option("--start", "only_start", type=click.Choice(["cold", "warm", "standby"]), help="Kind of start."),
        click.option("--accel", "only_accel", type=click.Choice(["kvm", "tcg"]), help="Accelerator."),
        click.option("--profile", "only_profile", metavar="NAME", help="Kind of guest."),
        click.option("--until", type=PointInTime(), help="A date, a time or an age."),
        click.option("--since", type=PointInTime(), help="A date, a time or an age such as 12h or 2d."),
    ):
        decorated = option(decorated)
    decorated.__click_params__ = [*getattr(function, "__click_params__", []), *decorated.__click_params__]
    return decorated  # type: ignore[no-any-return]
