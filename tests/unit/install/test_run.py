"""An installation's frame: which machine it gets, what is made for it, and what of that is left."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self, cast

import pytest

from orchestrator.domain.model import Arch, Graphics, GraphicsKind
from orchestrator.errors import DiskError, FirmwareError, GuestlaunchError, LocationError, UsageError
from orchestrator.install import request as asked
from orchestrator.install import run, unfinished
from orchestrator.install.answers import Answers
from orchestrator.install.digest import Verification
from orchestrator.install.media import Media
from orchestrator.install.request import InstallRequest
from orchestrator.install.steps import FirstBootStep, InstallationFacts, InstallerStep, InstallStep
from orchestrator.install.tree import Family, Tree
from orchestrator.kernel.console_file import ConsoleFile
from orchestrator.kernel.start import Attached
from orchestrator.launch.stop import Stop
from orchestrator.records.record import LaunchRecord
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind
from tests.unit.records.test_record import recorded


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with folders of their own."""
    return Settings(state_dir=tmp_path / "s", runtime_dir=tmp_path / "r")


@contextlib.contextmanager
def prepared(
    request: InstallRequest, settings: Settings, definition: run.Definition | None, tell: Callable[[str], object],
    seed_data: bytes | None = None,
) -> Iterator[Callable[[], object]]:  # fmt: skip
    """Make what an installation needs, as one does that holds its note."""
    with (
        unfinished.held(request.kept_nvram) as note,
        run._made(
            note, request, settings, definition, lambda text: cast("None", tell(text)), seed_data=seed_data
        ) as keep,
    ):
        yield keep


@pytest.fixture
def firmware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template of the firmware's variables."""
    template = tmp_path / "vars"
    template.write_bytes(b"variables" + bytes(1 << 20))
    monkeypatch.setattr(run, "find_firmware", lambda *_, **__: SimpleNamespace(nvram_template=str(template)))
    monkeypatch.setattr(run, "flash_formats", lambda: ("raw",))
    return template


def test_the_machine_is_the_trees(settings: Settings) -> None:
    """A profile that says otherwise is refused, unless it is only the default; memory suits an installer."""
    assert run.settings_for(Arch.AARCH64, settings).profile == "aarch64-uefi"
    found = run.settings_for(Arch.X86_64, settings)
    assert (found.profile, found.memory_mib) == ("x86_64-ovmf", 2048)
    assert run.settings_for(Arch.AARCH64, replace(settings, memory_mib=512)).memory_mib == 512
    for profile in ("x86_64-ovmf", "x86_64-bare"):
        with pytest.raises(UsageError, match="the tree is for aarch64 with UEFI"):
            run.settings_for(Arch.AARCH64, replace(settings, profile=profile))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", ["d.img", "d.qcow2"])
def test_what_is_made_goes_again_unless_it_is_to_stay(
    settings: Settings, firmware: Path, tmp_path: Path, name: str, *, kept: bool
) -> None:
    """Disks that were not there, and the NVRAM; a disk of the user's always stays."""
    own, made = tmp_path / "own.img", tmp_path / name
    own.write_bytes(b"data")
    request = InstallRequest(location="x", disks=(made, own), size_bytes=1 << 20)
    with prepared(request, settings, None, print) as keep:
        assert made.read_bytes()[:3] == (b"QFI" if name.endswith("qcow2") else bytes(3))
        assert made.stat().st_mode & 0o777 == 0o600  # a system's files, with its passwords, whatever the umask
        assert request.kept_nvram == tmp_path / f"{name}.nvram.fd"
        assert request.kept_nvram.read_bytes() == firmware.read_bytes()
        if kept:
            keep()
    assert (made.exists(), request.kept_nvram.exists()) == (kept, kept)
    assert own.read_bytes() == b"data"


