"""Several runs: by turns, until the end is asked for; what they say together, and what may be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from orchestrator.kernel import runner as runners
from orchestrator.kernel.request import KernelRequest
from orchestrator.kernel.run import CarriedRun
from orchestrator.kernel.series import BOOT, TRANSFER, Ran, Variant, carry_out, causes, columns, exit_status
from orchestrator.kernel.start import Attached
from orchestrator.kernel.tap import TestReader
from orchestrator.launch.stop import Stop
from orchestrator.records.record import FwCfg, KernelRunRecord, LaunchRecord
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind, Phase, Start
from orchestrator.timeline.recorder import Recorder

SECOND_NS = 10**9


def record(
    status: int = 0, *, boot_ns: int = 3 * SECOND_NS, verdict: str = "command", accel: str = "tcg"
) -> LaunchRecord:
    """Return the record of a run whose host took a second, and whose guest booted for so long."""
    recorder = Recorder(0, kind=Kind.KERNEL)
    recorder.begin(Phase.FIRMWARE, "test", SECOND_NS)
    for number, phase in enumerate((Phase.FW_CFG_KERNEL, Phase.FW_CFG_INITRD, Phase.FIRMWARE_HANDOFF)):
        recorder.begin(phase, "test", SECOND_NS + (number + 1) * 1000)
    recorder.begin(Phase.WORKLOAD, "test", SECOND_NS + boot_ns)
    recorder.finish(SECOND_NS * 10 + boot_ns)
    return LaunchRecord(
        launch_id="gl-1", start=Start.COLD, profile="aarch64-uefi", arch="aarch64", accel=accel, accel_reason="",
        fw_cfg=FwCfg(requested=True), outcome="success", tiles=recorder.tiles(), wall_start_ns=0, connection="embed",
        kind=Kind.KERNEL, kernel_run=KernelRunRecord(
            verdict=verdict, exit_status=status, kernel="/Image", form="Image", started_as="itself", version=None,
            cmdline="", metrics={"forks": boot_ns / 1e6},
        ),
    )  # fmt: skip


def ran(variant: str, number: int, made: LaunchRecord) -> Ran:
    return Ran(variant=variant, round=number, record=made, tests=(TestReader(), TestReader(stamped=True)))


class Runner:
    """Pretends to run kernels.

    :ivar order: what was run.
    """

    def __init__(self, *, stop_after: int = 1000) -> None:
        self.order: list[str] = []
        self._stop_after = stop_after

    def carry_out(self, run: CarriedRun, stop: Stop, **_: object) -> LaunchRecord:
        self.order.append(run.request.kernel.name)
        if len(self.order) == self._stop_after:
            stop.request("test")
        return record()


def variants(tmp_path: Path) -> list[Variant]:
    settings = Settings(state_dir=tmp_path, runtime_dir=tmp_path)
    return [Variant(name=name, request=KernelRequest(kernel=Path("/") / name), settings=settings) for name in "abc"]


def run_all(runner: Runner, made: list[Variant], rounds: int, stop: Stop) -> list[Ran]:
    return list(carry_out(made, rounds, cast("runners.Runner", runner), stop, attached=Attached()))


def test_each_round_runs_everything_once(tmp_path: Path) -> None:
    """In an order that differs from round to round."""
    runner = Runner()
    with Stop() as stop:
        found = run_all(runner, variants(tmp_path), 8, stop)
    rounds = [tuple(runner.order[at : at + 3]) for at in range(0, 24, 3)]
    assert {tuple(sorted(one)) for one in rounds} == {("a", "b", "c")}
    assert len(set(rounds)) > 1
    assert [one.round for one in found] == [number for number in range(8) for _ in range(3)]


def test_the_end_is_heeded(tmp_path: Path) -> None:
    """The run that it came into is no sample, and none follows."""
    runner = Runner(stop_after=4)
    with Stop() as stop:
        found = run_all(runner, variants(tmp_path), 8, stop)
    assert len(runner.order) == 4
    assert len(found) == 3


def test_a_run_that_fails_now_and_then_fails() -> None:
    """The status is the first that was not 0; none at all cannot be judged."""
    good, bad, worse = (ran("a", n, record(status)) for n, status in enumerate((0, 3, 121)))
    assert exit_status([good, bad, worse, good]) == 3
    assert exit_status([good, good]) == 0
    assert exit_status([]) == 125
    assert causes([good, good, bad]) == "2 x exit status 0, 1 x exit status 3"
    assert causes([ran("a", 0, record(121, verdict="panic"))]) == "panic"


def test_figures_are_the_guests() -> None:
    """What the host takes before the vCPUs run is not the boot; the command's numbers are among them."""
    figures = ran("a", 0, record(boot_ns=5 * SECOND_NS)).figures()
    assert figures[BOOT] == 5 * SECOND_NS
    assert figures[TRANSFER] == 2000
    assert figures["metric.forks"] == 5000
    assert figures["phase.fw_cfg_kernel"] == 1000


def test_columns_leave_out_what_failed() -> None:
    """A run that was not good has no figures; those of others keep their round."""
    runs = [
        ran("a", 0, record(boot_ns=10_000)),
        ran("a", 1, record(1)),
        ran("b", 0, record()),
        ran("a", 2, record(boot_ns=30_000)),
    ]
    assert columns(runs, "a", 3)[BOOT] == [10_000, None, 30_000]
    assert columns(runs, "c", 3) == {}


@pytest.mark.usefixtures("few_resamples")
def test_two_kernels_are_compared() -> None:
    """The second is twice as fast; its number is lower; under different accelerators nothing is compared."""
    from orchestrator.bench.kernels import compare_runs
    from orchestrator.errors import UsageError

    slow = [ran("A", n, record(boot_ns=2 * SECOND_NS + n * 1000)) for n in range(8)]
    fast = [ran("B", n, record(boot_ns=SECOND_NS + n * 1000)) for n in range(8)]
    found = compare_runs([*slow, *fast], "A", "B", 8)
    boot = next(row for row in found.times if row.metric == BOOT)
    assert boot.ratio == pytest.approx(2, rel=0.01)
    assert found.verdict().endswith("B is faster")
    (number,) = found.lines()
    assert number.startswith("forks: A 2000")
    assert number.endswith(": lower")
    assert found.to_dict()["times"]
    kvm = [replace(one, record=record(accel="kvm")) for one in fast]
    with pytest.raises(UsageError, match="different accelerators: kvm, tcg"):
        compare_runs([*slow, *kvm], "A", "B", 8)


def test_too_few_runs_show_nothing() -> None:
    """No interval, no verdict; a side without a good run is nothing to compare."""
    from orchestrator.bench.kernels import compare_runs

    few = [ran(name, n, record(boot_ns=SECOND_NS * (n + 1))) for n in range(2) for name in "AB"]
    assert "undecided" in compare_runs(few, "A", "B", 2).verdict()
    assert compare_runs([ran("A", 0, record()), ran("B", 0, record(1))], "A", "B", 1).verdict() == (
        "boot: nothing to compare"
    )
