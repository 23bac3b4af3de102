"""The bench commands before and after measuring: what is refused at once, and what is made of result files."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import main
from orchestrator.cli.axes import cells
from orchestrator.cli.bench.commands import AXES, bench
from orchestrator.errors import UsageError
from tests import simulated_results

pytestmark = pytest.mark.usefixtures("few_resamples")


def bench_result(*arguments: str | Path) -> Result:
    """Run a bench command that measures nothing."""
    return CliRunner().invoke(bench, list(map(str, arguments)), standalone_mode=False)


def test_cells_are_the_grid() -> None:
    """Every combination, in the order of the axes."""
    assert cells(["profile=a,b", "memory_mib=1,2"], AXES) == [
        {"profile": "a", "memory-mib": "1"},
        {"profile": "a", "memory-mib": "2"},
        {"profile": "b", "memory-mib": "1"},
        {"profile": "b", "memory-mib": "2"},
    ]


@pytest.mark.parametrize("axis", ["cpu", "cpu=", "cpu=a,,b", "colour=red", "cpu=a,a"])
def test_bad_axes(axis: str) -> None:
    """What cannot be varied is refused with what can."""
    with pytest.raises(UsageError, match="bad axis"):
        cells([axis], AXES)
    with pytest.raises(UsageError, match="twice"):
        cells(["cpu=a", "cpu=b"], AXES)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["fw-cfg", "--profile", "aarch64-bare"], "nothing travels by fw_cfg"),
        (["fw-cfg", "--trap-cost", "5.9"], "5.9us"),
        (["fw-cfg", "--trap-cost", "5.9us", "--accel", "kvm"], "under KVM"),
        (["fw-cfg", "--trap-cost", "5.9us", "--profile", "x86_64-ovmf"], "--profile aarch64-uefi"),
        (["fw-cfg", "--runs", "0"], "--runs"),
        (["fw-cfg", "--time-budget", "soon"], "90s"),
        (["start", "--vcpus", "2"], "the reference's guest has as many as libguestfs gives it"),
        (["start", "--side", "lukewarm"], "standby"),
        (["sweep", "--sizes", "8,big"], "8,16,32"),
        (["matrix", "--axis", "colour=red"], "settings: profile"),
        (["matrix"], "--axis"),
        (["compare", "/nowhere.json", "/nowhere.json"], "/nowhere.json"),
        (["regress", "/nowhere.json", "--baseline", "/nowhere.json"], "/nowhere.json"),
        (["regress", "/nowhere.json"], "--baseline"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_before_anything_runs(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line, not status 0, no traceback."""
    monkeypatch.setenv("GUESTLAUNCH_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["guestlaunch", "bench", *arguments])
    assert main.main() in {1, 2}
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("guestlaunch: ")
    assert part in captured.err


def test_stock_cannot_launch_another_arch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what can be compared instead."""
    other = "x86_64-seabios" if os.uname().machine == "aarch64" else "aarch64-uefi"
    monkeypatch.setattr(sys, "argv", ["guestlaunch", "bench", "launch", "--profile", other])
    assert main.main() == 2
    assert "--against direct" in capsys.readouterr().err


def test_compare(tmp_path: Path) -> None:
    """As text for people and as JSON for programs; accelerators are not mixed."""
    for name, accel in (("a", "tcg"), ("b", "tcg"), ("c", "kvm")):
        simulated_results.fw_cfg(tmp_path / f"{name}.json", accel=accel)
    same = bench_result("compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert set(json.loads(same.stdout)["sides"]) == {"DMA off", "DMA on"}
    assert "A: DMA on in the first file" in bench_result("compare", tmp_path / "a.json", tmp_path / "b.json").stdout
    refused = bench_result("compare", tmp_path / "a.json", tmp_path / "c.json")
    assert isinstance(refused.exception, UsageError)
    assert "accelerator differs: tcg and kvm" in str(refused.exception)


def test_results_that_are_not_complete_are_called_that(tmp_path: Path) -> None:
    """A comparison says so, a judgement is refused unless it is allowed, and says so then."""
    for name in ("a", "b"):
        simulated_results.fw_cfg(tmp_path / f"{name}.json", runs=6)
    ended = json.loads((tmp_path / "b.json").read_text()) | {"complete": False, "ended_by": "SIGTERM"}
    (tmp_path / "b.json").write_text(json.dumps(ended))
    said = bench_result("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert "NOT COMPLETE: ended by SIGTERM; 6 rounds were begun" in " ".join(said.stdout.split())
    machine = bench_result("compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert json.loads(machine.stdout)["not_complete"] == [str(tmp_path / "b.json")]
    judged = ("regress", tmp_path / "b.json", "--baseline", tmp_path / "a.json")
    refused = bench_result(*judged)
    assert isinstance(refused.exception, UsageError)
    assert "--allow-incomplete" in str(refused.exception)
    assert "NOT COMPLETE" in bench_result(*judged, "--allow-incomplete").stderr


@pytest.mark.parametrize(("factor", "status", "word"), [(1.0, 0, "ok: "), (1.5, 1, "SLOWER: ")])
def test_regress_exit_status(factor: float, status: int, word: str, tmp_path: Path) -> None:
    """0 when nothing got slower, 1 when something did; each metric is told."""
    simulated_results.fw_cfg(tmp_path / "a.json", runs=10, seed=1)
    simulated_results.fw_cfg(tmp_path / "b.json", runs=10, seed=2, factor=factor)
    done = bench_result("regress", tmp_path / "b.json", "--baseline", tmp_path / "a.json")
    assert done.return_value == status
    assert f"{word}DMA on: launch takes" in done.stdout
    machine = bench_result("regress", tmp_path / "b.json", "--baseline", tmp_path / "a.json", "--json")
    assert machine.return_value == status
    assert bool(json.loads(machine.stdout)["regressions"]) is bool(status)
