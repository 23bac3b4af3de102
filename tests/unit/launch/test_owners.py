"""Who owns what a start path makes: whichever step fails, nothing is left: no file, socket, claim or guest."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.appliance.model import Appliance
from orchestrator.domain.model import Arch, Disk, NetworkSource
from orchestrator.errors import LaunchError
from orchestrator.firmware.descriptors import Firmware
from orchestrator.hypervisor import migration
from orchestrator.launch import clone, cold, gate, staging, template_build
from orchestrator.launch.clone import make_clone
from orchestrator.launch.cold import ColdStart
from orchestrator.launch.context import LaunchContext, LaunchSpec
from orchestrator.launch.lifecycle import Instruction
from orchestrator.launch.stop import Stop
from orchestrator.launch.template_build import build_template
from orchestrator.launch.warm import WarmStart
from orchestrator.settings import Settings
from orchestrator.template import store
from orchestrator.template.model import FIRMWARE, NVRAM, RAM, ROOT, STATE, Template
from orchestrator.timeline.recorder import Recorder
from tests.unit.launch.fakes import PLAN, REQUEST, FakeGuest

SECRET = Disk(source=NetworkSource(driver="https", options=(("url", "u"),), secrets=(("password-secret", "hush"),)))


class Bench:
    """Where start paths are tried: real folders, a pretended libvirt, and a count of what is held."""

    def __init__(self, folder: Path, stop: Stop) -> None:
        self.settings = Settings(state_dir=folder / "s", runtime_dir=folder / "r", connect="qemu:///session")
        self.stop = stop
        self.held: list[str] = []
        self.guests: list[FakeGuest] = []
        for name in ("kernel", "initrd", "root", "code", "vars", RAM, STATE, ROOT, FIRMWARE, NVRAM):
            (folder / name).write_bytes(b"x")
        appliance = Appliance(
            path=folder, arch=Arch.AARCH64, kernel=folder / "kernel", initrd=folder / "initrd", root=folder / "root",
            root_format="raw", root_uuid="u", manifest=None, markers=frozenset({"init"}),
        )  # fmt: skip
        firmware = Firmware(
            code=str(folder / "code"), code_format="raw", nvram_template=str(folder / "vars"), nvram_format="raw",
            description="d", descriptor=folder,
        )  # fmt: skip
        plan = dataclasses.replace(PLAN, appliance=appliance, firmware=firmware, disks=(SECRET,))
        self.spec = LaunchSpec(request=REQUEST, settings=self.settings, plan=plan)
        self.template = Template(
            path=folder, key="k", facts={}, request={}, files={}, built="2026-01-01T00:00:00Z", seconds=1.0
        )

    @property
    def context(self) -> LaunchContext:
        """Where the next one happens."""
        connection: Any = SimpleNamespace(create_paused=self.create, lost=threading.Event())
        return LaunchContext(stop=self.stop, connect=lambda _: connection, claim=self.claim, emit=lambda *_, **__: None)

    def create(self, *_: object) -> Any:  # noqa: ANN401 - stands in for a Guest
        self.guests.append(FakeGuest())
        return self.guests[-1]

    @contextlib.contextmanager
    def claim(self, path: Path) -> Iterator[None]:
        """Note what is claimed."""
        self.held.append(path.name)
        try:
            yield
        finally:
            self.held.remove(path.name)

    def left(self) -> list[str]:
        """Return what is still there."""
        folders = (self.settings.state_dir / "launches", self.settings.runtime_dir)
        files = [str(path) for folder in folders if folder.exists() for path in folder.iterdir()]
        return files + self.held + ["a guest" for guest in self.guests if guest.alive]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Where to try; overlays are made without qemu-img. Sockets want short names."""

    def overlay(_root: Path, _format: str, into: Path, _cache: Path) -> Path:
        (into / "root.qcow2").touch()
        return into / "root.qcow2"

    for module in (staging, clone, template_build):
        monkeypatch.setattr(module, "root_overlay", overlay)
    with tempfile.TemporaryDirectory(prefix="gl-") as folder, Stop() as stop:
        yield Bench(Path(folder), stop)


