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

import pytest

from orchestrator.errors import ConnectionLostError, StoppedError
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.vm import create, customise, folder
from orchestrator.vm.customization import Customization
from orchestrator.vm.image import Loaders
from orchestrator.vm.note import VmNote
from orchestrator.vm.request import VmRequest

STEPS = (
    "the image is looked at",
    "its disk is made",
    "an appliance changes what is on its disk",
    "cloud-init's disk is made",
    "libvirt is given it",
    "QEMU starts",
    "the firmware runs",
    "its kernel boots",
)


class PretendedLibvirt:
    """One domain, its guest, and the connection to both.

    :ivar there: whether it is stored; `runs` whether it does.
    :ivar speaks: whether it says that it is ready.
    """

    name, uri, exit_code = "one", "qemu:///session", None

    def __init__(self) -> None:
        self.there = self.runs = self.speaks = False
        self.lost, self.exited = threading.Event(), threading.Event()
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

    def start(self, _name: str, *, paused: bool) -> PretendedLibvirt:
        """Start it."""
        assert paused
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

    def undefine(self) -> None:
        """Forget it."""
        self.there = False

    def set_metadata(self, _metadata: object) -> None:
        """Take that it is ready."""

    def versions(self, _emulator: object) -> SimpleNamespace:
        """Return none."""
        return SimpleNamespace(libvirt=None, qemu=None)


class Making:
    """A request that asks for everything, and where it is carried out; `told` is what the user hears of it."""

    def __init__(self, base: Path, libvirt: PretendedLibvirt) -> None:
        image, data = base / "image", base / "user-data"
        image.write_bytes(bytes(450) + b"\xef" + bytes(59) + b"\x55\xaa")
        data.touch()
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
            settings=self.settings, uri="qemu:///session", parent=self.vms, stop=stop,
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

    def describe(_request: object, _image: object, note: VmNote, _settings: object) -> SimpleNamespace:
        libvirt.note = note
        return SimpleNamespace(emulator=None, accel="tcg", memory_mib=1, vcpus=1, cpu=None, disks=())

    def run(stop: Stop) -> None:
        if stop.requested:
            raise StoppedError("stopped", "a tool", stop.reason)

    def make_disk(_request: object, _image: object, place: Path, stop: Stop) -> None:
        (place / folder.DISK).touch()
        run(stop)

    def change(_wanted: object, _disk: object, _number: object, _settings: object, stop: Stop) -> None:
        run(stop)

    def make_seed(_wanted: object, seed: Path, *_: object, stop: Stop, **__: object) -> None:
        seed.touch()
        run(stop)

    monkeypatch.setattr(create, "connected", connected)
    monkeypatch.setattr(create, "describe", describe)
    monkeypatch.setattr(create, "domain_xml", lambda _: "")
    monkeypatch.setattr(create, "flash_formats", lambda: ("raw",))
    monkeypatch.setattr(create, "find_firmware", lambda *_, **__: None)
    monkeypatch.setattr(create, "reading_profile", lambda settings: settings.profile)
    monkeypatch.setattr(
        create, "read_loaders", lambda *_: Loaders(partitions=1, programs={"/EFI/BOOT/BOOTAA64.EFI": "aarch64"})
    )
    monkeypatch.setattr(create, "note_of", lambda _: libvirt.note)
    monkeypatch.setattr(folder, "make_disk", make_disk)
    monkeypatch.setattr(
        folder, "make_nvram", lambda _request, _firmware, place, _settings: (place / "nvram.fd").touch()
    )
    monkeypatch.setattr(customise, "customise", change)
    monkeypatch.setattr(customise, "make_seed", make_seed)
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
    assert making.left() == ["disk.qcow2", "nvram.fd", "one", "seed.img"]


@pytest.mark.parametrize("when", [one for one in STEPS if one != STEPS[0]])
def test_killed_at_each_step(making: Making, when: str) -> None:
    """The same command says what it does about that: it starts over, or goes on where there is a domain."""
    libvirt = making.libvirt

    def step(text: str, _: Stop) -> None:
        if text == when:
            raise ConnectionLostError("killed", "one", "test")  # what was made stays then, too

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "clear", lambda *_: [])
        with pytest.raises(ConnectionLostError):
            making(step)
    libvirt.speaks = True
    domain, begun = libvirt.there, bool(making.left())
    made = making()
    assert made.how == ("went on" if domain else "created")
    word = "goes on with the first boot" if domain else "starts over" if begun else ""
    assert [word in line for line in making.told] == [True] * bool(word)
    assert making.left() == ["disk.qcow2", "nvram.fd", "one", "seed.img"]


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
