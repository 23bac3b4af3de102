"""What a kernel's run is asked to be, as values."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import files
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.images.apart import Named, check_apart
from orchestrator.kernel.share import ShareBy

# What QEMU takes for the name of a fw_cfg file of the user's own, and no more of it than it holds.
_FW_CFG_NAME = re.compile(r"opt/[\x21-\x7e]{1,51}")
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,255}")
# systemd reads them from there (systemd.exec(5), io.systemd.credential).
_CREDENTIAL_PREFIX = "io.systemd.credential:"
SHARE_AT = "/mnt"
_TOLD_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Something that the guest is told under a name: a text, or what is in a file."""

    name: str
    text: str | None = None
    path: Path | None = None

    @classmethod
    def parse(cls, option: str, given: str) -> Told:
        """Return what `NAME=TEXT` or `NAME@FILE` says; whichever of the two signs comes first counts.

        :raise UsageError: it has neither.
        """
        match = re.match(r"([^=@]+)([=@])(.*)", given, re.DOTALL)
        if match is None:
            raise UsageError("cannot understand", f"{option} {given}", "neither NAME=TEXT nor NAME@FILE")
        name, sign, rest = match.groups()
        if sign == "=":
            return cls(name=name, text=rest)
        told = cls(name=name, path=Path(rest).absolute())
        try:
            is_pipe = stat.S_ISFIFO(Path(rest).stat().st_mode)
        except (OSError, ValueError):
            is_pipe = False
        if not is_pipe:
            return told
        # A run may be repeated, and a pipe can be read once.
        return cls(name=name, text=told.content().decode("utf-8", "surrogateescape"))

    def content(self) -> bytes:
        """Return it.

        :raise CapabilityError: its file cannot be read.
        """
        if self.path is None:
            return (self.text or "").encode("utf-8", "surrogateescape")
        try:
            return files.read_whole(self.path, _TOLD_BYTES, pipe=True)
        except OSError as error:
            raise CapabilityError("cannot read", self.path, error.strerror or error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRequest:
    """One run of a kernel. Paths are absolute.

    :ivar initrds: in order; the kernel gets them one after the other.
    :ivar builtin: our own initrd is put on top of them, which runs the command, or a shell on the console without one.
    :ivar cmdline: what the user wants on the command line; ours comes before it.
    :ivar unpack: also what the firmware could start by itself is unpacked on the host.
    :ivar modules: where the kernel's modules are; None to look for them where they usually are.
    :ivar disks: with whether the guest may only read them.
    :ivar share: a directory that the guest may read, at `SHARE_AT`, by the way `share_by`.
    :ivar firmware: code and variables of UEFI firmware other than the host's usual; either may be left out.
    :ivar timeout_s: how long the whole run may take; None for as long as it likes.
    :ivar tap: the verdict is also that of the tests, of which output and console tell by TAP.
    """

    kernel: Path
    initrds: tuple[Path, ...] = ()
    builtin: bool = False
    cmdline: str = ""
    command: tuple[str, ...] = ()
    unpack: bool = False
    modules: Path | None = None
    disks: tuple[tuple[Path, bool], ...] = ()
    share: Path | None = None
    share_by: ShareBy = ShareBy.AUTO
    fw_cfg: tuple[Told, ...] = ()
    credentials: tuple[Told, ...] = field(default=(), repr=False)
    firmware: tuple[Path | None, Path | None] = (None, None)
    timeout_s: float | None = None
    tap: bool = False

    @property
    def own_init(self) -> bool:
        """Whether our own init is the guest's first program."""
        return self.builtin or bool(self.command)

    def check(self, *written: Named) -> None:
        """Refuse what cannot work, whatever the host.

        :param written: what is written to besides disks.
        :raise UsageError: says which part of it.
        """
        for file in self.fw_cfg:
            if _FW_CFG_NAME.fullmatch(file.name) is None:
                why = "a name begins with opt/ and has at most 55 printable characters, without spaces"
                raise UsageError("cannot use the fw_cfg file", file.name, why)
        names = [file.name for file in self.fw_cfg]
        for name in names:
            if names.count(name) > 1:
                raise UsageError("cannot use the fw_cfg file", name, "it is there twice", "name each once")
        for credential in self.credentials:
            if _CREDENTIAL_NAME.fullmatch(credential.name) is None:
                why = "a name has at most 255 letters, digits and ._@-"
                raise UsageError("cannot use the credential", credential.name, why)
        if self.share is not None and not self.own_init:
            hint = "give a COMMAND or --initrd builtin"
            raise UsageError("cannot share a directory", self.share, "only the builtin initrd mounts it", hint)
        disks = [("--disk", path) for path, readonly in self.disks if not readonly]
        check_apart([*disks, *written], self._read())

    def _read(self) -> list[Named]:
        """Return the files that are read."""
        named = [("KERNEL", self.kernel), *(("--initrd", path) for path in self.initrds)]
        named += [("--disk-ro", path) for path, readonly in self.disks if readonly]
        for option, paths in (
            ("--firmware", self.firmware),
            ("--fw-cfg", [told.path for told in self.fw_cfg]),
            ("--credential", [told.path for told in self.credentials]),
        ):
            named += [(option, path) for path in paths if path is not None]
        return named


def credential_string(credential: Told) -> bytes:
    """Return the SMBIOS OEM string by which systemd gets a credential."""
    from base64 import b64encode  # here: few runs have any

    content = credential.content()
    if content.isascii() and content.decode("ascii").isprintable():
        return f"{_CREDENTIAL_PREFIX}{credential.name}=".encode() + content
    name = _CREDENTIAL_PREFIX.replace("credential", "credential.binary")
    return f"{name}{credential.name}=".encode() + b64encode(content)
