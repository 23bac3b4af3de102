"""guestlaunch guestfish, exec, env: unmodified libguestfs programs in a launched appliance."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace

import click

from orchestrator.cli import session
from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import describe, examples, json_option, settings_options, verbose_option
from orchestrator.program import complain
from orchestrator.settings import Settings
from orchestrator.workload import tools
from orchestrator.workload.environment import tool_environment

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
        "guestlaunch exec -- python3 my-script-that-imports-guestfs.py",
        "guestlaunch exec -- guestmount -a disk.img -i --ro /mnt      (returns; ends with guestunmount)",
    ),
)
@settings_options
@_timelines_option
@verbose_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(*, settings: Settings, as_json: bool, verbose: bool, command: tuple[str, ...]) -> int:
    """Run COMMAND, any program that uses libguestfs, with launches going through guestlaunch."""
    return _run(command, settings, as_json=as_json, verbose=verbose)


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
        status = tools.run(command, environ)
        session.report(opened.finished(), settings, as_json=as_json)
    return status


@click.command(
    epilog=examples(
        'eval "$(guestlaunch env)"; virt-filesystems -a disk.img -l',
        'eval "$(guestlaunch env --unset)"',
    )
)
@settings_options
@json_option
@click.option("--unset", is_flag=True, help="Print what takes the variables away again.")
def env(*, settings: Settings, as_json: bool, unset: bool) -> int:
    """Print shell exports, so that libguestfs programs started plainly launch through guestlaunch.

    A daemon is used when one runs at the time of a launch; else each launch serves itself.
    """
    made = tool_environment(os.environ, settings, everything=False)
    for line in made.warnings:
        complain(PROGRAM, f"warning: {line}")
    if as_json:
        import json  # here: the usual output is shell

        click.echo(json.dumps(dict(made.ours), indent=2))
        return 0
    for name, value in made.ours.items():
        click.echo(f"unset {name}" if unset else f"export {name}={shlex.quote(value)}")
    return 0
