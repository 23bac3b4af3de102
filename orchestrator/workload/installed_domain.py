"""The domain of a system that was installed: its disks, and the firmware's variables as its installation left them."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.domain.model import Domain, Graphics, Network
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.install.request import InstallRequest
from orchestrator.install.run import Definition
from orchestrator.install.unfinished import noted
from orchestrator.settings import Settings
from orchestrator.workload.user_domain import BootSource, Wish, plan_domain

if TYPE_CHECKING:
    from orchestrator.hypervisor.connection import Connection


def definition(name: str, request: InstallRequest, settings: Settings) -> Definition:
    """Return the definition of a system under a name that is free, or that an interrupted installation of it has left.

    :raise UsageError: no daemon of libvirt is to have it, or it has another of that name.
    :raise CapabilityError: the daemon is another host's.
    """
    uri = settings.connect
    if settings.ends_with_us:
        why = "the private qemu:///embed ends with this command, and its domains with it"
        raise UsageError("no libvirt daemon named", name, why, "add -c qemu:///session or -c qemu:///system")
    assert uri is not None
    from orchestrator.hypervisor.connection import is_local  # here: brings libvirt

    if not is_local(uri):
        why = "its disks and variables are files of this host"
        raise CapabilityError("cannot define domain on another host", uri, why)
    with _connected(settings) as connection:
        if name in connection.list_names() and not _is_left(connection, name, request, uri):
            raise UsageError(
                "cannot define domain", name, "there is one of that name", "choose another --name, or undefine it"
            )

    def define(planned: Settings) -> None:
        with _connected(planned) as connection:
            connection.define(domain_xml(installed_domain(name, request, planned)))

    def forget() -> None:
        with _connected(settings) as connection:
            stored = connection.stored(name)
            if stored is not None:
                stored.undefine()

    return Definition(connection=uri, name=name, define=define, forget=forget)


def _is_left(connection: Connection, name: str, request: InstallRequest, uri: str) -> bool:
    """Tell whether a domain is what an interrupted installation of the same system has left, and is off."""
    left = noted(request.kept_nvram)
    if left is None or (left.connection, left.name) != (uri, name):
        return False
    stored = connection.stored(name)
    return stored is None or (not stored.is_active and os.fspath(request.kept_nvram) in stored.xml())


def installed_domain(name: str, request: InstallRequest, settings: Settings) -> Domain:
    """Return the domain of a system, which boots from its first disk and restarts when its guest does."""
    planned = plan_domain(Wish(name=name, boot=BootSource.DISK, disks=request.disks), settings)
    assert planned.loader is not None  # systems are installed under UEFI
    loader = replace(planned.loader, nvram=os.fspath(request.kept_nvram), template=None)
    graphics = None if request.graphics is None else Graphics(kind=request.graphics)
    return replace(planned, loader=loader, network=Network() if request.network else None, graphics=graphics)


def _connected(settings: Settings) -> contextlib.AbstractContextManager[Connection]:
    from orchestrator.hypervisor.connect import open_connection  # here: brings libvirt

    return open_connection(settings.connect, settings.state_dir, runtime_dir=settings.runtime_dir)
