"""Carries out launches of other things than appliances, each planned and started in its own way, by one life cycle."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from orchestrator.launch.context import LaunchContext, LaunchSpec
from orchestrator.launch.launch import Launch
from orchestrator.launch.launcher import Launcher
from orchestrator.launch.plan import Plan
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.standby import Pool
from orchestrator.launch.start import StartPath
from orchestrator.launch.stop import Stop
from orchestrator.records.record import LaunchRecord
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind
from orchestrator.timeline.recorder import Recorder


class Carried(Protocol):
    """What is carried out: a kernel's run, or a step of an installation. The methods are called in this order."""

    @property
    def settings(self) -> Settings:
        """Its settings."""

    @property
    def placeholder(self) -> LaunchRequest:
        """What is said of it where no plan comes about."""

    def plan(self) -> Plan:
        """Decide what it will be.

        :raise GuestlaunchError: it cannot work.
        """

    def start(self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder) -> StartPath:
        """Return how it starts, once it is planned."""

    def conclude(self, launch: Launch, record: LaunchRecord) -> LaunchRecord:
        """Return the record of its launch with what came of it."""


class Runner:
    """Carries out one after the other; a context manager.

    All of them share one connection to libvirt: its embedded driver starts once in a process.

    :param kind: what they are.
    """

    def __init__(self, settings: Settings, kind: Kind) -> None:
        self._current: Carried | None = None
        self._stack = contextlib.ExitStack()
        self._launcher = Launcher(settings, plan=self._plan, choose=self._choose, kind=kind, conclude=self._conclude)

    def __enter__(self) -> Self:
        self._stack.enter_context(self._launcher)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def carry_out(
        self,
        carried: Carried,
        stop: Stop,
        *,
        console: tuple[int, int] | None = None,
        origin_ns: int | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> LaunchRecord:
        """Carry one out to its end and return the record, which always says what came of it.

        :param console: descriptors that the guest's serial console is relayed (from, to).
        :param origin_ns: when it was asked for; now, if that is not known.
        :param tell: takes what the user should know while it waits for libvirt.
        """
        self._current = carried
        # Nothing of an appliance's: the launcher asks us for the plan and for the way to start.
        return self._launcher.run(
            carried.placeholder,
            settings=carried.settings,
            console=console,
            origin_ns=origin_ns or time.monotonic_ns(),
            stop=stop,
            tell=tell,
        )

    @property
    def _carried(self) -> Carried:
        assert self._current is not None  # the launcher asks only while it carries one out
        return self._current

    def _plan(self, request: LaunchRequest, settings: Settings) -> Plan:
        del request, settings
        return self._carried.plan()

    def _choose(
        self, spec: LaunchSpec, context: LaunchContext, recorder: Recorder, pool: Pool | None, cold_reason: str | None
    ) -> StartPath:
        del pool, cold_reason
        return self._carried.start(spec, context, recorder)

    def _conclude(self, launch: Launch, record: LaunchRecord) -> LaunchRecord:
        return self._carried.conclude(launch, record)
