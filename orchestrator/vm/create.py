"""A VM from request to ready; or, whatever went wrong, nothing left of it and the image as it was.

What libvirt has of it decides how it begins: anew, over from the start, or with the first boot. It has the domain, with
our note, before anything else is made, so that whoever looks knows what is ours (`home` says where that lives).
Everything that is made sits on one `ExitStack`, and stays only once the VM is ready. A connection that broke is the
exception: nobody can tell then what runs, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from orchestrator.domain.model import Arch, FirmwareKind
from orchestrator.domain.profiles import load_profile
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import (
    CapabilityError,
    ConnectionLostError,
    DiskError,
    GuestlaunchError,
    UsageError,
    VmError,
)
from orchestrator.hypervisor.connect import open_connection
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.stored import StoredDomain
from orchestrator.images.apart import check_apart
from orchestrator.launch.stop import Stop
from orchestrator.records.record import LaunchRecord
from orchestrator.settings import Settings, private_state
from orchestrator.timeline.phases import Phase
from orchestrator.vm import folder as folders
from orchestrator.vm.describe import describe
from orchestrator.vm.first_boot import VmStart
from orchestrator.vm.home import Home, home_for, home_of
from orchestrator.vm.image import VmImage, architecture, read_loaders
from orchestrator.vm.known import KnownVm
from orchestrator.vm.note import VmNote, note_of
from orchestrator.vm.own_commands import PROFILES, appliance_settings, reading_profile, run_job
from orchestrator.vm.request import ReadySign, VmRequest
from orchestrator.vm.ssh import check_leads_here

_DEFAULT_PROFILE = "aarch64-uefi"
_TICK_S = 0.2

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """What came of it.

    :ivar how: "created", "went on", "started", or "already there".
    :ivar record: of the boot, where there was one.
    """

    name: str
    uri: str
    how: str
    note: VmNote
    record: LaunchRecord | None = None

    @property
    def made(self) -> bool:
        """Whether it was not there before."""
        return self.how in {"created", "went on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VmPlace:
    """Where a VM is made, and who is told of it.

    :ivar uri: the connection's.
    :ivar parent: below which its folder is.
    :ivar step: takes how far it is; `tell` what the user should know.
    """

    settings: Settings
    uri: str
    parent: Path
    stop: Stop
    step: Say
    tell: Say
    keep: bool = False
    origin_ns: int = field(default_factory=time.monotonic_ns)


def default_uri(settings: Settings) -> str:
    """Return the connection for VMs, which outlive our commands: the one that virsh would take.

    :raise UsageError: the private one was asked for.
    """
    if settings.connect is not None and settings.ends_with_us:
        why = "the private qemu:///embed ends with this command, and its domains with it"
        raise UsageError("cannot keep a VM", settings.connect, why, "add -c qemu:///session or -c qemu:///system")
    return settings.connect or ("qemu:///system" if os.geteuid() == 0 else "qemu:///session")


@contextlib.contextmanager
def connected(settings: Settings, uri: str) -> Iterator[Connection]:
    """Open the connection that VMs are on."""
    private_state(settings.state_dir)
    with open_connection(
        uri, settings.state_dir, runtime_dir=settings.runtime_dir, deadline_s=settings.deadlines.connect
    ) as connection:
        yield connection


def create(request: VmRequest, place: VmPlace) -> Created:
    """Make a VM and wait until it is ready, or find the one that is there.

    :raise GuestlaunchError: it cannot be made, or did not become ready: then nothing is left of it.
    """
    request.check()
    with folders.held(place.parent, request.name) as folder, connected(place.settings, place.uri) as connection:
        domain = connection.stored(request.name)
        if domain is None:
            return _anew(request, place, home_for(request, connection, folder), connection)
        note = note_of(domain)
        if note is None:
            why = f"{place.uri} has a domain of that name, which is none of ours"
            raise UsageError("cannot create VM", request.name, why, "choose another name")
        _check_same(request, note)
        with folders.held_too(Path(note.folder), folder):
            if note.ready or note.made:
                return _found(request, place, domain, note, connection)
            place.tell(f"{request.name}: its creation was interrupted; what it made is removed, and it starts over")
            _remove(domain, note, home_of(note, connection))
        return _anew(request, place, home_for(request, connection, folder), connection)


def create_all(requests: Sequence[VmRequest], place: VmPlace) -> list[Created | GuestlaunchError]:
    """Make several VMs at once; what came of each, in order.

    The first one that cannot be made does not keep the others from it.
    """
    for request in requests:
        request.check()

    def one(request: VmRequest) -> Created | GuestlaunchError:
        try:
            own = (
                place if len(requests) == 1 else replace(place, step=lambda text: place.step(f"{request.name}: {text}"))
            )
            return create(request, own)
        except GuestlaunchError as error:
            return error

    with ThreadPoolExecutor(max_workers=len(requests), thread_name_prefix="vm") as pool:
        made = [pool.submit(one, request) for request in requests]
        while wait(made, timeout=_TICK_S).not_done:
            pass  # awake now and then: what another thread was sent as a signal is handled by this one, once it wakes
        return [future.result() for future in made]


def _check_same(request: VmRequest, note: VmNote) -> None:
    """Refuse a request for something else than what is there.

    :raise UsageError: names what differs.
    """
    if request.digest() == note.digest:
        return
    now, before = request.specification(), note.asked
    differ = sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
    said = ", ".join(f"{key} {before.get(key, 'unset')}, not {now.get(key, 'unset')}" for key in differ)
    hint = f"guestlaunch vm delete {request.name}, or choose another name"
    raise UsageError("VM is there, and another one", request.name, said, hint)


def _found(request: VmRequest, place: VmPlace, domain: StoredDomain, note: VmNote, connection: Connection) -> Created:
    """Go on with a VM that is there."""
    if note.ready:
        if domain.is_active:
            return Created(name=request.name, uri=place.uri, how="already there", note=note)
        record, note = _boot(request, place, domain, note, connection, created=False)
        return Created(name=request.name, uri=place.uri, how="started", note=note, record=record)
    place.tell(f"{request.name}: its creation was interrupted; it goes on with the first boot")
    domain.destroy()
    with contextlib.ExitStack() as stack:
        home = home_for(request, connection, Path(note.folder))
        _undone_unless_ready(stack, place, domain, note, home)
        home.renew_nvram(_settings_of(note, place))
        record, note = _boot(request, place, domain, note, connection, created=True)
        stack.pop_all()
    return Created(name=request.name, uri=place.uri, how="went on", note=note, record=record)


def _anew(request: VmRequest, place: VmPlace, home: Home, connection: Connection) -> Created:
    """Make a VM of which there is no domain. Libvirt has the domain, with our note, before anything else is made."""
    boot = VmStart(request, place.settings, place.origin_ns)
    with boot.recorded(connection, image=str(request.image), created=True), contextlib.ExitStack() as stack:
        if not home.pool:
            check_apart([("a file of the VM", home.folder / name) for name in folders.NAMES], request.named())
        if not home.pool and folders.begun(home.folder):
            folders.check_left(home.folder, connection.uri)
            place.tell(f"{request.name}: what an interrupted creation left is removed; it starts over")
            if left := folders.clear(home.folder):
                raise VmError("cannot create VM", home.folder, f"there is something else in it: {', '.join(left)}")
        place.step("the image is looked at")
        image = home.image()
        _check_possible(request, image, connection)
        settings = boot.settings = _settings_for(request, image, place, connection)
        boot.recorder.begin(Phase.STAGE, "our own clock")
        place.step("libvirt is given it")
        note = _note(request, home, load_profile(settings.profile).arch)
        boot.domain = describe(request, image, note, home, settings)
        connection.define(domain_xml(boot.domain))
        domain = connection.stored(request.name)
        assert domain is not None  # it was defined just now
        _undone_unless_ready(stack, place, domain, note, home)
        place.step("its disk is made")
        home.make(image, settings, place.stop)
        boot.customised = _customise(request, home, note.number, boot, place)
        boot.recorder.begin(Phase.CREATE, "our own clock")
        note = replace(note, made="yes")
        domain.set_metadata(note.metadata())
        note = boot.until_ready(domain, note, connection, place.stop, place.step)
        stack.pop_all()
    return Created(name=request.name, uri=place.uri, how="created", note=note, record=boot.record)


def _check_possible(request: VmRequest, image: VmImage, connection: Connection) -> None:
    """Refuse what cannot be made of an image, before anything is.

    :raise GuestlaunchError: says what.
    """
    size = request.size_bytes
    if size is not None and size < image.size:
        why = f"the image is a disk of {image.size} bytes, and would be cut off at {size}"
        raise DiskError("cannot make the disk", request.image, why, "give a larger --size, or none")
    if request.awaited is ReadySign.SSH:
        check_leads_here(request.name, request.network, here=connection.is_local)
    if request.customization.offline and not image.here:
        why = "an appliance changes what is on a disk, which has to be a file of this host"
        raise CapabilityError("cannot customise", request.name, why, "--cloud-init has the image change itself")


def _undone_unless_ready(
    stack: contextlib.ExitStack, place: VmPlace, domain: StoredDomain, note: VmNote, home: Home
) -> None:
    """Have a VM removed if the stack is closed by an error; but for a connection that broke, or if it is to stay."""

    def undo(kind: type[BaseException] | None, *_: object) -> bool:
        if kind is None or issubclass(kind, ConnectionLostError) or place.keep:
            return False
        try:
            domain.destroy()
            _remove(domain, note, home)
        except GuestlaunchError:
            if not place.stop.requested:
                raise
            _remove_anew(domain.name, note, place)
        return False

    stack.push(undo)


def _remove_anew(name: str, note: VmNote, place: VmPlace) -> None:
    """Remove a VM by a connection of its own: a Ctrl-C ends the ssh through which the other led to its host, too."""
    with connected(place.settings, place.uri) as connection:
        domain = connection.stored(name)
        there = None if domain is None else note_of(domain)
        if domain is not None and there is not None and there.number == note.number:
            domain.destroy()
            _remove(domain, there, home_of(there, connection))


def _remove(domain: StoredDomain, note: VmNote, home: Home) -> None:
    """Remove a VM that does not run, and what was made for it."""
    home.clear(note.files.split())
    domain.undefine(nvram=bool(note.pool))


def _boot(
    request: VmRequest, place: VmPlace, domain: StoredDomain, note: VmNote, connection: Connection, *, created: bool
) -> tuple[LaunchRecord, VmNote]:
    """Boot a VM until it is ready; return the boot's record, and the note with that in it."""
    boot = VmStart(request, _settings_of(note, place), place.origin_ns)
    with boot.recorded(connection, image=note.image, created=created):
        note = boot.until_ready(domain, note, connection, place.stop, place.step)
    assert boot.record is not None  # whatever became of it
    return boot.record, note


