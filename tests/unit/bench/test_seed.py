"""The seed's experiment: its steps, how it goes on after an interruption, what is computed, what a person reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench import analysis, result, seed, statistics
from orchestrator.bench.recording import Recording
from orchestrator.bench.rounds import Side
from orchestrator.bench.seed import STOCK, TRANSFER, Bench
from orchestrator.bench.start_sides import COLD, COLD_WITHOUT_DMA
from orchestrator.bench.transfer import Payload, Transfer
from orchestrator.domain.model import Accel
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import UsageError
from tests import simulated_results
from tests.simulated_launches import BARE, INSTRUCTIONS, VIRTUALISED
from tests.simulated_results import MS, analysis_of, sample, text_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples: the figures here are far apart."""
    monkeypatch.setattr(statistics, "RESAMPLES", 499)


def shells(folder: Path) -> list[Side]:
    """Return two sides that are shells, each of which leaves a line for each of its runs."""
    script = 'echo "$0" >> "$1"'
    return [
        Side(name=name, command=("/bin/sh", "-c", script, name, str(folder / "ran")), environ=dict(os.environ))
        for name in (STOCK, COLD)
    ]


def sizes(payload: Payload, transferred: list[int], *, fail_at: int | None) -> int:
    """Note a transfer; the one after so many fails."""
    if len(transferred) == fail_at:
        raise KeyboardInterrupt
    transferred.append(sum(payload.sizes) // 10**6)
    return transferred[-1]


@contextlib.contextmanager
def transfers(monkeypatch: pytest.MonkeyPatch, *, fail_at: int | None = None) -> Iterator[list[int]]:
    """Have transfers that take no QEMU: a second a MB without DMA."""
    done: list[int] = []

    def transfer(payload: Payload, _profile: object, *, fw_cfg_dma: bool, **_more: Any) -> Transfer:  # noqa: ANN401 - as it is called
        mb = sizes(payload, done, fail_at=fail_at)
        kernel, initrd = payload.sizes
        ns = MS if fw_cfg_dma else mb * 10**9
        return Transfer(
            fw_cfg_dma=fw_cfg_dma, duration_ns=ns, kernel_ns=ns, initrd_ns=0, kernel_bytes=kernel, initrd_bytes=initrd
        )

    with monkeypatch.context() as patched:
        patched.setattr(seed, "transfer", transfer)
        yield done


def begin(tmp_path: Path, launches: list[Side]) -> tuple[Bench, Recording]:
    """Return a benchmark and its result under way."""
    recording = Recording(seed.KIND, tmp_path / "seed.json", seed=1)
    recording.state(accel="tcg", arch="aarch64")
    recording.sides((side.name, side.facts) for side in launches)
    recording.sides((name, {"fw_cfg_dma": dma}) for dma, name in TRANSFER.items())
    folder = tmp_path / "payloads"
    folder.mkdir(exist_ok=True)
    profile = load_profile("aarch64-uefi")
    return Bench(recording=recording, folder=folder, profile=profile, accel=Accel.TCG, deadline_s=60.0), recording


def carry_out(bench: Bench, todo: list[seed.Measurement]) -> list[str]:
    """Carry steps out; return what was said."""
    said: list[str] = []
    list(
        seed.carry_out(bench, todo, time_budget_s=None, ready=lambda: None, tell=lambda what, _share: said.append(what))
    )
    return said


def test_steps_are_the_same_each_time(tmp_path: Path) -> None:
    """Every side and every size comes once a round, in an order that the seed decides and nothing else."""
    launches = shells(tmp_path)
    wanted = seed.steps(launches, (1, 2), runs=2, seed=1)
    assert [step.title for step in wanted] == [step.title for step in seed.steps(launches, (1, 2), runs=2, seed=1)]
    first = sorted(step.title for step in wanted if step.number == 0)
    expected = [STOCK, COLD, *(f"{name}, {size} MB" for name in TRANSFER.values() for size in (1, 2))]
    assert first == sorted(expected) == sorted(step.title for step in wanted if step.number == 1)
    others = (seed.steps(launches, (1, 2), runs=2, seed=number) for number in range(2, 6))
    assert any([s.title for s in other] != [s.title for s in wanted] for other in others)


def test_an_interrupted_one_goes_on_with_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done is not done again, from a file that was left as it was; progress says how much is left."""
    launches = shells(tmp_path)
    wanted = seed.steps(launches, (1, 2), runs=2, seed=1)
    bench, recording = begin(tmp_path, launches)
    with transfers(monkeypatch, fail_at=3) as before, pytest.raises(KeyboardInterrupt):
        carry_out(bench, seed.left(wanted, recording.result))
    bench, recording = begin(tmp_path, launches)
    recording.go_on(result.load(tmp_path / "seed.json"))
    todo = seed.left(wanted, recording.result)
    assert 0 < len(todo) < len(wanted)
    with transfers(monkeypatch) as after:
        said = carry_out(bench, todo)
    assert said[0].endswith(f"; after it {len(todo) - 1} of {len(todo)} left")
    assert sorted(before + after) == sorted([1, 1, 2, 2] * 2)
    assert sorted((tmp_path / "ran").read_text().split("\n")[:-1]) == sorted([STOCK, COLD] * 2)
    recording.finish()
    read = result.load(tmp_path / "seed.json")
    assert (read["complete"], seed.left(wanted, read), len(read["samples"])) == (True, [], len(wanted))


def test_what_failed_is_done_again(tmp_path: Path) -> None:
    """A run that failed is kept as such, and is still to be done."""
    launches = shells(tmp_path)
    bench, recording = begin(tmp_path, launches)
    wanted = seed.steps(launches, (), runs=1, seed=1)
    recording.take([sample(STOCK, 0, None, 1), sample(COLD, 0, None, 1, error="gone")], launches, analysed=False)
    assert [step.side for step in seed.left(wanted, recording.result)] == [COLD]
    carry_out(bench, seed.left(wanted, recording.result))
    assert [s["ok"] for s in recording.result["samples"]] == [True, False, True]


def test_only_the_same_goes_on(tmp_path: Path) -> None:
    """A result of another benchmark, or of another host, is refused with what differs."""
    found = simulated_results.seed(tmp_path / "a.json")
    _, recording = begin(tmp_path, [])
    elsewhere = {**found["environment"]["host"], "kernel": "Linux 2.6.32", "load": [9.0, 9.0, 9.0]}
    other: result.Result = {**found, "environment": {**found["environment"], "host": elsewhere}}  # type: ignore[typeddict-item]
    with pytest.raises(UsageError, match=r"its kernel is Linux 2\.6\.32"):
        recording.go_on(other)
    with pytest.raises(UsageError, match="its benchmark is sweep, here it is seed"):
        recording.go_on(simulated_results.sweep(tmp_path / "b.json"))


def test_a_line_answers_where_no_launch_without_dma_was_measured(tmp_path: Path) -> None:
    """Three sizes and one launch: what a MB costs says whether it is halved, with its basis and where that was seen."""
    found = simulated_results.seed(tmp_path / "a.json", made=INSTRUCTIONS)
    said = analysis_of(found)
    assert said["halved"] == "yes"
    assert said["verdict"].startswith("by a line through transfers of 1, 2, 4 MB a launch of 2.")
    assert said["verdict"].endswith("launch halved: yes, on kvm (emulated Arm host, instruction clock)")
    assert said["predicted"] is not None
    assert said["predicted"]["launch_off_ns"] == pytest.approx(2.6e9 + 35 * 0.9e9, rel=0.05)
    assert said["predicted"]["interval"]["low"] < said["predicted"]["ratio"] < said["predicted"]["interval"]["high"]
    shown = text_of(found)
    assert "Not on hardware: emulated Arm host, instruction clock" in shown
    assert " ".join(f"Verdict: {said['verdict']}".split()) in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_what_the_host_does_is_told_apart(tmp_path: Path) -> None:
    """The phases before the guest, and after the tool, of our launches; of others nothing is known."""
    found = simulated_results.seed(tmp_path / "a.json", made=INSTRUCTIONS)
    rows = {row["side"]: row["own"] for row in analysis_of(found)["seed"]}
    (cold,) = (one["metrics"] for one in found["samples"] if one["side"] == COLD)
    assert rows[STOCK] is None
    before = sum(cold[f"phase.{name}"] or 0 for name in ("plan", "stage", "connect", "create"))
    assert rows[COLD] == {"before_ns": before, "after_ns": cold["phase.shutdown"]}
    assert f"{COLD}: of that {before / 1e9:.2f} s before the guest" in text_of(found)


def test_hardware_needs_no_word(tmp_path: Path) -> None:
    """On a bare host the verdict says kvm, and no more; on a virtualised one that it is one."""
    assert analysis_of(simulated_results.seed(tmp_path / "a.json", made=BARE))["verdict"].endswith("yes, on kvm")
    virtual = simulated_results.seed(tmp_path / "b.json", made=VIRTUALISED)
    assert analysis_of(virtual)["verdict"].endswith("yes, on kvm (virtualised host)")


def test_where_nothing_traps_it_is_not_halved(tmp_path: Path) -> None:
    """TCG's answer."""
    found = analysis_of(simulated_results.seed(tmp_path / "a.json", slow=False, accel="tcg"))
    assert (found["halved"], found["verdict"].endswith("launch halved: no, on tcg")) == ("no", True)


def test_launches_without_dma_answer_themselves_when_there_are_enough(tmp_path: Path) -> None:
    """Seven pairs are compared as ever; one pair is told beside what the line says."""
    many = analysis_of(simulated_results.seed(tmp_path / "a.json", quick=False, runs=7))
    assert many["halved"] == "yes"
    assert "by a line" not in many["verdict"]
    assert max(map(len, text_of(result.load(tmp_path / "a.json")).splitlines())) <= 80
    one = analysis_of(simulated_results.seed(tmp_path / "b.json", quick=False))
    assert one["halved"] == "yes"
    assert "(only 1 run: no interval); by a line through" in one["verdict"]


def test_a_part_without_transfers_shows_no_lines(tmp_path: Path) -> None:
    """Nor is there a table of launches where only transfers were measured."""
    found = simulated_results.seed(tmp_path / "a.json")
    launches, transfers_alone = found.copy(), found.copy()
    launches["samples"] = [one for one in found["samples"] if one["side"] not in TRANSFER.values()]
    transfers_alone["sides"] = [one for one in found["sides"] if one["name"] in TRANSFER.values()]
    assert "ms a MB" in text_of(found)
    for part, shown, hidden in ((launches, "guestfish run", "ms a MB"), (transfers_alone, "ms a MB", "guestfish run")):
        part["analysis"] = analysis.analyse(part)
        assert (shown in text_of(part), hidden in text_of(part)) == (True, False)


def test_too_little_says_nothing(tmp_path: Path) -> None:
    """Without a line, or without a launch, it is left open."""
    found = simulated_results.seed(tmp_path / "a.json")
    for gone in (COLD, TRANSFER[False]):
        found["samples"] = [one for one in found["samples"] if one["side"] != gone]
        recording = Recording(seed.KIND, tmp_path / "b.json", seed=1)
        recording.result = found
        recording.save()
        assert analysis_of(recording.result)["halved"] == "undecided"
        assert "not measured" in analysis_of(recording.result)["verdict"]
    assert COLD_WITHOUT_DMA not in {row["side"] for row in analysis_of(recording.result)["seed"]}
