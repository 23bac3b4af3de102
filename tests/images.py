"""Makes images, good and bad ones, for the tests of what an untrusted image may do; most of them byte by byte."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
CANARY = b"CANARY: nobody may read this"
_IN_ACCESS, _IN_OPEN = 1, 0x20


def qcow2(
    backing: str = "", *, backing_format: str = "", data: str = "", size: int = MIB, version: int = 3,
    cluster_bits: int = 16, features: int | None = None, name_length: int | None = None, name_offset: int | None = None,
    extension_length: int | None = None,
) -> bytes:  # fmt: skip
    """Return the header of a qcow2 image, right or wrong in one point."""
    extensions = b""
    for kind, text in ((0xE2792ACA, backing_format), (0x44415441, data)):
        if text:
            value = os.fsencode(text)
            length = len(value) if extension_length is None else extension_length
            extensions += struct.pack(">II", kind, length) + value.ljust((len(value) + 7) // 8 * 8, b"\0")
    extensions += bytes(8)
    length = 104 if version == 3 else 72
    offset = (length + len(extensions) if backing else 0) if name_offset is None else name_offset
    size_of_name = len(os.fsencode(backing)) if name_length is None else name_length
    start = struct.pack(">4sIQIIQ", b"QFI\xfb", version, offset, size_of_name, cluster_bits, size)
    rest = struct.pack(">IIQQIIQ", 0, 1, 3 << 16, 1 << 16, 1, 0, 0)
    if version == 3:
        flags = (4 if data else 0) if features is None else features
        rest += struct.pack(">QQQII", flags, 0, 0, 4, 104)
    return (start + rest + extensions + os.fsencode(backing)).ljust(4 << 16, b"\0")


def qcow(backing: str = "", size: int = MIB) -> bytes:
    """Return the header of an image of qcow, version 1."""
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", 1, 48 if backing else 0, len(backing), 0, size)
    return (head + struct.pack(">BBHIQ", 12, 9, 0, 0, 64) + backing.encode()).ljust(MIB, b"\0")


def qed(backing: str = "", *, raw: bool = True, size: int = MIB) -> bytes:
    """Return the header of a QED image."""
    features = (1 | (4 if raw else 0)) if backing else 0
    head = struct.pack("<4sIIIQQQQQII", b"QED\0", 65536, 4, 1, features, 0, 0, 65536, size, 64, len(backing))
    return (head + backing.encode()).ljust(MIB, b"\0")


def vmdk_descriptor(*extents: str, parent: str = "", kind: str = "monolithicFlat") -> bytes:
    """Return a VMDK descriptor; extents are lines."""
    hint = f'parentFileNameHint="{parent}"\n' if parent else ""
    lines = "".join(f"{extent}\n" for extent in extents)
    return f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n{hint}createType="{kind}"\n{lines}'.encode()


def vmdk_sparse(*, parent: str = "", sectors: int = 2048, descriptor: bytes = b"") -> bytes:
    """Return a VMDK image of one file, or one whose descriptor inside names others (sectors 0)."""
    head = struct.pack("<4sIIQQQQIQQQ", b"KDMV", 1, 3, sectors, 128, 1, 20, 512, 21, 26, 128)
    text = descriptor or vmdk_descriptor(parent=parent, kind="monolithicSparse")
    return (head.ljust(512, b"\0") + text).ljust(MIB, b"\0")


def vdi(*, parent: bool = False, kind: int = 1, size: int = MIB) -> bytes:
    """Return the header of a VDI image."""
    head = bytearray(512)
    struct.pack_into("<III", head, 0x40, 0xBEDA107F, 0x10001, 400)
    struct.pack_into("<I", head, 0x4C, kind)
    struct.pack_into("<Q", head, 0x170, size)
    head[0x1B8:0x1C8] = bytes(15) + bytes([parent])
    return bytes(head).ljust(MIB, b"\0")


def vhd(*, kind: int = 3, parent: str = "", size: int = MIB, at_end: bool = False) -> bytes:
    """Return a VHD image: QEMU's vpc."""
    footer = struct.pack(
        ">8sIIQ4x4s4s4sQQ4xI", b"conectix", 2, 0x10000, 512, b"win ", b"\0\1\0\0", b"Wi2k", size, size, kind
    )
    dynamic = b"cxsparse".ljust(64, b"\0") + parent.encode("utf-16-be")
    if at_end:
        return bytes(MIB) + footer.ljust(512, b"\0")
    return (footer.ljust(512, b"\0") + dynamic).ljust(MIB, b"\0")


