"""How a VM is made, with everything pretended that runs: wherever its creation is stopped, nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from orchestrator import provision
from orchestrator.domain.model import Arch, Metadata
from orchestrator.errors import ConnectionLostError, GuestlaunchError, StoppedError, UsageError
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.vm import create, customise, folder, home, known
from orchestrator.vm.customization import Customization
from orchestrator.vm.image import Loaders
from orchestrator.vm.note import VmNote
from orchestrator.vm.request import PoolVolume, VmRequest

if TYPE_CHECKING:
    from orchestrator.hypervisor.connection import Connection

NVRAM = b"never switched on"
STEPS = (
    "the image is looked at",
    "libvirt is given it",
    "its disk is made",
    "an appliance changes what is on its disk",
    "cloud-init's disk is made",
    "QEMU starts",
    "the firmware runs",
    "its kernel boots",
)


class PretendedLibvirt:
    """One domain, its guest, the connection to both, and a storage pool with an image.

    :ivar there: whether it is stored; `runs` whether it does.
    :ivar speaks: whether it says that it is ready.
    """

    name, uri, exit_code, is_local = "one", "qemu:///session", None, True

    def __init__(self) -> None:
        self.volumes = {"base.img": bytes(450) + b"\xef" + bytes(59) + b"\x55\xaa"}
        self.kvm = False
        self.there = self.runs = self.speaks = False
        self.lost, self.exited = threading.Event(), threading.Event()
        self.halted = self.broken = False
        self.note: VmNote | None = None
        self._hear: Callable[[bytes], object] = lambda _: None
        self._answered: Callable[[bytes], object] = lambda _: None

    @property
    def is_active(self) -> bool:
        """Whether it runs."""
        return self.runs

    def define(self, _xml: str) -> None:
        """Store it."""
        self.there = True

    def stored(self, _name: str) -> PretendedLibvirt | None:
        """Return it, if it is there."""
        return self if self.there else None

    def start(self, _name: str, *, paused: bool, reset_nvram: bool) -> PretendedLibvirt:
        """Start it; where libvirt has made the variables, it makes them anew for a first boot."""
        assert paused
        assert self.note is not None
        assert reset_nvram is (bool(self.note.pool) and not self.note.ready)
        self.runs = True
        return self

    def resume(self) -> None:
        """Let it run: its kernel tells of itself at once."""
        self._hear(b"[    0.000000] Linux version 6.1.0\r\n")
        if self.speaks:
            self._answered(b"guestlaunch-ready\n")

    def on_event(self, _take: object) -> Callable[[], None]:
        """Say nothing."""
        return lambda: None

    @contextlib.contextmanager
    def console(self, take: Callable[[bytes], object]) -> Iterator[None]:
        """Have its console heard."""
        self._hear = take
        yield

    @contextlib.contextmanager
    def channel(self, _name: str, take: Callable[[bytes], object]) -> Iterator[Callable[[bytes], object]]:
        """Have its port heard."""
        self._answered = take
        yield lambda _: None

    def destroy(self) -> None:
        """End it."""
        self.runs = False

    def undefine(self, *, nvram: bool = False) -> None:
        """Forget it. Variables in a folder are ours to remove."""
        assert self.note is not None
        assert nvram is bool(self.note.pool)
        self.there = False

    def state(self) -> str:
        """Return how it is."""
        return "running" if self.runs else "shut off"

    def set_metadata(self, metadata: Metadata) -> None:
        """Take what is noted."""
        self.note = VmNote(**dict(metadata.attributes))

    def pool(self, name: str) -> PretendedLibvirt:
        """Return the pool."""
        assert name == "default"
        return self

    def offers_kvm(self, _arch: str) -> bool:
        """Tell whether there is KVM."""
        return self.kvm

    def find(self, name: str) -> PretendedVolume | None:
        """Return a volume."""
        return PretendedVolume(name, self.volumes) if name in self.volumes else None

    def make(self, name: str, xml: str) -> PretendedVolume:
        """Make a volume."""
        assert f"<name>{name}</name>" in xml
        assert name not in self.volumes
        self.volumes[name] = b""
        return PretendedVolume(name, self.volumes)

    def versions(self, _emulator: object) -> SimpleNamespace:
        """Return none."""
        return SimpleNamespace(libvirt=None, qemu=None)


class PretendedVolume:
    """One volume of those that are there."""

    def __init__(self, name: str, volumes: dict[str, bytes]) -> None:
        self._name, self._volumes = name, volumes
        self.path = f"/pool/{name}"

    def is_file(self) -> bool:
        """Tell that it is."""
        return True

    def stored_bytes(self) -> int:
        """Return how long it is."""
        return len(self._volumes[self._name])

    def read(self, offset: int, length: int) -> bytes:
        """Return what is in it."""
        return self._volumes[self._name][offset : offset + length]

    def fill(self, data: bytes) -> None:
        """Fill it."""
        self._volumes[self._name] = data

    def delete(self) -> None:
        """Remove it."""
        del self._volumes[self._name]


class Making:
    """A request that asks for everything, and where it is carried out; `told` is what the user hears of it."""

    def __init__(self, base: Path, libvirt: PretendedLibvirt) -> None:
        image, data = base / "image", base / "user-data"
        image.write_bytes(bytes(450) + b"\xef" + bytes(59) + b"\x55\xaa")
        data.write_text("#cloud-config\n")
        self.libvirt, self.image, self.vms = libvirt, image, base / "vms"
        self.log = base / "log"
        self.settings = Settings(state_dir=base / "s", runtime_dir=base / "r", log=str(self.log), accel="tcg")
        self.request = VmRequest(
            name="one", image=image, network="none", customization=Customization(hostname="h", cloud_init=data)
        )
        self.told: list[str] = []

    def __call__(self, step: Callable[[str, Stop], None] = lambda *_: None) -> create.Created:
        with Stop() as stop:
            return create.create(self.request, self.place(step, stop))

    def place(self, step: Callable[[str, Stop], None], stop: Stop) -> create.VmPlace:
        """Return where it is made."""
        return create.VmPlace(
            settings=self.settings, uri=self.libvirt.uri, parent=self.vms, stop=stop,
            step=lambda text: step(text, stop), tell=self.told.append,
        )  # fmt: skip

    def left(self) -> list[str]:
        """Return the files that are left."""
        return sorted(path.name for path in self.vms.rglob("*"))


@pytest.fixture
def making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Making:
    """One VM to be made."""
    libvirt = PretendedLibvirt()

    @contextlib.contextmanager
    def connected(*_: object) -> Iterator[PretendedLibvirt]:
        yield libvirt

    def describe(_request: object, _image: object, note: VmNote, _home: object, settings: Settings) -> SimpleNamespace:
        libvirt.note = note
        return SimpleNamespace(emulator=None, accel=settings.accel, memory_mib=1, vcpus=1, cpu=None, disks=())

    def run(stop: Stop) -> None:
        if stop.requested:
            raise StoppedError("stopped", "a tool", stop.reason)

    def make_disk(_request: object, _image: object, place: Path, stop: Stop) -> None:
        (place / folder.DISK).touch()
        run(stop)

    def change(_wanted: object, _disk: object, _number: object, _settings: object, stop: Stop) -> None:
        run(stop)

    monkeypatch.setattr(create, "connected", connected)
    monkeypatch.setattr(create, "describe", describe)
    monkeypatch.setattr(create, "domain_xml", lambda _: "")
    monkeypatch.setattr(home, "flash_formats", lambda: ("raw",))
    monkeypatch.setattr(home, "find_firmware", lambda *_, **__: SimpleNamespace(nvram_template=NVRAM))
    monkeypatch.setattr(create, "reading_profile", lambda settings: settings.profile)
    monkeypatch.setattr(
        create, "read_loaders", lambda *_: Loaders(partitions=1, programs={"/EFI/BOOT/BOOTAA64.EFI": "aarch64"})
    )
    monkeypatch.setattr(create, "note_of", lambda _: libvirt.note)
    monkeypatch.setattr(folder, "make_disk", make_disk)
    monkeypatch.setattr(folder, "keep_nvram", lambda source, target, **_: target.write_bytes(source))
    monkeypatch.setattr(customise, "customise", change)
    return Making(tmp_path, libvirt)


@pytest.mark.parametrize("when", STEPS)
def test_stopped_at_each_step(making: Making, when: str) -> None:
    """Nothing is left, no file and no domain; the image is as it was, and the record says that it was cancelled."""
    before, seen = making.image.read_bytes(), []

    def step(text: str, stop: Stop) -> None:
        seen.append(text)
        if text == when:
            stop.request("signal SIGINT")

    with pytest.raises(StoppedError):
        making(step)
    assert when in seen
    assert "it is ready" not in seen
    assert (making.left(), making.libvirt.there, making.libvirt.runs) == ([], False, False)
    assert making.image.read_bytes() == before
    lines = map(json.loads, making.log.read_text().splitlines())
    assert [line["outcome"] for line in lines if line["event"] == "vm_boot_finished"] == ["cancelled"]


def test_every_step_is_stopped_at(making: Making) -> None:
    """There is no other step than those, but for the last one."""
    making.libvirt.speaks = True
    seen: list[str] = []
    assert making(lambda text, _: seen.append(text)).how == "created"
    assert set(seen) <= {*STEPS, "it is ready"}
    assert making.left() == ["connection", "disk.qcow2", "nvram.fd", "one", "seed.img"]


@pytest.mark.parametrize("when", [one for one in STEPS if one != STEPS[0]])
def test_killed_at_each_step(making: Making, when: str) -> None:
    """The same command says what it does about that: it starts over, or goes on where there is a domain."""
    libvirt = making.libvirt

    def step(text: str, _: Stop) -> None:
        if text == when:
            raise ConnectionLostError("killed", "one", "test")  # what was made stays then, too

    with pytest.raises(ConnectionLostError):
        making(step)
    libvirt.speaks = True
    domain, whole = libvirt.there, libvirt.note is not None and bool(libvirt.note.made)
    if whole:
        (making.vms / "one" / "nvram.fd").write_bytes(b"half a boot entry")
    made = making()
    assert (making.vms / "one" / "nvram.fd").read_bytes() == NVRAM  # of a boot that was cut off, nothing is there
    assert made.how == ("went on" if whole else "created")
    assert made.note.ready
    word = "goes on with the first boot" if whole else "starts over" if domain else ""
    assert [word in line for line in making.told] == [True] * bool(word)
    assert making.left() == ["connection", "disk.qcow2", "nvram.fd", "one", "seed.img"]


@pytest.mark.parametrize("when", STEPS[2:7])
def test_whoever_names_another_folder(
    making: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """They do not remove what is being made, nor begin it again, under the hands of the one who makes it."""
    libvirt, refused = making.libvirt, list[str]()
    connection = cast("Connection", libvirt)
    monkeypatch.setattr(known, "note_of", lambda _: libvirt.note)

    def delete() -> None:
        known.delete(connection, "one", tmp_path / "other", force=True, tell=lambda _: None)

    def make_again() -> None:
        with Stop() as stop:
            create.create(making.request, replace(making.place(lambda *_: None, stop), parent=tmp_path / "other"))

    def step(text: str, _: Stop) -> None:
        if text == when:
            for other in (delete, make_again):
                with pytest.raises(UsageError, match="another command has it"):
                    other()
                refused.append(text)

    libvirt.speaks = True
    assert making(step).how == "created"
    assert refused == [when, when]
    delete()
    assert (making.left(), libvirt.there) == ([], False)


def test_another_connections_vm_of_that_name(making: Making) -> None:
    """Its files stay: they are not what a creation has left here."""
    libvirt = making.libvirt
    libvirt.speaks = True
    making()
    before = making.left()
    libvirt.there, libvirt.uri = False, "qemu:///system"
    with pytest.raises(UsageError, match="it is that of a VM on qemu:///session"):
        making()
    assert (making.left(), libvirt.there) == (before, False)


def test_a_vm_whose_files_are_another_hosts(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the same name here are not."""
    libvirt = making.libvirt
    libvirt.speaks = True
    making()
    before = making.left()
    libvirt.is_local = False
    monkeypatch.setattr(known, "note_of", lambda _: libvirt.note)
    with pytest.raises(GuestlaunchError, match="of that host"):
        known.delete(cast("Connection", libvirt), "one", making.vms, force=True, tell=lambda _: None)
    assert (making.left(), libvirt.there) == (before, True)


