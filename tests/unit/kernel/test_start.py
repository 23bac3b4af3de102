"""The start of a run: what its domain gets beyond an appliance's, in files that go with it, whatever fails."""

from __future__ import annotations

import contextlib
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError, LaunchError
from orchestrator.firmware.descriptors import Firmware
from orchestrator.kernel import start as start_module
from orchestrator.kernel.image import KernelImage
from orchestrator.kernel.plan import KernelPlan
from orchestrator.kernel.request import KernelRequest, Told
from orchestrator.kernel.start import Attached, KernelStart
from orchestrator.launch import staging
from orchestrator.launch.context import LaunchContext, LaunchSpec
from orchestrator.launch.request import LaunchRequest
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind, Phase, Start
from orchestrator.timeline.recorder import Recorder
from tests.unit.launch.fakes import PLAN
from tests.unit.launch.test_owners import fail

NUMBER = "0f" * 16


class Ground:
    """Where a run can be started, and what is left of it."""

    def __init__(self, folder: Path, stop: Stop) -> None:
        self.folder = folder
        self.settings = Settings(state_dir=folder / "s", runtime_dir=folder / "r", connect="qemu:///session")
        self.claimed: list[Path] = []
        for name in ("Image", "a.cpio", "code", "vars"):
            (folder / name).write_bytes(name.encode())
        self.context = LaunchContext(
            stop=stop, connect=lambda _: cast("Any", None), claim=self.claim, emit=lambda *_, **__: None
        )  # fmt: skip
        self.recorder = Recorder(1, Start.COLD, Kind.KERNEL)

    @contextlib.contextmanager
    def claim(self, path: Path) -> Iterator[None]:
        """Note what is claimed."""
        self.claimed.append(path)
        try:
            yield
        finally:
            self.claimed.remove(path)

    def start(self, own_initrd: bytes = b"own", **asked: Any) -> KernelStart:  # noqa: ANN401 - a request's fields
        """Return the start of a run that was planned so."""
        request = KernelRequest(kernel=self.folder / "Image", **asked)
        firmware = Firmware(
            code=str(self.folder / "code"), code_format="raw", nvram_template=str(self.folder / "vars"),
            nvram_format="raw", description="d", descriptor=self.folder,
        )  # fmt: skip
        initrd_bytes = 8 if request.initrds else len(own_initrd)
        plan = replace(PLAN, profile=load_profile("aarch64-uefi"), firmware=firmware, initrd_bytes=initrd_bytes)
        image = KernelImage(
            given=request.kernel, form="Image", started=request.kernel, started_as="itself", version=None
        )
        launch = LaunchRequest(kernel=str(request.kernel), initrd="", cmdline="lpj=1 console=ttyS0")
        run = KernelPlan(
            request=request, launch=launch, plan=plan, image=image, number=NUMBER, own_initrd=own_initrd, modules=0
        )
        spec = LaunchSpec(request=launch, settings=self.settings, plan=plan)
        return KernelStart(run, Attached(), spec, self.context, self.recorder)

    def left(self) -> list[Path]:
        """Return what is still there."""
        folders = (self.settings.state_dir / "launches", self.settings.runtime_dir)
        return [path for folder in folders if folder.exists() for path in folder.iterdir()] + self.claimed


@pytest.fixture
def ground() -> Iterator[Ground]:
    """Where to try. Sockets want short names."""
    with tempfile.TemporaryDirectory(prefix="gl-") as folder, Stop() as stop:
        yield Ground(Path(folder), stop)


def test_a_command_has_three_ports_of_its_own(ground: Ground) -> None:
    """Beside the control port; without a command there are none."""
    with contextlib.closing(ground.start(command=("true",))) as start:
        domain, place = start.stage()
        assert [channel.name for channel in domain.channels] == [
            "org.guestlaunch.control.0",
            "org.guestlaunch.stdin.0",
            "org.guestlaunch.stdout.0",
            "org.guestlaunch.stderr.0",
        ]
        assert all(Path(str(channel.path)).is_socket() for channel in domain.channels)
        assert place.streams is not None
    assert ground.left() == []
    with contextlib.closing(ground.start()) as start:
        domain, place = start.stage()
        assert [channel.name for channel in domain.channels] == ["org.guestlaunch.control.0"]
        assert place.streams is None


def test_the_command_line_is_not_fixed_up(ground: Ground) -> None:
    """What is right for an appliance is not ours to change here; there is a panic device."""
    with contextlib.closing(ground.start()) as start:
        domain, _ = start.stage()
    assert domain.cmdline == "lpj=1 console=ttyS0"
    assert domain.panic_device


