"""The initrd of a run: what the user gave, and on top of it one of ours, which runs the command and reports.

Ours is an archive of its own behind the others, not compressed: a kernel unpacks one after the other, and one that is
tried may lack any decompressor. All of it lies below /guestlaunch, so that it hides nothing of the user's.
"""

from __future__ import annotations

import io
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from orchestrator import files
from orchestrator.appliance.compression import CompressionError, unpacked
from orchestrator.appliance.guest_files import guest_file
from orchestrator.appliance.initrd import CpioEntry, read_cpio, write_cpio
from orchestrator.appliance.model import Appliance
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError, CapabilityError
from orchestrator.kernel.share import ShareBy

HOME = "guestlaunch"
INIT = f"/{HOME}/init"
_MARKERS = "marker.sh"
_BUSYBOX_OF_APPLIANCE = "bin/busybox"
_BUSYBOX_OF_HOST = ("/usr/bin/busybox", "/bin/busybox")
_ELF_MACHINES = {Arch.AARCH64: 183, Arch.X86_64: 62}
_PT_INTERP = 3
_ALIGNMENT = 4  # an archive begins at a multiple of it


def busybox(arch: Arch, appliance: Appliance | None) -> bytes:
    """Return a static busybox for an arch: that of our appliance, or the host's own.

    :raise CapabilityError: there is none.
    """
    if appliance is not None and appliance.markers:  # ours: others' initrds may have anything at that place
        try:
            for entry in read_cpio(unpacked(appliance.initrd.read_bytes())):
                if entry.name == _BUSYBOX_OF_APPLIANCE:
                    return entry.data
        except (OSError, ValueError, CompressionError) as error:
            raise ApplianceError("cannot read the appliance's initrd", appliance.initrd, error) from error
    for name in _BUSYBOX_OF_HOST:
        path = Path(name)
        data = path.read_bytes() if path.is_file() else b""
        if _is_static(data, arch):
            return data
    why = f"neither an appliance of ours nor a static one of the host's is there for {arch}"
    raise CapabilityError(
        "cannot make the builtin initrd", "busybox", why, f"guestlaunch appliance build --arch {arch} brings one"
    )


def _is_static(data: bytes, arch: Arch) -> bool:
    """Tell whether a program is an ELF image for an arch that needs no interpreter."""
    if data[:6] != b"\x7fELF\x02\x01" or int.from_bytes(data[18:20], "little") != _ELF_MACHINES[arch]:
        return False
    table, size, count = (
        int.from_bytes(data[at : at + length], "little") for at, length in ((32, 8), (54, 2), (56, 2))
    )
    kinds = (int.from_bytes(data[at : at + 4], "little") for at in range(table, table + size * count, size))
    return _PT_INTERP not in kinds


def archive(
    program: bytes, modules: Sequence[CpioEntry], *, number: str, command: Sequence[str], share: str | None,
    share_by: ShareBy = ShareBy.P9,
) -> bytes:  # fmt: skip
    """Return our archive for one run.

    :param program: the busybox.
    :param number: what is this run's alone (`orchestrator.channel.streams.Marks`).
    :param command: what is run; a shell on the console if empty.
    :param share: where the shared directory is to be, None without one; `share_by` how it comes there.
    """
    out = io.BytesIO()
    write_cpio(
        _entries(program, modules, run_file(number=number, command=command, share=share, share_by=share_by)), out
    )
    return out.getvalue()


def run_file(*, number: str, command: Sequence[str], share: str | None, share_by: ShareBy = ShareBy.P9) -> bytes:
    """Return the file by which /init knows what it is to run, as a shell reads it."""
    lines = [
        f"number={number}",
        f"share={share or ''}",
        f"share_by={share_by if share else ''}",
        f"directory={share or '/'}",
        f"interactive={'' if command else 'yes'}",
        f"set -- {shlex.join(command)}",
    ]
    return "\n".join([*lines, ""]).encode("utf-8", "surrogateescape")


def _entries(program: bytes, modules: Sequence[CpioEntry], run: bytes) -> Iterator[CpioEntry]:
    yield CpioEntry(name="dev", mode=stat.S_IFDIR | 0o755)
    yield CpioEntry(name="dev/console", mode=stat.S_IFCHR | 0o600, device=(5, 1))
    yield CpioEntry(name=HOME, mode=stat.S_IFDIR | 0o755)
    init = resources.files("orchestrator.kernel").joinpath("guest", "init").read_bytes()
    for name, mode, data in (
        ("busybox", 0o755, program),
        ("init", 0o755, init),
        (_MARKERS, 0o644, guest_file(_MARKERS)),
        ("run", 0o644, run),
    ):
        yield CpioEntry(name=f"{HOME}/{name}", mode=stat.S_IFREG | mode, data=data)
    yield from modules


def joined_size(initrds: Sequence[Path], own: bytes) -> int:
    """Return how large the initrd will be that `join` makes.

    :raise OSError: one of the files cannot be looked at.
    """
    total = 0
    for size in (*(path.stat().st_size for path in initrds), *([len(own)] if own else [])):
        total += -total % _ALIGNMENT + size
    return total


def join(initrds: Sequence[Path], own: bytes, target: Path) -> None:
    """Write the user's initrds and ours into one file, in this order.

    :raise OSError: one cannot be read, or the file not be written.
    """
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        for path in initrds:
            out.write(bytes(-out.tell() % _ALIGNMENT))
            with os.fdopen(files.open_image(path), "rb") as file:
                while block := file.read(1 << 20):
                    out.write(block)
        if own:
            out.write(bytes(-out.tell() % _ALIGNMENT))
            out.write(own)
