"""Comparison and verdict: what may be said, and above all what may not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from orchestrator.bench import compare, statistics
from orchestrator.bench.compare import Difference, Halved
from orchestrator.errors import UsageError

Side = dict[str, list[float | None]]
PRIMARY = ("transfer", "launch")
RECORDED = json.loads((Path(__file__).parents[2] / "data" / "same_against_same.json").read_text("utf-8"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples for simulations of many experiments: coarser p-values, the same error rates."""
    monkeypatch.setattr(statistics, "RESAMPLES", 499)


def _side(seed: int, *, launch: float, transfer: float, count: int = 10, spread: float = 0.05) -> Side:
    rng = random.Random(seed)
    return {
        "transfer": [transfer * rng.lognormvariate(0, spread) for _ in range(count)],
        "launch": [launch * rng.lognormvariate(0, spread) for _ in range(count)],
    }


def _verdict(off: Side, on: Side, cost: int | None = None) -> compare.Verdict:
    rows = compare.compare(off, on, paired=True, primary=PRIMARY)
    return compare.verdict(off, on, rows, accel="tcg", modelled_trap_cost_ns=cost)


def test_transfer_faster_launch_not_halved() -> None:
    """TCG's honest answer: the transfer is much faster, the launch a little, and that is no halving."""
    said = _verdict(_side(1, launch=20e9, transfer=1e9), _side(2, launch=18e9, transfer=45e6))
    assert said.halved is Halved.NO
    assert said.transfer is not None
    assert said.transfer.difference is Difference.FASTER
    assert said.text.endswith("halved: no, on tcg")
    assert "transfer 2" in said.text


def test_halved_when_it_is() -> None:
    """A launch of 43 s against 19 s is halved, and the model is named."""
    said = _verdict(_side(1, launch=43e9, transfer=24e9), _side(2, launch=19e9, transfer=45e6), cost=5900)
    assert said.halved is Halved.YES
    assert "MODELLED" in said.text
    assert "5.9 µs" in said.text


def test_interval_across_two_is_undecided() -> None:
    """A ratio of about two with wide noise is neither halved nor not."""
    said = _verdict(_side(1, launch=40e9, transfer=24e9, spread=0.2), _side(2, launch=20e9, transfer=45e6, spread=0.2))
    assert said.halved is Halved.UNDECIDED


def test_never_halved_without_an_interval() -> None:
    """Three pairs with a ratio of ten: said with the number of runs, not as halved."""
    said = _verdict(_side(1, launch=90e9, transfer=24e9, count=3), _side(2, launch=9e9, transfer=45e6, count=3))
    assert said.halved is Halved.UNDECIDED
    assert "only 3 runs" in said.text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("true_ratio", [1.0, 1.5, 1.9])
def test_halved_is_never_said_of_less(true_ratio: float) -> None:
    """Of 60 experiments below two, at most the claimed 5 % may be called halved; with these none is."""
    wrong = 0
    for seed in range(60):
        off = _side(2 * seed, launch=true_ratio * 20e9, transfer=1e9, spread=0.1)
        wrong += _verdict(off, _side(2 * seed + 1, launch=20e9, transfer=1e8, spread=0.1)).halved is Halved.YES
    assert wrong <= 3


@pytest.mark.usefixtures("quick")
def test_false_positives_of_a_a_comparisons() -> None:
    """The same against the same, 20 runs, 400 times: a difference is found in at most the claimed 5 %.

    Any difference counts, of any metric the verdict rests on. The bound allows for chance at 99 %.
    """
    experiments = 400
    found = 0
    for seed in range(experiments):
        a = _side(2 * seed, launch=18e9, transfer=45e6, count=20, spread=0.15)
        b = _side(2 * seed + 1, launch=18e9, transfer=45e6, count=20, spread=0.15)
        rows = compare.compare(a, b, paired=True, primary=PRIMARY)
        found += any(row.difference in (Difference.FASTER, Difference.SLOWER) for row in rows)
    assert found <= 0.05 * experiments + 2.33 * (experiments * 0.05 * 0.95) ** 0.5


def _recorded(seed: int, factor: float = 1.0) -> tuple[Side, Side]:
    """Return 20 pairs drawn from recorded ones, each as it was but for which member is first; the first × factor.

    The pairs keep what a host does to both members, the tails keep what it does to one.
    """
    rng = random.Random(seed)
    drawn = [(rng.randrange(20), rng.random() < 0.5) for _ in range(20)]
    first: Side = {}
    second: Side = {}
    for metric in PRIMARY:
        a, b = (RECORDED["metrics"][metric][side] for side in "AB")
        first[metric] = [factor * (b[i] if swap else a[i]) for i, swap in drawn]
        second[metric] = [a[i] if swap else b[i] for i, swap in drawn]
    return first, second


