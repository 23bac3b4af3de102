"""What a VM is asked to be, as values, and the digest by which a second request for the same is known."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from orchestrator.domain.model import Arch, GraphicsKind, Interface, InterfaceKind
from orchestrator.errors import UsageError
from orchestrator.images.apart import Named
from orchestrator.vm.customization import Customization

_UNITS = {"": 1, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_VOLUME = "vol="
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,54}")


class ReadySign(StrEnum):
    """By what a VM is known to be ready."""

    ANY = "any"  # the first of the record, the agent and the prompt
    RECORD = "record"  # the line guestlaunch-ready on the control port
    AGENT = "agent"  # the guest agent has opened its port
    LOGIN = "login"  # a login prompt on the serial console
    SSH = "ssh"  # an ssh server answers
    NONE = "none"  # it is not waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolVolume:
    """A volume of a storage pool of libvirt's, as an image."""

    pool: str
    name: str

    def __str__(self) -> str:
        return f"{_VOLUME}{self.pool}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmRequest:
    """One VM. Paths are absolute.

    :ivar image: what its disk is made of, which stays as it is. The disk of a volume's is a volume of the same pool.
    :ivar image_format: the image's; None where its header is to tell.
    :ivar arch: which architecture the image is for, where that cannot be looked up, or there are several.
    :ivar copy: the disk is a copy of the image, not an overlay over it.
    :ivar size_bytes: how large the disk is to be; as large as the image if None.
    :ivar graphics: it has a display, to be looked at so.
    :ivar nvram: the firmware's variables to begin with; the firmware's own if None.
    :ivar network: user, none, network=NAME or bridge=NAME.
    :ivar customization: what is changed on its disk before it boots.
    :ivar ready: by what it is known to be ready, within `timeout_s`.
    """

    name: str
    image: Path | PoolVolume
    image_format: str | None = None
    arch: Arch | None = None
    copy: bool = False
    size_bytes: int | None = None
    memory_mib: int | None = None
    vcpus: int | None = None
    network: str = "user"
    graphics: GraphicsKind | None = None
    nvram: Path | None = None
    customization: Customization = field(default_factory=Customization)
    ready: ReadySign = ReadySign.ANY
    timeout_s: float = 600.0

    def check(self) -> None:
        """Refuse what cannot work, whatever the host.

        :raise UsageError: says which part of it.
        """
        check_name(self.name)
        if isinstance(self.image, PoolVolume) and self.nvram is not None:
            why = "libvirt makes the variables of a VM whose disk is in a storage pool"
            raise UsageError("cannot use", f"--nvram {self.nvram}", why)
        if self.nvram is not None and not (self.nvram.is_file() and os.access(self.nvram, os.R_OK)):
            raise UsageError("cannot use", f"--nvram {self.nvram}", "it is no file that is there and can be read")
        self.interface()
        if self.network == "none" and self.ready is ReadySign.SSH:
            raise UsageError("options exclude each other", "--ready ssh", "with --network none")
        self.customization.check()

    def named(self) -> list[Named]:
        """Return the files that it is made of, with the options that name them."""
        wanted = self.customization
        named = [("--image", self.image if isinstance(self.image, Path) else None), ("--nvram", self.nvram)]
        named += [("--cloud-init", wanted.cloud_init), *(("--ssh-key", path) for path in wanted.ssh_keys)]
        named += [("--copy-in", path) for path, _ in wanted.copy_in]
        return [(what, path) for what, path in named if path is not None]

    def interface(self) -> Interface | None:
        """Return its network interface.

        :raise UsageError: `network` is of no known form.
        """
        kind, _, source = self.network.partition("=")
        if self.network == "none":
            return None
        if self.network == "user":
            return Interface(kind=InterfaceKind.USER)
        if kind not in {"network", "bridge"} or not source:
            raise UsageError(
                "cannot understand", f"--network {self.network}", "user, none, network=NAME or bridge=NAME"
            )
        return Interface(kind=InterfaceKind(kind), source=source)

    def specification(self) -> dict[str, object]:
        """Return what makes it this VM and no other, JSON-ready: all but how it is waited for."""
        said = asdict(self)
        said |= {"image": str(self.image), **said.pop("customization")}
        told = {key: value for key, value in said.items() if key not in {"ready", "timeout_s"}}
        return {key: _plain(value) for key, value in told.items() if value not in {None, ()}}

    def digest(self) -> str:
        """Return the digest of the specification."""
        return hashlib.sha256(json.dumps(self.specification(), sort_keys=True).encode()).hexdigest()

    @property
    def awaited(self) -> ReadySign:
        """What is waited for: of a disk that got the readiness unit, that unit's word."""
        return ReadySign.RECORD if self.ready is ReadySign.ANY and self.customization.offline else self.ready


def check_name(name: str) -> None:
    """Refuse what names no VM of ours: the name is that of a folder, too.

    :raise UsageError: says what names them.
    """
    if _NAME.fullmatch(name) is None:
        why = "letters, digits, dots, dashes and underscores, at most 55, the first one a letter or digit"
        raise UsageError("bad name of a VM", name, why)


def path_of(text: str, folder: Path) -> Path:
    """Return the file that a text names from a folder; a ~ is as a shell has it, which leaves what is no user's."""
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        return folder / text


def image_of(text: str, folder: Path) -> Path | PoolVolume:
    """Return the image that a text names: vol=POOL/VOLUME, as virt-install has it, or a file from a folder.

    :raise ValueError: it begins like a volume, and is none.
    """
    if not text.startswith(_VOLUME):
        return path_of(text, folder)
    pool, slash, name = text.removeprefix(_VOLUME).partition("/")
    if not pool or not slash or not name or "/" in name:
        raise ValueError(f"a file, or {_VOLUME}POOL/VOLUME")
    return PoolVolume(pool=pool, name=name)


def size_of(text: str) -> int:
    """Return a size in bytes; its unit, M, G or T, is a power of 1024.

    :raise ValueError: it is none; says what is expected.
    """
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in _UNITS or not int(number):
        raise ValueError("a number of bytes, or with M, G or T")
    return int(number) * _UNITS[unit]


def _plain(value: object) -> object:
    """Return a value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
