"""Tells dpkg's database in a root directory what was unpacked there, so that its queries answer. Runs no script."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from orchestrator.appliance.command import require
from orchestrator.errors import ApplianceError

_SCRIPTS = frozenset({"preinst", "postinst", "prerm", "postrm", "config"})


def register(packages: Iterable[Path], root: Path) -> None:
    """Write the status and the control files of packages, as of ones that are installed.

    :raise ApplianceError: one of them is damaged.
    """
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        members = list(pool.map(_control_files, packages))
    paragraphs = []
    for files in members:
        control = files.pop("control").decode()
        paragraphs.append(installed(control))
        name = info_name(control)
        for file, data in files.items():
            if file not in _SCRIPTS:
                (info / f"{name}.{file}").write_bytes(data)
        (info / f"{name}.list").touch()
    status = root / "var/lib/dpkg/status"
    status.write_text("\n".join(paragraphs))
    (info / "format").write_text("1\n")


def _control_files(package: Path) -> dict[str, bytes]:
    program = require("dpkg-deb", "dpkg")
    done = subprocess.run([program, "--ctrl-tarfile", str(package)], capture_output=True, check=False)
    if done.returncode:
        raise ApplianceError("cannot read a package", package.name, "damaged", "remove it and build again")
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                found[PurePosixPath(member.name).name] = file.read()
    return found


def installed(control: str) -> str:
    """Return a paragraph of dpkg's status for a package with this control file."""
    first, _, rest = control.rstrip("\n").partition("\n")
    return f"{first}\nStatus: install ok installed\n{rest}\n"


def info_name(control: str) -> str:
    """Return how the package's files in dpkg's database begin: with the arch where several may be installed at once."""
    fields: dict[str, str] = dict(re.findall(r"^([\w-]+): (.*)$", control, re.MULTILINE))
    arch = f":{fields['Architecture']}" if fields.get("Multi-Arch") == "same" else ""
    return fields["Package"] + arch
