"""guestlaunch vm create: one VM by options, or those that a file describes."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.kernel.terminal import SIGNAL_BASE, stopping
from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import examples, json_option, print_json, settings_options
from orchestrator.cli.vm.options import folder_option, placed, request_of, request_options
from orchestrator.errors import GuestlaunchError, StoppedError, UsageError
from orchestrator.program import complain
from orchestrator.settings import Settings
from orchestrator.timeline.durations import duration
from orchestrator.vm.described import load_requests
from orchestrator.vm.request import VmRequest

if TYPE_CHECKING:  # libvirt comes with it
    from orchestrator.vm.create import Created


@click.command(
    epilog=examples(
        "guestlaunch vm create vm1 --image debian-12.qcow2 --size 20G --memory-mib 4096",
        "guestlaunch vm create vm1 --image debian-12.qcow2 --user me --ssh-key ~/.ssh/id_ed25519.pub --install nginx",
        "guestlaunch vm create vm1 --image disk.img --nvram disk.img.nvram.fd      (of guestlaunch install)",
        "guestlaunch vm create vm1 --image debian-12.qcow2 --network network=default --ready agent",
        "guestlaunch vm create vm1 -c qemu+ssh://host/system --image vol=default/debian-12.qcow2 --arch aarch64",
        "guestlaunch vm create -f vms.toml",
    )
)
@click.argument("name", required=False)
@click.option(
    "-f", "--file", "described", metavar="FILE", type=click.Path(path_type=Path),
    help="Make the VMs that a file describes (TOML): a table [vm.NAME] for each, whose keys are image, size, "
    "memory_mib and so on, timeout_s, and as lists ssh_keys, run, install and copy_in.",
)  # fmt: skip
@settings_options
@request_options
@folder_option
@click.option("--keep", is_flag=True, help="Leave what was made if it does not become ready.")
@json_option
def create(
    *, name: str | None, described: Path | None, settings: Settings, said: dict[str, Any], folder: Path | None,
    keep: bool, as_json: bool,
) -> int:  # fmt: skip
    """Make the VM NAME of an image, start it, and wait until it is ready.

    Its disk is an overlay over the image, which stays as it is. Which architecture it is for is read of the UEFI
    loaders on the image, by an appliance; its format is what its header says, or what you say, and never guessed. It
    boots by UEFI from that disk alone, with variables of its own; resets are its own affair.

    Before it boots, an appliance of its architecture changes on its disk what you want: hostname, user, keys, packages,
    files, commands. That takes no cloud-init, and works for another architecture than the host's.

    An image that is a volume of a storage pool may be on another host (-c): the disk is a volume of that pool, too, and
    libvirt makes the firmware's variables. No appliance looks into what is there: --arch says what it is for, and
    --cloud-init has it change itself.

    It is ready when it says so itself (the line guestlaunch-ready on the virtio-serial port
    org.guestlaunch.control.0, which a disk that is customised gets a systemd unit for), when its guest agent is there,
    or when it asks for a login on its serial console; with --ready ssh when its ssh server answers. Until then an
    interrupt, or a failure, leaves nothing of it. The same command for a VM that is there changes nothing, and starts
    it if it is off; where one was killed, it goes on or starts over, and says so.
    """
    requests = _requests(name, described, said, settings)
    from orchestrator.vm.create import create_all

    with stopping() as (stop, came):
        title = requests[0].name if len(requests) == 1 else "VMs"
        with placed(settings, folder, stop, title, keep=keep) as place:
            made = create_all(requests, place)
    errors = [one for one in made if isinstance(one, GuestlaunchError)]
    done = [one for one in made if not isinstance(one, GuestlaunchError)]
    if done:
        _tell(done, as_json=as_json, one=described is None)
    if came:
        unclean = [error for error in errors if not isinstance(error, StoppedError)]
        for error in unclean:
            complain(PROGRAM, str(error))
        end = "guestlaunch vm list shows what is left" if unclean else "what was being made is gone"
        complain(PROGRAM, f"{', '.join(request.name for request in requests)}: stopped; {end}")
        return SIGNAL_BASE + came[0]
    for error in errors[:-1]:
        complain(PROGRAM, str(error))
    if errors:
        raise errors[-1]
    return 0


def _requests(name: str | None, described: Path | None, said: dict[str, Any], settings: Settings) -> list[VmRequest]:
    """Return what is to be made.

    :raise UsageError: it is not clear.
    """
    if described is not None:
        if name is not None or said["image"] is not None:
            raise UsageError("options exclude each other", f"-f {described}", "with NAME or --image")
        if VmRequest(name="", **said | {"image": Path()}) != VmRequest(name="", image=Path()):
            raise UsageError("options exclude each other", f"-f {described}", "with what is said of one VM")
        memory_mib, vcpus = settings.memory_mib, settings.vcpus
        return [
            replace(one, memory_mib=one.memory_mib or memory_mib, vcpus=one.vcpus or vcpus)
            for one in load_requests(described)
        ]
    if name is None or said["image"] is None:
        raise UsageError("nothing to make", name or "", "a VM needs NAME and --image", "or -f FILE")
    return [request_of(name, said, settings)]


def _tell(made: list[Created], *, as_json: bool, one: bool) -> None:
    """Say what came of them."""
    from orchestrator.records.record import to_event

    if as_json:
        said = [
            {
                "name": vm.name,
                "connection": vm.uri,
                "how": vm.how,
                "timeline": to_event(vm.record) if vm.record is not None else None,
            }
            for vm in made
        ]
        print_json(said[0] if one and said else said)
        return
    for vm in made:
        if vm.record is None:
            click.echo(f"{vm.name}: already there, on {vm.uri}")
            continue
        event = to_event(vm.record)
        for phase in event["phases"] if one else []:
            if phase["duration_ns"] is not None and phase["name"] != "workload":
                click.echo(f"{phase['name']:<11} {duration(phase['duration_ns']):>9}")
        took = f"ready after {duration(event['launch_ns'])}" if event["launch_ns"] else "not waited for"
        told = f", told by {vm.record.vm.told_by}" if event["launch_ns"] and vm.record.vm else ""
        click.echo(f"{vm.name}: {vm.how} on {vm.uri}, {took}{told}")
        if vm.note.asked.get("graphics"):
            click.echo(f"{vm.name}: its display: virt-viewer -c {shlex.quote(vm.uri)} {vm.name}")