class Elsewhere(Making):
    """The same on another host, of a volume of its storage pool, which is changed by its own cloud-init."""

    def __init__(self, base: Path, libvirt: PretendedLibvirt) -> None:
        super().__init__(base, libvirt)
        data = base / "user-data"
        self.request = replace(
            self.request, image=PoolVolume(pool="default", name="base.img"), arch=Arch.X86_64,
            customization=Customization(cloud_init=data),
        )  # fmt: skip
        self.settings = replace(self.settings, accel="auto")
        libvirt.uri, libvirt.is_local = "qemu+ssh://host/system", False

    def left(self) -> list[str]:
        """Return the volumes that are left, but for the image."""
        return sorted([*self.libvirt.volumes.keys() - {"base.img"}, *super().left()])


@pytest.fixture
def elsewhere(making: Making, tmp_path: Path) -> Elsewhere:
    """One VM to be made there."""
    return Elsewhere(tmp_path, making.libvirt)


def test_a_volume_of_a_storage_pool(elsewhere: Elsewhere) -> None:
    """Disk and seed are volumes of that pool, and noted so; KVM is there if libvirt says so; stopped, nothing stays."""

    def step(text: str, stop: Stop) -> None:
        if text == "its kernel boots" and not elsewhere.libvirt.speaks:
            stop.request("signal SIGINT")

    with pytest.raises(StoppedError):
        elsewhere(step)
    assert (elsewhere.left(), elsewhere.libvirt.there) == ([], False)
    elsewhere.libvirt.speaks = elsewhere.libvirt.kvm = True
    made = elsewhere(step)
    assert (made.note.paths, made.note.arch) == (("default/one.qcow2", "default/one-seed.img"), "x86_64")
    assert made.record is not None
    assert made.record.accel == "kvm"
    assert elsewhere.left() == ["one-seed.img", "one.qcow2"]
    assert b"local-hostname: one\n" in elsewhere.libvirt.volumes["one-seed.img"]


