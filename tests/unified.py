"""Makes unified kernel images as systemd's ukify does: of its stub, and sections behind the stub's own."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from orchestrator.domain.model import Arch

_STUBS = {Arch.AARCH64: "linuxaa64.efi.stub", Arch.X86_64: "linuxx64.efi.stub"}
_PAGE, _SECTION = 4096, 40
_READABLE_DATA = 0x40000040


def stub_of(arch: Arch, folder: Path = Path("/usr/lib/systemd/boot/efi")) -> Path:
    """Return where the package systemd-boot-efi has the stub of an architecture."""
    return folder / _STUBS[arch]


def unify(stub: bytes, sections: Mapping[str, bytes]) -> bytes:
    """Return the stub with sections: `.linux`, `.cmdline`, `.initrd`, `.osrel`."""
    data = bytearray(stub)
    (begin,) = struct.unpack_from("<I", data, 0x3C)
    count, optional = (struct.unpack_from("<H", data, begin + at)[0] for at in (6, 20))
    header = begin + 24
    table = header + optional
    alignment, file_alignment = struct.unpack_from("<II", data, header + 32)
    (room,) = struct.unpack_from("<I", data, header + 60)
    end = max(sum(struct.unpack_from("<II", data, table + _SECTION * number + 8)) for number in range(count))
    for name, content in sections.items():
        data += bytes(-len(data) % file_alignment)
        at, stored = _up(end, _PAGE), _up(len(content), file_alignment)
        fields = (name.encode(), len(content), at, stored, len(data), 0, 0, 0, 0, _READABLE_DATA)
        struct.pack_into("<8sIIIIIIHHI", data, table + _SECTION * count, *fields)
        data += content.ljust(stored, b"\0")
        end, count = at + len(content), count + 1
    assert table + _SECTION * count <= room
    struct.pack_into("<H", data, begin + 6, count)
    struct.pack_into("<I", data, header + 56, _up(end, alignment))
    return bytes(data)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
