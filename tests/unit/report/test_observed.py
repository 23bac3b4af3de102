"""What ordinary launches say of DMA: intervals decide the words, groups are never put together."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records import store
from orchestrator.records.filters import INSTRUMENT_MARK, Filters
from orchestrator.records.provenance import NOWHERE, Provenance, mark
from orchestrator.report.collection import collect, from_store, group_of
from orchestrator.report.observed import Observed, _place_of_bound, observe
from tests.simulated_launches import EMULATED, INSTRUCTIONS, VIRTUALISED, Line, event

MINUTE_NS = 60 * 10**9
NOON_NS = 1_750_000_000 * 10**9


def launch(number: int, minute: float, *, dma: bool, load: float = 1.0, same: bool = False, **options: Any) -> Line:  # noqa: ANN401 - as the simulator's
    """Return a successful launch.

    :param load: how many times as long as on a quiet host everything takes.
    :param same: without DMA it takes as long as with it.
    """
    at = NOON_NS + int(minute * MINUTE_NS)
    line = event(number, dma=dma or same, factor=load, wall_start_ns=at, **options)
    return line | {"fw_cfg_dma": dma}


def in_turn(count: int = 36, *, every: float = 1.0, without: float = 1.0, **options: Any) -> list[Line]:  # noqa: ANN401 - as above
    """Return launches with DMA and without in turn; those without are slower by a factor."""
    return [
        launch(number, number * every, dma=bool(number % 2), load=1.0 if number % 2 else without, **options)
        for number in range(count)
    ]


def only(lines: list[Line]) -> Observed:
    """Return what is observed of lines that form one group."""
    (found,) = observe(collect(lines))
    return found


def test_the_transfer_is_faster_and_the_launch_not_halved() -> None:
    """On launches of TCG's size the transfer is far faster, the launch a little: it says so, and not more."""
    found = only(in_turn())
    assert found.transfer is not None
    assert found.launch is not None
    assert found.transfer.low <= found.transfer.ratio <= found.transfer.high
    assert found.transfer.difference == found.launch.difference == "faster"
    assert 1 < found.launch.high < 2
    assert found.halved == "no"
    assert "halved: no, on tcg" in found.text
    assert (found.blocks, found.without, found.with_dma) == (12, 18, 18)
    assert "12 blocks of at most 20 minutes within 35 min: 18 launches without DMA, 18 with" in found.text


def test_halved_only_when_the_whole_interval_is() -> None:
    """Three times faster is halved; about twice is left open."""
    assert only(in_turn(without=3.0)).halved == "yes"
    about = only(in_turn(without=1.8))
    assert about.launch is not None
    assert about.launch.low < 2 < about.launch.high
    assert about.halved == "undecided"


def test_slower_and_no_difference() -> None:
    """A side that is slower is called slower; equal sides are called nothing."""
    slower = only(in_turn(without=0.2))
    assert slower.launch is not None
    assert slower.launch.difference == "slower"
    equal = only(in_turn(same=True))
    assert equal.transfer is not None
    assert equal.transfer.difference == "no difference shown"
    assert "no difference shown" in equal.text


def test_hours_apart_are_not_compared() -> None:
    """A quiet morning with DMA and a loaded afternoon without say nothing; nor do two series, one after the other."""
    morning = [launch(number, number, dma=True) for number in range(40)]
    for first_minute in (300, 41):
        afternoon = [launch(100 + n, first_minute + n, dma=False, load=2.15, same=True) for n in range(40)]
        assert observe(collect([*morning, *afternoon])) == []


def test_pairs_on_different_days_are_not_compared() -> None:
    """Each day has one setting: they take turns, but not within the minutes of a block."""
    lines = [launch(n, n * 1440, dma=bool(n % 2), same=True) for n in range(40)]
    assert observe(collect(lines)) == []


@pytest.mark.parametrize("kind", ["ramp", "afternoon", "waves"])
def test_a_drifting_load_shows_no_difference(kind: str) -> None:
    """Load that grows sixfold, comes at noon or goes in waves, and settings that differ in nothing: none is shown."""
    loads: dict[str, Callable[[float], float]] = {
        "ramp": lambda minute: 1 + minute / 48,
        "afternoon": lambda minute: 2.15 if minute > 120 else 1.0,
        "waves": lambda minute: 2 + math.sin(minute / 20),
    }
    load = loads[kind]
    shown = 0
    for seed in range(10):
        chance = random.Random(seed)
        lines = [
            # Mostly with DMA in the morning, mostly without in the afternoon: medians of all would differ by far.
            launch(1000 * seed + n, n, dma=chance.random() > n / 240, load=load(n), same=True) for n in range(240)
        ]  # fmt: skip
        found = only(lines)
        assert found.launch is not None
        shown += found.launch.difference != "no difference shown"
    assert shown <= 2  # one in twenty is what an interval of 95 % allows


