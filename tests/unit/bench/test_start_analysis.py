"""The benchmark of starts: ratios to the reference, what DMA saves, and the one table that says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench import result
from orchestrator.bench.analysis import analyse
from orchestrator.bench.start_sides import COLD, COLD_WITHOUT_DMA, REFERENCE, STANDBY, WARM
from orchestrator.report.collection import collect
from orchestrator.report.page import render
from orchestrator.report.reader import Broken
from tests import simulated_results
from tests.simulated_results import MS, text_of

pytestmark = pytest.mark.usefixtures("few_resamples")


def test_ratios_to_the_reference(tmp_path: Path) -> None:
    """Each time of each side is held against the same time of the reference, round by round."""
    found = simulated_results.starts(tmp_path / "a.json")
    assert result.load(tmp_path / "a.json")["complete"]
    rows: dict[str, Any] = {row["side"]: row["times"] for row in simulated_results.analysis_of(found)["starts"]}
    assert list(rows) == [REFERENCE, COLD_WITHOUT_DMA, COLD, WARM, STANDBY]
    assert rows[REFERENCE]["launch"]["ratio"] == 1
    for name, share in ((COLD_WITHOUT_DMA, 0.45), (COLD, 0.4), (WARM, 0.05), (STANDBY, 0.025)):
        launch = rows[name]["launch"]
        assert launch["n"] == 8
        assert launch["ratio"] == pytest.approx(share, rel=0.06)
        assert launch["ratio_interval"]["low"] <= launch["ratio"] <= launch["ratio_interval"]["high"]
    listed, inspected = (rows[WARM][timed]["median"] for timed in ("list-filesystems", "inspection"))
    assert inspected - listed == pytest.approx(1_700 * MS)


def test_what_dma_saves(tmp_path: Path) -> None:
    """The share of the launch, with its interval, and what the transfer alone accounts for."""
    found = simulated_results.starts(tmp_path / "a.json")
    dma: Any = simulated_results.analysis_of(found)["dma"]
    assert dma is not None
    assert dma["saved_share"] == pytest.approx(0.05 / 0.45, abs=0.04)
    assert dma["saved_share_interval"]["low"] <= dma["saved_share"] <= dma["saved_share_interval"]["high"]
    saved_ns = dma["transfer_off_ns"] - dma["transfer_on_ns"]
    assert saved_ns > 0
    assert dma["transfer_saved_share"] == pytest.approx(saved_ns / dma["wall_off_ns"])
    said = " ".join(text_of(found).split())
    assert "% less (" in said
    assert "The transfer itself takes" in said


def test_dma_that_saves_nothing(tmp_path: Path) -> None:
    """Slower with DMA is said as it is; an interval around nothing is no difference; no transfer, no figure of it."""
    found = simulated_results.starts(tmp_path / "a.json")
    walls = {
        name: [s for s in found["samples"] if s["side"] == name and s["metrics"].get("wall")]
        for name in (COLD, COLD_WITHOUT_DMA)
    }
    for on, off in zip(walls[COLD], walls[COLD_WITHOUT_DMA], strict=True):
        on["metrics"] |= {"wall": 5_000 * MS, "transfer": None}
        off["metrics"] |= {"wall": 4_000 * MS, "transfer": None}
    found["analysis"] = analyse(found)
    said = " ".join(text_of(found).split())
    assert "25.0 % more (25.0 to 25.0 %). No transfer was seen." in said
    for number, off in enumerate(walls[COLD_WITHOUT_DMA]):
        off["metrics"]["wall"] = (4_900 + 50 * number) * MS
    found["analysis"] = analyse(found)
    assert "% less: no difference shown)" in " ".join(text_of(found).split())


def test_without_a_side(tmp_path: Path) -> None:
    """A side that could not be had is named with the reason; without a reference there is no ratio."""
    found = simulated_results.starts(tmp_path / "a.json", standby=False)
    assert found["left_out"] == [{"side": STANDBY, "reason": "no daemon: simulated"}]
    assert "Left out: standby: no daemon: simulated" in text_of(found)
    found["sides"] = [side for side in found["sides"] if side["name"] not in {REFERENCE, COLD}]
    found["samples"] = [sample for sample in found["samples"] if sample["side"] not in {REFERENCE, COLD}]
    analysis = found["analysis"] = analyse(found)
    assert analysis["dma"] is None
    assert all(time and time["ratio"] is None for row in analysis["starts"] for time in row["times"].values())
    assert "–" in text_of(found)


@pytest.mark.parametrize("runs", [1, 12])
def test_one_table_of_80_columns(runs: int, tmp_path: Path) -> None:
    """All rows and columns are in one table that fits; few runs have no intervals."""
    shown = text_of(simulated_results.starts(tmp_path / "a.json", runs=runs))
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in shown
    assert lines[0].startswith("aarch64-uefi on tcg: seconds")
    assert next(line for line in lines if "launch" in line).split() == ["launch", "list-filesystems", "inspection", "n"]
    assert sum(line.startswith((" ", "")) and line.strip().startswith(REFERENCE) for line in lines) == 1
    assert ("(" in next(line for line in lines if WARM in line)) is (runs > 1)


def test_a_report_takes_the_result(tmp_path: Path) -> None:
    """A report on such a file is made, and says what it is and how many runs it holds."""
    found = simulated_results.starts(tmp_path / "a.json", runs=2)
    collection = collect([])
    collection.results.append((tmp_path / "a.json", found))
    page = render(collection, broken=Broken(), cache=None)
    assert "Benchmark start" in page
    assert "a.json: 30 runs on tcg" in page
