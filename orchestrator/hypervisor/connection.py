"""A connection to libvirt's QEMU driver: embedded in this process, this user's or the system's daemon, or remote.

It starts, finds and lists domains; what one does afterwards is `guest`'s part, and `connect` opens it. Importing this
module imports libvirt, which costs more than opening a connection: import it where it is used.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from orchestrator import priority
from orchestrator.domain.model import Domain, Privileges
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import CapabilityError, DeadlineError, GuestlaunchError, HypervisorError, NotFoundError
from orchestrator.hypervisor import bounded, confinement, embed
from orchestrator.hypervisor.binding import libvirt
from orchestrator.hypervisor.emulator import emulator_version
from orchestrator.hypervisor.failure import Code, code_of, translate
from orchestrator.hypervisor.guest import Guest
from orchestrator.hypervisor.process import Adoption, Process, adopting, read_pid
from orchestrator.hypervisor.routing import EventRouter
from orchestrator.values import dataclass

if TYPE_CHECKING:
    from orchestrator.hypervisor.stored import StoredDomain
    from orchestrator.hypervisor.volumes import StoragePool

_CLEARED_S = 2.0
# For two minutes, a broken link to another host is given the benefit of the doubt: it may only be slow.
KEEPALIVE_S = 5
KEEPALIVE_MISSES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Versions as text; `qemu` is the named emulator's, on another host its default QEMU's, else None."""

    libvirt: str
    qemu: str | None


def is_local(uri: str) -> bool:
    """Tell whether a libvirt URI means this host: it names no other one."""
    scheme, _, rest = uri.partition("://")
    _, _, transport = scheme.partition("+")
    return rest.startswith("/") and transport in {"", "unix", "ext"}


