"""The emulated host as somebody uses it: what it is made of, booted and saved, given a checkout, and run.

Three layers lie upon each other: the images of the system and of the appliances; a machine that was booted from them
and saved as its agent was up, the same for all checkouts; and one more for each checkout that was pushed into it. A
command runs in a machine that goes on from there, writes nothing that stays, and is thrown away.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from orchestrator import files
from orchestrator.appliance.command import Deadline
from orchestrator.appliance.image import write_image
from orchestrator.appliance.initrd import CpioEntry
from orchestrator.appliance.manifest import NAME as MANIFEST
from orchestrator.appliance.manifest import Init
from orchestrator.appliance.store import resolve
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError, HypervisorError, NotFoundError
from orchestrator.hypervisor.emulator import emulator_version, find_emulator
from tools.arm_host import chosen, session, system
from tools.arm_host.cache import Cache, key
from tools.arm_host.checkout import digest, write_archive
from tools.arm_host.machine import Shape
from tools.arm_host.qemu import Machine, Saved, nameless_overlays, new_overlay, running
from tools.arm_host.system import Say

_HERE = Path(__file__).resolve().parent
_GUEST_FILES = ("init", "start", "adopt-appliances", "take-checkout", "agent.py")
_THERE = "/opt/guestlaunch"
_INITS = (Init.LEAN, Init.STOCK)
_HINT = "tools/arm-host build makes it in some minutes"
_BUILD_S = 3600
_BOOT_S = 1800
_STEP_S = 1800
_WAKE_S = 600
# What a host in use has in its memory, too.
_AFTER_BOOT = (
    ("/run/arm-host/adopt-appliances",),
    ("ldconfig",),
    ("python3", "-c", "import guestfs, libvirt"),
    ("guestfish", "--version"),
)
_AFTER_PUSH = (("/run/arm-host/take-checkout",), ("guestlaunch", "--version"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Names in the cache of what a machine is made of; the last is None until a checkout has been pushed."""

    system: str
    appliances: str
    booted: str
    pushed: str | None = None


