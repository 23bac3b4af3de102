"""guestlaunch domain: print, define or start a libvirt domain, planned by the policy of launches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.cli.options import examples, json_option, print_json, settings_options
from orchestrator.domain.model import Domain
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import GuestlaunchError, UsageError
from orchestrator.settings import Settings
from orchestrator.workload.user_domain import BootSource, Wish, plan_domain

_F = TypeVar("_F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)


@click.group(
    epilog=examples(
        "guestlaunch domain xml --disk disk.img",
        "guestlaunch domain xml --profile x86_64-ovmf --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0'",
        "guestlaunch domain define -c qemu:///system --name vm1 --disk /var/lib/libvirt/images/vm1.qcow2",
        "guestlaunch domain start -c qemu:///session --name vm1 --disk vm1.img",
    )
)
def domain() -> None:
    """Print, define or start a libvirt domain: UEFI, fw_cfg DMA and accelerator as launches have them."""


def _wish_options(function: _F) -> _F:
    for option in (
        click.option("--boot", type=click.Choice([str(one) for one in BootSource]), help="What the domain starts."),
        click.option("--cmdline", metavar="TEXT", default="", help="Kernel command line."),
        click.option("--initrd", metavar="FILE", type=_FILE, help="Initial RAM disk."),
        click.option("--kernel", metavar="FILE", type=_FILE, help="Kernel, loaded by the firmware over fw_cfg."),
        click.option("--disk", "disks", metavar="FILE", type=_FILE, multiple=True, help="Disk; can be repeated."),
        click.option("--name", metavar="NAME", default="guestlaunch", show_default=True, help="Name of the domain."),
    ):
        function = option(function)
    return function


@domain.command(
    epilog=examples("guestlaunch domain xml", "guestlaunch domain xml --disk disk.img --boot disk --fw-cfg-dma off")
)
@_wish_options
@settings_options
@json_option
def xml(*, settings: Settings, as_json: bool, **wish: Any) -> int:  # noqa: ANN401 - the options above
    """Print the domain's XML: of an appliance launch, or of what the options describe."""
    planned = plan_domain(_wish(wish, BootSource.APPLIANCE), settings)
    text = domain_xml(planned)
    if as_json:
        text = json.dumps({"name": planned.name, "uuid": planned.uuid, "accel": str(planned.accel), "xml": text}) + "\n"
    click.echo(text, nl=False)
    return 0


@domain.command(epilog=examples("guestlaunch domain define -c qemu:///system --name vm1 --disk vm1.qcow2"))
@_wish_options
@settings_options
@json_option
def define(*, settings: Settings, as_json: bool, **wish: Any) -> int:  # noqa: ANN401 - the options above
    """Store the domain in libvirt on --connect, without starting it."""
    return _hand_over(settings, _wish(wish, BootSource.DISK), as_json=as_json, start=False)


@domain.command(epilog=examples("guestlaunch domain start -c qemu:///session --name vm1 --disk vm1.img"))
@_wish_options
@settings_options
@json_option
def start(*, settings: Settings, as_json: bool, **wish: Any) -> int:  # noqa: ANN401 - the options above
    """Store the domain in libvirt on --connect, and start it."""
    return _hand_over(settings, _wish(wish, BootSource.DISK), as_json=as_json, start=True)


def _wish(given: dict[str, Any], default: BootSource) -> Wish:
    """Return what the options describe."""
    boot = BootSource(given["boot"]) if given["boot"] else BootSource.KERNEL if given["kernel"] else default
    if boot is not BootSource.KERNEL and (given["kernel"] or given["initrd"]):
        raise UsageError("options exclude each other", f"--boot {boot}", "with --kernel or --initrd")
    return Wish(
        name=given["name"],
        boot=boot,
        kernel=given["kernel"] and given["kernel"].absolute(),
        initrd=given["initrd"] and given["initrd"].absolute(),
        cmdline=given["cmdline"],
        disks=tuple(disk.absolute() for disk in given["disks"]),
    )


def _hand_over(settings: Settings, wish: Wish, *, as_json: bool, start: bool) -> int:
    """Give a domain to a libvirt daemon."""
    if settings.ends_with_us:
        raise UsageError(
            "no libvirt daemon named",
            wish.name,
            "the private qemu:///embed ends with this command, and its domains with it",
            "add -c qemu:///session or -c qemu:///system",
        )
    planned = plan_domain(wish, settings)
    text = domain_xml(planned)
    from orchestrator.hypervisor.connect import open_connection  # here: brings libvirt

    with open_connection(settings.connect, settings.state_dir, runtime_dir=settings.runtime_dir) as connection:
        known = wish.name in connection.list_names()
        name = connection.define(text)
        if start:
            try:
                connection.start(name)
            except GuestlaunchError:
                if not known:
                    connection.undefine(name)
                raise
        uri = connection.uri
    _told(planned, name, uri, as_json=as_json, state="running" if start else "defined")
    return 0


def _told(planned: Domain, name: str, uri: str, *, as_json: bool, state: str) -> None:
    if as_json:
        facts = {"name": name, "uuid": planned.uuid, "connection": uri, "state": state, "accel": str(planned.accel)}
        print_json(facts)
        return
    click.echo(f"{name}: {state} on {uri} ({planned.profile.name}, {planned.accel})")
