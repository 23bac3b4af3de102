"""Kernels as distributions pack them: each form is recognised, and the plain image comes out of it."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.appliance.kernel_form import Form, form, form_of, plain_image, plain_kernel, read_plain
from orchestrator.appliance.probe import kernel_arch
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError

AARCH64, X86_64 = 0xAA64, 0x8664


def image() -> bytes:
    """Return an arm64 Image: as far as anybody looks, its magic."""
    data = bytearray(os.urandom(20_000))
    data[:2] = b"MZ"
    data[0x38:0x3C] = b"ARM\x64"
    return bytes(data)


def bzimage() -> bytes:
    data = bytearray(20_000)
    data[:2] = b"MZ"
    data[0x202:0x206] = b"HdrS"
    return bytes(data)


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-cq"], input=data, capture_output=True, check=True).stdout


def portable(machine: int, sections: dict[bytes, bytes], head: bytes = b"") -> bytes:
    """Return a PE image with sections; its DOS header begins with `head`."""
    begin, optional = 0x40, 240
    data = bytearray(0x1000)
    data[:2] = b"MZ"
    data[4 : 4 + len(head)] = head
    struct.pack_into("<I", data, 0x3C, begin)
    data[begin : begin + 4] = b"PE\0\0"
    struct.pack_into("<HH", data, begin + 4, machine, len(sections))
    struct.pack_into("<H", data, begin + 20, optional)
    at = begin + 24 + optional
    for name, content in sections.items():
        stored = content + bytes(-len(content) % 512)
        struct.pack_into("<8sIIII", data, at, name, len(content), len(data), len(stored), len(data))
        data += stored
        at += 40
    return bytes(data)


def zboot(payload: bytes, kind: bytes, *, machine: int = AARCH64) -> bytes:
    """Return an EFI zboot image as Linux's build makes it: the payload, and behind it the size that the linker adds."""
    made = bytearray(portable(machine, {b".text": bytes(100)}, b"zimg"))
    struct.pack_into("<II", made, 8, len(made), len(payload))
    made[24 : 24 + len(kind)] = kind
    return bytes(made) + payload + struct.pack("<I", 12345)


def unified(kernel: bytes, *, machine: int = AARCH64, initrd: bool = True) -> bytes:
    """Return a unified kernel image, as systemd's ukify makes it."""
    sections = {b".text": bytes(700), b".osrel": b"ID=fedora\n", b".cmdline": b"root=/dev/sda", b".linux": kernel}
    return portable(machine, sections | ({b".initrd": bytes(900)} if initrd else {}))


