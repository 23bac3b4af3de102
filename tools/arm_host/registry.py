"""Tells dpkg's database in a root directory what was unpacked there, so that its queries answer. Runs no script."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from orchestrator.appliance.command import require
from orchestrator.errors import ApplianceError

_SCRIPTS = frozenset({"preinst", "postinst", "prerm", "postrm", "config"})


def register(packages: Iterable[Path], root: Path) -> None:
    """Write the status, the control files and the names of the files of packages, as of ones that are installed.

    supermin makes stock libguestfs's appliance of the files that dpkg names.

    :raise ApplianceError: one of them is damaged.
    """
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True, exist_ok=True)
    packages = list(packages)
    with ThreadPoolExecutor() as pool:
        members = list(pool.map(_control_files, packages))
        listed = list(pool.map(_file_names, packages))
    paragraphs = []
    for files, names in zip(members, listed, strict=True):
        control = files.pop("control").decode()
        paragraphs.append(installed(control))
        name = info_name(control)
        for file, data in files.items():
            if file not in _SCRIPTS:
                (info / f"{name}.{file}").write_bytes(data)
        (info / f"{name}.list").write_bytes(b"".join(b"%s\n" % file for file in names))
    status = root / "var/lib/dpkg/status"
    status.write_text("\n".join(paragraphs))
    (info / "format").write_text("1\n")


@contextlib.contextmanager
def _archive(package: Path, which: str) -> Iterator[tarfile.TarFile]:
    """Open one of the two archives in a package, to be read once from its beginning to its end.

    :param which: dpkg-deb's option for it.
    """
    command = [require("dpkg-deb", "dpkg"), which, str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                yield archive
            while process.stdout.read(1 << 20):
                pass
            damaged = process.wait() != 0
        except tarfile.TarError:
            damaged = True
        finally:
            process.kill()
    if damaged:
        raise ApplianceError("cannot read a package", package.name, "damaged", "remove it and build again")


def _control_files(package: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with _archive(package, "--ctrl-tarfile") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                found[PurePosixPath(member.name).name] = file.read()
    return found


def _file_names(package: Path) -> list[bytes]:
    """Return the absolute names of a package's files and folders, the root as dpkg has it."""
    with _archive(package, "--fsys-tarfile") as archive:
        names = [os.fsencode(member.name.removeprefix(".").rstrip("/")) for member in archive]
    return [name if name.startswith(b"/") else b"/" + (name or b".") for name in names]


def installed(control: str) -> str:
    """Return a paragraph of dpkg's status for a package with this control file."""
    first, _, rest = control.rstrip("\n").partition("\n")
    return f"{first}\nStatus: install ok installed\n{rest}\n"


def info_name(control: str) -> str:
    """Return how the package's files in dpkg's database begin: with the arch where several may be installed at once."""
    fields: dict[str, str] = dict(re.findall(r"^([\w-]+): (.*)$", control, re.MULTILINE))
    arch = f":{fields['Architecture']}" if fields.get("Multi-Arch") == "same" else ""
    return fields["Package"] + arch