@pytest.mark.usefixtures("quick")
def test_false_positives_with_recorded_noise() -> None:
    """Twenty A/A comparisons of 20 runs, twenty times over, with the noise of real launches: at most 5 % are wrong."""
    experiments = 20 * 20
    found = 0
    for seed in range(experiments):
        rows = compare.compare(*_recorded(seed), paired=True, primary=PRIMARY)
        found += any(row.difference in (Difference.FASTER, Difference.SLOWER) for row in rows)
    assert found <= 0.05 * experiments + 2.33 * (experiments * 0.05 * 0.95) ** 0.5


def test_the_recorded_a_a_comparison_finds_nothing() -> None:
    """DMA on against DMA on, 20 real runs each: no difference of any metric that was recorded."""
    a, b = ({name: sides[side] for name, sides in RECORDED["metrics"].items()} for side in "AB")
    rows = compare.compare(a, b, paired=True, primary=PRIMARY)
    assert {row.metric: row.difference for row in rows} == dict.fromkeys(a, Difference.NONE)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("factor", "least", "most"), [(4.0, 38, 40), (1.9, 0, 1), (1.0, 0, 0)])
def test_a_halving_is_seen_through_recorded_noise(factor: float, least: int, most: int) -> None:
    """Of 40 experiments: four times is nearly always called halved, less than twice as good as never."""
    halved = sum(_verdict(*_recorded(seed, factor)).halved is Halved.YES for seed in range(40))
    assert least <= halved <= most


def test_a_real_difference_is_found() -> None:
    """The test that finds nothing in A/A does find 10 %."""
    a = _side(1, launch=19.8e9, transfer=45e6, count=20)
    b = _side(2, launch=18e9, transfer=45e6, count=20)
    rows = {row.metric: row for row in compare.compare(a, b, paired=True, primary=PRIMARY)}
    assert rows["launch"].difference is Difference.FASTER
    assert rows["transfer"].difference is Difference.NONE


def test_just_below_two_is_not_shown_as_two() -> None:
    """A ratio of 1.9996 is not rounded to a halving in print."""
    side = _side(1, launch=10e9, transfer=1e9)
    slower: Side = {name: [None if v is None else 1.9996 * v for v in values] for name, values in side.items()}
    said = _verdict(slower, side)
    assert said.halved is Halved.NO
    assert "2.00" not in said.text
    assert "launch 1.99× faster" in said.text


def test_a_missing_run_takes_its_pair_along() -> None:
    """A run that failed leaves its partner without a pair."""
    off, on = _side(1, launch=20e9, transfer=1e9), _side(2, launch=18e9, transfer=45e6)
    off["launch"][3] = None
    (row,) = (r for r in compare.compare(off, on, paired=True) if r.metric == "launch")
    assert (row.first.n, row.second.n) == (9, 9)


def test_unseen_metrics_are_left_out() -> None:
    """A phase that one side never saw is not compared."""
    rows = compare.compare({"kernel": [1.0] * 6, "gate": [2.0] * 6}, {"kernel": [1.0] * 6}, paired=True)
    assert [row.metric for row in rows] == ["kernel"]


@pytest.mark.parametrize(
    ("key", "values", "word"),
    [
        ("accel", ("tcg", "kvm"), "accelerator"),
        ("arch", ("aarch64", "x86_64"), "arch"),
        ("modelled_trap_cost_ns", (None, 5900), "trap cost"),
        ("made_on", ("bare", "emulated-instructions"), "kind of host"),
        ("made_on", ("bare", "virtualised"), "kind of host"),
    ],
)
def test_refused_comparisons(key: str, values: tuple[object, object], word: str) -> None:
    """What differs in accelerator, arch or model is not compared, and the error says which."""
    facts: dict[str, object] = {"accel": "tcg", "arch": "aarch64", "modelled_trap_cost_ns": None}
    compare.require_comparable(facts, dict(facts), "a and b")
    with pytest.raises(UsageError, match=word):
        compare.require_comparable(facts | {key: values[0]}, facts | {key: values[1]}, "a and b")


def test_mixed_accelerators_within_a_side_are_refused() -> None:
    """Two results that both mix TCG and KVM do not compare, although they agree."""
    mixed = {"accel": ["tcg", "kvm"], "arch": "aarch64", "modelled_trap_cost_ns": None}
    with pytest.raises(UsageError, match="mixes"):
        compare.require_comparable(mixed, mixed, "a and b")
