"""The checkout as it is now, as an archive for the emulated host: what git knows and what is new, with byte code."""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import IO

_NOT_OURS = frozenset({".git", ".venv", ".build", "dist", "__pycache__"})


def names(top: Path) -> list[str]:
    """Return the files of a checkout, in order; of a tree without git, all but what is made in it."""
    command = ["git", "-C", str(top), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=False)
    if listed.returncode == 0:
        found = {os.fsdecode(name) for name in listed.stdout.split(b"\0") if name}
        return sorted(name for name in found if os.path.lexists(top / name))
    found = set()
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name not in _NOT_OURS and not name.startswith(".mypy")]
        found |= {str((Path(folder) / name).relative_to(top)) for name in files}
    return sorted(found)


def digest(top: Path) -> str:
    """Return what tells one state of a checkout from another."""
    total = hashlib.sha256()
    for name in names(top):
        path = top / name
        status = path.lstat()
        link = stat.S_ISLNK(status.st_mode)
        data = os.fsencode(path.readlink()) if link else path.read_bytes()
        total.update(f"{name}\0{status.st_mode & 0o100:o} {link:d} {len(data)}\0".encode("utf-8", "surrogateescape"))
        total.update(data)
    return total.hexdigest()


def write_archive(top: Path, there: str, out: IO[bytes], scratch: Path) -> None:
    """Write a tar archive of it.

    :param there: where it will lie, which the byte code is to name.
    :param scratch: a folder that is removed by somebody else.
    """
    tree = scratch / "checkout"
    for file in names(top):
        target = tree / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(top / file, target, follow_symlinks=False)
    compileall.compile_dir(tree / "orchestrator", quiet=2, stripdir=str(tree), prependdir=there)
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(tree, arcname=".")
    shutil.rmtree(tree)
