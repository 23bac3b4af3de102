"""guestlaunch template: build, list, verify and remove templates, which warm launches are cloned from."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from orchestrator import locks
from orchestrator.appliance.fixed import open_appliance
from orchestrator.cli import session
from orchestrator.cli.options import examples, json_option, print_json, settings_options, state_options
from orchestrator.errors import CapabilityError, LaunchError, NotFoundError
from orchestrator.program import unwinding_on_sigterm
from orchestrator.records.provenance import accel_of
from orchestrator.settings import Settings
from orchestrator.template import store
from orchestrator.template.model import Template
from orchestrator.workload import tools
from orchestrator.workload.environment import choose_appliance

_MIB = 1 << 20
# libguestfs launches nothing without a disk.
_WORK = ("guestfish", "scratch", "1M", ":", "run")


@click.group(
    epilog=examples(
        "guestlaunch template build",
        "guestlaunch template build --profile x86_64-seabios --memory-mib 2048",
        "guestlaunch template list",
        "guestlaunch template remove --stale",
        "guestlaunch template prune --unused-days 30",
    )
)
def template() -> None:
    """Build, list, check and remove templates: appliances saved at the gate of their init, to be cloned.

    A launch clones the template that fits it, unless --start cold forbids; where none fits it boots, and its log line
    says why. A template that anything it depends on has outdated is never used.
    """


@template.command(
    short_help="Build the template that launches as set up here clone.",
    epilog=examples("guestlaunch template build", "LIBGUESTFS_MEMSIZE=2048 guestlaunch template build"),
)
@settings_options
@json_option
def build(*, settings: Settings, as_json: bool) -> int:
    """Boot the appliance up to its gate, save it there, and prove it by a launch that is cloned from it.

    What is built is what guestfish, as it is set up here, asks for: memory, CPUs and kernel command line are
    libguestfs's own unless set. A template that is there and holds is not built again, only proved.
    """
    warm = replace(settings, start="warm", timeline=None)
    _require_eligible(warm)
    with unwinding_on_sigterm(), session.opened(warm) as opened:
        # The first launch builds the template, unless it is there; the second proves it, and is timed.
        variables = opened.environment.variables
        status = tools.run_own(_WORK, variables) or tools.run_own(_WORK, variables)
        launches = opened.finished(5.0)
    if status in {tools.SIGNAL_BASE + signal.SIGTERM, tools.SIGNAL_BASE + signal.SIGINT}:  # sent to us, or typed
        return status
    if not launches or launches[-1].record is None or status != 0:
        why = launches[-1].message if launches and launches[-1].message else f"guestfish ended with status {status}"
        raise LaunchError("cannot build the template", settings.profile, why)
    record = launches[-1].record
    if record["start"] == "cold":
        raise CapabilityError("cannot build the template", settings.profile, record["start_reason"])
    built = store.lookup(settings.state_dir, record["template"] or "")
    if as_json:
        print_json(_facts(built) | {"launch_ns": record["launch_ns"]})
    else:
        click.echo(_line(built))
        # A tool that ends at once may be gone before its launch flag was dated.
        took = f"took {record['launch_ns'] / 1e9:.2f} s" if record["launch_ns"] else "succeeded"
        click.echo(f"a launch cloned from it {took} ({accel_of(record)}, 1 launch)")
    return 0


def _require_eligible(settings: Settings) -> None:
    """Refuse what can have no template before anything is booted.

    :raise CapabilityError: says why.
    """
    from orchestrator.launch.eligibility import appliance_unfit, settings_unfit  # here: libvirt may be what is missing

    appliance = open_appliance(choose_appliance(settings, os.environ)[0])
    if why := appliance_unfit(appliance):
        hint = f"guestlaunch appliance build --arch {appliance.arch} makes one that can be saved"
        raise CapabilityError("cannot build the template", appliance.path, why, hint)
    if why := settings_unfit(settings):
        raise CapabilityError("cannot build the template", settings.profile, why)


_state_options = state_options("Where templates are kept.")


def _outdated(one: Template) -> str | None:
    from orchestrator.launch.eligibility import outdated  # here: libvirt may be what is missing

    return outdated(one)


@template.command("list", epilog=examples("guestlaunch template list", "guestlaunch template list --json"))
@_state_options
@json_option
def list_(*, settings: Settings, as_json: bool) -> int:
    """List all templates, and whether they still hold."""
    found = _all(settings)
    if as_json:
        print_json([_facts(one) for one in found])
        return 0
    for one in found:
        times = f"cloned {one.uses} time{'s' if one.uses != 1 else ''}, last {_time(one.used_s)}"
        learned = ", built because launches had none" if one.learned else ""
        click.echo(f"{_line(one)}\n{'':<18}{times if one.uses else 'not cloned yet'}{learned}")
    if not found:
        click.echo(f"none in {store.home(settings.state_dir)} (guestlaunch template build makes one)", err=True)
    return 0


@template.command(epilog=examples("guestlaunch template verify", "guestlaunch template verify 93c3279f"))
@click.argument("key", nargs=-1)
@_state_options
@json_option
def verify(*, key: Sequence[str], settings: Settings, as_json: bool) -> int:
    """Compare the files of templates with their digests, and what they depend on with what is there.

    KEY is a template's, or its beginning; all are checked when none is named. Exit status 1 when one does not hold.
    """
    found = _named(settings, key)
    said = [(one, store.damage(one) or _outdated(one)) for one in found]
    if as_json:
        print_json([{"key": one.key, "path": str(one.path), "wrong": why} for one, why in said])
    else:
        for one, why in said:
            click.echo(f"{one.path.name}: {why or 'as built, and nothing that it depends on has changed'}")
    return 1 if any(why for _, why in said) else 0


@template.command(epilog=examples("guestlaunch template remove 93c3279f", "guestlaunch template remove --stale"))
@click.argument("key", nargs=-1)
@click.option("--stale", is_flag=True, help="Remove those that are outdated.")
@click.option("--all", "every", is_flag=True, help="Remove all.")
@_state_options
@json_option
def remove(*, key: Sequence[str], stale: bool, every: bool, settings: Settings, as_json: bool) -> int:
    """Remove templates: those named by KEY (or its beginning), the outdated ones, or all."""
    if not (key or stale or every):
        raise click.UsageError("name templates, or say --stale or --all")
    doomed = [] if not key else _named(settings, key)
    doomed += [one for one in _all(settings) if every or (stale and _outdated(one))]
    if stale or every:
        store.sweep(settings.state_dir)
    for one in {one.key: one for one in doomed}.values():
        if not store.remove(one):
            why = f"a launch is cloning it, or guestlaunchd keeps clones of it ready: {locks.holders(one.path)}"
            raise LaunchError("cannot remove the template", one.key, why, "end that first")
        if not as_json:
            click.echo(f"removed {one.path.name}")
    if as_json:
        print_json({"removed": sorted({one.key for one in doomed})})
    return 0


@template.command(
    epilog=examples("guestlaunch template prune --unused-days 30", "guestlaunch template prune --most-mib 1000")
)
@click.option("--unused-days", metavar="N", type=click.IntRange(min=0), help="Remove those not cloned for N days.")
@click.option(
    "--most-mib", metavar="N", type=click.IntRange(min=0), help="Then the least recently used, down to N MiB."
)
@_state_options
@json_option
def prune(*, unused_days: int | None, most_mib: int | None, settings: Settings, as_json: bool) -> int:
    """Remove the templates that were not cloned for longest. Those in use stay."""
    if unused_days is None and most_mib is None:
        raise click.UsageError("say --unused-days or --most-mib")
    _all(settings)
    store.sweep(settings.state_dir)
    removed = store.prune(
        settings.state_dir,
        most_bytes=None if most_mib is None else most_mib * _MIB,
        unused_s=None if unused_days is None else unused_days * 86_400.0,
    )
    if as_json:
        print_json({"removed": [one.key for one in removed]})
    for one in () if as_json else removed:
        click.echo(f"removed {one.path.name}")
    return 0


def _named(settings: Settings, keys: Sequence[str]) -> list[Template]:
    """Return the templates that are named, all when none is.

    :raise NotFoundError: one is not there, or there are none at all.
    """
    if keys:
        return [store.lookup(settings.state_dir, key) for key in keys]
    found = _all(settings)
    if not found:
        hint = "guestlaunch template build makes one"
        raise NotFoundError("no templates", store.home(settings.state_dir), "none was built", hint)
    return found


def _all(settings: Settings) -> list[Template]:
    """Return all templates.

    :raise OSError: the folder that they would be in cannot be read: that is not to look as if there were none.
    """
    with contextlib.suppress(FileNotFoundError):
        os.scandir(store.home(settings.state_dir)).close()
    return store.templates(settings.state_dir)


def _line(one: Template) -> str:
    facts = one.facts
    state = _outdated(one)
    return (
        f"{one.key}  {facts['profile']}, {facts['accel']}, {facts['memory_mib']} MiB, {facts['vcpus']} vCPU,"
        f" {one.disk_bytes / _MIB:.0f} MiB on disk\n"
        f"{'':<18}{'stale: ' + state if state else 'holds'}, built {one.built} in {one.seconds:.0f} s"
    )


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _facts(one: Template) -> dict[str, Any]:
    """Return a template as it is printed with --json."""
    return {
        "key": one.key,
        "path": str(one.path),
        "stale": _outdated(one),
        "built": one.built,
        "seconds": one.seconds,
        "used": _time(one.used_s),
        "uses": one.uses,
        "learned": one.learned,
        "disk_bytes": one.disk_bytes,
        "facts": dict(one.facts),
    }