def _settings_of(note: VmNote, place: VmPlace) -> Settings:
    return replace(place.settings, profile=PROFILES[Arch(note.arch)])


def start(vm: KnownVm, connection: Connection, place: VmPlace, ready: ReadySign, timeout_s: float) -> LaunchRecord:
    """Start a VM that is off, and wait until it is ready.

    :raise GuestlaunchError: it does not become ready; it goes on, as far as it does.
    """
    if not vm.note.ready and not vm.note.made:
        hint = "guestlaunch vm create starts over, guestlaunch vm delete removes what is there"
        raise UsageError("cannot start VM", vm.domain.name, "its creation was interrupted", hint)
    request = VmRequest(name=vm.domain.name, image=Path(vm.note.image), ready=ready, timeout_s=timeout_s)
    return _boot(request, place, vm.domain, vm.note, connection, created=False)[0]


def _settings_for(request: VmRequest, image: VmImage, place: VmPlace, connection: Connection) -> Settings:
    """Return settings with the profile that the image asks for; on another host, KVM is there if libvirt says so.

    :raise GuestlaunchError: the image has none, or the profile that the user wants is another.
    """
    settings = place.settings
    wanted, own = request.arch, False
    if settings.profile != _DEFAULT_PROFILE:
        profile = load_profile(settings.profile)
        if profile.firmware is not FirmwareKind.UEFI:
            raise UsageError("cannot create VM", f"profile {profile.name}", "VMs boot by UEFI")
        if wanted not in {None, profile.arch}:
            raise UsageError("options exclude each other", f"--arch {wanted}", f"with profile {profile.name}")
        wanted, own = profile.arch, True
    arch = _arch_of(request, image, wanted, place)
    settings = settings if own else replace(settings, profile=PROFILES[arch])
    if connection.is_local or settings.accel != "auto":
        return settings
    return replace(settings, accel="kvm" if connection.offers_kvm(str(arch)) else "tcg")


