"""Grids on the command line: `--axis SETTING=A,B,...`, repeated, is every combination of the values."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import UsageError


def cells(axes: Sequence[str], known: Sequence[str]) -> list[dict[str, str]]:
    """Return the combinations of `SETTING=A,B` axes.

    :param known: the settings that can be varied.
    :raise UsageError: an axis is not of that form, or its setting cannot be varied, or is named twice.
    """
    grid: list[dict[str, str]] = [{}]
    for axis in axes:
        key, equals, values = axis.partition("=")
        key = key.replace("_", "-")
        if not equals or key not in known or not all(values.split(",")):
            raise UsageError("bad axis", axis, "expected SETTING=A,B,…", f"settings: {', '.join(known)}")
        if key in grid[0] or len(set(values.split(","))) < len(values.split(",")):
            raise UsageError("bad axis", axis, "a setting or a value is there twice", "name each once")
        grid = [cell | {key: value} for cell in grid for value in values.split(",")]
    return grid
