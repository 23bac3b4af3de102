"""Shared objects made of our own C files.

Those that every user may need come with us, for each architecture (`compiled.json`, which `tools/objects.py` makes of
their sources): they are linked with nothing, and call what is there where they are loaded. Others are compiled on first
use, and kept for this source and compiler.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from orchestrator import files
from orchestrator.errors import CapabilityError

_SECONDS = 120
_FLAGS = ("-shared", "-fPIC", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra")
_OURS = "compiled.json"


def our_object(package: str, source: str, arch: str, *, purpose: str) -> bytes:
    """Return the shared object that came with us.

    :param package: the Python package in which the C file `source` lies.
    :param arch: of the program that it is for.
    :param purpose: what cannot be done without it: the first words of an error.
    :raise CapabilityError: there is none for that architecture, or it was made of another source than is here.
    """
    made = json.loads(resources.files(__package__).joinpath(_OURS).read_bytes()).get(f"{package}/{source}", {})
    text = resources.files(package).joinpath(source).read_bytes()
    if made.get("source") != hashlib.sha256(text).hexdigest():
        raise CapabilityError(purpose, source, f"{_OURS} was made of another", "python3 -m tools.objects makes it")
    if arch not in made:
        raise CapabilityError(purpose, source, f"it is not compiled for {arch}")
    return zlib.decompress(base64.b64decode("".join(made[arch])))


def kept(data: bytes, cache: Path, *, name: str, purpose: str) -> Path:
    """Return a file that holds a shared object; one that was written before is used again if it is still the same.

    :param cache: directory to keep it in; it is used only where nobody but us can write to it.
    :param name: what its file name begins with.
    :param purpose: what cannot be done without it: the first words of an error.
    :raise CapabilityError: it cannot be written, or the directory is not ours alone.
    """
    path = cache / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}.so"
    try:
        os.close(files.open_folder(cache, make=True))
        if not _holds(path, data):
            files.write_whole(path, data)
    except OSError as error:
        raise CapabilityError(purpose, error.filename or path, error.strerror or error) from error
    return path


def _holds(path: Path, data: bytes) -> bool:
    """Tell whether a file is there, whole: a host that lost its power may have kept its name alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(len(data) + 1) == data
    except OSError:
        return False


def shared_object(
    package: str, source: str, cache: Path, *, name: str, purpose: str, macros: Mapping[str, int] | None = None
) -> Path:
    """Return the shared object made of a C file; one that was made before is used again.

    :param package: the Python package in which the C file `source` lies.
    :param cache: directory to keep it in; it is used only where nobody but us can write to it.
    :param name: what its file name begins with.
    :param purpose: what cannot be done without it: the first words of an error.
    :param macros: what the C file is compiled for.
    :raise CapabilityError: there is no C compiler, it failed, or the directory is not ours alone.
    """
    text = resources.files(package).joinpath(source).read_bytes()
    compiler = os.environ.get("CC") or "cc"
    flags = (*_FLAGS, *(f"-D{key}={value}" for key, value in (macros or {}).items()))
    identity = hashlib.sha256(text + compiler.encode() + " ".join(flags).encode()).hexdigest()[:16]
    built = cache / f"{name}-{identity}.so"
    try:
        os.close(files.open_folder(cache, make=True))
        if built.exists():
            return built
        if shutil.which(compiler) is None:
            why = f"there is no C compiler '{compiler}' to build it with"
            raise CapabilityError(purpose, source, why, "install gcc and libc6-dev, or set CC")
        _compile([compiler, *flags], source, text, built, purpose)
    except OSError as error:
        raise CapabilityError(purpose, error.filename or built, error.strerror or error) from error
    return built


def _compile(compiler: Sequence[str], source: str, text: bytes, built: Path, purpose: str) -> None:
    with tempfile.TemporaryDirectory(prefix=".compiled-", dir=built.parent) as folder:
        c_file, made = Path(folder, Path(source).name), Path(folder, built.name)
        c_file.write_bytes(text)
        command = [*compiler, "-o", str(made), str(c_file)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise CapabilityError(purpose, compiler[0], f"it takes more than {_SECONDS} s") from error
        if done.returncode != 0:
            why = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-200:])
            raise CapabilityError(purpose, compiler[0], why, "install gcc and libc6-dev")
        made.replace(built)
