"""The images in a package of the host's distribution, which apt fetches and checks. Nothing of it is installed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from orchestrator import files
from orchestrator.errors import CapabilityError, LocationError
from orchestrator.install.source import TreeFolder
from orchestrator.tether import Tether

_SECONDS = 1800.0
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
# Where debian-installer-*-netboot-* have them, by preference: the plain one before the one with graphics.
_IMAGES = ("usr/lib/debian-installer/images/*/*/text", "usr/lib/debian-installer/images/*/*/gtk")


def unpacked(name: str, cache: Path) -> TreeFolder:
    """Return the images that are in a package.

    :raise LocationError: there is no such package, or no images in it.
    :raise CapabilityError: the host has no apt.
    """
    if _NAME.fullmatch(name) is None:
        raise LocationError("cannot use the location", f"deb:{name}", "it is no name of a package")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise CapabilityError("cannot fetch the package", name, f"{program} is not installed")
    uri = _run(["apt-get", "download", "--print-uris", name], cache, name)
    match = re.search(r"^'[^']+' (\S+\.deb) ", uri, re.MULTILINE)
    if match is None:
        raise LocationError("cannot fetch the package", name, f"apt says: {' '.join(uri.split())}")
    folder = cache / f"deb-{match[1].removesuffix('.deb')}"
    if not folder.is_dir():
        os.close(files.open_folder(cache, make=True))
        partial = cache / f".{folder.name}-{os.urandom(6).hex()}"
        try:
            _run(["apt-get", "-qq", "download", name], cache, name)
            _run(["dpkg-deb", "--extract", match[1], os.fspath(partial)], cache, name)
            partial.rename(folder)
        finally:  # an interrupt ends dpkg-deb in the midst of it
            (cache / match[1]).unlink(missing_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
    for pattern in _IMAGES:
        for found in sorted(folder.glob(pattern)):
            return TreeFolder(found, f"deb:{name}", vouched=match[1])
    raise LocationError("cannot use the package", name, "it has no images of Debian's installer")


def _run(command: list[str], cwd: Path, name: str) -> str:
    os.close(files.open_folder(cwd, make=True))
    with (
        contextlib.closing(Tether()) as tether,
        subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            pass_fds=(tether.reading,),
        ) as process,
    ):  # fmt: skip
        try:
            tether.tie(process.pid)  # a download goes on for long
            out, err = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise LocationError("cannot fetch the package", name, f"not done after {_SECONDS:g} s") from error
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise LocationError("cannot fetch the package", name, " ".join(err.split()), "apt-get update may help")
    return out
