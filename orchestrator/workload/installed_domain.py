"""The domain of a system that was installed: its disks, and the firmware's variables as its installation left them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.domain.model import Domain, Network
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.install.request import InstallRequest
from orchestrator.settings import Settings
from orchestrator.workload.user_domain import BootSource, Wish, plan_domain

if TYPE_CHECKING:
    from orchestrator.hypervisor.connection import Connection


def require_free(name: str, settings: Settings) -> None:
    """Make sure that a system can be defined under a name, before it is installed.

    :raise UsageError: no daemon of libvirt is to have it, or it has another of that name.
    :raise CapabilityError: the daemon is another host's.
    """
    if settings.connect in {None, "qemu:///embed"}:
        why = "the private qemu:///embed ends with this command, and its domains with it"
        raise UsageError("no libvirt daemon named", name, why, "add -c qemu:///session or -c qemu:///system")
    from orchestrator.hypervisor.connection import is_local  # here: brings libvirt

    if not is_local(settings.connect):
        why = "its disks and variables are files of this host"
        raise CapabilityError("cannot define domain on another host", settings.connect, why)
    with _connected(settings) as connection:
        if name in connection.list_names():
            raise UsageError(
                "cannot define domain", name, "there is one of that name", "choose another --name, or undefine it"
            )


def define(name: str, request: InstallRequest, settings: Settings) -> Callable[[], None]:
    """Store the domain in libvirt, and return what has it forgotten again; the NVRAM stays then.

    :param settings: those that the system is installed with.
    :raise GuestlaunchError: libvirt refuses it.
    """
    with _connected(settings) as connection:
        connection.define(domain_xml(installed_domain(name, request, settings)))

    def forget() -> None:
        with _connected(settings) as connection:
            stored = connection.stored(name)
            if stored is not None:
                stored.undefine()

    return forget


def installed_domain(name: str, request: InstallRequest, settings: Settings) -> Domain:
    """Return the domain of a system, which boots from its first disk and restarts when its guest does."""
    planned = plan_domain(Wish(name=name, boot=BootSource.DISK, disks=request.disks), settings)
    assert planned.loader is not None  # systems are installed under UEFI
    loader = replace(planned.loader, nvram=os.fspath(request.kept_nvram), template=None)
    return replace(planned, loader=loader, network=Network() if request.network else None)


def _connected(settings: Settings) -> contextlib.AbstractContextManager[Connection]:
    from orchestrator.hypervisor.connect import open_connection  # here: brings libvirt

    return open_connection(settings.connect, settings.state_dir, runtime_dir=settings.runtime_dir)
