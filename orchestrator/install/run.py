"""An installation from beginning to end: media, disks and NVRAM, installer, first boot; or nothing left of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import files
from orchestrator.distributions import Part, hint
from orchestrator.domain.model import Arch, FirmwareKind
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError, DiskError, GuestlaunchError, UsageError
from orchestrator.firmware.descriptors import find_firmware
from orchestrator.firmware.nvram import keep_nvram
from orchestrator.hypervisor.pflash import flash_formats
from orchestrator.install.answers import seed
from orchestrator.install.media import Media, get_media
from orchestrator.install.request import InstallRequest
from orchestrator.install.steps import DONE, FirstBootStep, InstallationFacts, InstallerStep
from orchestrator.install.unfinished import Made, Note, held
from orchestrator.kernel.runner import Runner
from orchestrator.kernel.start import Attached
from orchestrator.records.record import LaunchRecord
from orchestrator.settings import Settings
from orchestrator.timeline.phases import Kind

if TYPE_CHECKING:
    from orchestrator.install.download import Tell
    from orchestrator.launch.stop import Stop

_PROFILES = {Arch.AARCH64: "aarch64-uefi", Arch.X86_64: "x86_64-ovmf"}
_DEFAULT_PROFILE = "aarch64-uefi"
# Installers unpack themselves into memory: no profile, which is an appliance's, has enough for that.
_MEMORY_MIB = 2048
_QEMU_IMG_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """The domain of what is installed, which libvirt stores before anything starts.

    :ivar connection: on which it is called `name`.
    :ivar define: stores it with settings; `forget` has it forgotten, where it is there.
    """

    connection: str
    name: str
    define: Callable[[Settings], None]
    forget: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What came of an installation: a record for each step that was begun."""

    media: Media
    steps: tuple[LaunchRecord, ...]

    @property
    def good(self) -> bool:
        """Whether the system is installed, and boots."""
        verdicts = [step.install.verdict for step in self.steps if step.install is not None]
        return verdicts == [DONE, DONE]


def settings_for(arch: Arch, settings: Settings) -> Settings:
    """Return settings with the profile that a tree's architecture asks for, and memory enough.

    :raise UsageError: another profile was asked for.
    """
    profile = load_profile(settings.profile)
    if (profile.arch, profile.firmware) != (arch, FirmwareKind.UEFI):
        if settings.profile != _DEFAULT_PROFILE:
            hint = f"--profile {_PROFILES[arch]} fits"
            raise UsageError("cannot install", f"profile {profile.name}", f"the tree is for {arch} with UEFI", hint)
        settings = replace(settings, profile=_PROFILES[arch])
    return replace(settings, memory_mib=settings.memory_mib or _MEMORY_MIB)


def carry_out(
    request: InstallRequest,
    settings: Settings,
    stop: Stop,
    *,
    attached: Attached,
    console: tuple[int, int] | None,
    terminal: Callable[[], contextlib.AbstractContextManager[None]],
    progress: Tell,
    tell: Callable[[str], None],
    definition: Definition | None = None,
) -> Installed:
    """Install, and boot what was installed. What failed is in the last record.

    :param terminal: makes the user's terminal the guest's, as long as there is one.
    :param progress: takes that of downloads.
    :param tell: takes what the user should know meanwhile.
    :param definition: of the system's own domain, if it is to have one.
    :raise GuestlaunchError: there is nothing to install from or on.
    """
    request.check()
    number = secrets.token_hex(16)
    with held(request.kept_nvram) as note:
        check_place(request, note.left)  # all that can be known before anything is fetched
        request.answers.check_files()
        seed_data = seed(request.answers, number)
        media = get_media(request, settings.state_dir / "cache" / "trees", progress, stop)
        request.answers.check(media.tree.family)
        settings = settings_for(media.tree.arch, settings)
        tell(f"{media.tree.name}, {media.tree.arch}: {_SPOKEN_FOR[str(media.verification)]}")
        made = InstallationFacts(request=request, settings=settings, media=media, number=number, attached=attached)
        with _made(note, request, settings, definition, tell, seed_data=seed_data) as keep:
            result = _carried_out(made, stop, console=console, terminal=terminal, tell=tell)
            if result.good or request.keep:
                keep()
    return result


def _carried_out(
    made: InstallationFacts, stop: Stop, *, console: tuple[int, int] | None,
    terminal: Callable[[], contextlib.AbstractContextManager[None]], tell: Callable[[str], None],
) -> Installed:  # fmt: skip
    """Carry out the steps, for which everything is made."""
    if made.arguments:
        tell(f"added to the installer's command line: {' '.join(made.arguments)}")
    if made.graphics is not None:
        tell(f"its display, once it runs: remote-viewer {made.graphics.kind}+unix://{made.graphics.path}")
    with _display(made), Runner(made.settings, Kind.INSTALL) as runner, terminal():
        installer = InstallerStep(made)
        steps = [runner.carry_out(installer, stop, console=console, tell=tell)]
        if _done(steps[0]):
            tell(f"the installer is done; now {made.request.disks[0]} boots")
            steps.append(runner.carry_out(FirstBootStep(made, installer), stop, console=console, tell=tell))
    return Installed(media=made.media, steps=tuple(steps))


def check_place(request: InstallRequest, left: Made | None) -> None:
    """Refuse disks and an NVRAM that cannot be made, or used.

    :param left: what an interrupted installation left, which is removed first.
    :raise GuestlaunchError: says which.
    """
    if left is None or not left.includes(request.kept_nvram):
        _check_free(request.kept_nvram)
    for disk in request.disks:
        if disk.exists() and not (left is not None and left.includes(disk)):
            try:
                os.close(files.open_image(disk))
            except OSError as error:
                raise DiskError("cannot open the disk", disk, error.strerror or error) from error
            if not os.access(disk, os.W_OK):
                raise DiskError("cannot open the disk", disk, "it cannot be written to")
        else:
            _check_makable(disk, request.size_bytes)


