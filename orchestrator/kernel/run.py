"""Runs of kernels, each from what is asked for to the record of what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from orchestrator.kernel.plan import KernelPlan, plan_run
from orchestrator.kernel.request import KernelRequest
from orchestrator.kernel.start import Attached, KernelStart
from orchestrator.kernel.tap import TestOutcome, TestReader
from orchestrator.kernel.verdict import judge
from orchestrator.launch.context import LaunchContext, LaunchSpec
from orchestrator.launch.launch import Launch
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.records.record import KernelRunRecord, LaunchRecord
from orchestrator.settings import Settings
from orchestrator.timeline.recorder import Recorder

Take: TypeAlias = Callable[[bytes], None]


class CarriedRun:
    """One run of a kernel; see `orchestrator.kernel.runner.Carried`.

    :ivar record: what came of it; None until it is over.
    :ivar tests: what the command's output, and then the console, say of tests.
    """

    def __init__(self, request: KernelRequest, settings: Settings, attached: Attached | None = None) -> None:
        self.request, self.settings = request, settings
        self.tests = (TestReader(), TestReader(stamped=True))
        self.record: LaunchRecord | None = None
        self._start: KernelStart | None = None
        self._plan: KernelPlan | None = None
        stdout, console = self.tests
        given = attached or Attached()
        self._attached = replace(
            given,
            take_stdout=_both(stdout.feed, given.take_stdout),
            take_console=_both(console.feed, given.take_console),
        )

    @property
    def placeholder(self) -> LaunchRequest:
        """What is said of it where no plan comes about."""
        return LaunchRequest(kernel=str(self.request.kernel), initrd="", cmdline=self.request.cmdline)

    def plan(self) -> Plan:
        """Decide what it will be.

        :raise GuestlaunchError: it cannot work.
        """
        self._plan = plan_run(self.request, self.settings)
        return self._plan.plan

    def start(self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder) -> KernelStart:
        """Return how it starts, once it is planned."""
        assert self._plan is not None
        spec = replace(spec, request=self._plan.launch)
        self._start = KernelStart(self._plan, self._attached, spec, context, recorder)
        return self._start

    def conclude(self, launch: Launch, record: LaunchRecord) -> LaunchRecord:
        """Return the record of its launch with what came of the run."""
        start, run, request = self._start, self._plan, self.request
        boot = start.following if start is not None else None
        for reader in self.tests:
            reader.finish()
        judged = judge(
            launch.error,
            boot.status if boot else None,
            acknowledged=boot is not None and boot.acknowledged,
            tests_failed=self._tests_failed() if request.tap else False,
        )
        image = run.image if run is not None else None
        self.record = replace(
            record,
            versions={**record.versions, "kernel": image.version if image else None},
            disks=len(request.disks),
            kernel_run=KernelRunRecord(
                verdict=str(judged.cause),
                exit_status=judged.exit_status,
                kernel=str(request.kernel),
                form=image.form if image else "",
                started_as=image.started_as if image else "",
                version=image.version if image else None,
                cmdline=run.launch.cmdline if run else request.cmdline,
                command=request.command,
                console_bytes=start.console_bytes if start else 0,
                tests=self._counts(),
                metrics=self.tests[0].metrics,
            ),
        )
        return self.record

    def _tests_failed(self) -> bool | None:
        seen = [reader for reader in self.tests if reader.seen]
        return any(reader.failed for reader in seen) if seen else None

    def _counts(self) -> dict[str, int]:
        seen = [reader for reader in self.tests if reader.seen]
        if not seen:
            return {}
        counts = {str(outcome): sum(reader.counts[outcome] for reader in seen) for outcome in TestOutcome}
        return {**counts, "missing": sum(reader.missing for reader in seen)}


def _both(first: Take, second: Take | None) -> Take:
    """Return what hands a block on to both."""
    if second is None:
        return first

    def take(block: bytes) -> None:
        first(block)
        second(block)

    return take