def vhdx(*, flags: int = 0, size: int = MIB) -> bytes:
    """Return a VHDX image with what a reader looks at."""
    image = bytearray(2 * MIB)
    image[:8] = b"vhdxfile"
    metadata, size_id, file_id = (
        bytes.fromhex(text)
        for text in (
            "06a27c8b90479a4bb8fe575f050f886e",
            "2442a52f1bcd7648b2115dbed83bf4b8",
            "3767a1ca36fa434db3b633f0aa44e76b",
        )
    )
    struct.pack_into("<4sIII16sQII", image, 192 * 1024, b"regi", 0, 1, 0, metadata, MIB, MIB, 1)
    struct.pack_into("<8sHH", image, MIB, b"metadata", 0, 2)
    struct.pack_into("<16sIII", image, MIB + 32, size_id, 65536, 8, 0)
    struct.pack_into("<16sIII", image, MIB + 64, file_id, 65544, 8, 0)
    struct.pack_into("<QII", image, MIB + 65536, size, MIB, flags)
    return bytes(image)


@dataclass(slots=True)
class Watched:
    """A file that nobody may open, and sockets that nobody may connect to."""

    canary: Path
    tcp: socket.socket
    unix: socket.socket
    _inotify: int

    @property
    def port(self) -> int:
        """The port that listens on localhost."""
        return int(self.tcp.getsockname()[1])

    def touched(self) -> list[str]:
        """Return what has been touched since the last call."""
        found = []
        try:
            os.read(self._inotify, 65536)
            found.append("the canary was opened")
        except BlockingIOError:
            pass
        for listener in (self.tcp, self.unix):
            try:
                listener.accept()[0].close()
                found.append("a connection was made")
            except BlockingIOError:
                pass
        return found


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Make a canary and listeners outside of where images may look, and watch them."""
    folder.mkdir(exist_ok=True)
    canary = folder / "canary"
    canary.write_bytes(CANARY.ljust(MIB, b"."))
    libc = ctypes.CDLL(None, use_errno=True)
    inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert inotify >= 0
    assert libc.inotify_add_watch(inotify, os.fsencode(canary), _IN_ACCESS | _IN_OPEN) >= 0
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.fspath(folder / "s"))
        unix.listen()
        for listener in (tcp, unix):
            listener.setblocking(False)
        yield Watched(canary, tcp, unix, inotify)
    os.close(inotify)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An image, what it is said to be, and what is said of it: part of the refusal, empty where it is allowed."""

    name: str
    content: bytes
    format: str | None
    says: str = ""
    link: str = ""  # it is a symbolic link to that, and has no content
    more: tuple[tuple[str, bytes], ...] = ()  # other files beside it