def test_initrds_are_one_file(ground: Ground) -> None:
    """The user's, then ours; without either there is none."""
    with contextlib.closing(ground.start(initrds=(ground.folder / "a.cpio",))) as start:
        domain, _ = start.stage()
        assert Path(str(domain.initrd)).read_bytes() == b"a.cpio\0\0own"
    with contextlib.closing(ground.start(own_initrd=b"")) as start:
        domain, _ = start.stage()
        assert not domain.initrd


def test_what_the_guest_is_told_is_in_files_of_ours_alone(ground: Ground) -> None:
    """A credential is on no command line; a directory is shared by its tag."""
    share = ground.folder / "share"
    share.mkdir()
    start = ground.start(
        command=("true",),
        fw_cfg=(Told(name="opt/a", text="x"),),
        credentials=(Told(name="c", text="secret"),),
        share=share,
    )
    with contextlib.closing(start):
        domain, _ = start.stage()
        (file,) = domain.fw_cfg_files
        (string,) = domain.oem_strings
        assert (file.name, Path(file.path).read_bytes()) == ("opt/a", b"x")
        assert Path(string).read_bytes() == b"io.systemd.credential:c=secret"
        assert stat.S_IMODE(Path(string).stat().st_mode) == 0o600
        assert domain.share is not None
        assert domain.share.path == str(share)
    assert ground.left() == []


def test_the_users_firmware_fits_its_flash(ground: Ground) -> None:
    """Only where the user named some: the host's own is as large as it has to be."""
    with contextlib.closing(ground.start()) as start:
        domain, _ = start.stage()
        assert domain.loader is not None
        assert domain.loader.code == str(ground.folder / "code")
    with contextlib.closing(ground.start(firmware=(ground.folder / "code", None))) as start:
        domain, _ = start.stage()
        assert domain.loader is not None
        assert Path(domain.loader.code).stat().st_size == 64 << 20


def test_what_will_not_be_seen_is_explained(ground: Ground) -> None:
    """A phase without a date always has a reason."""
    with contextlib.closing(ground.start(own_initrd=b"")) as start:
        _, place = start.stage()
        start.boot(place)
    ground.recorder.begin(Phase.SHUTDOWN, "test")
    ground.recorder.finish()
    reasons = {tile.name: tile.reason for tile in ground.recorder.tiles() if tile.outcome == "unseen"}
    assert reasons[Phase.FW_CFG_INITRD] == "there is no initrd"
    assert reasons[Phase.WORKLOAD] == "no command was run"
    assert reasons[Phase.KERNEL] == "neither a marker nor a time stamp on the console told of it"


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (Ground, "claim", 1),
        (Ground, "claim", 2),
        (staging, "directory", 2),
        (staging, "listening", 2),
        (start_module, "listening", 1),
        (start_module, "listening", 3),
        (staging, "copy_nvram", 1),
        (start_module, "join", 1),
        (start_module, "describe", 1),
        (start_module, "_written", 2),
    ],
)
def test_a_start_that_fails_leaves_nothing(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: int
) -> None:
    """Each acquire of its staging fails once."""
    told = Told(name="opt/a", text="x")
    fail(monkeypatch, owner, name, number)
    ground.context = replace(ground.context, claim=ground.claim)
    start = ground.start(command=("true",), fw_cfg=(told,), credentials=(Told(name="c", text="x"),))
    with pytest.raises(LaunchError, match="planted"), contextlib.closing(start):
        start.stage()
    assert ground.left() == []


def test_a_file_that_is_gone_is_named(ground: Ground) -> None:
    """Nothing stays of what was made before it was looked for."""
    told = Told(name="opt/a", path=ground.folder / "gone")
    with pytest.raises(CapabilityError, match="gone"), contextlib.closing(ground.start(fw_cfg=(told,))) as start:
        start.stage()
    assert ground.left() == []


def test_a_panic_is_heard_from_qemu_and_from_libvirt(ground: Ground) -> None:
    """Whichever tells of it; other events are none."""
    from orchestrator.errors import GuestPanicError
    from orchestrator.hypervisor.events import EventSource
    from orchestrator.launch.diagnosis import Evidence
    from orchestrator.launch.lifecycle import Event
    from tests.unit.launch.fakes import FakeGuest

    seen = Evidence(phase=Phase.KERNEL, ready=False, exit_code=0, last_line=None, panic=None, allowed_s=None, uri=None)
    for name, source, panics in (
        ("GUEST_PANICKED", EventSource.QEMU, True),
        ("crashed", EventSource.LIBVIRT, True),
        ("stopped", EventSource.LIBVIRT, False),
    ):
        with contextlib.closing(ground.start()) as start:
            _, place = start.stage()
            boot = start.boot(place)
            guest: Any = FakeGuest()
            start.run(guest, place)
            guest.emit(name, source)
            error = boot.diagnose(Event.QEMU_GONE, seen)
            assert isinstance(error, GuestPanicError) is panics
