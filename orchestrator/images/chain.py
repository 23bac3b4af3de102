"""The files that QEMU will open for a disk, as its headers name them; and what QEMU must be told to find them.

Nothing is judged here: what cannot be read is left to QEMU, which will report it. What is allowed is in `policy`.
"""

from __future__ import annotations

import contextlib
import os

from orchestrator import files
from orchestrator.images.header import Header
from orchestrator.images.names import Name, Options, backing_name, data_name
from orchestrator.images.reading import read_header
from orchestrator.values import dataclass

_MAX_LAYERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What a disk consists of.

    :ivar files: all local files, the image itself first.
    :ivar options: QEMU's block options for those that its own working directory would hide from it.
    """

    files: tuple[str, ...]
    options: Options = ()


def read_chain(path: str, image_format: str | None, cwd: str) -> Chain:
    """Return what the image at an absolute path consists of.

    :param image_format: what it is opened as; None for what it claims to be.
    :param cwd: the tool's working directory.
    """
    names: list[str] = []
    options: list[tuple[str, str]] = []
    prefix, layer, wanted = "", path, image_format
    while len(names) < _MAX_LAYERS:
        names.append(layer)
        header = _header(layer, wanted)
        if header is None:
            break
        directory = os.path.dirname(layer)
        if header.data is not None:
            found = data_name(header.data, cwd)
            names += found.files
            options += _told(found, f"{prefix}data-file.")
        names += [os.path.join(directory, name) for _sparse, name in header.extents]
        if header.backing is None:
            break
        prefix += "backing."
        below = backing_name(header.backing, directory, cwd)
        options += _told(below, prefix, header.backing_format)
        if below.path is None:
            names += below.files
            break
        # What the header says of the format wins over the name's own, as in QEMU.
        layer, wanted = below.path, header.backing_format or below.format
    return Chain(files=tuple(dict.fromkeys(names)), options=tuple(options))


def _told(name: Name, prefix: str, image_format: str | None = None) -> Options:
    """Return the options that tell QEMU of a name, if it needs them."""
    options = name.options or ()
    return tuple((prefix + key, value) for key, value in options if key != "driver" or image_format is None)


def _header(path: str, image_format: str | None) -> Header | None:
    """Return the header of an image if it can be read, None when there is none to follow."""
    if image_format == "raw":
        return None
    with contextlib.suppress(OSError, ValueError):
        descriptor = files.open_image(path)
        try:
            return read_header(descriptor, image_format)
        finally:
            os.close(descriptor)
    return None
