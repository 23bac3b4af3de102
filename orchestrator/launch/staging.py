"""The files of one launch: directories, sockets, the throw-away overlay over the appliance's root, NVRAM, secrets.

Everything made here belongs to the context manager that made it, or to the `ExitStack` that it is given. Sockets
live in the runtime directory (short paths), data in the state directory (room for the overlay to grow).
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
from orchestrator.channel.console import Console
from orchestrator.channel.control import Control
from orchestrator.channel.port import listening
from orchestrator.channel.ring import ConsoleRing
from orchestrator.domain.model import Arch, Disk, Loader, Rom
from orchestrator.domain.passthrough import secrets_of
from orchestrator.domain.policy import appliance_root
from orchestrator.errors import ApplianceError, LaunchError
from orchestrator.firmware.flash import without_padding
from orchestrator.firmware.nvram import copy_nvram, variables_of
from orchestrator.launch.context import LaunchContext, LaunchSpec, Place
from orchestrator.settings import Settings

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


def make_place(settings: Settings, context: LaunchContext, owner: contextlib.ExitStack) -> Place:
    """Make the directories of a launch, and listen where its QEMU will connect.

    :param owner: takes all that is made.
    :raise GuestlaunchError: something cannot be made.
    """
    made = []
    for parent in (settings.state_dir / "launches", settings.runtime_dir):
        owner.enter_context(context.claim(parent / context.launch_id))
        made.append(owner.enter_context(directory(parent, context.launch_id)))
    data, sockets = made
    listeners = [owner.enter_context(listening(sockets / name)) for name in ("console", "control")]
    console = Console(listeners[0], ConsoleRing(settings.console_kib * 1024), context.console)
    control = Control(listeners[1])
    owner.callback(console.port.close)
    owner.callback(control.port.close)
    return Place(launch_id=context.launch_id, data=data, sockets=sockets, console=console, control=control)


def make_root(spec: LaunchSpec, place: Place) -> Disk | None:
    """Make the throw-away overlay over the appliance's root, when the appliance is on a disk."""
    appliance = spec.plan.appliance
    if appliance is None:
        return None
    overlay = root_overlay(appliance.root, appliance.root_format, place.data, spec.settings.state_dir / "cache")
    # Found by the launch's own name: a user's disk may hold a copy of the same file system, UUID and all.
    return appliance_root(str(overlay), name=place.launch_id)


def make_loader(spec: LaunchSpec, place: Place, owner: contextlib.ExitStack) -> Loader | None:
    """Make this launch's own variable store, which `owner` owns."""
    firmware = spec.plan.firmware
    if firmware is None:
        return None
    cache = spec.settings.state_dir / "cache"
    # A kernel that is tried, and firmware that is compared, get a machine that was never switched on.
    settled_by = firmware.code if spec.settings.settled_nvram and spec.plan.appliance is not None else None
    nvram = owner.enter_context(copy_nvram(firmware.nvram_template, place.data, cache=cache, settled_by=settled_by))
    return Loader(
        code=firmware.code,
        nvram=str(nvram),
        code_format=firmware.code_format,
        nvram_format=firmware.nvram_format,
    )


def make_rom(spec: LaunchSpec) -> Rom | None:
    """Return the firmware as QEMU can copy it into its flash; None where the flash must have files behind it.

    That takes a machine with flash at a fixed place, larger than what is in it: Arm's. The variables are gone with the
    guest, as a throw-away copy would be, but a store that the client named itself is given to the guest as flash, and
    so is what a libvirt is asked for that may confine QEMU to the files that it knows of.
    """
    plan, settings, request = spec.plan, spec.settings, spec.request
    firmware = plan.firmware
    if firmware is None or plan.appliance is None or plan.profile.arch is not Arch.AARCH64:
        return None
    own = request.pflash is not None and request.pflash[1] == firmware.nvram_template
    if own or settings.connect not in {None, "qemu:///embed"}:
        return None
    if (firmware.code_format, firmware.nvram_format) != ("raw", "raw"):
        return None
    cache = settings.state_dir / "cache"
    variables = variables_of(
        firmware.nvram_template, cache=cache, settled_by=firmware.code if settings.settled_nvram else None
    )
    return Rom(code=without_padding(firmware.code, cache), variables=without_padding(variables, cache))


def store_secrets(disks: tuple[Disk, ...], data: Path) -> tuple[tuple[str, str], ...]:
    """Write the secrets of disks to files of the launch, and return object ids with the files' paths."""
    return tuple((name, str(write_secret(text, data / name))) for name, text in secrets_of(disks))


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
        from orchestrator.distributions import Part, hint  # here: no launch that works needs it

        raise LaunchError("cannot make the root's overlay", "qemu-img", "not found", hint(Part.QEMU_IMG)) from error
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
