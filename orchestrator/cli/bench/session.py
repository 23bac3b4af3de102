"""What the measuring benchmarks share: the result under way, how it ends early, its progress, and how it is shown."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from orchestrator import scratch
from orchestrator.bench.firmware import firmware_file
from orchestrator.cli.bench.options import RunPlan
from orchestrator.cli.progress import shown
from orchestrator.domain.model import Accel, Profile
from orchestrator.errors import GuestlaunchError
from orchestrator.hypervisor.accel import choose_accel
from orchestrator.hypervisor.emulator import find_emulator
from orchestrator.records import log
from orchestrator.settings import Settings, is_setting, to_environ
from orchestrator.workload.environment import choose_appliance
from orchestrator.workload.tools import SIGNAL_BASE

if TYPE_CHECKING:  # SciPy comes with it: imported by the commands that compute
    from orchestrator.bench.recording import Recording
    from orchestrator.bench.rounds import Sample, Side


@contextmanager
def recorded(
    kind: str,
    settings: Settings,
    plan: RunPlan,
    profile: Profile | None,
    trap_cost_ns: int | None = None,
    *,
    resume: Path | None = None,
) -> Iterator[tuple[Recording, Path]]:
    """Yield the result under way and a folder for the sides' files.

    However it ends (a signal, `timeout`, an error in a late round), what was measured is saved and shown, marked as
    not complete. A signal's exit status is 128 and its number.

    :param resume: the result of one that was interrupted, which goes on and is written to the same file; where there is
        none, it begins.
    """
    from orchestrator.bench.recording import Recording
    from orchestrator.bench.result import require_place

    stamp = time.strftime("%Y%m%dT%H%M%S")
    path = resume or plan.out or settings.state_dir / "bench" / f"{kind}-{stamp}.json"
    require_place(path)
    firmware = firmware_file(profile, os.environ) if profile is not None else None
    recording = Recording(kind, path, seed=plan.seed, firmware=firmware, trap_cost_ns=trap_cost_ns)
    if resume is not None and os.path.lexists(resume):
        from orchestrator.bench.result import load

        recording.go_on(load(resume))
    with scratch.folder() as folder:
        try:
            with _ended_by_signals():
                yield recording, folder
        except _EndedBySignal as ended:
            if not _keep(recording, plan, ended.number.name):
                click.echo(f"bench: ended by {ended.number.name} before anything was measured", err=True)
            raise click.exceptions.Exit(SIGNAL_BASE + ended.number) from None
        except GuestlaunchError as error:
            _keep(recording, plan, f"an error: {error}")
            raise
    recording.finish()


class _EndedBySignal(BaseException):
    """A signal came: everything that was started is to be ended, and what was measured kept."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn the first of the signals that end programs into an exception; those that follow change nothing.

    Not even afterwards, while what was measured is saved and shown. What our caller had ignored (nohup) stays so.
    """
    came = False

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        for caught in before:
            signal.signal(caught, lambda *_: None)
        raise _EndedBySignal(number)

    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
    before = {number: signal.getsignal(number) for number in ending}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items() if not came else ():
            signal.signal(number, handler)


def _keep(recording: Recording, plan: RunPlan, why: str) -> bool:
    """Save and show what was measured before the end; tell whether there was anything."""
    try:
        if not recording.end(why):
            return False
    except GuestlaunchError as error:  # a file system that is full by now: what was measured is shown all the same
        if str(error) not in why:
            click.echo(f"bench: {error}", err=True)
    with suppress(OSError):  # a terminal that hung up
        show(recording, plan)
    return True


def measure(
    recording: Recording,
    sides: Sequence[Side],
    plan: RunPlan,
    settings: Settings,
    *,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Run all rounds of the sides into the result, with progress; each launch's line goes where `--timeline` says.

    :param ready: returns when the host is ready for the next run.
    """
    from orchestrator.bench.recording import record_rounds
    from orchestrator.bench.rounds import rounds

    recording.sides((side.name, side.facts) for side in sides)
    total = (plan.warm_ups + plan.runs) * len(sides)
    started = 0
    with shown("bench") as tell:

        def starting(number: int, side: Side) -> None:
            nonlocal started
            what = f"round {number + 1} of {plan.runs}" if number >= 0 else "warm-up"
            tell(f"{what}: {side.name}", started / total)
            ready()
            started += 1

        found = rounds(
            sides, runs=plan.runs, warm_ups=plan.warm_ups, time_budget_s=plan.time_budget, deadline_s=plan.deadline,
            seed=plan.seed, starting=starting, cut_short=lambda samples: recording.take(samples, sides),
        )  # fmt: skip
        record_rounds(recording, sides, _with_timelines(found, settings.timeline))


def _with_timelines(found: Iterator[tuple[Sample, ...]], target: str | None) -> Iterator[tuple[Sample, ...]]:
    for samples in found:
        for sample in samples:
            if target is not None and sample.event is not None:
                log.write_timeline(target, sample.event)
        yield samples


def environ_of(settings: Settings) -> dict[str, str]:
    """Return the environment in which commands that we run have this command's settings.

    They boot unless another start was asked for: what templates there are is not to decide what is measured.
    """
    kept = {key: value for key, value in os.environ.items() if not is_setting(key) and key != "GUESTLAUNCH_CONFIG"}
    return kept | to_environ(
        replace(settings, timeline=None, start="cold" if settings.start == "auto" else settings.start)
    )


def chosen_accel(settings: Settings, profile: Profile) -> Accel:
    """Return the accelerator that every side gets: decided once, so that no side decides for itself.

    :raise CapabilityError: KVM was insisted on and cannot be had.
    """
    if settings.accel == "tcg":
        return Accel.TCG
    return choose_accel(
        settings.accel,
        profile.arch,
        emulator=find_emulator(profile.arch),
        kernel=choose_appliance(settings, os.environ)[0] / "kernel",
        state_dir=settings.state_dir,
        deadline_s=settings.deadlines.kvm_probe,
    ).accel


def show(recording: Recording, plan: RunPlan) -> int:
    """Print the result; the exit status says whether any run failed, or all that was wanted was left out."""
    from rich.console import Console

    from orchestrator.bench.text import render

    if plan.as_json:
        print_json(recording.result)
    else:
        Console().print(render(recording.result))
    click.echo(f"result: {recording.path}", err=True)
    empty = recording.result["complete"] and not any(sample["round"] >= 0 for sample in recording.result["samples"])
    return 1 if empty or (recording.result["analysis"] or {}).get("failed_runs") else 0


def print_json(value: object) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")