def test_a_true_difference_shows_through_a_drifting_load() -> None:
    """15 % in each block are seen though the load changes sixfold meanwhile."""
    chance = random.Random(1)
    lines = []
    for n in range(360):
        dma = chance.random() > n / 360
        lines.append(launch(n, n, dma=dma, load=(1 + n / 72) * (1.0 if dma else 1.15), same=True))
    found = only(lines)
    assert found.launch is not None
    assert found.launch.difference == "faster"
    assert found.launch.low < 1.15 < found.launch.high


def test_sampling_tears_nothing_apart() -> None:
    """What is compared are the newest launches, all of them, however few of them the charts show."""
    lines = in_turn()
    assert observe(collect(lines, size=5)) == observe(collect(lines))


def test_the_store_says_the_same(tmp_path: Path) -> None:
    """From the store as from the log."""
    lines = in_turn()
    store.rebuild(tmp_path, lines)
    with store.open_store(tmp_path) as opened:
        assert observe(from_store(opened, Filters(accel="tcg"))) == observe(collect(lines))


def test_too_few_launches_say_nothing() -> None:
    """Five blocks are no observation; failures do not count."""
    assert observe(collect(in_turn(17))) == []
    lines = in_turn(18)
    assert only(lines).blocks == 6
    lines[0]["outcome"] = "failure"
    assert observe(collect(lines)) == []


def test_accelerators_and_models_stay_apart() -> None:
    """Without DMA on TCG and with DMA on KVM is no comparison; nor is a modelled trap cost with a real one."""
    mixed = in_turn()
    for line in mixed[::2]:
        line["accel"] = "kvm"
    assert observe(collect(mixed)) == []
    modelled = in_turn()
    for line in modelled[::2]:
        line["extra_args"] = ["-plugin", f"/x/{INSTRUMENT_MARK}.so"]
    assert observe(collect(modelled)) == []
    for line in modelled:
        line["extra_args"] = ["-plugin", f"/x/{INSTRUMENT_MARK}.so"]
    found = only(modelled)
    assert found.group.modelled
    assert "MODELLED" in found.text
    assert "MODELLED" in found.group.title


def test_two_groups_are_two_observations() -> None:
    """Each accelerator has its own."""
    lines = in_turn()
    lines += [dict(line, launch_id=f"{line['launch_id']}-kvm", accel="kvm") for line in lines]
    assert sorted(found.group.accel for found in observe(collect(lines))) == ["kvm", "tcg"]


@pytest.mark.parametrize("count", [6, 20, 99, 101, 400])
def test_the_interval_holds_its_95_percent(count: int) -> None:
    """Of medians of what has none, at most one in twenty intervals leaves zero out, and not far fewer."""
    chance = random.Random(count)
    place = _place_of_bound(count)
    out = sum(
        not values[place] <= 0 <= values[-1 - place]
        for values in (sorted(chance.gauss(0, 1) for _ in range(count)) for _ in range(2000))
    )
    assert 0.01 < out / 2000 < 0.06


@pytest.mark.parametrize("module", ["report.page", "report.observed", "report.export", "cli.report"])
def test_reports_start_without_scipy(module: str) -> None:
    """Loading SciPy alone takes most of the second in which a day's report is to be there."""
    code = f"import sys, orchestrator.{module}\nprint([name for name in sys.modules if name.split('.')[0] == 'scipy'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("made", [VIRTUALISED, EMULATED, INSTRUCTIONS, NOWHERE], ids=lambda made: made.label)
def test_kinds_of_host_stay_apart(made: Provenance, tmp_path: Path) -> None:
    """KVM on an emulated host is never put together with KVM on hardware, nor shown as that; from the store neither."""
    kvm = [line | {"accel": "kvm"} for line in in_turn()]
    elsewhere = [line | {"host": made.host, "clock": made.clock} for line in kvm]
    mixed = [*kvm[::2], *elsewhere[1::2]]
    assert observe(collect(mixed)) == []
    assert len(collect(mixed).groups()) == 2
    store.rebuild(tmp_path, mixed)
    with store.open_store(tmp_path) as opened:
        found = from_store(opened, Filters())
        assert (observe(found), len(found.groups())) == ([], 2)
        alone = from_store(opened, Filters(made_on=made.label))
        assert {group_of(line) for line in alone.sample} == {group_of(elsewhere[0])}
    (there,) = observe(collect(elsewhere))
    said = mark(made.label, arch="aarch64", accel="kvm")
    assert said
    assert f"on kvm ({said})" in there.text
    assert f"kvm ({said})" in there.group.title
