"""The profile that an image's system asks for: where it is read, what is remembered, what cannot be chosen."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchestrator.errors import CapabilityError, UsageError
from orchestrator.settings import Settings
from orchestrator.workload.guest_profile import choose, images
from orchestrator.workload.job import Job


class Reader:
    """Stands for a launch that reads an image."""

    def __init__(self, found: object) -> None:
        self.found, self.jobs, self.settings = found, list[Job](), list[Settings]()

    def __call__(self, job: Job, settings: Settings) -> object:
        self.jobs.append(job)
        self.settings.append(settings)
        return self.found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with folders of their own, as `--profile auto` leaves them."""
    return Settings(state_dir=tmp_path / "state", runtime_dir=tmp_path, profile="auto", cpu="max", memory_mib=64)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file that stands for an image."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"disk")
    return path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("-a x.img", [("x.img", None)]),
        ("-ax.img", [("x.img", None)]),
        ("--add x.img --add=y.img", [("x.img", None), ("y.img", None)]),
        ("--format=raw -a x.img --format -a y.img", [("x.img", "raw"), ("y.img", None)]),
        ("--ro -i -a x.img -- -a y.img", [("x.img", None)]),
        ("--format=qcow2 -a", [("", "qcow2")]),
        ("-ia x.img", [("x.img", None)]),
        ("-via=x -riax.img -iqa y.img", [("=x", None), ("x.img", None), ("y.img", None)]),
        ("-m /dev/sda1:/a -la -a x.img", [("-a", None)]),
        ("-da -ca -ma x.img", []),
        ("--verbose -d domain", []),
    ],
)  # fmt: skip
def test_images_of_a_command(words: str, found: list[tuple[str, str | None]]) -> None:
    """Each way in which libguestfs's programs take an image, with the format that was named before it."""
    named = [("" if one.path == Path() else str(one.path), one.format) for one in images(("tool", *words.split()))]
    assert named == found


@pytest.mark.parametrize(("arch", "profile"), [("aarch64", "aarch64-uefi"), ("x86_64", "x86_64-ovmf")])
def test_read_once_until_the_image_changes(settings: Settings, image: Path, arch: str, profile: str) -> None:
    """It is read by a plain launch, whatever the command's own is to be; a changed image is read again."""
    reader = Reader([arch])
    command = ("virt-customize", "--format=raw", "-a", os.fspath(image))
    assert choose(command, settings, reader) == choose(command, settings, reader) == profile
    [job], [plain] = reader.jobs, reader.settings
    assert [(disk.path, disk.format, disk.readonly) for disk in job.disks] == [(image, "raw", True)]
    assert (plain.profile, plain.cpu, plain.memory_mib) == ("aarch64-uefi", None, None)
    image.write_bytes(b"another disk")
    choose(command, settings, reader)
    assert len(reader.jobs) == 2


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([], "no system found in it"),
        (None, "no system found in it"),
        (["aarch64", "x86_64"], "systems for aarch64, x86_64 found in it"),
        (["riscv64"], "its system is for riscv64, and no profile is"),
        (["unknown"], "the architecture of its system could not be made out"),
    ],
)
def test_what_cannot_be_chosen(settings: Settings, image: Path, found: object, why: str) -> None:
    """One line says why, and what to do."""
    with pytest.raises(CapabilityError, match=rf"cannot choose the profile: .*disk\.img: {why} \(name one"):
        choose(("virt-ls", "-a", os.fspath(image)), settings, Reader(found))


@pytest.mark.parametrize("words", ["-d domain", "-a", "-a no-such.img"])
def test_without_an_image_nothing_is_read(settings: Settings, words: str) -> None:
    """A domain's disks are known to libvirt, not to us; a file that is not there is named."""
    reader = Reader(["aarch64"])
    with pytest.raises(UsageError, match="cannot choose the profile: .*name one with --profile"):
        choose(("virt-ls", *words.split()), settings, reader)
    assert not reader.jobs


def test_what_is_no_image(settings: Settings, tmp_path: Path) -> None:
    """A pipe, which QEMU would wait for, or a directory, is refused before anything is launched."""
    os.mkfifo(tmp_path / "pipe")
    reader = Reader(["aarch64"])
    for path in (tmp_path, tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(UsageError, match="it is neither a file nor a block device"):
            choose(("virt-ls", "-a", os.fspath(path)), settings, reader)
    assert not reader.jobs


def test_block_device_is_read_each_time(settings: Settings, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to it does not change what the kernel says of its node."""
    reader, plain = Reader(["aarch64"]), Path.stat
    device = os.stat_result((stat.S_IFBLK | 0o660, *image.stat()[1:]))
    monkeypatch.setattr(Path, "stat", lambda path, **how: device if path == image else plain(path, **how))
    for _ in range(2):
        choose(("virt-ls", "-a", os.fspath(image)), settings, reader)
    assert len(reader.jobs) == 2