def bad_images(w: Watched) -> list[Case]:
    """Return images that an untrusted policy must refuse, each with a part of the reason."""
    outside, far = str(w.canary), f"nbd:127.0.0.1:{w.port}"
    near = os.path.relpath(w.canary, w.canary.parents[1] / "images")
    json_far = f'json:{{"driver":"raw","file":{{"driver":"nbd","host":"127.0.0.1","port":"{w.port}"}}}}'
    json_near = f"json:{{'driver':'raw','file.driver':'file','file.filename':'{outside}'}}"
    unix = f"nbd+unix:///?socket={w.canary.parent}/s"
    not_below, no_file = "is not below", "is no local file"
    flat = f'RW 2048 FLAT "{outside}" 0'
    deep = tuple((f"d{i}", qcow2(f"d{i + 1}", backing_format="qcow2")) for i in range(1, 20))

    def case(name: str, content: bytes, says: str, image_format: str | None = "qcow2", **more: object) -> Case:
        return Case(name=name, content=content, format=image_format, says=says, **more)  # type: ignore[arg-type]

    return [
        case("absolute", qcow2(outside, backing_format="raw"), not_below),
        case("dotdot", qcow2(near, backing_format="raw"), not_below),
        case("no-format", qcow2(outside), not_below),
        case("version-2", qcow2(outside, backing_format="raw", version=2), not_below),
        case("by-file", qcow2(f"file:{outside}", backing_format="raw"), not_below),
        case("by-json", qcow2(json_near, backing_format="raw"), not_below),
        case("by-json-without-format", qcow2(json_near), not_below),
        case("link", qcow2("l", backing_format="raw"), not_below, more=(("l", b"->" + os.fsencode(outside)),)),
        case("link-to-folder", qcow2("f/canary", backing_format="raw"), not_below,
             more=(("f", b"->" + os.fsencode(w.canary.parent)),)),
        case("second-level", qcow2("m", backing_format="qcow2"), not_below,
             more=(("m", qcow2(outside, backing_format="raw")),)),
        case("data", qcow2(data=outside), not_below),
        case("data-by-file", qcow2(data=f"file:{outside}"), not_below),
        case("data-by-json", qcow2(data=json_near), not_below),
        case("data-far", qcow2(data=far), no_file),
        case("data-of-backing", qcow2("m", backing_format="qcow2"), not_below, more=(("m", qcow2(data=outside)),)),
        case("data-nowhere", qcow2(features=4), "does not say in which"),
        case("nbd", qcow2(far, backing_format="raw"), no_file),
        case("nbd-uri", qcow2(f"nbd://127.0.0.1:{w.port}/x", backing_format="raw"), no_file),
        case("nbd-unix", qcow2(unix, backing_format="raw"), no_file),
        case("nbd-json", qcow2(json_far, backing_format="raw"), no_file),
        case("http", qcow2(f"http://127.0.0.1:{w.port}/x", backing_format="raw"), no_file),
        case("ssh", qcow2(f"ssh://127.0.0.1:{w.port}/x", backing_format="raw"), no_file),
        case("fat", qcow2(f"fat:rw:{w.canary.parent}", backing_format="raw"), no_file),
        case("blkdebug", qcow2(f"blkdebug::{outside}", backing_format="raw"), no_file),
        case("json-of-two", qcow2(
            'json:{"driver":"quorum","vote-threshold":1,"children":[{"driver":"file","filename":"m"},'
            f'{{"driver":"file","filename":"{outside}"}}]}}', backing_format="raw"), no_file),
        case("json-broken", qcow2('json:{"driver":', backing_format="raw"), no_file),
        case("json-deep", qcow2("json:" + '{"a":' * 100 + "1" + "}" * 100, backing_format="raw"), no_file),
        case("protocol-for-format", qcow2("m", backing_format="nbd"), "of format nbd", more=(("m", b""),)),
        case("guessed-below", qcow2("m"), "header says qcow2", more=(("m", qcow2(outside)),)),
        case("guessed", qcow2(outside), "header says qcow2", None),
        case("guessed-qed", qed(outside), "header says qed", None),
        case("guessed-vmdk", vmdk_descriptor(flat), "header says vmdk", None),
        case("guessed-luks", b"LUKS\xba\xbe".ljust(MIB, b"\0"), "header says luks", None),
        case("guessed-vhd", vhd(at_end=True), "header says vpc", None),
        case("guessed-dmg", bytes(MIB) + b"koly".ljust(512, b"\0"), "header says dmg", None),
        case("other-format", b"LUKS\xba\xbe".ljust(MIB, b"\0"), "of format luks", "luks"),
        case("no-such-format", bytes(MIB), "of format ../x", "../x"),
        case("not-qcow2", bytes(MIB), "no qcow2 header"),
        case("too-large", qcow2(size=1 << 62), "image_max_gib"),
        case("too-large-below", qcow2("m", backing_format="qcow2"), "image_max_gib",
             more=(("m", qcow2(size=1 << 62)),)),
        case("too-deep", qcow2("d1", backing_format="qcow2"), "longer than", more=deep),
        case("loop", qcow2("loop", backing_format="qcow2"), "longer than"),
        case("cut-off", qcow2()[:60], "cut off"),
        case("version-4", qcow2(version=4), "version 4"),
        case("cluster-bits", qcow2(cluster_bits=60), "cluster size"),
        case("name-too-long", qcow2("m", name_length=1 << 31), "too long"),
        case("name-behind-the-end", qcow2("m", name_offset=1 << 40), "cut off"),
        case("name-at-2-64", qcow2("m", name_offset=(1 << 64) - 1), "cut off"),
        case("extension-too-long", qcow2("m", backing_format="raw", extension_length=1 << 31), "extension is too long"),
        case("qcow", qcow(outside), not_below, "qcow"),
        case("qed", qed(outside), not_below, "qed"),
        case("qed-far", qed(far), no_file, "qed"),
        case("vmdk-extent", vmdk_descriptor(flat), not_below, "vmdk"),
        case("vmdk-relative-extent", vmdk_descriptor(f'RW 2048 FLAT "{near}" 0'), not_below, "vmdk"),
        case("vmdk-parent", vmdk_sparse(parent=outside), not_below, "vmdk"),
        case("vmdk-descriptor-parent", vmdk_descriptor('RW 1 FLAT "m" 0', parent=outside), not_below, "vmdk",
             more=(("m", bytes(512)),)),
        case("vmdk-inner-descriptor", vmdk_sparse(sectors=0, descriptor=vmdk_descriptor(flat)), not_below, "vmdk"),
        case("vmdk-extents-in-extents", vmdk_descriptor('RW 9 SPARSE "m"'), "in its turn", "vmdk",
             more=(("m", vmdk_sparse(sectors=0, descriptor=vmdk_descriptor(flat))),)),
        *(
            case(f"vmdk-odd-extent-{number}", vmdk_descriptor('RW 1 FLAT "m" 0', odd), "not understood", "vmdk",
                 more=(("m", bytes(512)),))
            for number, odd in enumerate((
                f'RW +2048 FLAT "{outside}" 0', f'RW {"0" * 20}2048 FLAT "{outside}" 0', f'RW\n2048 FLAT "{outside}" 0',
                f'RW 2048 VMFSSPARSE"{outside}"', f'\vRW 2048 FLAT "{outside}" 0', f' RW 2048 FLAT "{outside}" 0',
                f'RW 2048 FLAT\n"{outside}" 0', f'\rRW 2048 FLAT "{outside}" 0', f'RW 2048 FLAT "{outside}" +0',
                "NOACCESS 1 ZERO",
            ))
        ),
        case("vmdk-without-extent", vmdk_descriptor(), "no extent", "vmdk"),
        case("vmdk-many-extents", vmdk_descriptor(*['RW 1 FLAT "m" 0'] * 100), "more than", "vmdk"),
        case("vdi-parent", vdi(parent=True), "difference", "vdi"),
        case("vdi-differencing", vdi(kind=4), "difference", "vdi"),
        case("vhd-parent", vhd(kind=4, parent=outside), "difference", "vpc"),
        case("vhdx-parent", vhdx(flags=2), "difference", "vhdx"),
        case("itself-a-link", b"", not_below, "raw", link=outside),
        case("link-to-itself", b"", "cannot be opened", "raw", link="link-to-itself"),
        case("device", b"", not_below, "raw", link="/dev/zero"),
        case("proc", b"", not_below, "raw", link="/proc/self/environ"),
    ]  # fmt: skip


