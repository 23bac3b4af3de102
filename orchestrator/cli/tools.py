"""guestlaunch guestfish, exec, env: unmodified libguestfs programs in a launched appliance."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from orchestrator.cli import session
from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import describe, examples, json_option, print_json, settings_options, verbose_option
from orchestrator.errors import CapabilityError, WorkloadError
from orchestrator.program import complain
from orchestrator.settings import Settings
from orchestrator.workload import tools
from orchestrator.workload.environment import tool_environment, variables_set

if TYPE_CHECKING:
    from orchestrator.workload.job import Job

_PASS_THROUGH = {"allow_interspersed_args": False}
_timelines_option = click.option(
    "--json", "as_json", is_flag=True, help="Print each launch's timeline as a JSON line, after the program's output."
)


@click.command(
    context_settings=_PASS_THROUGH,
    epilog=examples(
        "guestlaunch guestfish -- --ro -a disk.img -i",
        "guestlaunch guestfish --fw-cfg-dma off --timeline t.jsonl -- -a disk.img run : list-filesystems",
        "echo 'list-filesystems' | guestlaunch guestfish -- --ro -a disk.img",
    ),
)
@settings_options
@_timelines_option
@verbose_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def guestfish(*, settings: Settings, as_json: bool, verbose: bool, arguments: tuple[str, ...]) -> int:
    """Run guestfish with ARGUMENTS, unchanged, in an appliance launched for it."""
    return _run(("guestfish", *arguments), settings, as_json=as_json, verbose=verbose)


@click.command(
    "exec",
    context_settings=_PASS_THROUGH,
    epilog=examples(
        "guestlaunch exec -- virt-df -h -a disk.img",
        "guestlaunch exec -- virt-cat -a disk.img /etc/fstab",
        "guestlaunch exec --profile auto -- virt-customize -a arm64.img --install nginx      (on any host)",
        "guestlaunch exec -- python3 my-script-that-imports-guestfs.py",
        "guestlaunch exec -- guestmount -a disk.img -i --ro /mnt      (returns; ends with guestunmount)",
    ),
)
@settings_options
@_timelines_option
@verbose_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(*, settings: Settings, as_json: bool, verbose: bool, command: tuple[str, ...]) -> int:
    """Run COMMAND, any program that uses libguestfs, with launches going through guestlaunch.

    virt-customize, virt-builder and virt-sysprep, which refuse to run anything in a guest of another architecture
    than the host's, run it in an appliance of that architecture.

    With --profile auto, the kind of guest is chosen by the architecture of the system in the image (-a FILE), which
    is read in a launch of its own and remembered until the image changes.
    """
    if settings.profile == "auto":
        settings = _with_profile(command, settings)
    return _run(command, settings, as_json=as_json, verbose=verbose)


def _with_profile(command: Sequence[str], settings: Settings) -> Settings:
    """Return settings with the profile for a command's image."""
    from orchestrator.workload import guest_profile, jobs  # here: few ask for it

    def read(job: Job, plain: Settings) -> object:
        with session.opened(plain) as opened:
            outcome = jobs.carry_out(job, opened.environment.variables)
            session.report(opened.finished(), plain, as_json=False)
        if outcome.error is not None:
            raise WorkloadError("cannot choose the profile", command[0], outcome.error)
        return outcome.result

    return replace(settings, profile=guest_profile.choose(command, settings, read))


def _run(command: Sequence[str], settings: Settings, *, as_json: bool, verbose: bool) -> int:
    """Run a program and add, after its own output, why a launch of it failed, and timelines that were asked for."""
    if as_json and settings.timeline is None:
        settings = replace(settings, timeline="-")
    if verbose:
        complain(PROGRAM, describe(settings))
    with session.opened(settings, verbose=verbose) as opened:
        environ = opened.environment.variables
        if not settings.trusts_images:
            from orchestrator.workload.checked_qemu_img import first_in_path  # here: most launches trust their images

            environ = first_in_path(environ, settings)
        environ = {**environ, **_preload(command[0], environ, settings)}
        status = tools.run(command, environ)
        session.report(opened.finished(), settings, as_json=as_json)
    return status


def _preload(program: str, environ: Mapping[str, str], settings: Settings) -> Mapping[str, str]:
    """Return what lets a program run commands in a guest of another architecture; say why it cannot be had."""
    from orchestrator.workload import foreign  # here: it is no part of a launch

    try:
        return foreign.preload(environ, settings) if foreign.wants(program, settings) else {}
    except CapabilityError as error:
        complain(PROGRAM, f"warning: {error}")
        return {}


@click.command(
    epilog=examples(
        'eval "$(guestlaunch env)"; virt-filesystems -a disk.img -l',
        'eval "$(guestlaunch env --unset)"',
        'eval "$(guestlaunch env --foreign)"; virt-customize -a arm64.img --run-command "uname -m"',
    )
)
@settings_options
@json_option
@click.option(
    "--foreign", is_flag=True, help="Have virt-customize, -builder and -sysprep run commands in foreign guests, too."
)
@click.option("--unset", is_flag=True, help="Print what takes the variables away again.")
def env(*, settings: Settings, as_json: bool, foreign: bool, unset: bool) -> int:
    """Print shell exports, so that libguestfs programs started plainly launch through guestlaunch.

    A daemon is used when one runs at the time of a launch; else each launch serves itself. With --foreign, LD_PRELOAD
    is among them (see guestlaunch exec --help).
    """
    if unset and not as_json:
        _echo_unset(settings)
        return 0
    made = tool_environment(os.environ, settings, everything=False)
    for line in made.warnings:
        complain(PROGRAM, f"warning: {line}")
    ours = dict(made.ours)
    if foreign:
        from orchestrator.workload.foreign import preload  # here: few ask for it

        ours |= preload(os.environ, settings)
    if as_json:
        print_json(ours)
        return 0
    for name, value in ours.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    return 0


def _echo_unset(settings: Settings) -> None:
    """Print what takes the variables away again: also when the appliance is gone, and not what else is preloaded."""
    from orchestrator.workload import foreign  # here: few ask for it

    for name in variables_set(os.environ, settings):
        click.echo(f"unset {name}")
    if rest := foreign.others(os.environ):
        click.echo(f"export {foreign.VARIABLE}={shlex.quote(':'.join(rest))}")
    else:
        click.echo(f"unset {foreign.VARIABLE}")