def test_what_cannot_be_made(settings: Settings, firmware: Path, tmp_path: Path) -> None:
    """Nothing is left of it; an NVRAM that is there is somebody's."""
    request = InstallRequest(location="x", disks=(tmp_path / "d.img",))
    with pytest.raises(DiskError, match="--size makes one"), prepared(request, settings, None, print):
        pass
    sized = replace(request, size_bytes=1 << 20)
    sized.kept_nvram.write_bytes(b"mine")
    with pytest.raises(UsageError, match="it is there already"), prepared(sized, settings, None, print):
        pass
    assert sized.kept_nvram.read_bytes() == b"mine"
    sized.kept_nvram.unlink()
    firmware.unlink()
    with pytest.raises(FirmwareError), prepared(sized, settings, None, print):
        pass
    assert not list(tmp_path.glob("d.img*"))


def test_the_disk_that_only_the_installer_needs(settings: Settings, firmware: Path, tmp_path: Path) -> None:
    """It goes in any case; one that was killed left it, and the next removes it."""
    assert firmware.exists()
    request = InstallRequest(location="x", disks=(tmp_path / "d.img",), size_bytes=1 << 20)
    child = os.fork()
    if not child:
        with prepared(request, settings, None, print, b"killed"):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert request.seed.read_bytes() == b"killed"
    with prepared(request, settings, None, print):
        assert not request.seed.exists()
    with prepared(request, settings, None, print, b"seed") as keep:
        assert request.seed.read_bytes() == b"seed"
        assert request.seed.stat().st_mode & 0o777 == 0o600
        keep()
    assert sorted(path.name for path in tmp_path.glob("d.img*")) == ["d.img", "d.img.nvram.fd"]


def test_a_display(settings: Settings, tmp_path: Path) -> None:
    """Its socket is where only its user gets, and goes; the kernel has it as a console, too, before the serial one."""
    request = InstallRequest(location="x", disks=(tmp_path / "d.img",), graphics=GraphicsKind.VNC)
    facts = InstallationFacts(
        request=request, settings=settings, media=cast("Media", None), number="ab" * 16, attached=Attached()
    )
    socket = settings.runtime_dir / f"display-{'ab' * 6}"
    assert facts.graphics == Graphics(kind=GraphicsKind.VNC, path=str(socket))
    assert facts.arguments == ("console=tty0", "console=ttyAMA0")
    settings.runtime_dir.mkdir()
    with run._display(facts):
        socket.touch()
    assert not socket.exists()
    without = replace(facts, request=replace(request, graphics=None))
    assert (without.graphics, without.arguments) == (None, ())


def killed(settings: Settings, request: InstallRequest, definition: run.Definition | None) -> list[str]:
    """Leave what an installation leaves that is killed once all is made; return what it told."""
    told: list[str] = []
    child = os.fork()
    if not child:
        with prepared(request, settings, definition, told.append):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return told


def test_an_installation_that_was_killed_starts_over(settings: Settings, firmware: Path, tmp_path: Path) -> None:
    """What it had made is removed, its definition too, and that is said; what it had not made stays."""
    assert firmware.exists()
    own, made = tmp_path / "own.img", tmp_path / "d.img"
    own.write_bytes(b"data")
    request = InstallRequest(location="x", disks=(made, own), size_bytes=1 << 20)
    forgotten: list[str] = []

    def definition(name: str) -> run.Definition:
        return run.Definition(
            connection="qemu:///session", name=name, define=lambda _: None, forget=lambda: forgotten.append(name)
        )

    killed(settings, request, definition("vm"))
    made.write_bytes(b"half")
    assert unfinished.noted(request.kept_nvram) == unfinished.Made(
        files={str(path): (path.stat().st_dev, path.stat().st_ino) for path in (made, request.kept_nvram)},
        connection="qemu:///session", name="vm",
    )  # fmt: skip
    told: list[str] = []
    with prepared(request, settings, definition("vm"), told.append) as keep:
        assert told == [f"{made}: an installation there was interrupted; what it left is removed, and it starts over"]
        assert forgotten == ["vm"]
        assert made.read_bytes()[:4] == bytes(4)
        with (
            pytest.raises(UsageError, match="another command does"),
            prepared(request, settings, definition("vm"), told.append),
        ):
            pass
        keep()
    assert own.read_bytes() == b"data"
    assert not unfinished.note_path(request.kept_nvram).exists()
    with pytest.raises(UsageError, match="it is there already"), prepared(request, settings, None, told.append):
        pass  # that one came to its end
    made.unlink()
    request.kept_nvram.unlink()
    killed(settings, request, definition("other"))
    forgotten.clear()
    with prepared(request, settings, definition("vm"), told.append):
        assert told[-1] == "domain other on qemu:///session is of that installation, and stays"
    assert forgotten == ["vm"]  # what this one defined


