"""The program tools/arm-host: its commands and options. What they do is done by the modules beside this one."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from orchestrator import surroundings
from orchestrator.cli.main import invoke
from orchestrator.errors import ApplianceError, DeadlineError
from orchestrator.program import complain, guarded, unwinding_on_sigterm
from orchestrator.settings import default_state_dir
from tools.arm_host import native, session
from tools.arm_host.cache import Cache, default_folder
from tools.arm_host.host import Host
from tools.arm_host.machine import Shape

PROGRAM = "arm-host"
TOP = Path(__file__).resolve().parents[2]
_PROGRAMS = TOP / ".venv/bin"
_TIMED_OUT = 124  # as timeout(1)
_EXAMPLES = """\b
Examples:
  tools/arm-host build
  tools/arm-host run -- guestlaunch doctor
  tools/arm-host run -- sh -c 'guestlaunch guestfish -- -N disk.img=fs exit; guestlaunch timeline last'
  tools/arm-host run --deadline 1800 -- guestlaunch bench sweep --accel kvm --sizes 1 --runs 1 --warm-ups 0
  tools/arm-host push && tools/arm-host shell
  tools/arm-host remove

Each run goes on from the same saved machine, and nothing of what it wrote is left: what belongs together goes into one
command. The cache is in ~/.cache/guestlaunch/arm-host, or where --cache or ARM_HOST_CACHE says.
tools/arm_host/README.md has more.
"""

_began = time.monotonic()


def _say(text: str) -> None:
    complain(PROGRAM, f"{time.monotonic() - _began:5.1f} s: {text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which machine a command is about."""

    native: bool
    host: Host


def _options(command: Callable[..., int]) -> Callable[..., int]:
    """Add what each command has: which machine, and where it is kept."""

    @functools.wraps(command)
    def called(
        *, native: bool, real_time: bool, cpu: str, smp: int, memory: int, cache: Path | None, **rest: object
    ) -> int:
        shape = Shape(cpu=cpu, smp=smp, memory_mib=memory, real_time=real_time)
        host = Host(_cache(cache), TOP, _state() / "appliances", shape, _say)
        return command(Where(native=native, host=host), **rest)

    default = Shape()
    for option in (
        click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Where it is all kept."),
        click.option(
            "--memory", default=default.memory_mib, show_default=True, type=click.IntRange(2048), help="Memory, in MiB."
        ),
        click.option("--smp", default=default.smp, show_default=True, type=click.IntRange(1, 8), help="CPUs."),
        click.option("--cpu", default=default.cpu, show_default=True, metavar="NAME", help="QEMU's name of a CPU."),
        click.option("--real-time", is_flag=True, help="Clocks that run as ours, instead of counting instructions."),
        click.option("--native", is_flag=True, help="This machine itself, which is an arm64 host with KVM."),
    ):
        called = option(called)
    return called


def _cache(named: Path | None) -> Cache:
    folder = default_folder(os.environ) if named is None else named.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return Cache(folder)


def _state() -> Path:
    named = os.environ.get("GUESTLAUNCH_STATE_DIR")
    return Path(named) if named else default_state_dir(os.environ)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EXAMPLES)
def cli() -> None:
    """An arm64 host with KVM, emulated: boot guests under its KVM on any machine, by a clock that counts instructions.

    What is measured there is a model's time, one instruction a nanosecond. It does not depend on how busy this machine
    is, and is no hardware's.
    """


@cli.command
@_options
def build(where: Where) -> int:
    """Make what is missing: the appliances, the system, a saved machine. Takes some 5 minutes."""
    if where.native:
        native.check()
    _build_appliances()
    if not where.native:
        where.host.build()
    return 0


def _build_appliances() -> None:
    program = _PROGRAMS / "guestlaunch"
    for init in ("lean", "stock"):
        which = ["--arch", "aarch64", "--init", init]
        if subprocess.run([program, "appliance", "verify", *which], capture_output=True, check=False).returncode:
            _say(f"appliance with {init} init")
            done = subprocess.run([program, "appliance", "build", *which], stdout=sys.stderr, check=False)
            if done.returncode:
                raise ApplianceError("cannot build the arm64 system", "its appliances", "see above")


@cli.command
@_options
def push(where: Where) -> int:
    """Bring the checkout as it is now."""
    if where.native:
        native.check()  # the checkout is what runs there
    else:
        where.host.push()
    return 0


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--deadline", type=click.FloatRange(0, min_open=True), metavar="S", help="End it after so many seconds.")
@click.option("--env", "environ", multiple=True, metavar="NAME=VALUE", help="A variable for it; may be repeated.")
@_options
def run(where: Where, *, command: tuple[str, ...], deadline: float | None, environ: tuple[str, ...]) -> int:
    """Run COMMAND in a machine of its own, on our streams, and end with its exit status.

    124 where --deadline S of this machine's seconds passed.
    """
    pairs = [pair.partition("=") for pair in environ]
    order = session.Order(argv=command, environ={name: value for name, _, value in pairs}, deadline_s=deadline)
    return _run(order, where)


@cli.command
@_options
def shell(where: Where) -> int:
    """Open a shell in a machine of its own."""
    environ = {"TERM": os.environ.get("TERM", "dumb")}
    return _run(session.Order(argv=["bash", "-i"], environ=environ, terminal=sys.stdin.isatty()), where)


def _run(order: session.Order, where: Where) -> int:
    try:
        if where.native:
            return native.run(order, _PROGRAMS)
        if where.host.is_stale():
            _say("the checkout is another than was pushed (tools/arm-host push brings it as it is)")
        return where.host.run(order, session.own_streams())
    except DeadlineError as error:
        complain(PROGRAM, str(error))
        return _TIMED_OUT


@cli.command
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Where it is all kept.")
def remove(cache: Path | None) -> int:
    """Remove all that was made, downloads too."""
    left = _cache(cache).remove()
    for folder in left:
        complain(PROGRAM, f"cannot remove: {folder}: it is in use (end what runs there first)")
    return 1 if left else 0


def main() -> int:
    """Run the program; return its exit status."""
    surroundings.settle(keep=surroundings.LEFT_TO_THE_USER)
    return guarded(PROGRAM, _invoke)


def _invoke() -> int:
    with unwinding_on_sigterm():
        return invoke(sys.argv[1:], cli, f"tools/{PROGRAM}")


if __name__ == "__main__":
    sys.exit(main())
