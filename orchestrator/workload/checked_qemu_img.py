"""qemu-img as tools find it whose images are not trusted: what an image names is looked at before it is followed.

libguestfs runs qemu-img, by its name, for each read-only drive, before it launches anything; and qemu-img opens what
the image names. So such tools have one of ours first in their PATH, which becomes the real one once the policy is kept
(2026-11-26). It lies in the state directory: a tool may outlive the command that started it. Images that are named by
another scheme than a path are the tool's own words, and not looked at.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from orchestrator import files
from orchestrator.errors import CapabilityError, GuestlaunchError
from orchestrator.images.policy import Policy, confine
from orchestrator.settings import Settings, load
from orchestrator.surroundings import working_directory
from orchestrator.wrapper.parent import tell

_NAME = "qemu-img"
_MAIN = "import sys; sys.path[:0] = {path!r}; from orchestrator.workload.checked_qemu_img import main; main()"
# Options whose next word is no image's name.
_WITH_VALUE = frozenset(("-f", "-F", "-b", "-o", "-O", "--output", "--object", "-T", "-t", "-m", "-S", "-s", "-l"))


def first_in_path(environ: Mapping[str, str], settings: Settings) -> Mapping[str, str]:
    """Return the environment of a tool whose images are to be judged by the settings' policy.

    :raise CapabilityError: the program cannot be put where it is to be found.
    """
    if settings.trusts_images:
        return environ
    folder = settings.state_dir / "cache" / "checked"
    program = folder / _NAME
    code = _MAIN.format(path=[os.fspath(Path(__file__).resolve().parents[2])])
    words = (sys.executable, "-I", "-X", "utf8", "-c", code, os.fspath(folder))
    text = f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'
    try:
        os.close(files.open_folder(folder, make=True))
        if not program.is_file() or program.read_text(encoding="utf-8") != text:
            files.write_whole(program, text.encode("utf-8", "surrogateescape"), mode=0o700)
    except OSError as error:
        raise CapabilityError("cannot put in place", program, error.strerror or error) from error
    if not os.access(program, os.X_OK):
        hint = "set GUESTLAUNCH_STATE_DIR to a directory on another file system"
        raise CapabilityError("cannot run", program, "its file system does not allow that", hint)
    return {**environ, "PATH": f"{folder}:{environ.get('PATH', os.defpath)}"}


def main() -> NoReturn:
    """Judge what a command line names, and become the real program."""
    folder, *words = sys.argv[1:]
    others = [one for one in os.environ.get("PATH", os.defpath).split(":") if one != folder]
    real = shutil.which(_NAME, path=":".join(others))
    try:
        if real is None:
            raise CapabilityError("program not found", _NAME, "not in PATH", "install qemu-utils")
        judge(words, load())
    except GuestlaunchError as error:
        line = f"guestlaunch: {error}\n"
        sys.stderr.write(line)
        tell(os.getppid(), line.encode("utf-8", "backslashreplace"))  # libguestfs keeps our own to itself
        sys.exit(1)
    os.execv(real, [_NAME, *words])  # noqa: S606 - that is what it is for


def judge(words: Sequence[str], settings: Settings) -> None:
    """Look at all images that a command line of qemu-img's names.

    :raise ImagePolicyError: one of them names what it may not.
    """
    if settings.trusts_images:
        return
    policy, cwd = Policy.of(settings), working_directory()
    for path, image_format in images(words):
        path = os.path.realpath(path) if path.startswith("/dev/fd/") else os.path.join(cwd, path)  # noqa: PLW2901, PTH118
        if os.path.exists(path):  # noqa: PTH110 - what is not there is the real program's to tell
            confine(path, image_format, cwd, policy)


def images(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the images that a command line names, with their formats where it gives them.

    What is made anew is nobody's yet; a file that is there already under that name is looked at as well.
    """
    backing, backing_format, image_format, named = None, None, None, []
    left = iter(words[1:])
    for word in left:
        value = next(left, "") if word in _WITH_VALUE else ""
        if word == "-b":
            backing = value
        elif word == "-F":
            backing_format = value
        elif word == "-f":
            image_format = value
        elif word == "-o":
            options = dict(part.partition("=")[::2] for part in _parts(value))
            backing = options.get("backing_file", backing)
            backing_format = options.get("backing_fmt", backing_format)
        elif not word.startswith("-"):
            named.append(word)
    if backing:
        yield backing, backing_format
    if words[:1] != ["create"]:
        yield from ((name, image_format) for name in named)


def _parts(options: str) -> list[str]:
    """Return options as QEMU parts them: by commas, of which two are one that belongs to a value."""
    return [part.replace("\0", ",") for part in options.replace(",,", "\0").split(",")]