def _check_free(nvram: Path) -> None:
    if nvram.exists():
        why = "it is there already, from an earlier installation"
        raise UsageError("cannot make the NVRAM", nvram, why, "remove it, or name another by --nvram")


def _check_makable(disk: Path, size_bytes: int | None) -> tuple[str, int]:
    """Return the program that makes a disk, and how large that is to be.

    :raise GuestlaunchError: one of the two is missing, or its folder.
    """
    if disk.is_symlink() and not disk.exists():
        raise DiskError("cannot make the disk", disk, f"it is a link to {disk.readlink()}, which is not there")
    if size_bytes is None:
        raise DiskError("cannot open the disk", disk, "no such file", "--size makes one")
    if not os.access(disk.parent, os.W_OK | os.X_OK):
        raise DiskError("cannot make the disk", disk, "its folder is not there, or cannot be written to")
    program = shutil.which("qemu-img")
    if program is None:
        raise CapabilityError("cannot make the disk", disk, "qemu-img is missing", hint(Part.QEMU_IMG))
    return program, size_bytes


_SPOKEN_FOR = {
    "signature": "signed for by a key of the distribution's",
    "package": "checked by apt",
    "checksums": "as its checksums say",
    "named": "named, not checked",
    "none": "not verified",
}


def _done(record: LaunchRecord) -> bool:
    return record.install is not None and record.install.verdict == DONE


@contextlib.contextmanager
def _display(made: InstallationFacts) -> Iterator[None]:
    """Leave nothing of the display's socket."""
    try:
        yield
    finally:
        if made.graphics is not None and made.graphics.path is not None:
            Path(made.graphics.path).unlink(missing_ok=True)


@contextlib.contextmanager
def _made(
    note: Note, request: InstallRequest, settings: Settings, definition: Definition | None, tell: Callable[[str], None],
    *, seed_data: bytes | None = None,
) -> Iterator[Callable[[], object]]:  # fmt: skip
    """Make disks that are not there, the NVRAM, the definition; yields what has them stay, without which they go.

    :param note: which tells of that as long as this goes on, and until then of what is left from before.
    :param seed_data: of a disk that only the installer needs, and which goes in any case.
    """
    nvram = request.kept_nvram
    with contextlib.ExitStack() as installers, contextlib.ExitStack() as stack:
        if note.left is not None:
            _start_over(note.left, request, definition, tell)
        _check_free(nvram)
        note.begin(*(("", "") if definition is None else (definition.connection, definition.name)))
        for disk in request.disks:
            if not disk.exists():
                _make_disk(disk, request.size_bytes)
                stack.callback(disk.unlink, missing_ok=True)
                note.add(disk)
        profile = load_profile(settings.profile)
        firmware = find_firmware(profile.arch, profile.machine, formats=flash_formats())
        keep_nvram(firmware.nvram_template, nvram, cache=settings.state_dir / "cache")
        stack.callback(nvram.unlink, missing_ok=True)
        note.add(nvram)
        if seed_data is not None:
            installers.callback(request.seed.unlink, missing_ok=True)
            _write_seed(request.seed, seed_data)
            note.add(request.seed)
        if definition is not None:
            definition.define(settings)
            stack.callback(_forget, definition, tell)
        yield stack.pop_all


def _start_over(
    left: Made, request: InstallRequest, definition: Definition | None, tell: Callable[[str], None]
) -> None:
    """Remove what an installation has left that was interrupted: of what it made, what this one makes as well."""
    tell(f"{request.disks[0]}: an installation there was interrupted; what it left is removed, and it starts over")
    if left.name:
        if definition is not None and (definition.connection, definition.name) == (left.connection, left.name):
            definition.forget()
        else:
            tell(f"domain {left.name} on {left.connection} is of that installation, and stays")
    for path in (*request.disks, request.kept_nvram, request.seed):
        if left.includes(path):
            path.unlink()


def _forget(definition: Definition, tell: Callable[[str], None]) -> None:
    """Have a definition forgotten; that it cannot be is said, and is not what the installation failed by."""
    try:
        definition.forget()
    except GuestlaunchError as error:
        tell(str(error))


def _write_seed(path: Path, data: bytes) -> None:
    """Write the disk for the installer's cloud-init, whose data may have passwords in them: nobody else may read it.

    :raise DiskError: it cannot be written.
    """
    try:
        files.write_whole(path, data)
    except OSError as error:
        raise DiskError("cannot make the disk", path, error.strerror or error) from error


def _make_disk(path: Path, size_bytes: int | None) -> None:
    """Make an empty image, qcow2 by its name or else raw. What comes onto it is for nobody else to read.

    :raise GuestlaunchError: it cannot be made, or nothing says how large it is to be.
    """
    program, size_bytes = _check_makable(path, size_bytes)
    kind = "qcow2" if path.suffix == ".qcow2" else "raw"
    command = [program, "create", "-q", "-f", kind, os.fspath(path), str(size_bytes)]
    try:
        files.make_empty(path)
    except OSError as error:
        raise DiskError("cannot make the disk", path, error.strerror or error) from error
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_QEMU_IMG_SECONDS)
    except subprocess.CalledProcessError as error:
        path.unlink(missing_ok=True)
        raise DiskError("cannot make the disk", path, error.stderr.strip()) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        path.unlink(missing_ok=True)
        raise DiskError("cannot make the disk", path, error) from error
