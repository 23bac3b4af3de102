"""guestlaunch kernel run: one kernel, and how its command ended."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.kernel.options import FILE, BisectSafe, command_argument, junit_option, request_for, run_options
from orchestrator.cli.kernel.terminal import ESCAPE, SIGNAL_BASE, raw_terminal, stopping
from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import describe, examples, json_option, print_json, settings_options, verbose_option
from orchestrator.kernel.request import KernelRequest
from orchestrator.kernel.tap import summed_up
from orchestrator.kernel.verdict import Cause
from orchestrator.program import complain
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind

if TYPE_CHECKING:  # libvirt comes with them: help, completion and bad options do without
    from orchestrator.kernel.series import Ran
    from orchestrator.kernel.start import Attached
    from orchestrator.records.record import LaunchEvent


@click.command(
    cls=BisectSafe,
    context_settings={"allow_interspersed_args": False},
    short_help="Boot a kernel, run a command in it, and end with the command's status.",
    epilog=examples(
        "guestlaunch kernel run Image -- uname -a",
        "guestlaunch kernel run --profile x86_64-ovmf /boot/vmlinuz -- sh -c 'dmesg | grep efi:'",
        "guestlaunch kernel run --share . Image -- ./run-tests <list.txt >results.txt",
        "guestlaunch kernel run --tap --junit results.xml --repeat 10 Image -- ./selftests",
        "guestlaunch kernel run --initrd builtin Image",
        "guestlaunch kernel run --initrd rootfs.cpio.gz --cmdline quiet vmlinuz.efi",
    ),
)
@settings_options
@run_options
@click.option("--console", "console_file", metavar="FILE", type=FILE, help="Keep what the guest says on its console.")
@click.option("--count", is_flag=True, help="Count the fw_cfg accesses too, in starts of their own.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Run it so many times.")
@junit_option
@json_option
@verbose_option
@click.argument("kernel", type=FILE)
@command_argument
def run(
    *, settings: Settings, wish: dict[str, Any], console_file: Path | None, count: bool, repeat: int,
    junit: Path | None, as_json: bool, verbose: bool, kernel: Path, command: tuple[str, ...],
) -> int:  # fmt: skip
    """Boot KERNEL, run COMMAND in its user space, and end with COMMAND's exit status.

    KERNEL is whatever UEFI firmware or QEMU itself starts: an arm64 Image or x86 bzImage, packed by gzip or as a zboot
    image, a unified kernel image, an EFI program. COMMAND has our standard input, output and error; a small initrd
    runs it, with busybox's programs, on top of the initrds that are given. Without COMMAND, the guest has the serial
    console on this terminal; Ctrl-] ends it.

    The status is COMMAND's only if the guest's record of it has come. Otherwise: 121 the kernel panicked, 122 the
    firmware did not start it, 123 no user space in time, 124 --timeout is over, 125 it cannot be judged, 128 QEMU
    failed. `git bisect run` is safe with these.
    """
    began_ns = time.monotonic_ns()
    request = request_for(kernel, command, wish)
    from orchestrator.kernel.console_file import ConsoleFile

    request.check(*ConsoleFile.names(console_file), *([("--junit", junit)] if junit is not None else []))
    if verbose:
        complain(PROGRAM, describe(settings))
    from orchestrator.kernel.inputs import check_inputs
    from orchestrator.kernel.junit import write_junit
    from orchestrator.kernel.run import CarriedRun
    from orchestrator.kernel.runner import Runner
    from orchestrator.kernel.series import Ran, exit_status
    from orchestrator.records.record import to_event

    if repeat > 1:  # a single run has a record, whatever it is lacking
        check_inputs(request)
    runs: list[Ran] = []
    with contextlib.ExitStack() as stack:
        stop, came = stack.enter_context(stopping())
        kept = stack.enter_context(ConsoleFile(console_file)) if console_file is not None else None
        runner = stack.enter_context(Runner(settings, Kind.KERNEL))
        ends = _Ends.of(request, verbose=verbose, as_json=as_json)
        while len(runs) < repeat and not stop.requested:
            attached = ends.attached(first=not runs, take_console=None if kept is None else kept.write)
            one = CarriedRun(request, settings, attached)
            with contextlib.nullcontext() if request.command else raw_terminal():
                record = runner.carry_out(
                    one, stop, console=ends.console, origin_ns=None if runs else began_ns,
                    tell=lambda text: complain(PROGRAM, text),
                )  # fmt: skip
            runs.append(Ran(variant=kernel.name, round=len(runs), record=record, tests=one.tests))
            tell(runs[-1], as_json=as_json, numbered=repeat > 1)
            if verbose:
                _draw(to_event(record))
    if junit is not None:
        write_junit(junit, [one.suite for one in runs])
    counts = _counted(request, settings) if count and not came else []
    if as_json and count:
        print_json({"runs": [to_event(one.record) for one in runs], "accesses": counts})
    elif as_json and runs:
        print_json([to_event(one.record) for one in runs] if repeat > 1 else to_event(runs[0].record))
    return SIGNAL_BASE + came[0] if came else exit_status(runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ends:
    """Which of our descriptors a run has: for its command's streams, and for its console (from, to)."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    console: tuple[int, int] | None = None

    @classmethod
    def of(cls, request: KernelRequest, *, verbose: bool, as_json: bool) -> _Ends:
        """Return those of a request. JSON has standard output to itself."""
        out = 2 if as_json else 1
        if not request.command:
            return cls(console=(0, out))
        return cls(stdin=0, stdout=out, stderr=2, console=(-1, 2) if verbose else None)

    def attached(self, *, first: bool, take_console: Callable[[bytes], None] | None) -> Attached:
        """Return what a run is joined to; only the first has our input, which is read up by then."""
        from orchestrator.kernel.start import Attached

        return Attached(
            stdin=self.stdin if first else -1,
            stdout=self.stdout,
            stderr=self.stderr,
            take_console=take_console,
            escape=ESCAPE if self.stdin < 0 else None,
        )


def tell(one: Ran, *, as_json: bool, numbered: bool) -> None:
    """Say what came of a run that did not end with its command, and what its tests said, on standard error."""
    record, result = one.record, one.record.kernel_run
    assert result is not None  # each run has one
    if record.error and result.verdict != Cause.INTERRUPTED:
        complain(PROGRAM, record.error)
        if not as_json:
            for line in record.console_tail:
                sys.stderr.write(f"  | {line}\n")
    elif result.verdict == Cause.UNJUDGED:
        complain(PROGRAM, "no test ran, although --tap asks for some")
    said = summed_up(*one.tests)
    if said:
        complain(PROGRAM, said)
    if numbered:
        complain(PROGRAM, f"run {one.round + 1}: {result.verdict}, exit status {result.exit_status}")


def _draw(event: LaunchEvent) -> None:
    """Draw a run's timeline on standard error."""
    from rich.console import Console

    from orchestrator.cli.render import show_timeline

    show_timeline(event, Console(stderr=True))


def _counted(request: KernelRequest, settings: Settings) -> list[dict[str, Any]]:
    """Count the fw_cfg accesses of a run, and say how many there were on standard error."""
    from orchestrator.bench.kernels import count_accesses  # here: SciPy comes with it

    found = count_accesses(request, settings)
    for one in found:
        complain(PROGRAM, one.line())
    return [one.to_dict() for one in found]
