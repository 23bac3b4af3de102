"""The charts' specifications: each compiles and draws the rows it is given, and asks for no field that no row has."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from orchestrator.report import charts, rows, theme
from orchestrator.report.collection import collect
from orchestrator.timeline.phases import SEQUENCE, Phase, Start
from tests import simulated_results
from tests.simulated_launches import event, mixture


def simulated_rows(name: str, folder: Path) -> rows.Rows:
    """Return rows for a chart, from simulated launches or results."""
    lines = [line for line in mixture(count=150) if line["accel"] == "tcg" and line["start"] == "cold"]
    if name == "waterfall":
        return rows.waterfall_rows(event(1))
    if name == "ratios":
        return rows.ratio_rows(simulated_results.fw_cfg(folder / "a.json"))
    if name == "sweep":
        return rows.sweep_rows(simulated_results.sweep(folder / "b.json"))
    if name == "seed":
        return rows.seed_rows(simulated_results.seed(folder / "c.json"))
    return rows.launch_rows(lines) if name in {"trend", "launch-ecdf"} else rows.phase_rows(lines)


def fields(spec: Any) -> set[str]:  # noqa: ANN401 - JSON
    """Return the fields that a specification's encodings and transforms read."""
    if isinstance(spec, list):
        return set().union(*map(fields, spec)) if spec else set()
    if not isinstance(spec, dict):
        return set()
    own = {spec["field"]} if isinstance(spec.get("field"), str) else set()
    return own.union(*(fields(value) for value in spec.values())) if spec else own


def made(spec: Any) -> set[str]:  # noqa: ANN401 - JSON
    """Return the fields that a specification's transforms make."""
    if isinstance(spec, list):
        return set().union(*map(made, spec)) if spec else set()
    if not isinstance(spec, dict):
        return set()
    own = {spec["as"]} if isinstance(spec.get("as"), str) else set()
    if isinstance(spec.get("data"), dict) and "values" in spec["data"]:
        own |= set(spec["data"]["values"][0])
    return own.union(*(made(value) for value in spec.values())) if spec else own


@pytest.mark.parametrize("name", charts.FIGURES)
def test_charts_read_fields_that_rows_have(name: str, tmp_path: Path) -> None:
    """A renamed key would leave a chart empty without any error: here it is one."""
    spec = charts.FIGURES[name]()
    found = simulated_rows(name, tmp_path)
    assert found
    assert fields(spec) - made(spec) <= set(found[0])


@pytest.mark.parametrize("name", charts.FIGURES)
def test_charts_draw_marks(name: str, tmp_path: Path) -> None:
    """Each compiles, and the picture has more marks with rows than without."""
    spec = theme.themed(charts.FIGURES[name]()) | {"width": 500}
    full = vl_convert.vegalite_to_svg(spec | {"datasets": {"rows": simulated_rows(name, tmp_path)}})
    empty = vl_convert.vegalite_to_svg(spec | {"datasets": {"rows": []}})
    marks = [
        len(re.findall(r'aria-roledescription="(bar|rule|point|tick|line mark|text mark)', svg))
        for svg in (full, empty)
    ]
    assert marks[0] > marks[1]
    assert "NaN" not in full
    assert "undefined" not in full


def test_the_waterfall_tiles() -> None:
    """Each bar begins where the one before ended, in the order of the phases, with the sum as the last end."""
    line = event(3)
    found = rows.waterfall_rows(line)
    assert [row["phase"] for row in found] == [str(phase) for phase in SEQUENCE[Start.COLD]]
    assert found[0]["begin"] == 0
    for before, after in itertools.pairwise(found):
        assert after["begin"] == pytest.approx(before["end"])
    assert found[-1]["end"] == pytest.approx(line["total_ns"] / 1e9)


def test_every_phase_has_a_part_and_a_place() -> None:
    """No phase of any kind of launch is left out of colours or order."""
    assert set(rows.PART_OF) == {str(phase) for phase in Phase}
    assert sorted(theme.PHASES) == sorted(str(phase) for phase in Phase)
    for sequence in SEQUENCE.values():
        if Phase.RESTORE not in sequence:
            order = [theme.PHASES.index(str(phase)) for phase in sequence]
            assert order == sorted(order) or Phase.ATTACH in sequence


def test_the_log_axis_names_powers_of_ten() -> None:
    """In words with a unit, and nothing between them."""
    spec = theme.themed(charts.phases()) | {"width": 500}
    found = [{"phase": "kernel", "dma": "on", "ms": ms} for ms in (0.02, 3.0, 4000.0)]
    svg = vl_convert.vegalite_to_svg(spec | {"datasets": {"rows": found}})
    labels = set(re.findall(r">([\d.,]+ (?:µs|ms|s))<", svg))
    assert {"100 µs", "1 ms", "10 ms", "100 ms", "1 s"} <= labels
    assert not any(label.startswith(("2", "3", "5")) for label in labels)


def test_rows_leave_out_what_says_nothing() -> None:
    """Failed launches are in no distribution, launches that never became ready in no trend, unverified ones nowhere."""
    lines = [event(1), event(2, failed_in=Phase.KERNEL), event(3, failed_in=Phase.STAGE, dma=None)]
    assert {row["dma"] for row in rows.phase_rows(lines)} == {"on"}
    assert len(rows.phase_rows(lines)) == len(SEQUENCE[Start.COLD])
    assert [row["id"] for row in rows.launch_rows(lines)] == ["simulated-1"]


def test_the_typical_launch_is_the_median() -> None:
    """Of an odd number of launches, the one in the middle; of none, none."""
    lines = [event(number, factor=factor) for number, factor in enumerate((1.0, 5.0, 3.0))]
    found = rows.typical(lines)
    assert found is not None
    assert found["launch_id"] == "simulated-2"
    assert rows.typical([event(1, failed_in=Phase.KERNEL)]) is None


def test_specifications_are_plain_json() -> None:
    """They travel in the page as they are."""
    for make in charts.FIGURES.values():
        assert json.loads(json.dumps(make())) == make()
    assert collect([event(1)]).count == 1
