"""The files of a VM: a folder of its own with its disk and the firmware's variables; made, and removed by name.

A folder that has no domain is what an interrupted creation left: `begun` says so, and `clear` removes what it made;
unless it is that of a VM on another connection, which `check_left` tells by a file in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator import files
from orchestrator.distributions import Part, hint
from orchestrator.errors import CapabilityError, DiskError, FirmwareError, GuestlaunchError, StoppedError, UsageError
from orchestrator.firmware.descriptors import Firmware
from orchestrator.firmware.nvram import keep_nvram
from orchestrator.hypervisor.failure import from_qemu_output
from orchestrator.launch.stop import Stop
from orchestrator.locks import take_file
from orchestrator.settings import Settings
from orchestrator.tether import Tether
from orchestrator.vm.image import VmImage
from orchestrator.vm.request import VmRequest

DISK, NVRAM, SEED = "disk.qcow2", "nvram.fd", "seed.img"
KNOWN_HOSTS = "known_hosts"
CONNECTION = "connection"  # names the one that the VM is on
NAMES = (DISK, NVRAM, SEED, KNOWN_HOSTS, CONNECTION)
_LOCK = ".lock"
_SYSTEM = Path("/var/lib/libvirt/images/guestlaunch")
_TICK_S = 0.2
_QCOW2 = b"QFI\xfb"


def default_folder(settings: Settings, uri: str) -> Path:
    """Return below which folder VMs are: where a daemon of the system's may read it, or in the state directory."""
    return _SYSTEM if uri == "qemu:///system" and os.geteuid() == 0 else settings.state_dir / "vms"


@contextlib.contextmanager
def held(parent: Path, name: str) -> Iterator[Path]:
    """Have a VM's folder for ourselves, without making it; yields its path.

    :raise UsageError: another command has it.
    :raise GuestlaunchError: the folder above it is not safe.
    """
    lock = parent / f".{name}{_LOCK}"
    try:
        new = not parent.exists()
        os.close(files.open_folder(parent, make=True))
        if new:
            parent.chmod(0o711)  # QEMU may be a user of its own; what lies there has modes of its own, too
        descriptor = take_file(lock)
    except BlockingIOError:
        hint = "wait until that is done"
        raise UsageError("VM is being worked on", name, "another command has it", hint) from None
    except OSError as error:
        raise GuestlaunchError("cannot use the folder of VMs", parent, error.strerror or error) from error
    try:
        yield parent / name
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def held_too(folder: Path, own: Path) -> Iterator[None]:
    """Have another folder of the same VM for ourselves as well, where its creation was told another place.

    What is another host's, or another user's, is none of ours to hold.

    :param own: the one that is held.
    :raise UsageError: another command has it.
    """
    if not os.access(folder.parent, os.W_OK | os.X_OK) or folder.parent.samefile(own.parent):
        yield
        return
    with held(folder.parent, folder.name):
        yield


def begun(folder: Path) -> bool:
    """Tell whether there is anything of a VM's."""
    return folder.is_dir()


