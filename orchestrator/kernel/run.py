"""Runs of kernels, each from what is asked for to the record of what came of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeAlias

from orchestrator.kernel.plan import KernelPlan, plan_run
from orchestrator.kernel.request import KernelRequest
from orchestrator.kernel.start import Attached, KernelStart
from orchestrator.kernel.tap import TestOutcome, TestReader
from orchestrator.kernel.verdict import judge
from orchestrator.launch.context import LaunchContext, LaunchSpec
from orchestrator.launch.launch import Launch
from orchestrator.launch.launcher import Launcher
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.standby import Pool
from orchestrator.launch.stop import Stop
from orchestrator.records.record import KernelRunRecord, LaunchRecord
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind
from orchestrator.timeline.recorder import Recorder

Take: TypeAlias = Callable[[bytes], None]


class KernelRun:
    """One run of a kernel; `KernelRunner` carries it out.

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


class KernelRunner:
    """Carries out runs one after the other, by the life cycle of launches; a context manager.

    All of them share one connection to libvirt: its embedded driver starts once in a process.
    """

    def __init__(self, settings: Settings) -> None:
        self._current: KernelRun | None = None
        self._stack = contextlib.ExitStack()
        self._launcher = Launcher(
            settings, plan=self._plan, choose=self._choose, kind=Kind.KERNEL, conclude=self._conclude
        )

    def __enter__(self) -> Self:
        self._stack.enter_context(self._launcher)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def carry_out(
        self,
        run: KernelRun,
        stop: Stop,
        *,
        console: tuple[int, int] | None = None,
        origin_ns: int | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> LaunchRecord:
        """Run a kernel to its end and return the record, which always has a verdict.

        :param console: descriptors that the guest's serial console is relayed (from, to).
        :param origin_ns: when it was asked for; now, if that is not known.
        :param tell: takes what the user should know while it waits for libvirt.
        """
        self._current = run
        # Nothing of an appliance's: the launcher asks us for the plan and for the way to start.
        placeholder = LaunchRequest(kernel=str(run.request.kernel), initrd="", cmdline=run.request.cmdline)
        return self._launcher.run(
            placeholder,
            settings=run.settings,
            console=console,
            origin_ns=origin_ns or time.monotonic_ns(),
            stop=stop,
            tell=tell,
        )

    @property
    def _run(self) -> KernelRun:
        assert self._current is not None  # the launcher asks only while it carries one out
        return self._current

    def _plan(self, request: LaunchRequest, settings: Settings) -> Plan:
        del request, settings
        return self._run.plan()

    def _choose(
        self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder, pool: Pool | None, cold_reason: str | None
    ) -> KernelStart:
        del pool, cold_reason
        return self._run.start(spec, context, recorder)

    def _conclude(self, launch: Launch, record: LaunchRecord) -> LaunchRecord:
        return self._run.conclude(launch, record)


def _both(first: Take, second: Take | None) -> Take:
    """Return what hands a block on to both."""
    if second is None:
        return first

    def take(block: bytes) -> None:
        first(block)
        second(block)

    return take
