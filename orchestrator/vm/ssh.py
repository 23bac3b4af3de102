"""How a VM is reached by ssh: through QEMU's own network by a port of this host's, else by its leased address.

The port is there for as long as somebody is connected, and bound to the loopback: nothing of it is in the domain.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.errors import CapabilityError, DeadlineError, GuestlaunchError
from orchestrator.hypervisor.stored import StoredDomain
from orchestrator.vm.folder import KNOWN_HOSTS
from orchestrator.vm.note import VmNote

_LOOPBACK = "127.0.0.1"
_NETDEV = "hostnet0"  # libvirt's name for the first interface
_SSH = 22
_TICK_S = 0.5
_CONNECT_S = 5.0
_GREETING_S = 5.0
_ROUND_S = 30.0  # an address may change, a forwarding be gone with a reset
_LEAVE_S = 10.0
_GREETING = b"SSH-"


@contextlib.contextmanager
def reached(
    domain: StoredDomain, note: VmNote, deadline_s: float, stopped: Callable[[], bool], *, here: bool = True
) -> Iterator[tuple[str, int]]:
    """Yield address and port of a VM's ssh server, once it answers.

    :param here: it runs on this host.
    :raise CapabilityError: it has no network, or none that leads here.
    :raise DeadlineError: it does not answer in time.
    """
    network = network_of(note)
    check_leads_here(domain.name, network, here=here)
    if network != "user":
        address = _leased(domain)
        await_greeting(address, _SSH, domain.name, deadline_s, stopped)
        yield address, _SSH
        return
    port = _free_port()
    forward = f"{_NETDEV} tcp:{_LOOPBACK}:{port}"
    said = domain.monitor(f"hostfwd_add {forward}-:{_SSH}").strip()
    if said:
        raise CapabilityError("cannot reach VM", domain.name, said)
    try:
        await_greeting(_LOOPBACK, port, domain.name, deadline_s, stopped)
        yield _LOOPBACK, port
    finally:
        domain.monitor(f"hostfwd_remove {forward}")


def network_of(note: VmNote) -> str:
    """Return the network that a VM was made with."""
    return str(note.asked.get("network", "user"))


def check_leads_here(name: str, network: str, *, here: bool) -> None:
    """Refuse a network by which a VM cannot be reached.

    :param here: it runs on this host.
    :raise CapabilityError: there is none, or it does not lead here.
    """
    if network == "none":
        raise CapabilityError("cannot reach VM", name, "it has no network", "guestlaunch vm console joins it")
    if network == "user" and not here:
        why = "QEMU's own network is behind the host where it runs"
        raise CapabilityError("cannot reach VM", name, why, "guestlaunch vm console joins it")


@contextlib.contextmanager
def knocking(domain: StoredDomain, note: VmNote, answered: Callable[[], None]) -> Iterator[None]:
    """Within the context, try a VM's ssh server from a thread, and call `answered` once it answers.

    What keeps it from answering is none of ours: it boots, has no address yet, or ends.
    """
    left = threading.Event()

    def knock() -> None:
        while not left.is_set():
            with contextlib.suppress(GuestlaunchError), reached(domain, note, _ROUND_S, left.is_set):
                answered()
                return
            left.wait(_TICK_S)

    thread = threading.Thread(target=knock, name=f"ssh of {domain.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join(_LEAVE_S)


def _leased(domain: StoredDomain) -> str:
    """Return the address that libvirt's network gave to it.

    :raise CapabilityError: none is known.
    """
    found = domain.leased_addresses()
    if not found:
        why = "libvirt knows no address of it"
        raise CapabilityError("cannot reach VM", domain.name, why, "on a bridge, ask the one who gives addresses there")
    return found[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def await_greeting(address: str, port: int, name: str, deadline_s: float, stopped: Callable[[], bool]) -> None:
    """Wait until an ssh server answers: QEMU takes connections before there is one.

    :raise DeadlineError: none does in time, or nobody waits any more.
    """
    end = time.monotonic() + deadline_s
    while not _greets(address, port, stopped):
        if time.monotonic() > end or stopped():
            why = f"no ssh server answers after {deadline_s:g} s"
            raise DeadlineError("cannot reach VM", name, why, "is one installed, and started?")
        time.sleep(_TICK_S)


def _greets(address: str, port: int, stopped: Callable[[], bool]) -> bool:
    end = time.monotonic() + _GREETING_S
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=_CONNECT_S) as sock:
        sock.settimeout(_TICK_S)
        while time.monotonic() < end and not stopped():
            with contextlib.suppress(TimeoutError):
                return sock.recv(len(_GREETING)) == _GREETING
    return False


def _quoted(path: Path) -> str:
    """Return a path as ssh's options have it, where spaces part files and % begins a token."""
    text = os.fspath(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"'


def command(note: VmNote, address: str, port: int, user: str | None, words: tuple[str, ...]) -> list[str]:
    """Return ssh's command line. The VM's key is learned at the first contact, and kept with its files.

    :param user: to log in as; the one that the VM was made with, if any.
    """
    asked = note.asked
    known = Path(note.folder) / KNOWN_HOSTS
    if note.pool:  # else it is there
        with contextlib.suppress(OSError):
            known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = [
        f"HostKeyAlias={note.number}",
        f"UserKnownHostsFile={_quoted(known)}",
        "StrictHostKeyChecking=accept-new",
    ]
    line = ["ssh", "-p", str(port), *(part for option in options for part in ("-o", option))]
    for key in asked.get("ssh_keys", []):
        private = Path(str(key)).with_suffix("")
        if str(key).endswith(".pub") and os.access(private, os.R_OK):
            line += ["-i", os.fspath(private)]
    login = user or asked.get("user") or ("root" if asked.get("ssh_keys") else None)
    return [*line, *(["-l", str(login)] if login else []), address, *words]
