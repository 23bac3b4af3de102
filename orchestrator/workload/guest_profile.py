"""Chooses the profile by what a tool's image holds: its system's architecture, read once in a launch and remembered."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.remembered import Remembered
from orchestrator.settings import Settings
from orchestrator.workload.job import Job, JobDisk

_PURPOSE = "cannot choose the profile"
_HINT = "name one with --profile"
# One for each architecture that there are appliances for. Images are read with the first.
_PROFILES = ("aarch64-uefi", "x86_64-ovmf")
# Behind letters that take no value, in any of the programs, it may stand as well: -ia FILE.
_ADD = re.compile("-[hilnPqrRvVwx]*a(.*)", re.DOTALL)
_NOT_MADE_OUT = "unknown"  # what guestfs_inspect_get_arch(3) says then
_READER = Path(__file__).with_name("inspect_arch.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedImage:
    """An image as a command names it. `format` is None where that is to be found out."""

    path: Path
    format: str | None


def images(command: Sequence[str]) -> Iterator[NamedImage]:
    """Yield the disk images that a command adds, as all of libguestfs's programs write it: --format=F -a FILE."""
    words, image_format = iter(command[1:]), None
    for word in words:
        if word == "--":
            return
        option, given, value = word.partition("=")
        if option == "--format":
            image_format = value or None
        elif option == "--add":
            yield NamedImage(path=Path(value if given else next(words, "")), format=image_format)
        elif short := _ADD.fullmatch(word):
            yield NamedImage(path=Path(short[1] or next(words, "")), format=image_format)


def choose(command: Sequence[str], settings: Settings, read: Callable[[Job, Settings], object]) -> str:
    """Return the name of the profile whose guests are of the same architecture as the system in a command's image.

    :param settings: of the launch; their profile does not matter.
    :param read: carries out a job, in a launch with some settings, and returns its result.
    :raise UsageError: the command names no image.
    :raise CapabilityError: the image holds no system, several, or one that there is no profile for.
    """
    image = next(images(command), None)
    if image is None or not image.path.name:
        raise UsageError(_PURPOSE, command[0], "it adds no disk image by -a", _HINT)
    try:
        status = image.path.stat()
    except OSError as error:
        raise UsageError(_PURPOSE, image.path, error.strerror or error, _HINT) from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise UsageError(_PURPOSE, image.path, "it is neither a file nor a block device", _HINT)
    known = Remembered(settings.state_dir / "cache/architectures.json")
    lasts = stat.S_ISREG(status.st_mode)  # a device looks the same whatever is written to it
    arch = known.of(status) if lasts else None
    if arch is None:
        plain = replace(
            settings, profile=_PROFILES[0], appliance=None, memory_mib=None, vcpus=None, cpu=None, timeline=None
        )
        arch = _architecture(read(_job(image), plain), image.path)
        if lasts:
            known.note(status, arch)
    chosen = next((name for name in _PROFILES if load_profile(name).arch == arch), None)
    if chosen is None:
        why = f"its system is for {arch}, and no profile is"
        if arch == _NOT_MADE_OUT:
            why = "the architecture of its system could not be made out"
        raise CapabilityError(_PURPOSE, image.path, why, _HINT)
    return chosen


def _job(image: NamedImage) -> Job:
    disk = JobDisk(path=image.path.absolute(), format=image.format, readonly=True)
    return Job(name="reading the image's architecture", directory=Path(os.sep), disks=(disk,), python=_READER)


def _architecture(result: object, path: Path) -> str:
    """Return the one architecture of what was found in an image."""
    found = result if isinstance(result, list) else []
    if len(found) != 1:
        what = f"systems for {', '.join(map(str, found))}" if found else "no system"
        raise CapabilityError(_PURPOSE, path, f"{what} found in it", _HINT)
    return str(found[0])
