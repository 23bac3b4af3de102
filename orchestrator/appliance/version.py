"""Finds the host's libguestfs without loading it: its package, and its version."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

from orchestrator.remembered import Remembered

_DPKG = ("dpkg-query", "--show", "--showformat=${db:Status-Status} ${source:Upstream-Version}\n")
_GUESTFISH = ("guestfish", "--version")
# What changes whenever a package, or that program, does.
_PACKAGES = "/var/lib/dpkg/status"
_SHLIBS = "/var/lib/dpkg/info"
# Where dpkg notes it: which package a program needs for the library's soname (deb-shlibs(5)).
_SONAME = re.compile(r"^libguestfs 0 (\S+)", re.MULTILINE)


def library_package(info: str = _SHLIBS) -> str | None:
    """Return the name of the package that libguestfs.so.0 comes from; None where no package of dpkg's has it.

    `dpkg --search` says so too, but reads the file lists of all packages, which takes 200 ms.
    """
    for file in sorted(Path(info).glob("libguestfs*.shlibs")):
        found = _SONAME.search(file.read_text("utf-8", "replace"))
        if found:
            return found[1]
    return None


def host_version(remembered: Path | None = None) -> str | None:
    """Return the host's libguestfs version, `1.48.6`; None where libguestfs is not installed.

    Asking takes some 15 ms: it is done once for as long as no package changes.

    :param remembered: file of our own (`Remembered`) in which dpkg's answer outlives this process.
    """
    return _ask(tuple(_stamp(path) for path in (_PACKAGES, shutil.which("guestfish"))), remembered)


def _stamp(path: str | None) -> tuple[int, int] | None:
    """Return inode and modification time of a file, None when there is none."""
    if path is None:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@functools.lru_cache(maxsize=1)
def _ask(stamps: tuple[tuple[int, int] | None, ...], remembered: Path | None) -> str | None:
    """Ask for the version; `stamps` tell one state of the system from another."""
    del stamps
    if remembered is None or not Path(_PACKAGES).exists():
        return _asked()[0]
    memory, packages = Remembered(remembered), Path(_PACKAGES).stat()
    known = memory.of(packages)
    if known is not None:
        return known
    version, by_dpkg = _asked()
    if version is not None and by_dpkg:
        memory.note(packages, version)
    return version


def _asked() -> tuple[str | None, bool]:
    """Return the version, and whether dpkg has said it."""
    package = library_package()
    for query in ((*_DPKG, package) if package else (), _GUESTFISH):
        if not query or shutil.which(query[0]) is None:
            continue
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        found = re.search(r"^(?:installed|guestfish) (\d+\.\d+\.\d+)", done.stdout, re.MULTILINE)
        if done.returncode == 0 and found:
            return found[1], query != _GUESTFISH
    return None, False
