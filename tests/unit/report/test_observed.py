"""What ordinary launches say of DMA: intervals decide the words, groups are never put together."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from orchestrator.report.collection import collect
from orchestrator.report.observed import Observed, observe
from orchestrator.timeline.selection import INSTRUMENT_MARK
from tests.simulated_launches import event


def launches(dma: bool, count: int = 12, **options: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - as the simulator's
    """Return successful launches of one side."""
    first = 1000 + 500 * dma + 5000 * int(10 * options.get("factor", 1))
    return [event(first + number, dma=dma, **options) for number in range(count)]


def only(lines: list[dict[str, Any]]) -> Observed:
    """Return what is observed of lines that form one group."""
    (found,) = observe(collect(lines))
    return found


def test_the_transfer_is_faster_and_the_launch_not_halved() -> None:
    """On launches of TCG's size the transfer is far faster, the launch a little: it says so, and not more."""
    found = only([*launches(dma=False), *launches(dma=True)])
    assert found.transfer is not None
    assert found.launch is not None
    assert found.transfer.low <= found.transfer.ratio <= found.transfer.high
    assert found.transfer.difference == found.launch.difference == "faster"
    assert 1 < found.launch.high < 2
    assert found.halved == "no"
    assert "halved: no, on tcg" in found.text
    assert (found.without, found.with_dma) == (12, 12)


def test_halved_only_when_the_whole_interval_is() -> None:
    """Three times faster is halved; about twice is left open."""
    halved = only([*launches(dma=False, factor=3.0), *launches(dma=True)])
    assert halved.halved == "yes"
    about = only([*launches(dma=False, factor=1.9), *launches(dma=True)])
    assert about.launch is not None
    assert about.launch.low < 2 < about.launch.high
    assert about.halved == "undecided"


def test_slower_and_no_difference() -> None:
    """A side that is slower is called slower; equal sides are called nothing."""
    slower = only([*launches(dma=False, factor=0.2), *launches(dma=True)])
    assert slower.launch is not None
    assert slower.launch.difference == "slower"
    lines = launches(dma=True, count=24)
    for line in lines[::2]:
        line["fw_cfg_dma"] = False
    equal = only(lines)
    assert equal.transfer is not None
    assert equal.transfer.difference == "no difference shown"
    assert "no difference shown" in equal.text


def test_too_few_launches_say_nothing() -> None:
    """Four of a side are no observation; failures do not count."""
    assert observe(collect([*launches(dma=False, count=4), *launches(dma=True)])) == []
    lines = launches(dma=False, count=5)
    lines[0]["outcome"] = "failure"
    assert observe(collect([*lines, *launches(dma=True)])) == []


def test_accelerators_and_models_stay_apart() -> None:
    """Without DMA on TCG and with DMA on KVM is no comparison; nor is a modelled trap cost with a real one."""
    assert observe(collect([*launches(dma=False), *launches(dma=True, accel="kvm")])) == []
    modelled = launches(dma=False)
    for line in modelled:
        line["extra_args"] = ["-plugin", f"/x/{INSTRUMENT_MARK}.so"]
    assert observe(collect([*modelled, *launches(dma=True)])) == []
    more = launches(dma=True, count=40)[20:]
    for line in more:
        line["extra_args"] = ["-plugin", f"/x/{INSTRUMENT_MARK}.so"]
    found = only([*modelled, *more])
    assert found.group.modelled
    assert "MODELLED" in found.text
    assert "MODELLED" in found.group.title


def test_two_groups_are_two_observations() -> None:
    """Each accelerator has its own."""
    lines = [*launches(dma=False), *launches(dma=True)]
    lines += [dict(line, launch_id=f"{line['launch_id']}-kvm", accel="kvm") for line in lines]
    assert sorted(found.group.accel for found in observe(collect(lines))) == ["kvm", "tcg"]


@pytest.mark.parametrize("module", ["report.html", "report.observed", "report.export", "cli.report"])
def test_reports_start_without_scipy(module: str) -> None:
    """Loading SciPy alone takes most of the second in which a day's report is to be there."""
    code = f"import sys, orchestrator.{module}\nprint([name for name in sys.modules if name.split('.')[0] == 'scipy'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