class Host:
    """The emulated host of one checkout and one shape."""

    def __init__(self, cache: Cache, top: Path, store: Path, shape: Shape, say: Say) -> None:
        """Take note.

        :param top: the checkout.
        :param store: this machine's appliances.
        """
        self._cache = cache
        self._top = top
        self._store = store
        self._shape = shape
        self._say = say
        self._pointer = cache.pointer(key(str(top), asdict(shape)))

    def build(self) -> None:
        """Make what is missing, from the images to a machine that has the checkout.

        :raise GuestlaunchError: it could not be made.
        """
        swept = self._cache.sweep()
        if swept:
            self._say(f"removed {len(swept)} that nobody used for two weeks")
        layers = self._layers()
        self._make_system(layers)
        self._make_appliances(layers)
        self.push()

    def push(self) -> None:
        """Bring the checkout as it is now; where there is no saved machine yet of this shape, boot one.

        :raise NotFoundError: the images are missing.
        """
        layers = self._layers()
        for kind, name in (("systems", layers.system), ("appliances", layers.appliances)):
            if not self._cache.place(kind, name).exists():
                raise NotFoundError("no emulated host", self._cache.folder, f"{kind} {name} is not there", _HINT)
        now = digest(self._top)
        name = key(layers.booted, now)
        self._boot(layers)
        before = self._pushed()
        with self._cache.making(self._cache.place("saved", name)) as folder:
            if folder is None:
                self._say("the checkout is there already")
            else:
                self._say("bringing the checkout")
                self._bring(layers, folder)
        self._pointer.parent.mkdir(parents=True, exist_ok=True)
        pushed = Layers(system=layers.system, appliances=layers.appliances, booted=layers.booted, pushed=name)
        files.write_whole(self._pointer, json.dumps({**asdict(pushed), "digest": now}).encode())
        if before and before.pushed not in {None, name}:
            self._cache.drop("saved", str(before.pushed))

    def is_stale(self) -> bool:
        """Tell whether the checkout has changed since it was pushed."""
        try:
            return bool(json.loads(self._pointer.read_text())["digest"] != digest(self._top))
        except (OSError, ValueError, KeyError):
            return True

    def run(self, order: session.Order, streams: session.Streams) -> int:
        """Run a command in a machine of its own and return its exit status.

        :raise NotFoundError: there is none to run it in.
        :raise DeadlineError: it was not done in time.
        """
        layers = self._pushed()
        if layers is None:
            self.push()
            layers = self._pushed()
            assert layers is not None
        saved = Saved(folder=self._cache.place("saved", str(layers.pushed)))
        with self._held(layers), self._used(layers, saved) as machine:
            return session.run(machine.agent, order, streams)

    @contextlib.contextmanager
    def _used(self, layers: Layers, saved: Saved) -> Iterator[Machine]:
        """Let a saved machine go on, which stays as it is."""
        with (
            nameless_overlays(saved.disks, "qcow2", self._cache.folder) as overlays,
            running(
                self._shape,
                saved,
                self._kernel(layers),
                [*overlays],
                keep=[*overlays.values()],
                writes_ram=False,
                incoming=True,
            ) as machine,
        ):
            machine.restore(saved.state)
            yield machine

    def _layers(self) -> Layers:
        """Return the names of the layers as they would be made now.

        :raise NotFoundError: an appliance is missing.
        """
        sources = [_source(name) for name in ("system.py", "registry.py", "chosen.py")]
        packages, project = self._lists()
        made = key(chosen.packages(packages), chosen.requirements(project), sys.version_info[:2], *sources)
        manifests = [(folder / MANIFEST).read_text() for folder in self._appliances()]
        appliances = key(manifests)
        guest = [_source(f"guest/{name}") for name in _GUEST_FILES] + [
            _source(name) for name in ("protocol.py", "machine.py")
        ]
        version = emulator_version(find_emulator(Arch.AARCH64))
        booted = key(made, appliances, self._shape.arguments(), self._shape.cmdline, guest, version)
        return Layers(system=made, appliances=appliances, booted=booted)

    def _lists(self) -> tuple[str, str]:
        return (self._top / "tools/packages.txt").read_text(), (self._top / "pyproject.toml").read_text()

    def _appliances(self) -> list[Path]:
        return [resolve(self._store, Arch.AARCH64, init).path for init in _INITS]

    def _pushed(self) -> Layers | None:
        """Return the layers of the last push, None where one is gone."""
        try:
            noted = json.loads(self._pointer.read_text())
            noted.pop("digest")
            layers = Layers(**noted)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return layers if all(folder.exists() for folder in self._folders(layers)) else None

    def _folders(self, layers: Layers) -> list[Path]:
        named = [("systems", layers.system), ("appliances", layers.appliances), ("saved", layers.booted)]
        if layers.pushed is not None:
            named.append(("saved", layers.pushed))
        return [self._cache.place(kind, name) for kind, name in named]

    def _kernel(self, layers: Layers) -> Path:
        return self._cache.place("systems", layers.system) / system.KERNEL

    @contextlib.contextmanager
    def _held(self, layers: Layers) -> Iterator[None]:
        with self._cache.using(*self._folders(layers)) as there:
            if not there:
                raise NotFoundError("no emulated host", self._cache.folder, "it has just been removed", _HINT)
            yield

    def _make_system(self, layers: Layers) -> None:
        with self._cache.making(self._cache.place("systems", layers.system)) as folder:
            if folder is None:
                return
            try:
                downloads = self._cache.folder / "downloads"
                system.build(folder, downloads, self._lists(), self._say, Deadline.after(_BUILD_S))
            except ApplianceError as error:
                raise ApplianceError("cannot build the arm64 system", error.subject, error.why, error.hint) from error

    def _make_appliances(self, layers: Layers) -> None:
        with self._cache.making(self._cache.place("appliances", layers.appliances)) as folder:
            if folder is None:
                return
            self._say("image of the appliances")
            tree = folder / "tree"
            for appliance in self._appliances():
                home = tree / appliance.parent.name
                home.mkdir(parents=True)
                shutil.copytree(appliance, home / appliance.name, copy_function=_link_or_copy)
                (home / "current").symlink_to(appliance.name)
            write_image(tree, folder / system.IMAGE, Deadline.after(_BUILD_S))
            shutil.rmtree(tree)

    def _boot(self, layers: Layers) -> None:
        images = self._cache.place("systems", layers.system), self._cache.place("appliances", layers.appliances)
        with self._cache.making(self._cache.place("saved", layers.booted)) as folder, self._cache.using(*images):
            if folder is None:
                return
            self._say("booting it, to save it as it is up")
            saved = Saved(folder=folder)
            saved.initrd.write_bytes((images[0] / system.DRIVERS).read_bytes() + _guest_archive())
            with saved.ram.open("wb") as ram:
                ram.truncate(self._shape.memory_mib << 20)
            for image, disk in zip(images, saved.disks, strict=True):
                new_overlay(image / system.IMAGE, "raw", str(disk))
            with self._changing(layers, saved, incoming=False) as machine:
                session.wait_until_up(machine.agent, _BOOT_S)
                self._do(machine, _AFTER_BOOT)
                self._say("saving it")
                machine.save(saved.state)

    def _bring(self, layers: Layers, folder: Path) -> None:
        booted, saved = Saved(folder=self._cache.place("saved", layers.booted)), Saved(folder=folder)
        with self._held(layers), tempfile.TemporaryFile(dir=folder) as archive:
            write_archive(self._top, _THERE, archive, folder)
            archive.seek(0)
            shutil.copy(booted.initrd, saved.initrd)
            system.copy_sparse(booted.ram, saved.ram, Deadline.after(_STEP_S))
            for before, disk in zip(booted.disks, saved.disks, strict=True):
                new_overlay(before, "qcow2", str(disk))
            with self._changing(layers, saved, incoming=True) as machine:
                machine.restore(booted.state)
                self._do(machine, _AFTER_PUSH, archive)
                machine.save(saved.state)
            with self._used(layers, saved) as machine:  # what does not go on is not kept
                self._do(machine, (("sleep", "0.1"),), deadline_s=_WAKE_S)

    @contextlib.contextmanager
    def _changing(self, layers: Layers, saved: Saved, *, incoming: bool) -> Iterator[Machine]:
        disks = [str(disk) for disk in saved.disks]
        with running(self._shape, saved, self._kernel(layers), disks, writes_ram=True, incoming=incoming) as machine:
            yield machine

    @staticmethod
    def _do(
        machine: Machine,
        commands: Sequence[Sequence[str]],
        given: IO[bytes] | None = None,
        deadline_s: float = _STEP_S,
    ) -> None:
        """Run what has to succeed; what it says on stdout goes to our stderr."""
        stderr = session.spoken_by(sys.stderr.buffer)
        streams = session.Streams(stdin=None if given is None else given.fileno(), stdout=stderr, stderr=stderr)
        for command in commands:
            order = session.Order(argv=command, environ={}, deadline_s=deadline_s)
            status = session.run(machine.agent, order, streams)
            if status:
                raise HypervisorError("cannot prepare the emulated host", " ".join(command), f"exit status {status}")


def _link_or_copy(source: str, target: str) -> None:
    """Give a large file a second name, where that can be; it is only read."""
    try:
        os.link(source, target)
    except OSError:
        system.copy_sparse(Path(source), Path(target), Deadline.after(_STEP_S))


def _source(name: str) -> str:
    return (_HERE / name).read_text()


def _guest_archive() -> bytes:
    """Return the initrd's /init and what it leaves for the system."""
    entries = [CpioEntry(name="arm-host", mode=0o040755)]
    for name in _GUEST_FILES:
        target = name if name == "init" else f"arm-host/{name}"
        entries.append(CpioEntry(name=target, mode=0o100755, data=_source(f"guest/{name}").encode()))
    entries.append(CpioEntry(name="arm-host/protocol.py", mode=0o100644, data=_source("protocol.py").encode()))
    return system.archived(entries)
