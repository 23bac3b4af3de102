"""guestlaunch vm: what there is; each command is in a module of its own but for the small ones."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from orchestrator.cli.kernel.terminal import SIGNAL_BASE, stopping
from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import SECONDS, examples, json_option, print_json, settings_options
from orchestrator.cli.vm.create import create
from orchestrator.cli.vm.options import folder_option, found, on_libvirt, placed, ready_option, timeout_option
from orchestrator.errors import GuestlaunchError, UsageError
from orchestrator.program import complain
from orchestrator.settings import Settings
from orchestrator.timeline.durations import duration
from orchestrator.vm.request import ReadySign

_NAME = click.argument("name")


@click.group(
    epilog=examples(
        "guestlaunch vm create vm1 --image debian-12.qcow2 --size 20G",
        "guestlaunch vm list",
        "guestlaunch vm console vm1",
        "guestlaunch vm stop vm1; guestlaunch vm delete vm1",
    )
)
def vm() -> None:
    """Make VMs of images, and keep them in libvirt, where virsh and virt-manager handle them like any other.

    They are on the connection that virsh would take, qemu:///system for root and qemu:///session for others, unless -c
    names another.
    """


vm.add_command(create)


@vm.command("list", epilog=examples("guestlaunch vm list", "guestlaunch vm list -c qemu+ssh://host/system --json"))
@settings_options
@json_option
def list_(*, settings: Settings, as_json: bool) -> int:
    """List the VMs that were made by guestlaunch."""
    from orchestrator.vm.known import all_known

    with on_libvirt(settings) as connection:
        listed = [one.to_json() for one in all_known(connection)]
    if as_json:
        print_json(listed)
        return 0
    from orchestrator.cli.render import show_rows  # here: brings rich

    columns = ("name", "state", "arch", "image")
    show_rows(columns, [[one[key] for key in columns] for one in listed])
    return 0


@vm.command(epilog=examples("guestlaunch vm show vm1", "guestlaunch vm show vm1 --json"))
@_NAME
@settings_options
@json_option
def show(*, name: str, settings: Settings, as_json: bool) -> int:
    """Show a VM: how it is, what it was made of, its files."""
    with found(settings, name) as (connection, there):
        said, uri = there.to_json(), connection.uri
    if as_json:
        print_json(said)
        return 0
    took = f", {said['ready_ms'] / 1000:.1f} s after its start" if said["ready_ms"] else ""
    click.echo(f"{said['name']}: {said['state']}, {said['arch']}, {said['uuid']}")
    click.echo(f"made of     {said['image']}, {said['created']}")
    click.echo(f"first ready {said['ready'] or 'never'}{took}")
    if said["specification"].get("graphics"):
        click.echo(f"display     virt-viewer -c {shlex.quote(uri)} {name}")
    for path in said["files"]:
        click.echo(f"file        {path}")
    return 0


@vm.command(epilog=examples("guestlaunch vm start vm1", "guestlaunch vm start vm1 --ready none"))
@_NAME
@settings_options
@ready_option
@timeout_option
def start(*, name: str, settings: Settings, ready: str, timeout_s: float) -> int:
    """Start a VM that is off, and wait until it is ready."""
    from orchestrator.vm.create import start as begin

    with stopping() as (stop, came):
        try:
            with placed(settings, None, stop, name) as place, found(settings, name) as (connection, there):
                if there.domain.is_active:
                    click.echo(f"{name}: it runs")
                    return 0
                record = begin(there, connection, place, ReadySign(ready), timeout_s)
        except GuestlaunchError:
            if came:
                complain(PROGRAM, f"{name}: nobody waits for it any more; it goes on")
                return SIGNAL_BASE + came[0]
            raise
    took = f"ready after {duration(record.launch_ns)}" if record.launch_ns else "not waited for"
    click.echo(f"{name}: started, {took}")
    return 0


@vm.command(epilog=examples("guestlaunch vm stop vm1", "guestlaunch vm stop vm1 --force"))
@_NAME
@settings_options
@click.option("--force", is_flag=True, help="Pull the plug, at once.")
@click.option(
    "--timeout", "timeout_s", metavar="SECONDS", type=SECONDS, default=120.0,
    show_default=True, help="How long it may take to shut down.",
)  # fmt: skip
def stop(*, name: str, settings: Settings, force: bool, timeout_s: float) -> int:
    """Shut a VM down by its power button, and wait until it is off."""
    with stopping() as (asked, came), found(settings, name) as (_, there):
        if not there.domain.is_active:
            click.echo(f"{name}: it is off")
            return 0
        try:
            if force:
                there.domain.destroy()
            else:
                there.domain.shut_down(timeout_s, lambda: asked.requested)
        except GuestlaunchError:
            if came:
                return SIGNAL_BASE + came[0]
            raise
    click.echo(f"{name}: off")
    return 0


@vm.command(epilog=examples("guestlaunch vm delete vm1", "guestlaunch vm delete vm1 --force"))
@_NAME
@settings_options
@folder_option
@click.option("--force", is_flag=True, help="End it first if it runs.")
def delete(*, name: str, settings: Settings, folder: Path | None, force: bool) -> int:
    """Remove a VM: its domain, its disk, its variables; all that was made for it, and nothing else."""
    from orchestrator.vm.create import default_uri
    from orchestrator.vm.folder import default_folder
    from orchestrator.vm.known import delete as remove

    parent = (folder or default_folder(settings, default_uri(settings))).absolute()
    with on_libvirt(settings) as connection:
        remove(connection, name, parent, force=force, tell=lambda text: complain(PROGRAM, text))
    click.echo(f"{name}: deleted")
    return 0


@vm.command(epilog=examples("guestlaunch vm console vm1"))
@_NAME
@settings_options
def console(*, name: str, settings: Settings) -> int:
    """Join a VM's serial console, by virsh; Ctrl-] leaves it."""
    from orchestrator.workload.tools import run

    with found(settings, name) as (connection, _):
        uri = connection.uri
    return run(["virsh", "--quiet", "--connect", uri, "console", name], os.environ)


@vm.command(epilog=examples("guestlaunch vm ssh vm1", "guestlaunch vm ssh vm1 --user me -- uname -a"))
@_NAME
@settings_options
@click.option("--user", metavar="NAME", help="Who logs in; whom the VM was made with by default.")
@click.option(
    "--timeout", "timeout_s", metavar="SECONDS", type=SECONDS, default=120.0,
    show_default=True, help="How long its ssh server may take to answer.",
)  # fmt: skip
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(*, name: str, settings: Settings, user: str | None, timeout_s: float, command: tuple[str, ...]) -> int:
    """Log into the VM NAME by the ssh program, or run COMMAND there, which stands behind --; ends with its exit status.

    On QEMU's own network, a port of this host's loopback leads there for as long as that takes.
    """
    from orchestrator.vm import ssh as way
    from orchestrator.workload.tools import run

    with stopping() as (asked, came), found(settings, name) as (connection, there):
        if not there.domain.is_active:
            raise UsageError("cannot reach VM", name, "it is off", f"guestlaunch vm start {name}")
        try:
            waiting = way.reached(
                there.domain, there.note, timeout_s, lambda: asked.requested, here=connection.is_local
            )
            with waiting as (address, port):
                return run(way.command(there.note, address, port, user, command), os.environ)
        except GuestlaunchError:
            if came:
                return SIGNAL_BASE + came[0]
            raise
