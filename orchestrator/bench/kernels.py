"""Kernels against each other: what differs between two variants that ran by turns, by the rules of all benchmarks.

And how many fw_cfg accesses it takes to hand one over, counted in a start that is for this alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator import scratch
from orchestrator.bench.analysis import comparison_to_dict
from orchestrator.bench.compare import Comparison, Difference, compare
from orchestrator.bench.transfer import Payload, Transfer, predicted_accesses, transfer
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.kernel.builtin import join
from orchestrator.kernel.plan import plan_run
from orchestrator.kernel.request import KernelRequest
from orchestrator.kernel.series import BOOT, METRIC, TRANSFER, Ran, columns
from orchestrator.settings import Settings

# What the answer rests on; the phases explain it, and are adjusted for being many.
PRIMARY = (BOOT, TRANSFER)
_SAID = {
    Difference.FASTER: "B is faster",
    Difference.SLOWER: "B is slower",
    Difference.NONE: "no difference shown",
    Difference.UNDECIDED: "undecided, of too few rounds",
}
_MORE = {Difference.FASTER: "lower", Difference.SLOWER: "higher"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelComparison:
    """Two variants beside each other: `times` in ns, `numbers` those that the commands printed."""

    first: str
    second: str
    times: tuple[Comparison, ...]
    numbers: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "first": self.first,
            "second": self.second,
            "times": [comparison_to_dict(row) for row in self.times],
            "numbers": [comparison_to_dict(row) for row in self.numbers],
        }

    def verdict(self) -> str:
        """Return what is shown of the boot, on one line."""
        row = next((row for row in self.times if row.metric == BOOT), None)
        if row is None or row.ratio is None:
            return "boot: nothing to compare"
        interval = "" if row.interval is None else f" ({row.interval.low:.2f} to {row.interval.high:.2f})"
        return f"boot: A / B = {row.ratio:.2f}{interval}, n = {row.first.n}: {_SAID[row.difference]}"

    def lines(self) -> Iterator[str]:
        """Yield what the commands' own numbers say, a line each."""
        for row in self.numbers:
            ratio = "" if row.ratio is None else f", A / B = {row.ratio:.3g}"
            interval = "" if row.interval is None else f" ({row.interval.low:.3g} to {row.interval.high:.3g})"
            word = _MORE.get(row.difference, str(row.difference))
            name = row.metric.removeprefix(METRIC)
            yield f"{name}: A {row.first.median:.6g}, B {row.second.median:.6g}{ratio}{interval}: {word}"


def compare_runs(runs: Sequence[Ran], first: str, second: str, rounds: int) -> KernelComparison:
    """Compare the good runs of two variants, round by round.

    :raise UsageError: they ran under different accelerators.
    """
    accels = {run.record.accel for run in runs if run.good and run.variant in {first, second}}
    if len(accels) > 1:
        why = f"their runs used different accelerators: {', '.join(sorted(str(one) for one in accels))}"
        raise UsageError("cannot compare the kernels", f"{first} and {second}", why, "name one with --accel")
    a, b = (columns(runs, name, rounds) for name in (first, second))
    times = {name: values for name, values in a.items() if not name.startswith(METRIC)}
    numbers = {name: values for name, values in a.items() if name.startswith(METRIC)}
    return KernelComparison(
        first=first,
        second=second,
        times=compare(times, b, paired=True, primary=PRIMARY),
        numbers=compare(numbers, b, paired=True, primary=tuple(numbers)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessCount:
    """How often fw_cfg was accessed to hand a kernel and its initrd over.

    :ivar accesses: DMA operations, or reads of the data register; `predicted` by what edk2 does, None elsewhere.
    """

    fw_cfg_dma: bool
    accesses: int
    predicted: int | None
    bytes: int

    def line(self) -> str:
        """Return it in words."""
        how = "DMA operations" if self.fw_cfg_dma else "reads without DMA"
        said = "" if self.predicted is None else f" ({self.predicted:,} expected)"
        return f"fw_cfg: {self.accesses:,} {how}{said} for {self.bytes / 1e6:.1f} MB"

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return dataclasses.asdict(self)


def count_accesses(request: KernelRequest, settings: Settings) -> list[AccessCount]:
    """Count the accesses for a run's kernel and initrd, with DMA and without, by the host's usual firmware.

    QEMU is started for each and ended once all is handed over: counting slows it down, so no time is taken of it.

    :raise CapabilityError: there is nothing that firmware would load over fw_cfg.
    """
    if any(request.firmware):
        why = "accesses are counted by the host's usual firmware"
        raise CapabilityError("cannot count accesses", request.firmware[0] or request.firmware[1], why)
    run = plan_run(request, settings)
    if not run.plan.initrd_bytes:
        why, hint = "there is no initrd, whose transfer is the end", "add --initrd builtin"
        raise CapabilityError("cannot count accesses", request.kernel, why, hint)
    with scratch.folder() as folder:
        initrd = folder / "initrd"
        join(request.initrds, run.own_initrd, initrd)
        payload = Payload(kernel=run.image.started, initrd=initrd)
        found = []
        for dma in (True, False):
            counted = transfer(payload, run.plan.profile, fw_cfg_dma=dma, accel=run.plan.accel, count=True)
            found.append(_count(counted, predicted_accesses(payload, run.plan.profile, fw_cfg_dma=dma)))
    return found


def _count(counted: Transfer, predicted: int | None) -> AccessCount:
    return AccessCount(
        fw_cfg_dma=counted.fw_cfg_dma,
        accesses=counted.accesses or 0,
        predicted=predicted,
        bytes=counted.kernel_bytes + counted.initrd_bytes,
    )
