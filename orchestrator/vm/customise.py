"""What is changed on a VM's disk before it boots: by virt-customize in an appliance of the disk's own architecture.

The image needs nothing for it, no cloud-init and no agent. A unit is added that says on the control port, at each boot,
that the system is ready. Answers for cloud-init go onto a disk of their own, as its NoCloud source wants them.
"""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator import files
from orchestrator.domain.policy import CONTROL_CHANNEL
from orchestrator.errors import GuestlaunchError
from orchestrator.images.cidata import make_cidata
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.vm.customization import Customization
from orchestrator.vm.own_commands import run_tool

_PORT = f"/dev/virtio-ports/{CONTROL_CHANNEL}"


def unit_text(number: str) -> str:
    """Return the readiness unit. Its program waits for whoever listens, and keeps nobody else waiting.

    :param number: the VM's own.
    """
    return (
        f"[Unit]\nDescription=Tell the host that the system is ready\nAfter=multi-user.target\n"
        f"ConditionPathExists={_PORT}\n\n"
        f"[Service]\nType=simple\nExecStart=/bin/sh -c 'echo guestlaunch-ready {number} >{_PORT}'\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def customise(wanted: Customization, disk: Path, number: str, settings: Settings, stop: Stop) -> None:
    """Change what is on a disk, which is a qcow2 image that nothing uses.

    :param settings: of an appliance of the disk's architecture.
    :raise WorkloadError: it failed; the disk is of no use then.
    """
    words = wanted.words(unit_text(number))
    command = ["virt-customize", "--quiet", "--format", "qcow2", "-a", os.fspath(disk), *words]
    try:
        run_tool("cannot customise", command, disk, settings, stop)
    except OSError as error:
        raise GuestlaunchError("cannot customise", disk, error.strerror or error) from error


def seed_of(wanted: Customization, name: str, number: str) -> bytes:
    """Return the disk by which cloud-init is told what to do.

    :param name: of the VM.
    :raise GuestlaunchError: its data cannot be read, or are too much.
    """
    assert wanted.cloud_init is not None
    meta = f"instance-id: {number}\nlocal-hostname: {wanted.hostname or name}\n"
    try:
        return make_cidata({"user-data": files.read_whole(wanted.cloud_init), "meta-data": meta.encode()})
    except OSError as error:
        raise GuestlaunchError("cannot read", wanted.cloud_init, error.strerror or error) from error
    except ValueError as error:
        raise GuestlaunchError("cannot make cloud-init's disk of", wanted.cloud_init, error) from error
