"""Opening appliance directories: a user's own, one of ours, and damaged ones."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.appliance import manifest as manifests
from orchestrator.appliance import unpack
from orchestrator.appliance.fixed import check_making, check_version, open_appliance, verify
from orchestrator.appliance.guest_files import scripts_digest
from orchestrator.appliance.initrd import CpioEntry, write_cpio
from orchestrator.appliance.manifest import FileRecord, Init, Manifest
from orchestrator.appliance.model import FILES
from orchestrator.appliance.recipe import recipe_digest
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError, NotFoundError

UUID = uuid.UUID("3ab85e0e-01f0-4193-8588-982f51bab0ba")


def make(folder: Path, *, arch: Arch = Arch.AARCH64, manifest: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kernel = bytearray(4096)
    if arch is Arch.AARCH64:
        kernel[0x38:0x3C] = b"ARM\x64"
    else:
        kernel[0x202:0x206] = b"HdrS"
    (folder / "kernel").write_bytes(kernel)
    with (folder / "initrd").open("wb") as out:
        write_cpio([CpioEntry(name="init", mode=0o100755, data=b"#!/bin/sh\n")], out)
    root = bytearray(4096)
    root[0x438:0x43A] = b"\x53\xef"
    root[0x468:0x478] = UUID.bytes
    (folder / "root").write_bytes(root)
    (folder / "README.fixed").write_text("test\n")
    if manifest:
        described = Manifest(
            arch=Arch.AARCH64,
            files={name: FileRecord.of(folder / name) for name in FILES},
            packages={},
            unavailable=(),
            libguestfs="1.48.6",
            kernel="6.1.0",
            modules=(),
            root_uuid=str(UUID),
            built="2026-01-02T03:04:05Z",
            builder="0.1.0",
        )
        (folder / manifests.NAME).write_text(described.to_json())
    return folder


def test_users_own(tmp_path: Path) -> None:
    """A directory without a manifest is described from its files; nothing is claimed about its initrd."""
    found = open_appliance(make(tmp_path / "own", arch=Arch.X86_64))
    assert (found.arch, found.root_format, found.root_uuid) == (Arch.X86_64, "raw", str(UUID))
    assert found.manifest is None
    assert not found.markers
    verify(found, deep=True)
    check_version(found, "1.2.3")


def test_ours(tmp_path: Path) -> None:
    """One with a manifest sends markers and passes its own check."""
    found = open_appliance(make(tmp_path / "a", manifest=True))
    assert found.markers == {"initrd", "init", "guestfsd"}
    verify(found, deep=True)


def test_libguestfs_own_init(tmp_path: Path) -> None:
    """With libguestfs's own init only our initrd sends a marker."""
    folder = make(tmp_path / "a", manifest=True)
    described = manifests.load(folder)
    assert described is not None
    (folder / manifests.NAME).write_text(replace(described, init=Init.STOCK).to_json())
    found = open_appliance(folder)
    assert found.init is Init.STOCK
    assert found.markers == {"initrd"}


@pytest.mark.parametrize("init", Init)
def test_scripts(tmp_path: Path, init: Init) -> None:
    """One built from other guest scripts is told from one that is up to date, and how to build that is said."""
    folder = make(tmp_path / "a", manifest=True)
    described = manifests.load(folder)
    assert described is not None
    current = replace(described, init=init, guest_scripts=scripts_digest(init), recipe=recipe_digest(init))
    (folder / manifests.NAME).write_text(current.to_json())
    check_making(open_appliance(folder))
    (folder / manifests.NAME).write_text(replace(current, guest_scripts="sha256:0").to_json())
    again = "guestlaunch appliance build --arch aarch64" + (" --init stock" if init is Init.STOCK else "")
    with pytest.raises(ApplianceError, match="built from other guest scripts than this guestlaunch has") as raised:
        check_making(open_appliance(folder))
    assert str(raised.value).endswith(f"(build it again: {again})")


def test_another_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has udev's rules that are dropped now, or was built when nobody noted it, is not up to date."""
    folder = make(tmp_path / "a", manifest=True)
    described = manifests.load(folder)
    assert described is not None
    current = replace(described, guest_scripts=scripts_digest(Init.LEAN), recipe=recipe_digest(Init.LEAN))
    (folder / manifests.NAME).write_text(current.to_json())
    check_making(open_appliance(folder))
    stock = recipe_digest(Init.STOCK)
    monkeypatch.setattr(unpack, "IDLE_RULES", ("64-ext4",))
    with pytest.raises(ApplianceError, match=r"built in another way.*build it again"):
        check_making(open_appliance(folder))
    assert recipe_digest(Init.STOCK) == stock, "nothing is dropped from libguestfs's own"
    (folder / manifests.NAME).write_text(replace(current, recipe="").to_json())
    with pytest.raises(ApplianceError, match="built in another way"):
        check_making(open_appliance(folder))


def test_links_are_resolved(tmp_path: Path) -> None:
    """The path is the real directory: what a link leads to may change while a launch runs."""
    make(tmp_path / "a")
    (tmp_path / "current").symlink_to("a")
    assert open_appliance(tmp_path / "current").path == (tmp_path / "a").resolve()


def test_missing_directory(tmp_path: Path) -> None:
    """A directory that is not there is not found, and the hint says how to make one."""
    with pytest.raises(NotFoundError, match="appliance build"):
        open_appliance(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
def test_missing_file(tmp_path: Path, name: str) -> None:
    """Each missing file is named."""
    folder = make(tmp_path / "a")
    (folder / name).unlink()
    with pytest.raises(ApplianceError, match=f"{name} missing"):
        open_appliance(folder)


def test_kernel_of_another_arch(tmp_path: Path) -> None:
    """A kernel that was put in the place of another arch's is refused by name."""
    folder = make(tmp_path / "a", manifest=True)
    (make(tmp_path / "b", arch=Arch.X86_64) / "kernel").replace(folder / "kernel")
    with pytest.raises(ApplianceError, match="kernel: x86_64 kernel in an aarch64 appliance"):
        open_appliance(folder)


def test_verify_names_the_changed_file(tmp_path: Path) -> None:
    """A replaced initrd is found by the cheap check."""
    folder = make(tmp_path / "a", manifest=True)
    with (folder / "initrd").open("r+b") as file:
        file.seek(112)
        file.write(b"exit")
    os.utime(folder / "initrd", (5, 5))
    with pytest.raises(ApplianceError, match="initrd: changed"):
        verify(open_appliance(folder))


def test_version_mismatch_names_both(tmp_path: Path) -> None:
    """Another library version is refused in words that say both and what to do."""
    found = open_appliance(make(tmp_path / "a", manifest=True))
    check_version(found, "1.48.6")
    with pytest.raises(ApplianceError, match=r"1\.48\.6, the host has 1\.54\.0 .*build --arch aarch64"):
        check_version(found, "1.54.0")


def test_a_held_appliance_tells(tmp_path: Path) -> None:
    """Holding an appliance whose directory is gone is an error, not a launch of nothing."""
    found = open_appliance(make(tmp_path / "a", manifest=True))
    with found.hold():
        pass
    with (
        pytest.raises(ApplianceError, match="just been removed"),
        replace(found, path=tmp_path / "gone").hold(),
    ):
        pytest.fail("held what is not there")