def _dotted(number: int) -> str:
    """Return libvirt's number for a version (major * 1,000,000 + minor * 1,000 + release) as text."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


class Connection:
    """An open connection. Several threads may use it.

    :ivar uri: what was opened.
    :ivar root: the embedded driver's private root, else None.
    :ivar is_local: QEMU runs on this host.
    :ivar lost: set when the connection broke; nothing works any more then.
    """

    def __init__(self, handle: libvirt.virConnect, uri: str, root: embed.Root | None) -> None:
        self.uri = uri
        self.root = root
        self.is_local = is_local(uri)
        self.lost = threading.Event()
        self._handle = handle
        self._guests: weakref.WeakSet[Guest] = weakref.WeakSet()
        self._router = EventRouter(same_clock=self.is_local)
        self._unsubscribe: list[Callable[[], object]] = []

    def subscribe(self) -> None:
        """Ask libvirt for all events of all domains, and to be told when the connection breaks."""
        handle = self._handle
        self._unsubscribe += self._router.subscribe(handle)
        if self.root is None:
            handle.registerCloseCallback(self._on_close, None)
            self._unsubscribe.append(handle.unregisterCloseCallback)
            # A daemon on this host that dies closes its socket; that it is slow must not cost its guests their lives.
            handle.setKeepAlive(0 if self.is_local else KEEPALIVE_S, KEEPALIVE_MISSES)

    def create(
        self, xml: str, *, paused: bool = True, privileges: Privileges | None = None, deadline_s: float | None = None
    ) -> Guest:
        """Start a transient domain. It ends with this process: by libvirt's autodestroy, or by the root's guardian.

        :param privileges: the domain's, where its QEMU is confined by us: it is bounded then, too.
        :param deadline_s: how long libvirt may take; None for as long as it likes.
        :raise DeadlineError: it took longer; should a domain come of it after all, it is ended.
        :raise DiskInUseError, NotFoundError, CapabilityError, HypervisorError: it could not be started.
        """
        name, emulator = _name_and_emulator(xml)
        return self._create(xml, name, emulator, paused=paused, privileges=privileges, deadline_s=deadline_s)

    def create_paused(self, domain: Domain, deadline_s: float) -> Guest:
        """Start a domain of a launch, paused; otherwise as `create`."""
        return self._create(
            domain_xml(domain), domain.name, domain.emulator,
            paused=True, privileges=domain.privileges, deadline_s=deadline_s,
        )  # fmt: skip

    def _create(
        self, xml: str, name: str, emulator: str | None,
        *, paused: bool, privileges: Privileges | None, deadline_s: float | None,
    ) -> Guest:  # fmt: skip
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        if self.root is None:
            flags |= libvirt.VIR_DOMAIN_START_AUTODESTROY  # the embedded driver refuses it; the guardian stands in

        def start() -> libvirt.virDomain:
            return self._handle.createXML(xml, flags)

        if deadline_s is None:
            return self._start(name, emulator, start, privileges)
        return self._start(name, emulator, lambda: self._bounded(name, start, deadline_s), privileges)

    def _bounded(self, name: str, start: Callable[[], libvirt.virDomain], deadline_s: float) -> libvirt.virDomain:
        """Start a domain, and give up after a while: what starts later is ended, the embedded driver's QEMU at once."""
        try:
            return bounded.call(start, deadline_s, name=f"create-{name}", late=lambda domain: domain.destroy())
        except TimeoutError as error:
            pid = read_pid(self._pid_files(name), name) if self.is_local else None
            if pid is not None:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            hint = "GUESTLAUNCH_DEADLINE_CREATE allows more"
            raise DeadlineError("cannot start domain", name, f"libvirt gave {error}", hint) from error

    def define(self, xml: str) -> str:
        """Store a domain without starting it, or change a stored one; return its name."""
        try:
            return self._handle.defineXML(xml).name()
        except libvirt.libvirtError as failure:
            raise translate(failure, "cannot define domain", _name_and_emulator(xml)[0]) from failure

    def undefine(self, name: str) -> None:
        """Forget a stored domain, with its NVRAM; one that runs becomes transient."""
        try:
            self._handle.lookupByName(name).undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        except libvirt.libvirtError as failure:
            raise translate(failure, "cannot undefine domain", name) from failure

    def start(self, name: str, *, paused: bool = False, reset_nvram: bool = False) -> Guest:
        """Start a stored domain; it outlives this connection when a daemon runs it.

        :param reset_nvram: libvirt makes its variables anew, where it has made them, and is 8.1 or newer.
        :raise NotFoundError: there is none of that name; otherwise as `create`.
        """
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        if reset_nvram:
            flags |= getattr(libvirt, "VIR_DOMAIN_START_RESET_NVRAM", 0)
        try:
            domain = self._handle.lookupByName(name)
            _, emulator = _name_and_emulator(domain.XMLDesc(0))
        except libvirt.libvirtError as failure:
            raise translate(failure, "cannot start domain", name) from failure

        def start() -> libvirt.virDomain:
            domain.createWithFlags(flags)
            return domain

        return self._start(name, emulator, start)

    def stored(self, name: str) -> StoredDomain | None:
        """Return a domain by its name, None where there is none."""
        from orchestrator.hypervisor.stored import StoredDomain  # here: launches find none

        try:
            return StoredDomain(self._handle, self._handle.lookupByName(name))
        except libvirt.libvirtError as failure:
            error = translate(failure, "cannot look for domain", name)
            if isinstance(error, NotFoundError):
                return None
            raise error from failure

    def pool(self, name: str) -> StoragePool:
        """Return a storage pool by its name.

        :raise NotFoundError: there is none.
        :raise CapabilityError: it is not active.
        """
        from orchestrator.hypervisor.volumes import StoragePool  # here: launches need none

        try:
            found = self._handle.storagePoolLookupByName(name)
        except libvirt.libvirtError as failure:
            raise translate(failure, "cannot use storage pool", name) from failure
        return StoragePool(self._handle, found)

    def offers_kvm(self, arch: str) -> bool:
        """Tell whether libvirt says that KVM is there for guests of an architecture; it looks at their QEMU alone."""
        try:
            self._handle.getDomainCapabilities(None, arch, None, "kvm")
        except libvirt.libvirtError as failure:
            if code_of(failure) in {Code.INVALID_ARG, Code.CONFIG_UNSUPPORTED, Code.NO_SUPPORT}:
                return False
            raise translate(failure, "cannot ask for capabilities", self.uri) from failure
        return True

    def list_names(self) -> list[str]:
        """Return the names of all domains, running or stored, sorted."""
        try:
            return sorted(domain.name() for domain in self._handle.listAllDomains(0))
        except libvirt.libvirtError as failure:
            raise translate(failure, "cannot list the domains of", self.uri) from failure

    def versions(self, emulator: str | None = None) -> Versions:
        """Return libvirt's version and QEMU's: of this emulator, or of the default one of another host."""
        try:
            own = _dotted(self._handle.getLibVersion())
            if self.is_local:
                # libvirt would probe every QEMU there is to answer this, for many seconds.
                return Versions(libvirt=own, qemu=emulator_version(emulator) if emulator else None)
            number = self._handle.getVersion()
        except libvirt.libvirtError as failure:
            raise translate(failure, "cannot ask for versions", self.uri) from failure
        return Versions(libvirt=own, qemu=_dotted(number) if number else None)

    def close(self) -> None:
        """Close the connection. End its guests first; libvirt is given the time to clear away those that have ended."""
        for guest in list(self._guests):
            if guest.exited.is_set():
                with contextlib.suppress(GuestlaunchError):
                    guest.wait_gone(_CLEARED_S)
        for undo in self._unsubscribe:
            _ignoring_libvirt(undo)
        self._unsubscribe.clear()
        _ignoring_libvirt(self._handle.close)

    def _on_close(self, _handle: libvirt.virConnect, reason: int, _opaque: object) -> None:
        if reason != libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT:
            self.lost.set()
            for guest in list(self._guests):
                guest.wake()

    def _start(
        self,
        name: str,
        emulator: str | None,
        start: Callable[[], libvirt.virDomain],
        privileges: Privileges | None = None,
    ) -> Guest:
        try:
            with self._router.starting():
                if self.root is None:
                    return self._held(start(), None)
                with adopting(self.root.pid_file(name), self.root.probes) as adoption:
                    domain, shared = confinement.starting(privileges, start)
                guest = self._held(domain, adoption)
                guest.confine(privileges, shared)
                guest.tie()
                return guest
        except libvirt.libvirtError as failure:
            if self.root is not None:
                self.root.domain_log(name).unlink(missing_ok=True)  # the error holds what QEMU wrote to it
            error = translate(failure, "cannot start domain", name)
            raise self._lacking_emulator(error, emulator) from failure

    def _held(self, domain: libvirt.virDomain, adoption: Adoption | None) -> Guest:
        """Return the guest of a domain that has just been started; if that fails, the domain is ended."""
        try:
            return self._guest(domain, adoption)
        except BaseException:
            _ignoring_libvirt(domain.destroy)
            raise

    def _lacking_emulator(self, error: GuestlaunchError, emulator: str | None) -> GuestlaunchError:
        """Say so plainly if the emulator is not there."""
        if not self.is_local or not emulator or os.access(emulator, os.X_OK):
            return error
        return CapabilityError("cannot start QEMU", emulator, "no such program", "install the QEMU of this arch")

    def _guest(self, domain: libvirt.virDomain, adoption: Adoption | None) -> Guest:
        process = adoption.finish() if adoption else None
        if process:
            priority.pass_on(process.pid)
        feed = self._router.feed(domain.UUIDString())
        guest = Guest(
            domain,
            feed,
            process=process or self._find_process(domain),
            lost=self.lost,
            log_file=self.root.domain_log(domain.name()) if self.root else None,
        )
        self._guests.add(guest)
        return guest

    def _find_process(self, domain: libvirt.virDomain) -> Process | None:
        if not self.is_local:
            return None
        name = domain.name()
        pid = read_pid(self._pid_files(name), name)
        try:
            return Process(pid) if pid else None
        except OSError:
            return None

    def _pid_files(self, name: str) -> tuple[Path, ...]:
        if self.root is not None:
            return (self.root.pid_file(name),)
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        session = Path(runtime) / "libvirt" / "qemu" / "run" / f"{name}.pid"
        return (session, Path("/run/libvirt/qemu") / f"{name}.pid")


def _name_and_emulator(xml: str) -> tuple[str, str | None]:
    """Return what starting a domain needs to know of its XML. Whether it is a good one is libvirt's to say.

    :raise HypervisorError: it is no XML.
    """
    try:
        root = ET.fromstring(xml)  # noqa: S314 - written by us or by libvirt, and libvirt parses it again
    except ET.ParseError as error:
        raise HypervisorError("cannot read the domain's XML", "", error) from error
    return root.findtext("name", ""), root.findtext("devices/emulator")


def _ignoring_libvirt(function: Callable[[], object]) -> None:
    try:
        function()
    except libvirt.libvirtError:
        return  # the connection is broken already, and this was to end it
