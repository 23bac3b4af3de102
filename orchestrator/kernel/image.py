"""A kernel's file: which form it has, what of it is started by each kind of machine, and which Linux it says it is."""

from __future__ import annotations

import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path

from orchestrator import files
from orchestrator.appliance import vmlinux
from orchestrator.appliance.kernel_form import Form, form_of, plain_kernel
from orchestrator.appliance.probe import require_kernel_arch
from orchestrator.domain.model import Arch, FirmwareKind, Profile
from orchestrator.errors import ApplianceError

_BANNER = re.compile(rb"Linux version (\S{1,128}) ")
EFI_PROGRAM = "EFI program"
_NAMES = {Form.GZIP: "Image packed by gzip", Form.ZBOOT: "EFI zboot image", Form.UNIFIED: str(Form.UNIFIED)}
_VERSION_AT, _SETUP_BYTES = 0x20E, 0x200


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelImage:
    """A kernel as it is started.

    :ivar given: the file that the user named, and `form` what it is.
    :ivar started: the file that is started: that one, or what was unpacked from it; `started_as` says which.
    :ivar version: what Linux says of itself in it; None where nothing is found, as in other programs.
    """

    given: Path
    form: str
    started: Path
    started_as: str
    version: str | None

    @property
    def is_program(self) -> bool:
        """Whether it is no kernel at all."""
        return self.form == EFI_PROGRAM


def kernel_image(path: Path, profile: Profile, cache: Path, *, unpack: bool) -> KernelImage:
    """Return what is started for a kernel's file.

    The firmware gets the file itself wherever it can start it, since that is what is tried. What only a boot loader
    would unpack (gzip), and what QEMU's own stub cannot start, is unpacked on the host, once.

    :param unpack: anything that is packed is.
    :raise ApplianceError: it is damaged, for another arch, or nothing that this profile could start.
    """
    require_kernel_arch(path, profile.arch)
    form = form_of(path)
    name = _NAMES.get(form) or _plain_name(path)
    uefi = profile.firmware is FirmwareKind.UEFI
    if name == EFI_PROGRAM and not uefi:
        _refuse(path, profile, "it is an EFI program, and no kernel", "use a profile with UEFI firmware")
    if name == "vmlinux" and profile.firmware is not FirmwareKind.NONE:
        _refuse(
            path, profile, "it is an ELF image, which firmware cannot start", "give its bzImage, or use x86_64-bare"
        )
    plain = plain_kernel(path, cache)
    version = None if name == EFI_PROGRAM else _version(plain)
    if (profile.arch, profile.firmware) == (Arch.X86_64, FirmwareKind.NONE):
        started, started_as = _elf(plain, profile, cache)
        return KernelImage(given=path, form=name, started=started, started_as=started_as, version=version)
    itself = form is Form.PLAIN or (uefi and form is not Form.GZIP and not unpack)
    return KernelImage(
        given=path,
        form=name,
        started=path if itself else plain,
        started_as="itself" if itself else _plain_name(plain),
        version=version,
    )


def _refuse(path: Path, profile: Profile, why: str, hint: str) -> None:
    raise ApplianceError(f"cannot start the kernel with profile {profile.name}", path, why, hint)


def _plain_name(path: Path) -> str:
    """Return what a file is that is not packed."""
    with os.fdopen(files.open_image(path), "rb") as file:
        head = file.read(0x210)
    if head[0x38:0x3C] == b"ARM\x64":
        return "Image"
    if head[0x202:0x206] == b"HdrS":
        return "bzImage"
    return "vmlinux" if head.startswith(b"\x7fELF") else EFI_PROGRAM


def _elf(plain: Path, profile: Profile, cache: Path) -> tuple[Path, str]:
    """Return the ELF image of an x86 kernel, which QEMU itself can enter, and what it is called."""
    if _plain_name(plain) == "vmlinux":
        return plain, "itself"
    status = plain.stat()
    kept = cache / f"vmlinux-{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    if not kept.exists():
        image = vmlinux.unpack_kernel(plain)
        if not vmlinux.startable(image):
            _refuse(plain, profile, "it has no PVH entry (CONFIG_PVH)", "use x86_64-seabios or x86_64-ovmf")
        cache.mkdir(parents=True, exist_ok=True)
        files.write_whole(kept, image)
    return kept, "vmlinux"


def _version(plain: Path) -> str | None:
    """Return the version in a kernel's banner, or in the header of a bzImage."""
    with os.fdopen(files.open_image(plain), "rb") as file:
        head = file.read(0x210)
        if head[0x202:0x206] == b"HdrS":
            at = int.from_bytes(head[_VERSION_AT : _VERSION_AT + 2], "little")
            if not at:
                return None
            file.seek(at + _SETUP_BYTES)
            words = file.read(128).split(b"\0")[0].split()
            return words[0].decode("utf-8", "replace") if words else None
        if os.fstat(file.fileno()).st_size == 0:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = _BANNER.search(content)
            return found.group(1).decode("utf-8", "replace") if found else None
