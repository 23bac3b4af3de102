"""The kinds of kernels, initrds and roots, told from their first bytes."""

from __future__ import annotations

import gzip
import uuid
from pathlib import Path

import pytest

from orchestrator.appliance.initrd import CpioEntry, write_cpio
from orchestrator.appliance.probe import check_initrd, kernel_arch, require_kernel_arch, root_format
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError


def arm64_image() -> bytes:
    data = bytearray(4096)
    data[:2] = b"MZ"
    data[0x38:0x3C] = b"ARM\x64"
    return bytes(data)


def x86_image() -> bytes:
    data = bytearray(4096)
    data[0x202:0x206] = b"HdrS"
    return bytes(data)


def efi_image(machine: int) -> bytes:
    data = bytearray(4096)
    data[:2] = b"MZ"
    data[0x3C:0x40] = (0x80).to_bytes(4, "little")
    data[0x80:0x84] = b"PE\0\0"
    data[0x84:0x86] = machine.to_bytes(2, "little")
    return bytes(data)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "arch"),
    [
        (arm64_image(), Arch.AARCH64),
        (x86_image(), Arch.X86_64),
        (b"\x7fELF\x02\x01" + bytes(12) + (62).to_bytes(2, "little") + bytes(4096), Arch.X86_64),
        (efi_image(0xAA64), Arch.AARCH64),
        (efi_image(0x8664), Arch.X86_64),
    ],
)
def test_kernel_arch(tmp_path: Path, data: bytes, arch: Arch) -> None:
    """Each kernel format names its arch."""
    assert kernel_arch(put(tmp_path / "kernel", data)) is arch


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", efi_image(0x1C0), bytes(4096)])
def test_no_kernel(tmp_path: Path, data: bytes) -> None:
    """What is no kernel of ours is refused by name."""
    with pytest.raises(ApplianceError, match="kernel"):
        kernel_arch(put(tmp_path / "kernel", data))


def test_compressed_kernel(tmp_path: Path) -> None:
    """The arch of a kernel in gzip is known from its beginning; what is no kernel is none in gzip either."""
    assert kernel_arch(put(tmp_path / "kernel", gzip.compress(arm64_image()))) is Arch.AARCH64
    with pytest.raises(ApplianceError, match="not an aarch64 or x86_64 Linux kernel"):
        kernel_arch(put(tmp_path / "kernel", gzip.compress(bytes(4096))))


def test_wrong_arch_names_both(tmp_path: Path) -> None:
    """An x86 kernel on aarch64 is refused in a line that names both."""
    path = put(tmp_path / "kernel", x86_image())
    with pytest.raises(ApplianceError, match="x86_64 kernel on aarch64"):
        require_kernel_arch(path, Arch.AARCH64)
    require_kernel_arch(path, Arch.X86_64)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is an error of ours that names it."""
    with pytest.raises(ApplianceError, match="no-such-kernel"):
        kernel_arch(tmp_path / "no-such-kernel")


def test_whole_cpio(tmp_path: Path) -> None:
    """A complete archive passes, with and without padding behind it."""
    path = tmp_path / "initrd"
    with path.open("wb") as out:
        write_cpio([CpioEntry(name="init", mode=0o100755, data=b"x" * 20000)], out)
    assert check_initrd(path) == "cpio"
    path.write_bytes(path.read_bytes() + bytes(512))
    assert check_initrd(path) == "cpio"


def test_truncated_cpio(tmp_path: Path) -> None:
    """An archive without its end is refused as truncated."""
    path = tmp_path / "initrd"
    with path.open("wb") as out:
        write_cpio([CpioEntry(name="init", mode=0o100755, data=b"x" * 20000)], out)
    path.write_bytes(path.read_bytes()[:15000])
    with pytest.raises(ApplianceError, match="truncated"):
        check_initrd(path)


def test_compressed_initrd(tmp_path: Path) -> None:
    """A compressed archive is known by its magic number."""
    assert check_initrd(put(tmp_path / "initrd", gzip.compress(b"070701"))) == "gzip"


@pytest.mark.parametrize("data", [b"", b"no archive at all"])
def test_no_initrd(tmp_path: Path, data: bytes) -> None:
    """An empty file and one of another kind are refused by name."""
    with pytest.raises(ApplianceError, match="initrd"):
        check_initrd(put(tmp_path / "initrd", data))


def test_root_kinds(tmp_path: Path) -> None:
    """An ext file system gives its UUID, a qcow2 image none, anything else is refused."""
    name = uuid.uuid4()
    data = bytearray(4096)
    data[0x438:0x43A] = b"\x53\xef"
    data[0x468:0x478] = name.bytes
    assert root_format(put(tmp_path / "root", bytes(data))) == ("raw", str(name))
    assert root_format(put(tmp_path / "root", b"QFI\xfb" + bytes(100))) == ("qcow2", None)
    with pytest.raises(ApplianceError, match="root"):
        root_format(put(tmp_path / "root", bytes(4096)))
