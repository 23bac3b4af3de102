"""What is changed on a VM's disk before it boots, as values, and in virt-customize's words."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator import files
from orchestrator.errors import UsageError

UNIT = "guestlaunch-ready.service"
UNITS = "/etc/systemd/system"
WANTS = f"{UNITS}/multi-user.target.wants"
_PRIVATE = b"PRIVATE KEY-----"


# By what cloud-init tells what its user data are (its documentation, "User data formats"), besides MIME and gzip.
_FORMATS = ("#cloud-config", "#!", "#include", "#cloud-boothook", "#part-handler", "## template: jinja")
_MIME, _MIME_BYTES, _GZIP = b"mime-version:", 4096, b"\x1f\x8b"


def _read(path: Path) -> bytes:
    """Return a file.

    :raise UsageError: it cannot be read.
    """
    try:
        return files.read_whole(path)
    except OSError as error:
        raise UsageError("cannot customise with", path, error.strerror or error) from error


def _is_known(user_data: bytes) -> bool:
    """Tell whether cloud-init knows what user data are; it does so whatever their case, and passes over space."""
    begin = user_data[:_MIME_BYTES].lower()
    return begin.startswith(_GZIP) or _MIME in begin or begin.lstrip().startswith(tuple(map(str.encode, _FORMATS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Customization:
    """What is changed. Paths are absolute.

    :ivar user: made if it is not there; who the keys are for, root if None.
    :ivar ssh_keys: files with public keys.
    :ivar run: commands that are run on it, by its own shell; after packages and files are there.
    :ivar install: packages, by its own package tool.
    :ivar copy_in: what of this host is copied, and the folder that it is put into.
    :ivar cloud_init: user data for cloud-init, whose business it is then.
    """

    hostname: str | None = None
    user: str | None = None
    ssh_keys: tuple[Path, ...] = ()
    run: tuple[str, ...] = ()
    install: tuple[str, ...] = ()
    copy_in: tuple[tuple[Path, str], ...] = ()
    cloud_init: Path | None = None

    @property
    def offline(self) -> bool:
        """Whether anything is changed on the disk itself."""
        return bool(self.hostname or self.user or self.ssh_keys or self.run or self.install or self.copy_in)

    def check(self) -> None:
        """Refuse what cannot be read, and what nobody means.

        :raise UsageError: names it.
        """
        for option, text in (("--hostname", self.hostname), ("--user", self.user)):
            if text == "":
                raise UsageError("cannot customise with", option, "it is empty")
        for path, _ in self.copy_in:
            try:
                files.check_regular(path, folder=True)
            except OSError as error:
                raise UsageError("cannot customise with", path, error.strerror or error) from error
        for path, _ in self.copy_in:
            if ":" in os.fspath(path):
                raise UsageError(
                    "cannot customise with", path, "virt-customize takes a colon for a name's end", "rename it"
                )
        for path in self.ssh_keys:
            if _PRIVATE in _read(path):
                raise UsageError("cannot customise with", path, "it is a private key", "give the public one, .pub")
        if self.cloud_init is not None and not _is_known(_read(self.cloud_init)):
            why = f"cloud-init would pass over it: it begins with none of {', '.join(_FORMATS)}"
            raise UsageError("cannot customise with", self.cloud_init, why, "put #cloud-config before YAML")

    def words(self, unit: str) -> Iterator[str]:
        """Yield virt-customize's arguments.

        :param unit: the readiness unit's text. It needs no file, which would lie beside others' in a storage pool.
        """
        if not self.install and not self.run:
            yield "--no-network"
        if self.hostname is not None:
            yield from ("--hostname", self.hostname)
        if self.user is not None:
            name = shlex.quote(self.user)
            yield from ("--run-command", f"id -u {name} >/dev/null 2>&1 || useradd -m -s /bin/bash {name}")
        for key in self.ssh_keys:
            yield from ("--ssh-inject", f"{self.user or 'root'}:file:{key}")
        if self.install:
            yield from ("--install", ",".join(self.install))
        for source, target in self.copy_in:
            yield from ("--copy-in", f"{source}:{target}")
        for command in self.run:
            yield from ("--run-command", command)
        yield from ("--mkdir", WANTS, "--write", f"{UNITS}/{UNIT}:{unit}")
        yield from ("--link", f"{UNITS}/{UNIT}:{WANTS}/{UNIT}")