FORMS: dict[str, tuple[Callable[[], tuple[bytes, Callable[[bytes], bytes]]], Form]] = {
    "gzip": (lambda: (image(), gzip.compress), Form.GZIP),
    "zboot, gzip": (lambda: (image(), lambda data: zboot(gzip.compress(data), b"gzip")), Form.ZBOOT),
    "zboot, zstd": (lambda: (image(), lambda data: zboot(zstd(data), b"zstd")), Form.ZBOOT),
    "unified": (lambda: (image(), unified), Form.UNIFIED),
    "unified, zboot": (lambda: (image(), lambda data: unified(zboot(zstd(data), b"zstd"))), Form.UNIFIED),
    "unified for x86": (lambda: (bzimage(), lambda data: unified(data, machine=X86_64)), Form.UNIFIED),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form(name: str, tmp_path: Path) -> None:
    """It is told by its head, its arch is known without unpacking it, and what was packed comes out byte for byte."""
    make, wanted = FORMS[name]
    plain, pack = make()
    path = tmp_path / "vmlinuz"
    path.write_bytes(pack(plain))
    assert form_of(path) is wanted
    assert kernel_arch(path) is (Arch.X86_64 if "x86" in name else Arch.AARCH64)
    assert read_plain(path) == plain


@pytest.mark.parametrize(
    "plain",
    [image(), bzimage(), b"\x7fELF" + bytes(100), b"MZ", b"", b"MZ\0\0zimg", bytes(range(60, 120))],
    ids=["Image", "bzImage", "vmlinux", "two bytes", "empty", "cut off", "nothing"],
)
def test_plain_ones(plain: bytes, tmp_path: Path) -> None:
    """What is plain already is not read to its end; what is nothing of the kind is left to those who judge it."""
    (tmp_path / "vmlinuz").write_bytes(plain)
    assert form(plain) is Form.PLAIN
    assert read_plain(tmp_path / "vmlinuz") is None
    assert plain_kernel(tmp_path / "vmlinuz", tmp_path / "cache") == tmp_path / "vmlinuz"
    assert not (tmp_path / "cache").exists()


def test_unpacked_once(tmp_path: Path) -> None:
    """The plain image is kept, found again, and made anew when the kernel is another."""
    path, plain = tmp_path / "vmlinuz", image()
    path.write_bytes(gzip.compress(plain))
    kept = plain_kernel(path, tmp_path / "cache")
    assert kept.read_bytes() == plain
    made = kept.stat().st_mtime_ns
    assert plain_kernel(path, tmp_path / "cache") == kept
    assert kept.stat().st_mtime_ns == made
    path.unlink()
    path.write_bytes(gzip.compress(plain + bytes(1000)))
    assert plain_kernel(path, tmp_path / "cache").read_bytes() == plain + bytes(1000)


def test_unused_are_forgotten(tmp_path: Path) -> None:
    """An image that no launch used for a month goes when another is unpacked; one in use stays, however old it is."""
    folder, kept = tmp_path / "cache", []
    for number in range(3):
        path = tmp_path / f"vmlinuz-{number}"
        path.write_bytes(gzip.compress(image()))
        kept.append(plain_kernel(path, folder))
        os.utime(kept[-1], (1e9, 1e9))  # 2001
        if number == 1:
            assert plain_kernel(tmp_path / "vmlinuz-1", folder) == kept[1]
    assert [one.exists() for one in kept] == [False, True, True]
    assert kept[1].stat().st_mtime == 1e9


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x1f\x8b" + os.urandom(500), "cannot unpack the kernel"),
        (gzip.compress(image())[:-9], "truncated: what is packed"),
        (zboot(lzma.compress(image())[:-9], b"xzkern"), "truncated: what is packed"),
        (zboot(b"LZO!" + bytes(100), b"lzo"), r"unknown compression: 4c5a4f21 \(it says lzo\)"),
        (zboot(gzip.compress(image()), b"gzip")[:9000], "truncated: its packed image"),
        (zboot(b"\x28\xb5\x2f\xfd" + bytes(100), b"zstd"), "damaged"),
        (unified(image())[:9000], r"truncated: its section \.linux"),
        (unified(unified(unified(unified(unified(image()))))), "packed more than 4 times"),
    ],
    ids=["gzip", "gzip cut off", "xz cut off", "unknown", "cut off", "zstd", "unified cut off", "nested"],
)
def test_damaged(data: bytes, why: str, tmp_path: Path) -> None:
    """What is damaged is named, with the reason."""
    (tmp_path / "vmlinuz").write_bytes(data)
    with pytest.raises(ApplianceError, match=why):
        read_plain(tmp_path / "vmlinuz")


def test_any_head() -> None:
    """Bytes of any kind behind the magics are an error at worst, never a crash."""
    for start in (b"MZ\0\0zimg", b"MZ", b"\x1f\x8b\x08", portable(AARCH64, {b".linux": b""})[:0x100]):
        for length in (0, 1, 30, 60, 64, 70, 300, 0x400, 0x1200):
            data = bytearray(start + os.urandom(length))
            if len(data) > 0x44:
                struct.pack_into("<I", data, 0x3C, 0x40)
            try:
                plain_image(bytes(data))
            except ValueError:
                continue


@pytest.mark.timeout(60)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A kernel that is no file is one clear error."""
    os.mkfifo(tmp_path / "vmlinuz")
    for look in (form_of, read_plain):
        with pytest.raises(ApplianceError, match="neither a file nor a block device"):
            look(tmp_path / "vmlinuz")