def test_a_note_that_says_nothing(settings: Settings, firmware: Path, tmp_path: Path) -> None:
    """Whoever was killed before it was written had made nothing: what is there is somebody's."""
    assert firmware.exists()
    request = InstallRequest(location="x", disks=(tmp_path / "d.img",), size_bytes=1 << 20)
    request.kept_nvram.write_bytes(b"mine")
    listed = b'{"files": {"%s": [1]}, "connection": "", "name": ""}' % bytes(request.kept_nvram)
    for text in (b"", b"[", b"[" * 100_000, b'{"files": 1}', b"{}", listed):
        unfinished.note_path(request.kept_nvram).write_bytes(text)
        with pytest.raises(UsageError, match="it is there already"), prepared(request, settings, None, print):
            pass
        assert request.kept_nvram.read_bytes() == b"mine"


def test_only_the_file_that_was_made_is_removed(settings: Settings, firmware: Path, tmp_path: Path) -> None:
    """Whatever the user has put in its place since is the user's."""
    assert firmware.exists()
    made = tmp_path / "d.img"
    request = InstallRequest(location="x", disks=(made,), size_bytes=1 << 20)
    killed(settings, request, None)
    made.rename(tmp_path / "moved.img")
    made.write_bytes(b"mine")
    with prepared(request, settings, None, print):
        assert made.read_bytes() == b"mine"
    assert made.read_bytes() == b"mine"


def test_anothers_note_is_not_believed(
    settings: Settings, firmware: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others can write, they could have us remove a disk of the user's: it says so, and touches nothing."""
    assert firmware.exists()
    disk = tmp_path / "d.img"
    request = InstallRequest(location="x", disks=(disk,), size_bytes=1 << 20)
    killed(settings, request, None)
    note = unfinished.note_path(request.kept_nvram)
    with monkeypatch.context() as another:
        another.setattr(os, "geteuid", lambda: note.stat().st_uid + 1)
        with pytest.raises(UsageError, match="not ours"), prepared(request, settings, None, print):
            pass
    assert disk.exists()
    assert note.exists()
    note.unlink()
    os.mkfifo(note)
    with pytest.raises(UsageError, match="not ours"), prepared(request, settings, None, print):
        pass
    assert disk.exists()


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (InstallRequest(disks=(Path("/d"),)), "nothing to install from"),
        (InstallRequest(location="x", files=(Path("/k"), Path("/i")), disks=(Path("/d"),)), "nothing to install from"),
        (InstallRequest(location="x"), "nothing to install on"),
    ],
)
def test_requests_that_cannot_work(request_: InstallRequest, what: str) -> None:
    """They are refused before anything is fetched."""
    with pytest.raises(UsageError, match=what):
        request_.check()


def carried_out(request: InstallRequest, settings: Settings) -> run.Installed:
    """Carry an installation out."""
    with Stop() as stop:
        return run.carry_out(
            request, settings, stop, attached=Attached(), console=None, terminal=contextlib.nullcontext,
            progress=lambda _: None, tell=lambda _: None,
        )  # fmt: skip