def check_left(folder: Path, uri: str) -> None:
    """Refuse to take what is in a folder for what is left of a VM, where it is another connection's.

    :param uri: of the one that has no such VM.
    :raise UsageError: it is.
    """
    try:
        there = files.read_whole(folder / CONNECTION).decode("utf-8", "replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise GuestlaunchError("cannot read", folder / CONNECTION, error.strerror or error) from error
    if there != uri:
        hint = f"-c {there} leads to that one; --folder names another place"
        raise UsageError("folder is another VM's", folder, f"it is that of a VM on {there}", hint)


def make(folder: Path, uri: str, *, passable: bool) -> None:
    """Make the folder.

    :param uri: the connection that the VM is on.
    :param passable: others may pass through, as QEMU does where a daemon starts it as a user of its own.
    """
    folder.mkdir(0o700)
    if passable:
        folder.chmod(0o711)
    files.write_whole(folder / CONNECTION, uri.encode())


def clear(folder: Path, names: Sequence[str] = NAMES) -> list[str]:
    """Remove files by name, and the folder if nothing else is in it; return what is left there.

    :raise GuestlaunchError: one cannot be removed.
    """
    try:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise GuestlaunchError("cannot remove", error.filename or folder, error.strerror or error) from error


def make_disk(request: VmRequest, image: VmImage, folder: Path, stop: Stop) -> Path:
    """Make the VM's disk: an overlay over the image, or a copy of it, and as large as is wanted.

    :raise DiskError: it cannot be made.
    """
    disk, size = folder / DISK, request.size_bytes
    try:
        files.make_empty(disk)
    except OSError as error:
        raise DiskError("cannot make the disk", disk, error.strerror or error) from error
    source = ["-f", image.format, os.fspath(image.path)]
    if request.copy:
        _qemu_img(["convert", "-q", *source, "-O", "qcow2", os.fspath(disk)], image.path, stop)
        if size is not None:
            _qemu_img(["resize", "-q", "-f", "qcow2", os.fspath(disk), str(size)], disk, stop)
    else:
        base = ["create", "-q", "-f", "qcow2", "-F", image.format, "-b", os.fspath(image.path), os.fspath(disk)]
        _qemu_img([*base, *([str(size)] if size is not None else [])], image.path, stop)
    return disk


def make_seed(folder: Path, data: bytes) -> None:
    """Make the disk for cloud-init, whose data may have passwords in them: nobody else may read it.

    :raise DiskError: it cannot be written.
    """
    seed = folder / SEED
    try:
        files.write_whole(seed, data)
    except OSError as error:
        raise DiskError("cannot make the disk", seed, error.strerror or error) from error


def make_nvram(request: VmRequest, firmware: Firmware, folder: Path, settings: Settings) -> Path:
    """Make the VM's variables, in place of what was there: those that were given, or the firmware's own.

    :raise FirmwareError: they cannot be read, are none of this firmware's, or not be written.
    """
    if request.nvram is not None:
        _check_variables(request.nvram, Path(firmware.nvram_template))
    cache = settings.state_dir / "cache" if request.nvram is None else None
    (folder / NVRAM).unlink(missing_ok=True)
    keep_nvram(request.nvram or firmware.nvram_template, folder / NVRAM, cache=cache)
    return folder / NVRAM


def _check_variables(path: Path, template: Path) -> None:
    """Refuse what QEMU would not take in the place of a firmware's own variables, and would not name.

    :raise FirmwareError: it cannot be read, or is of another size; images with a header are QEMU's to judge.
    """
    try:
        with path.open("rb") as given, template.open("rb") as own:
            headed = _QCOW2 in {given.read(len(_QCOW2)), own.read(len(_QCOW2))}
            size, wanted = os.fstat(given.fileno()).st_size, os.fstat(own.fileno()).st_size
    except OSError as error:
        raise FirmwareError("cannot use the variables", path, error.strerror or error) from error
    if not headed and size != wanted:
        why = f"it has {size} bytes, and this firmware's variables {wanted}"
        raise FirmwareError("cannot use the variables", path, why, "guestlaunch install leaves them as DISK.nvram.fd")


def _qemu_img(arguments: Sequence[str], subject: Path, stop: Stop) -> None:
    program = shutil.which("qemu-img")
    if program is None:
        raise CapabilityError("cannot make the disk", subject, "qemu-img is missing", hint(Part.QEMU_IMG))
    with (
        contextlib.closing(Tether()) as tether,
        subprocess.Popen(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, pass_fds=(tether.reading,),
        ) as process,
    ):  # fmt: skip
        try:
            tether.tie(process.pid)  # a copy takes long
            error = _ended(process, lambda: stop.requested)
        except BaseException:
            process.kill()
            raise
    if stop.requested:
        raise StoppedError("stopped", subject, stop.reason)
    if process.returncode:
        text = error.strip().removeprefix("qemu-img: ").replace("\n", "; ")
        known = from_qemu_output("cannot make the disk", str(subject), text, text)
        raise known or DiskError("cannot make the disk", subject, text or f"qemu-img: status {process.returncode}")


def _ended(process: subprocess.Popen[str], stopped: Callable[[], bool]) -> str:
    """Wait for a program, or end it, and return what it complained of."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_TICK_S)[1]
        if stopped():
            process.terminate()
