# The part of libvirt-python's QEMU extension that the project uses.
from collections.abc import Callable
from typing import IO

import libvirt

def qemuMonitorCommand(domain: libvirt.virDomain, cmd: str, flags: int) -> str: ...
def qemuMonitorEventRegister(
    conn: libvirt.virConnect,
    dom: libvirt.virDomain | None,
    event: str | None,
    cb: Callable[..., None],
    opaque: object,
    flags: int = ...,
) -> int: ...
def qemuMonitorEventDeregister(conn: libvirt.virConnect, callbackID: int) -> None: ...
def qemuMonitorCommandWithFiles(
    domain: libvirt.virDomain, cmd: str, files: list[int] = ..., flags: int = ...
) -> tuple[str, list[IO[bytes]]]: ...