def good_images() -> list[Case]:
    """Return images that are allowed, of every kind that a header can be read of."""
    below = (("m", bytes(MIB)),)
    return [
        Case(name="raw", content=bytes(MIB), format="raw"),
        Case(name="raw-unsaid", content=bytes(MIB), format=None),
        Case(name="empty", content=b"", format="raw"),
        Case(name="raw-that-looks-like-qcow2", content=qcow2("/etc/passwd"), format="raw"),
        Case(name="good-qcow2", content=qcow2(), format="qcow2"),
        Case(name="good-backing", content=qcow2("m", backing_format="raw"), format="qcow2", more=below),
        Case(name="good-json", content=qcow2("json:{'driver':'raw','file':{'driver':'file','filename':'m'}}"),
             format="qcow2", more=below),
        Case(name="good-file", content=qcow2("file:m"), format="qcow2", more=below),
        Case(name="good-data", content=qcow2(data="m"), format="qcow2", more=below),
        Case(name="good-link", content=b"", format="raw", link="m", more=below),
        Case(name="good-qcow", content=qcow(), format="qcow"),
        Case(name="good-qed", content=qed("m"), format="qed", more=below),
        Case(name="good-vmdk", content=vmdk_sparse(), format="vmdk"),
        Case(name="good-vmdk-flat", content=vmdk_descriptor('RW 2048 FLAT "m" 0'), format="vmdk", more=below),
        Case(name="good-vdi", content=vdi(), format="vdi"),
        Case(name="good-vhd", content=vhd(), format="vpc"),
        Case(name="good-vhdx", content=vhdx(), format="vhdx"),
    ]  # fmt: skip


def put(case: Case, folder: Path) -> Path:
    """Write a case's files into a directory, and return the image's path."""
    for name, content in ((case.name, b"->" + os.fsencode(case.link) if case.link else case.content), *case.more):
        path = folder / name
        path.unlink(missing_ok=True)
        if content.startswith(b"->"):
            path.symlink_to(os.fsdecode(content[2:]))
        else:
            path.write_bytes(content)
    return folder / case.name


def qemu_reads(options: str, cwd: Path) -> str:
    """Return what QEMU's block layer says when it is to open and read a disk; empty when all is well."""
    command = ["qemu-io", "--image-opts", "-r", "-c", "read 0 512", options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)
    return run.stdout + run.stderr if run.returncode or "read failed" in run.stdout else ""