def failing_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose call of that number fails."""
    calls = iter(range(1, 100))

    def call(*arguments: object, **options: object) -> object:
        if next(calls) == number:
            raise LaunchError("planted", getattr(function, "__name__", ""))
        return function(*arguments, **options)

    return call


ACQUIRES: list[tuple[object, str, int]] = [
    (Appliance, "hold", 1),
    (Bench, "claim", 1),
    (Bench, "claim", 2),
    (staging, "directory", 1),
    (staging, "directory", 2),
    (staging, "listening", 1),
    (staging, "listening", 2),
]
OF_A_BOOT: list[tuple[object, str, int]] = [
    (staging, "copy_nvram", 1),
    (staging, "root_overlay", 1),
    (staging, "write_secret", 1),
    (cold, "describe", 1),
]
OF_A_CLONE: list[tuple[object, str, int]] = [
    (Template, "hold", 1),
    (clone, "root_overlay", 1),
    (clone, "describe_clone", 1),
]


def fail(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: int = 1) -> None:
    """Have one call of a function of a class or module fail."""
    monkeypatch.setattr(owner, name, failing_at(number, getattr(owner, name)))


@pytest.mark.parametrize(("owner", "name", "number"), ACQUIRES + OF_A_BOOT)
def test_a_cold_start_leaves_nothing(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    number: int,
) -> None:
    """Each acquire of its staging fails once; nothing but the start path itself is asked to clear up."""
    fail(monkeypatch, owner, name, number)
    start = ColdStart(bench.spec, bench.context, Recorder(1), None)
    with pytest.raises(LaunchError, match="planted"):
        start.stage()
    start.close()
    assert bench.left() == []


@pytest.mark.parametrize(("owner", "name", "number"), ACQUIRES + OF_A_CLONE)
def test_a_warm_start_and_a_clone_leave_nothing(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    number: int,
) -> None:
    """Likewise; a clone for the pool that cannot be made is nobody's, and has left nothing by then."""
    with monkeypatch.context() as patch:
        fail(patch, owner, name, number)
        start = WarmStart(bench.spec, bench.context, Recorder(1), bench.template.facts, bench.template)
        with pytest.raises(LaunchError, match="planted"):
            start.stage()
        start.close()
    assert bench.left() == []
    fail(monkeypatch, owner, name, number)
    with pytest.raises(LaunchError, match="planted"):
        make_clone(bench.spec, bench.context, bench.template)
    assert bench.left() == []


@pytest.mark.parametrize(("owner", "name"), [(Bench, "create"), (clone, "restore")])
def test_a_clone_that_does_not_start_leaves_nothing(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
) -> None:
    """Neither the guest, if there was one, nor its files."""
    fail(monkeypatch, owner, name)
    with pytest.raises(LaunchError, match="planted"):
        make_clone(bench.spec, bench.context, bench.template)
    assert bench.left() == []


def test_what_is_staged_goes_with_its_start_path(bench: Bench) -> None:
    """Directories, sockets, the secret in its file, the claims: all there while it is open, nothing afterwards."""
    for start in (
        ColdStart(bench.spec, bench.context, Recorder(1), None),
        WarmStart(bench.spec, bench.context, Recorder(1), bench.template.facts, bench.template),
    ):
        _, place = start.stage()
        assert place.data.is_dir()
        assert {path.name for path in place.sockets.iterdir()} == {"console", "control"}
        assert bench.held == [place.launch_id] * 2
        start.close()
        assert bench.left() == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Bench, "create"),
        *[(template_build, name) for name in ("root_overlay", "make_loader")],
        (gate.Rehearsal, "run"),
        (migration, "save"),
        (store, "publish"),
    ],
)
def test_a_template_that_cannot_be_built_leaves_nothing(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
) -> None:
    """Whatever step of the building fails, its guest is gone, and there is no template, whole or half."""
    monkeypatch.setattr(gate.Rehearsal, "run", lambda rehearsal, *_, **__: rehearsal.do(Instruction.HOLD))
    monkeypatch.setattr(migration, "save", lambda *_: None)
    fail(monkeypatch, owner, name)
    with pytest.raises(LaunchError, match="planted"):
        build_template(bench.spec, {"profile": "aarch64-uefi"}, bench.context)
    assert bench.left() == []
    assert [path for path in (bench.settings.state_dir / "templates").iterdir() if path.is_dir()] == []
