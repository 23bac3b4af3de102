"""What of a kernel's file is started by which machine: the file itself wherever it can be, as that is what is tried."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from orchestrator.domain.profiles import load_profile
from orchestrator.errors import ApplianceError
from orchestrator.kernel.image import EFI_PROGRAM, kernel_image
from tests.unit.appliance.test_kernel_form import X86_64, image, portable, unified, zboot

BANNER = b"Linux version 6.12.1-me (me@here) (gcc) #1 SMP\n"


def arm_image() -> bytes:
    return image() + BANNER


def bzimage() -> bytes:
    """Return an x86 kernel, as far as anybody looks: its magic, and a version where the header says."""
    data = bytearray(20_000)
    data[:2] = b"MZ"
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x20E, 0x1000)
    text = b"6.12.1-me (me@here) #1\0"
    data[0x1200 : 0x1200 + len(text)] = text
    return bytes(data)


FORMS = {
    "Image": (arm_image, "Image"),
    "gzip": (lambda: gzip.compress(arm_image()), "Image packed by gzip"),
    "zboot": (lambda: zboot(gzip.compress(arm_image()), b"gzip"), "EFI zboot image"),
    "unified": (lambda: unified(arm_image()), "unified kernel image"),
}


@pytest.mark.parametrize("profile", ["aarch64-uefi", "aarch64-bare"])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("unpack", [True, False])
def test_what_is_started(tmp_path: Path, profile: str, name: str, *, unpack: bool) -> None:
    """Firmware gets all but gzip as it is; QEMU's stub gets a plain image, and so does who asks for it."""
    make, form = FORMS[name]
    path = tmp_path / "vmlinuz"
    path.write_bytes(make())
    found = kernel_image(path, load_profile(profile), tmp_path / "cache", unpack=unpack)
    assert (found.form, found.version) == (form, "6.12.1-me")
    itself = name == "Image" or (profile == "aarch64-uefi" and name != "gzip" and not unpack)
    assert found.started_as == ("itself" if itself else "Image")
    assert (found.started == path) is itself
    assert itself or found.started.read_bytes().endswith(BANNER)


def test_an_x86_kernel_says_its_version_in_its_header(tmp_path: Path) -> None:
    """A bzImage is packed; nothing is unpacked only to learn that."""
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage())
    found = kernel_image(path, load_profile("x86_64-ovmf"), tmp_path, unpack=False)
    assert (found.form, found.version, found.started) == ("bzImage", "6.12.1-me", path)


def test_an_efi_program_is_no_kernel(tmp_path: Path) -> None:
    """It is started by firmware alone; elsewhere it is refused for what it is."""
    path = tmp_path / "hello.efi"
    path.write_bytes(portable(X86_64, {b".text": bytes(100)}))
    found = kernel_image(path, load_profile("x86_64-ovmf"), tmp_path, unpack=False)
    assert (found.form, found.started, found.version) == (EFI_PROGRAM, path, None)
    assert found.is_program
    for profile in ("x86_64-seabios", "x86_64-bare"):
        with pytest.raises(ApplianceError, match="it is an EFI program"):
            kernel_image(path, load_profile(profile), tmp_path, unpack=False)


def test_another_arch_is_refused(tmp_path: Path) -> None:
    """Before anything is started, with what to do."""
    path = tmp_path / "Image"
    path.write_bytes(arm_image())
    with pytest.raises(ApplianceError, match="aarch64 kernel on x86_64.*profile for aarch64"):
        kernel_image(path, load_profile("x86_64-ovmf"), tmp_path, unpack=False)


def test_an_elf_image_is_not_for_firmware(tmp_path: Path) -> None:
    """A vmlinux is refused with what to give instead; QEMU itself enters it."""
    path = tmp_path / "vmlinux"
    head = bytearray(0x800)
    head[:6] = b"\x7fELF\x02\x01"
    head[0x12:0x14] = (62).to_bytes(2, "little")
    path.write_bytes(bytes(head) + BANNER)
    with pytest.raises(ApplianceError, match="give its bzImage"):
        kernel_image(path, load_profile("x86_64-ovmf"), tmp_path, unpack=False)
    found = kernel_image(path, load_profile("x86_64-bare"), tmp_path, unpack=False)
    assert (found.form, found.started, found.version) == ("vmlinux", path, "6.12.1-me")


@pytest.mark.parametrize("data", [b"", b"not a kernel" * 400])
def test_what_is_no_kernel(tmp_path: Path, data: bytes) -> None:
    """Refused, with the file's name."""
    path = tmp_path / "README"
    path.write_bytes(data)
    with pytest.raises(ApplianceError, match="README"):
        kernel_image(path, load_profile("aarch64-uefi"), tmp_path, unpack=False)