def test_a_volume_that_cannot_be_removed(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    """The domain stays as long as it does, so that the same command removes both later."""
    elsewhere.libvirt.speaks = True
    elsewhere()
    connection, there = cast("Connection", elsewhere.libvirt), elsewhere.libvirt

    def delete() -> None:
        known.delete(connection, "one", elsewhere.vms, force=True, tell=lambda _: None)

    def refuse(_volume: object) -> None:
        raise GuestlaunchError("cannot delete volume", "one.qcow2", "test")

    monkeypatch.setattr(known, "note_of", lambda _: there.note)
    with monkeypatch.context() as failing:
        failing.setattr(PretendedVolume, "delete", refuse)
        with pytest.raises(GuestlaunchError, match="cannot delete volume"):
            delete()
    assert there.there
    delete()
    assert (there.there, elsewhere.left()) == (False, [])


def test_stopped_with_the_ssh_that_leads_there(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C at a terminal is for that as well: what was made is removed by another connection."""
    failed: list[str] = []
    destroy = PretendedLibvirt.destroy

    def broken_once(there: PretendedLibvirt) -> None:
        if not failed:
            failed.append("destroy")
            raise GuestlaunchError("cannot end domain", "one", "the connection is gone")
        destroy(there)

    def step(text: str, stop: Stop) -> None:
        if text == "its kernel boots":
            stop.request("signal SIGINT")

    monkeypatch.setattr(PretendedLibvirt, "destroy", broken_once)
    with pytest.raises(StoppedError):
        elsewhere(step)
    assert (failed, elsewhere.left(), elsewhere.libvirt.there) == (["destroy"], [], False)


def test_killed_while_volumes_are_made(elsewhere: Elsewhere) -> None:
    """Whoever finds the domain knows by its note which volumes are ours."""

    def step(text: str, _: Stop) -> None:
        if text == "cloud-init's disk is made":
            raise ConnectionLostError("killed", "one", "test")

    with pytest.raises(ConnectionLostError):
        elsewhere(step)
    assert elsewhere.left() == ["one.qcow2"]
    elsewhere.libvirt.speaks = True
    assert elsewhere().how == "created"
    assert elsewhere.told == ["one: its creation was interrupted; what it made is removed, and it starts over"]
    elsewhere.libvirt.there = False
    with pytest.raises(UsageError, match=r"default/one\.qcow2: there is a volume of that name"):
        elsewhere()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"arch": None}, "which architecture it is for cannot be looked up there"),
        ({"customization": Customization(hostname="h")}, "has to be a file of this host"),
        ({"image": Path("/image")}, "its image and its disk are files of this host"),
        ({"image": PoolVolume(pool="default", name="gone")}, "storage pool default has none of that name"),
        ({"nvram": Path("/nvram")}, "libvirt makes the variables"),
        ({"size_bytes": 1}, "would be cut off at 1"),
    ],
)
def test_what_is_refused_elsewhere(elsewhere: Elsewhere, change: dict[str, Any], why: str) -> None:
    """What would need a file of this host, or a guess; in one line, and before anything is made."""
    elsewhere.request = replace(elsewhere.request, **change)
    with pytest.raises(GuestlaunchError, match=why):
        elsewhere()
    assert (elsewhere.left(), elsewhere.libvirt.there) == ([], False)


@pytest.mark.parametrize(("how", "stays"), [("already there", True), ("started", True), ("created", False)])
def test_a_context_removes_what_it_made(
    making: Making, monkeypatch: pytest.MonkeyPatch, how: str, *, stays: bool
) -> None:
    """A VM that was there before is the user's."""
    removed: list[object] = []
    there = create.Created(name="one", uri="qemu:///session", how=how, note=cast("VmNote", None))
    monkeypatch.setattr(create, "create", lambda *_: there)
    monkeypatch.setattr(known, "delete", lambda *_, **__: removed.append(None))
    with provision.VirtualMachine(making.request, settings=making.settings, folder=making.vms):
        pass
    assert (not removed) is stays


def test_a_signal_that_another_thread_took(making: Making) -> None:
    """It ends the creation, too: the thread that handles it is awake now and then."""

    def step(text: str, _: Stop) -> None:
        if text == "its kernel boots":
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    making.request = replace(making.request, timeout_s=20.0)
    with Stop() as stop:
        before = signal.signal(signal.SIGUSR1, lambda *_: stop.request("signal SIGUSR1"))
        try:
            (made,) = create.create_all([making.request], making.place(step, stop))
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert isinstance(made, StoppedError)
    assert making.left() == []
