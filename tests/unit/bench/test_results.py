"""Results of benchmarks from samples to text: what is in the file, what is computed of it, what a person reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NotRequired, get_origin, get_type_hints

import pytest

from orchestrator.bench import analysis, result
from orchestrator.bench.recording import Recording
from orchestrator.bench.rounds import Sample
from orchestrator.bench.transfer import Transfer
from orchestrator.errors import UsageError
from tests import simulated_results
from tests.simulated_results import MS, text_of
from tests.typed import assert_typed

pytestmark = pytest.mark.usefixtures("few_resamples")


def test_a_file_that_is_written_can_be_read(tmp_path: Path) -> None:
    """It is whole, keeps to its schema, and carries the host, the accelerator and the seed."""
    written = simulated_results.fw_cfg(tmp_path / "deep" / "a.json")
    read = result.load(tmp_path / "deep" / "a.json")
    assert read == json.loads(json.dumps(written))
    assert read["complete"] is True
    assert read["environment"]["launches"]["accel"] == "tcg"
    assert read["environment"]["host"]["kernel"].startswith("Linux ")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_the_file_is_whole_after_every_round(tmp_path: Path) -> None:
    """An interrupted benchmark leaves a result that says it is not complete."""
    path = tmp_path / "a.json"
    recording = Recording("fw-cfg", path, seed=1)
    side = simulated_results.side("DMA off")
    recording.sides([(side.name, side.facts)])
    recording.take([simulated_results.sample("DMA off", 0, None, 5_000 * MS)], [side])
    assert result.load(path)["complete"] is False
    assert "NOT COMPLETE: killed, or still running" in text_of(result.load(path))


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not a result file"),
        ('{"format": "guestlaunch bench result", "schema_version": 99}', "schema version is 99"),
        ('{"format": "guestlaunch bench result", "schema_version": 1}', "required property"),
    ],
)
def test_files_that_are_no_results(document: str, why: str, tmp_path: Path) -> None:
    """Each is refused by name and reason."""
    path = tmp_path / "x.json"
    path.write_text(document)
    with pytest.raises(UsageError, match=f"x.json.*{why}"):
        result.load(path)


def test_warm_ups_and_failures_count_for_nothing(tmp_path: Path) -> None:
    """A round whose one side failed is no pair; the warm-up is not in the figures; the failure is told."""
    found = simulated_results.fw_cfg(tmp_path / "a.json", runs=8, failing=2)
    rows = {row["metric"]: row for row in simulated_results.analysis_of(found)["comparisons"]}
    assert rows["launch"]["first"]["n"] == rows["launch"]["second"]["n"] == 6
    assert simulated_results.analysis_of(found)["failed_runs"] == 2
    assert "Failed runs: 2. The first: simulated failure" in text_of(found)


def test_runs_of_one_side_for_each_boundary_are_one_pair(tmp_path: Path) -> None:
    """The exit comes from one run, the answer from another of the same round; the side is named once."""
    sides = [simulated_results.side(name, accel="tcg", arch="x86_64") for name in ("stock", "stock", "ours", "ours")]
    recording = Recording("launch", tmp_path / "a.json", seed=1)
    recording.sides((side.name, side.facts) for side in sides)
    for number in range(6):
        recording.take(
            [
                Sample(
                    side=name, round=number, position=0, started_wall_ns=10**18, wall_ns=wall, answer_ns=answer,
                    status=0, load=0.1,
                )
                for name, factor in (("stock", 2), ("ours", 1))
                for wall, answer in ((factor * (900 + number) * MS, None), (None, factor * (800 + number) * MS))
            ],
            sides,
        )  # fmt: skip
    recording.finish()
    assert [side["name"] for side in recording.result["sides"]] == ["stock", "ours"]
    rows = {row["metric"]: row for row in simulated_results.analysis_of(recording.result)["comparisons"]}
    assert {name: row["ratio"] for name, row in rows.items()} == {"wall": 2.0, "answer": 2.0}
    result.load(tmp_path / "a.json")


def test_verdict_of_a_result(tmp_path: Path) -> None:
    """DMA makes the transfer much faster and this launch a little: that is said, with intervals, and no halving."""
    shown = " ".join(text_of(simulated_results.fw_cfg(tmp_path / "a.json")).split())
    assert "halved: no, on tcg" in shown
    assert "transfer 2" in shown
    assert "× faster (" in shown


def test_modelled_results_say_so(tmp_path: Path) -> None:
    """The label stands first and in the verdict; counted accesses give the time that the model predicts."""
    found = simulated_results.fw_cfg(tmp_path / "a.json", cost_ns=5900)
    assert text_of(found).startswith("MODELLED trap cost: 5.9 µs")
    assert "(MODELLED)" in " ".join(text_of(found).split())
    recording = Recording("fw-cfg", tmp_path / "b.json", seed=1, trap_cost_ns=5900)
    recording.result |= {"sides": found["sides"], "samples": found["samples"], "environment": found["environment"]}
    counted = Transfer(
        fw_cfg_dma=False, duration_ns=1, kernel_ns=1, initrd_ns=1, kernel_bytes=31 << 20, initrd_bytes=8,
        accesses=4_000_000, accesses_total=4_000_100,
    )  # fmt: skip
    recording.count(counted, 4_000_000)
    assert "by the model the download takes 23.6 s" in " ".join(text_of(recording.result).split())


def test_results_that_are_no_hardwares_say_so(tmp_path: Path) -> None:
    """KVM on an emulated host: the first line and the verdict say it, and no result of hardware compares with it."""
    found = simulated_results.fw_cfg(tmp_path / "a.json", accel="kvm")
    hardware = simulated_results.fw_cfg(tmp_path / "b.json", accel="kvm")
    found["environment"]["host"] |= {"kind": "emulated", "clock": "instructions"}
    hardware["environment"]["host"] |= {"kind": "bare", "clock": "host"}
    found["analysis"], hardware["analysis"] = analysis.analyse(found), analysis.analyse(hardware)
    assert text_of(found).startswith("Not on hardware: emulated Arm host, instruction clock")
    assert simulated_results.analysis_of(found)["verdict"].endswith(", on kvm (emulated Arm host, instruction clock)")
    assert "Not on hardware" not in text_of(hardware)
    assert simulated_results.analysis_of(hardware)["verdict"].endswith(", on kvm")
    with pytest.raises(UsageError, match="the kind of host differs: bare and emulated-instructions"):
        analysis.compare_results(hardware, found, "a and b")
    result.save(found, tmp_path / "a.json")
    assert result.where(result.load(tmp_path / "a.json")) == "kvm (emulated Arm host, instruction clock)"


def test_the_same_against_the_same(tmp_path: Path) -> None:
    """A/A has no halving to speak of: it says that nothing was found."""
    found = simulated_results.fw_cfg(tmp_path / "a.json", same=True, runs=12)
    assert "no difference found, as it should be" in simulated_results.analysis_of(found)["verdict"]
    assert "halved" not in simulated_results.analysis_of(found)


def test_sides_on_different_accelerators_are_not_compared(tmp_path: Path) -> None:
    """The samples are kept, a comparison is refused."""
    found = simulated_results.fw_cfg(tmp_path / "a.json")
    found["samples"][-1]["accel"] = "kvm"
    with pytest.raises(UsageError, match="kvm, tcg"):
        analysis.analyse(found)


@pytest.mark.parametrize("kind", ["fw-cfg", "sweep", "failed"])
def test_text_fits_80_columns(kind: str, tmp_path: Path) -> None:
    """Whatever the figures are, nothing is cut off or wrapped within a table."""
    found = simulated_results.sweep(tmp_path / "a.json") if kind == "sweep" else simulated_results.fw_cfg(
        tmp_path / "a.json", runs=6, factor=400.0, failing=6 if kind == "failed" else 0
    )  # fmt: skip
    shown = text_of(found)
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "…" not in shown
    if kind == "failed":
        assert "Nothing to compare" in shown


def test_outliers_are_shown_and_kept(tmp_path: Path) -> None:
    """A run far off is named with its value and stays in the figures."""
    found = simulated_results.fw_cfg(tmp_path / "a.json", runs=9)
    odd = next(s for s in found["samples"] if s["side"] == "DMA on" and s["round"] == 4)
    odd["metrics"]["launch"] = 77_777 * MS
    found["analysis"] = analysis.analyse(found)
    launch = simulated_results.analysis_of(found)["sides"]["DMA on"]["launch"]
    assert (launch["n"], launch["high"]) == (9, 77_777 * MS)
    assert "DMA on: launch: 77,777 ms" in text_of(found)


def test_sweep_gives_the_cost_of_a_megabyte(tmp_path: Path) -> None:
    """The slopes put in are the slopes found, with intervals that hold them, and rates that follow."""
    found = simulated_results.sweep(tmp_path / "a.json")
    off, on = simulated_results.analysis_of(found)["lines"]
    assert off["interval"] is not None
    assert (off["side"], on["side"]) == ("DMA off", "DMA on")
    assert off["ms_per_mb"] == pytest.approx(20, rel=0.05)
    assert off["interval"][0] <= 20 <= off["interval"][1]
    assert on["ms_per_mb"] == pytest.approx(0.2, rel=0.05)
    assert off["mb_per_s"] == pytest.approx(50, rel=0.05)
    assert set(simulated_results.analysis_of(found)["sides"]["DMA on"]) == {
        "transfer 8 MB",
        "transfer 32 MB",
        "transfer 128 MB",
    }


def test_regressions(tmp_path: Path) -> None:
    """Slower by more than the tolerance is found; the same, and what the tolerance allows, is not."""
    baseline = simulated_results.fw_cfg(tmp_path / "a.json", runs=12, seed=1)

    def slower(factor: float, tolerance: float) -> set[str]:
        current = simulated_results.fw_cfg(tmp_path / "b.json", runs=12, seed=2, factor=factor)
        rows = analysis.regressions(baseline, current, tolerance=tolerance, subject="a and b")
        assert {row["metric"] for row in rows} == {"wall", "launch", "transfer"}
        return {row["metric"] for row in rows if row["slower"]}

    assert slower(1.0, 0.05) == set()
    assert slower(1.3, 0.05) == {"wall", "launch", "transfer"}
    assert slower(1.3, 0.5) == set()
    assert slower(0.5, 0.05) == set()


def test_too_few_runs_for_a_regression(tmp_path: Path) -> None:
    """Three runs show nothing either way: that is an error, not a pass."""
    few = simulated_results.fw_cfg(tmp_path / "a.json", runs=3)
    with pytest.raises(UsageError, match=r"3 and 3 runs.*at least 6"):
        analysis.regressions(few, few, tolerance=0.05, subject="a and b")


def test_comparing_files(tmp_path: Path) -> None:
    """Side by side, not as pairs; conditions that differ are named; nothing in common is an error."""
    first = simulated_results.fw_cfg(tmp_path / "a.json", seed=1)
    second = simulated_results.fw_cfg(tmp_path / "b.json", seed=2, runs=6, factor=2.0)
    second["environment"]["host"]["governor"] = "simulated"
    found = analysis.compare_results(first, second, "a and b")
    rows = {row["metric"]: row for row in found["sides"]["DMA on"]}
    assert (rows["launch"]["first"]["n"], rows["launch"]["second"]["n"]) == (8, 6)
    assert rows["launch"]["difference"] == "slower"
    assert any(line.startswith("governor: ") for line in found["conditions_that_differ"])
    with pytest.raises(UsageError, match="no side in common"):
        analysis.compare_results(first, simulated_results.fw_cfg(tmp_path / "c.json", same=True), "a and c")


def test_the_types_are_those_of_the_schema() -> None:
    """Each object of the schema is the typed dictionary of its name: the same keys, and the same of them needed."""
    top = result.schema()["properties"]
    environment = top["environment"]["properties"]
    for typed, described in (
        (result.Result, result.schema()),
        (result.Environment, top["environment"]),
        (result.FirmwareFile, environment["firmware"]),
        (result.SideEntry, top["sides"]["items"]),
        (result.SampleEntry, top["samples"]["items"]),
        (result.CountEntry, top["counts"]["items"]),
        (result.LeftOutEntry, top["left_out"]["items"]),
    ):
        assert_typed(typed, described)
    host = get_type_hints(result.HostFacts, include_extras=True)
    assert {name for name, hint in host.items() if get_origin(hint) is not NotRequired} == set(
        environment["host"]["required"]
    )


def test_every_kind_of_result_is_typed(tmp_path: Path) -> None:
    """What is computed, of whatever kind of benchmark, has no key that the type does not know."""
    made = (
        simulated_results.fw_cfg(tmp_path / "a.json", cost_ns=5900),
        simulated_results.sweep(tmp_path / "b.json"),
        simulated_results.starts(tmp_path / "c.json"),
    )
    known = {key for one in made for key in simulated_results.analysis_of(one)}
    assert known <= set(get_type_hints(result.Analysis))
