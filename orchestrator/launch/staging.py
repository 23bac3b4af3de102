"""The files of one launch: its directories, the throw-away overlay over the appliance's root, secrets.

Everything made here is owned by the context manager that made it. Sockets live in the runtime directory
(short paths), data in the state directory (room for the overlay to grow).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator import files
from orchestrator.errors import ApplianceError, LaunchError

_QEMU_IMG_SECONDS = 30.0


def _explain(error: OSError) -> str:
    return error.strerror or str(error)


@contextlib.contextmanager
def directory(parent: Path, name: str) -> Iterator[Path]:
    """Make a directory for one launch, for us alone, and remove it with all that is in it.

    :raise LaunchError: when it cannot be made, or others can change what is in its parent.
    """
    path = parent / name
    with contextlib.ExitStack() as stack:
        try:
            folder = files.open_folder(parent, make=True)
            stack.callback(os.close, folder)
            os.mkdir(name, 0o700, dir_fd=folder)
        except OSError as error:
            at = f"{error.filename}: " if error.filename not in {None, name, str(parent)} else ""
            hint = "check its parent's space and owner"
            raise LaunchError("cannot make the launch's directory", path, f"{at}{_explain(error)}", hint) from error
        stack.callback(files.remove_tree, name, folder)
        yield path


def root_overlay(root: Path, root_format: str, into: Path, cache: Path) -> Path:
    """Make an empty qcow2 overlay over an appliance's root and return its path.

    `qemu-img create` makes it once for each root; further launches copy those few hundred kilobytes,
    which is several times faster than starting a process.

    :param into: directory of the launch, which owns the overlay.
    :param cache: directory in which empty overlays are kept.
    :raise ApplianceError: when the root cannot be read.
    :raise LaunchError: when the overlay cannot be written.
    """
    try:
        status = root.stat()
    except OSError as error:
        raise ApplianceError("cannot read the appliance's root", root, _explain(error)) from error
    identity = f"{root.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{root_format}"
    empty = cache / f"overlay-{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.qcow2"
    overlay = into / "root.qcow2"
    try:
        try:
            shutil.copyfile(empty, overlay)
        except FileNotFoundError:
            _make_empty(root, root_format, empty)
            shutil.copyfile(empty, overlay)
        overlay.chmod(0o600)
    except OSError as error:
        raise LaunchError(
            "cannot write the root's overlay", overlay, _explain(error), "free some space in the state directory"
        ) from error
    return overlay


def _make_empty(root: Path, root_format: str, empty: Path) -> None:
    """Run qemu-img once, under a temporary name.

    :raise LaunchError: when qemu-img is missing or refuses.
    """
    empty.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".overlay-", dir=empty.parent)
    os.close(descriptor)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(root.resolve()), "-F", root_format, temporary]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_QEMU_IMG_SECONDS)
        Path(temporary).replace(empty)
    except FileNotFoundError as error:
        raise LaunchError("cannot make the root's overlay", "qemu-img", "not found", "install qemu-utils") from error
    except subprocess.CalledProcessError as error:
        raise LaunchError("cannot make the root's overlay", root, error.stderr.strip()) from error
    except subprocess.TimeoutExpired as error:
        raise LaunchError(
            "cannot make the root's overlay", root, f"qemu-img took over {_QEMU_IMG_SECONDS:.0f} s"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_secret(text: str, path: Path) -> Path:
    """Write a secret to a file that only we can read, for QEMU's secret object.

    :raise LaunchError: when it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise LaunchError("cannot write a secret", path, _explain(error)) from error
    return path
