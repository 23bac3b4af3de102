"""A domain that libvirt keeps: its state, our metadata in it, its console and ports, its end. `connection` finds them.

A start, and what follows of the guest while it boots, is `connection`'s and `guest`'s.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TypeVar
from xml.etree import ElementTree as ET

from orchestrator.domain.model import Metadata
from orchestrator.domain.xml import metadata_element, to_text
from orchestrator.errors import DeadlineError, GuestlaunchError
from orchestrator.hypervisor.binding import libvirt, libvirt_qemu
from orchestrator.hypervisor.failure import translate

_T = TypeVar("_T")

_BLOCK = 64 * 1024
_WOULD_BLOCK = -2
_TICK_S = 0.1
_HMP = 1  # VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP


class DomainState(StrEnum):
    """How a stored domain is, in libvirt's words (`virDomainState`, by number)."""

    NO_STATE = "no state"
    RUNNING = "running"
    BLOCKED = "blocked"
    PAUSED = "paused"
    SHUTDOWN = "in shutdown"
    SHUT_OFF = "shut off"
    CRASHED = "crashed"
    SUSPENDED = "suspended"


_STATES = tuple(DomainState)


class StoredDomain:
    """One stored domain.

    :ivar name: its name.
    """

    def __init__(self, handle: libvirt.virConnect, domain: libvirt.virDomain) -> None:
        self.name = domain.name()
        self._handle, self._domain = handle, domain

    @property
    def uuid(self) -> str:
        """Its UUID."""
        return self._domain.UUIDString()

    def state(self) -> DomainState:
        """Return how it is."""
        number = self._call("cannot ask for the state of", lambda: self._domain.state(0))[0]
        return _STATES[number] if number < len(_STATES) else DomainState.NO_STATE

    @property
    def is_active(self) -> bool:
        """Whether there is a QEMU for it."""
        return bool(self._call("cannot ask for the state of", self._domain.isActive))

    def xml(self) -> str:
        """Return its XML: that of the guest, if it runs."""
        return self._call("cannot describe domain", lambda: self._domain.XMLDesc(0))

    def metadata(self, namespace: str) -> dict[str, str] | None:
        """Return the attributes of the element of a namespace, None where the domain has none."""
        try:
            text = self._domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, namespace, 0)
        except libvirt.libvirtError:
            return None
        return dict(ET.fromstring(text).attrib)  # noqa: S314 - libvirt has parsed it before

    def set_metadata(self, metadata: Metadata) -> None:
        """Put an element of ours in the place of what there was of its namespace."""
        element = ET.Element(metadata.name, dict(metadata_element(metadata).attrib))  # libvirt adds the namespace
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG | (libvirt.VIR_DOMAIN_AFFECT_LIVE if self.is_active else 0)
        self._call(
            "cannot note in domain",
            lambda: self._domain.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT, to_text(element), metadata.prefix, metadata.namespace, flags
            ),
        )

    def shut_down(self, deadline_s: float, stopped: Callable[[], bool] = lambda: False) -> None:
        """Press its power button, and wait until it is off.

        :raise DeadlineError: it is not, after so many seconds, or nobody wants to wait any more.
        """
        self._call("cannot shut down domain", self._domain.shutdown)
        end = time.monotonic() + deadline_s
        while self.is_active:
            if time.monotonic() > end or stopped():
                why = f"its power button was pressed {deadline_s:g} s ago"
                raise DeadlineError("domain did not end", self.name, why, "--force pulls the plug")
            time.sleep(_TICK_S)

    def destroy(self) -> None:
        """Pull the plug, if it runs."""
        with self._unless_gone():
            self._call("cannot end domain", self._domain.destroy)

    def undefine(self, *, nvram: bool = False) -> None:
        """Forget it.

        :param nvram: its NVRAM goes as well, which libvirt has made; else it stays.
        """
        flags = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM if nvram else libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        self._call("cannot undefine domain", lambda: self._domain.undefineFlags(flags))

    def monitor(self, command: str) -> str:
        """Run one command of QEMU's human monitor, and return what it says."""
        return self._call(
            "cannot command QEMU of domain", lambda: libvirt_qemu.qemuMonitorCommand(self._domain, command, _HMP)
        )

    def leased_addresses(self) -> list[str]:
        """Return the addresses that libvirt's own networks gave to its interfaces."""
        source = libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE
        found = self._call("cannot ask for the addresses of", lambda: self._domain.interfaceAddresses(source, 0))
        return [entry["addr"] for interface in found.values() for entry in interface.get("addrs") or ()]

    @contextlib.contextmanager
    def console(self, take: Callable[[bytes], None]) -> Iterator[Callable[[bytes], object]]:
        """Hand on what comes from its serial console; yields what sends to it.

        :param take: called on libvirt's event thread: it must be quick, and not use libvirt.
        """
        with self._stream(lambda stream: self._domain.openConsole(None, stream, 0), take) as send:
            yield send

    @contextlib.contextmanager
    def channel(self, name: str, take: Callable[[bytes], None]) -> Iterator[Callable[[bytes], object]]:
        """Do the same for a virtio-serial port, by its name."""
        with self._stream(lambda stream: self._domain.openChannel(name, stream, 0), take) as send:
            yield send

    @contextlib.contextmanager
    def _stream(
        self, opened: Callable[[libvirt.virStream], object], take: Callable[[bytes], None]
    ) -> Iterator[Callable[[bytes], object]]:
        stream = self._handle.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self._call("cannot open a port of domain", lambda: opened(stream))

        def receive(stream: libvirt.virStream, events: int, _opaque: object) -> None:
            with contextlib.suppress(libvirt.libvirtError):
                while isinstance(block := stream.recv(_BLOCK), bytes) and block:
                    take(block)
                if block == _WOULD_BLOCK and not events & gone:
                    return
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()

        gone = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
        try:
            stream.eventAddCallback(libvirt.VIR_STREAM_EVENT_READABLE | gone, receive, None)
            yield stream.send
        finally:
            for end in (stream.eventRemoveCallback, stream.abort):
                with contextlib.suppress(libvirt.libvirtError):
                    end()

    def _call(self, what: str, function: Callable[[], _T]) -> _T:
        try:
            return function()
        except libvirt.libvirtError as failure:
            raise translate(failure, what, self.name) from failure

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """Say nothing of what fails because it has ended meanwhile."""
        try:
            yield
        except GuestlaunchError:
            if self.is_active:
                raise