def _arch_of(request: VmRequest, image: VmImage, wanted: Arch | None, place: VmPlace) -> Arch:
    """Return which architecture an image is for: what is on it says so, or where nobody can look, the user.

    :raise GuestlaunchError: it is not known, or it is not what the user says.
    """
    settings = place.settings
    if not image.here and wanted is None:
        why = "which architecture it is for cannot be looked up there"
        raise CapabilityError("cannot use the image", request.image, why, "--arch says it")
    if not image.here:
        assert wanted is not None
        return wanted
    look = partial(run_job, settings=appliance_settings(settings, reading_profile(settings)), stop=place.stop)
    loaders = read_loaders(image, settings.state_dir, look)
    return architecture(image.path, loaders, wanted, by_entry=request.nvram is not None)


def _customise(request: VmRequest, home: Home, number: str, boot: VmStart, place: VmPlace) -> bool:
    """Change what is wanted on a disk; tell whether that was anything.

    :raise GuestlaunchError: it cannot be changed.
    """
    wanted = request.customization
    if not wanted.offline and wanted.cloud_init is None:
        return False
    boot.recorder.begin(Phase.CUSTOMISE, "our own clock")
    from orchestrator.vm.customise import customise, seed_of  # here: most images are used as they are

    if wanted.offline:
        place.step("an appliance changes what is on its disk")
        own = appliance_settings(place.settings, boot.settings.profile)
        disk = home.disk_here()
        if disk is None:
            why = "it cannot be written to by an appliance"
            raise CapabilityError("cannot customise", request.name, f"its disk is a volume, and {why}")
        customise(wanted, disk, number, own, place.stop)
    if wanted.cloud_init is not None:
        place.step("cloud-init's disk is made")
        home.make_seed(seed_of(wanted, request.name, number))
    return True


def _note(request: VmRequest, home: Home, arch: Arch) -> VmNote:
    import json

    return VmNote(
        digest=request.digest(),
        specification=json.dumps(request.specification(), sort_keys=True),
        folder=os.fspath(home.folder),
        pool=home.pool,
        files=" ".join(home.names()),
        image=str(request.image),
        arch=str(arch),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        number=secrets.token_hex(16),
    )