def test_what_is_known_before_anything_is_fetched(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said then: no size, an NVRAM that is there, a disk or answers that are none."""

    def fetch(*_: object) -> Media:
        raise AssertionError("it was fetched")

    monkeypatch.setattr(run, "get_media", fetch)
    request = InstallRequest(location="x", disks=(tmp_path / "d.img",), size_bytes=1 << 20)
    fifo, text = tmp_path / "fifo", tmp_path / "text"
    os.mkfifo(fifo)
    text.write_text("version: 1\n")
    (tmp_path / "link").symlink_to("nowhere")
    for changed, why in (
        ({"size_bytes": None}, "--size makes one"),
        ({"disks": (tmp_path / "none" / "d.img",), "nvram": tmp_path / "n"}, "its folder is not there"),
        ({"disks": (tmp_path / "link",)}, "it is a link to nowhere, which is not there"),
        ({"disks": (fifo,)}, "neither a file nor a block device"),
        ({"nvram": text}, "it is there already"),
        ({"answers": Answers(preseed=tmp_path / "none")}, "No such file"),
        ({"answers": Answers(kickstart=tmp_path)}, "no regular file"),
        ({"answers": Answers(autoinstall=fifo)}, "nobody writes to it"),
        ({"answers": Answers(autoinstall=text)}, "does not begin with #cloud-config"),
        ({"answers": Answers(inject=(Path("/dev/zero"),))}, "no regular file"),
    ):
        with pytest.raises(GuestlaunchError, match=why):
            carried_out(replace(request, **cast("Any", changed)), settings)
        assert not list(tmp_path.glob("*.installing")), changed
    assert not (tmp_path / "d.img").exists()


def test_what_an_interrupted_one_left_is_known_until_it_is_removed(
    settings: Settings, firmware: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the next fails before it comes to that: the one after it starts over."""
    assert firmware.exists()

    def fetch(*_: object) -> Media:
        raise LocationError("cannot fetch", "x", "test")

    monkeypatch.setattr(run, "get_media", fetch)
    request = InstallRequest(location="x", disks=(tmp_path / "d.img",), size_bytes=1 << 20)
    killed(settings, request, None)
    left = unfinished.noted(request.kept_nvram)
    assert left is not None
    with pytest.raises(LocationError):
        carried_out(request, settings)
    assert unfinished.noted(request.kept_nvram) == left
    with pytest.raises(DiskError, match="--size makes one"):  # what is there goes
        carried_out(replace(request, size_bytes=None), settings)
    told: list[str] = []
    with prepared(request, settings, None, told.append):
        assert "it starts over" in told[0]


def test_no_file_is_for_two_purposes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever names: disks, variables, the console's file, and what is read."""
    disk, link, other = tmp_path / "d", tmp_path / "link", tmp_path / "other"
    disk.touch()
    link.hardlink_to(disk)
    other.symlink_to(disk)
    request = InstallRequest(location="http://x/", disks=(disk,))
    request.check(("--console", Path("/dev/null")))
    for changed, what in (
        ({"disks": (disk, disk)}, "both as --disk"),
        ({"disks": (disk, link)}, "both as --disk"),
        ({"disks": (tmp_path / "new", tmp_path / "x" / ".." / "new")}, "both as --disk"),
        ({"nvram": other}, "as --disk and as the kept NVRAM"),
        ({"location": str(other)}, "as --disk and as --location"),
        ({"location": "", "files": (tmp_path / "k", disk)}, "as --disk and as --initrd"),
        ({"answers": Answers(preseed=link)}, "as --disk and as --preseed"),
    ):
        with pytest.raises(UsageError, match=what):
            replace(request, **cast("Any", changed)).check()
    with pytest.raises(UsageError, match="as --disk and as --console"):
        request.check(*ConsoleFile.names(other))
    with pytest.raises(UsageError, match="as the kept NVRAM and as --console"):
        request.check(*ConsoleFile.names(tmp_path / "d.nvram.fd"))
    with pytest.raises(UsageError, match="as --disk and as --console"):  # where the console's first half goes
        replace(request, disks=(tmp_path / "c.1",)).check(*ConsoleFile.names(tmp_path / "c"))
    monkeypatch.setattr(asked, "is_block_device", lambda path: path == disk)
    with pytest.raises(UsageError, match="--nvram FILE says where"):
        request.check()
    replace(request, nvram=tmp_path / "n").check()


class PretendedRunner:
    """Carries out steps with verdicts that are known before."""

    verdicts: tuple[str, ...] = ()
    stored: ClassVar[list[str]] = []
    stored_then: ClassVar[list[list[str]]] = []

    def __init__(self, *_: object) -> None:
        self.left = list(self.verdicts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def carry_out(self, step: InstallerStep | FirstBootStep, *_: object, **__: object) -> LaunchRecord:
        """Return the record of a step."""
        self.stored_then.append(list(self.stored))
        if isinstance(step, InstallerStep):
            name, step.plan_made, step.machine = InstallStep.INSTALLER, cast("Any", True), cast("Any", True)
        else:
            name = InstallStep.FIRST_BOOT
        said = step.installation.step_record(name, self.left.pop(0))
        return replace(recorded(), kind=Kind.INSTALL, install=said)


@pytest.mark.parametrize(
    ("verdicts", "good"), [(("done", "done"), True), (("failed",), False), (("done", "timed_out"), False)]
)
@pytest.mark.parametrize("keep", [False, True])
def test_what_comes_of_an_installation(
    settings: Settings, firmware: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdicts: tuple[str, ...],
    *, good: bool, keep: bool,
) -> None:  # fmt: skip
    """The disk boots only if the installer is done; what was made stays only if both are, or it is to be kept.

    The definition is among that, and there before anything starts.
    """
    assert firmware.exists()
    tree = Tree(family=Family.DEBIAN, name="T", arch=Arch.AARCH64, kernel="k", initrd="i", told_by="x")
    media = Media(tree=tree, kernel=Path("/k"), initrd=Path("/i"), verification=Verification.SIGNATURE)
    monkeypatch.setattr(run, "get_media", lambda *_: media)
    monkeypatch.setattr(run, "Runner", PretendedRunner)
    monkeypatch.setattr(PretendedRunner, "verdicts", verdicts)
    answers = Answers(preseed=tmp_path / "p")
    (tmp_path / "p").touch()
    request = InstallRequest(location="x", disks=(tmp_path / "d.img",), size_bytes=1 << 20, keep=keep, answers=answers)
    told: list[str] = []
    stored: list[str] = []
    stored_then: list[list[str]] = []
    monkeypatch.setattr(PretendedRunner, "stored", stored)
    monkeypatch.setattr(PretendedRunner, "stored_then", stored_then)

    def define(settings: Settings) -> None:
        assert request.kept_nvram.exists()
        stored.append(settings.profile)

    definition = run.Definition(connection="qemu:///session", name="vm", define=define, forget=stored.clear)
    with Stop() as stop:
        found = run.carry_out(
            request, settings, stop, attached=Attached(), console=None, terminal=contextlib.nullcontext,
            progress=lambda _: None, tell=told.append, definition=definition,
        )  # fmt: skip
    assert stored_then == [["aarch64-uefi"]] * len(verdicts)
    assert stored == (["aarch64-uefi"] if good or keep else [])
    assert found.good is good
    assert [step.install.verdict for step in found.steps if step.install] == list(verdicts)
    assert len({step.install.installation for step in found.steps if step.install}) == 1
    assert told[:2] == [
        "T, aarch64: signed for by a key of the distribution's",
        "added to the installer's command line: auto=true priority=critical",
    ]
    assert (request.kept_nvram.exists(), (tmp_path / "d.img").exists()) == (good or keep, good or keep)
