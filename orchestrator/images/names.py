"""What a file name inside an image means to QEMU: a local file, relative to what, or something over a protocol.

A plain relative backing file is beside its image. Everything else that is relative (`file:NAME`, a `json:` block
graph, a qcow2 data file) is so to QEMU's working directory, which for libguestfs is the tool's. The rules are those of
QEMU's block.c (`path_has_protocol`, `bdrv_make_absolute_filename`, `parse_json_filename`). No file is touched here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping

from orchestrator.values import dataclass

_PROTOCOL = re.compile(r"([^/:]*):", re.DOTALL)
_STRING = re.compile(r"'((?:[^'\\]|\\.)*)'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_FILE_PREFIXES = ("file:", "host_device:")
_FILE_DRIVERS = frozenset({"file", "host_device", "host_cdrom"})
# Image formats that a block graph may say by name.
FORMATS = frozenset({"raw", "qcow", "qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc"})
# The only graphs whose one file is an image like any other: a format over a file, or the file itself.
_SIMPLE_KEYS = frozenset({"driver", "filename", "file.driver", "file.filename"})
_MAX_DEPTH = 32

Options = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A name in an image, understood.

    :ivar path: the one local file that it leads to, absolute; None when it leads elsewhere, or to more than one.
    :ivar files: all local files (and sockets) of it.
    :ivar format: the format that it gives the file itself (`json:` alone does).
    :ivar protocol: by which it is reached: "file", or another one that QEMU would use.
    :ivar options: QEMU's block options for it, its local files absolute; None where the name alone says it all.
    """

    path: str | None
    files: tuple[str, ...]
    protocol: str = "file"
    format: str | None = None
    options: Options | None = None


def backing_name(text: str, directory: str, cwd: str) -> Name:
    """Return what the name of a backing file means.

    :param directory: that of the image; `cwd` the tool's working directory. Both absolute.
    """
    if _PROTOCOL.match(text) is None:
        return _plain(os.path.join(directory, text))
    return _opened(text, cwd, "file.filename")


def data_name(text: str, cwd: str) -> Name:
    """Return what the name of a qcow2 data file means, which QEMU opens as it is."""
    return _opened(text, cwd, "filename")


def protocol_of(text: str) -> str | None:
    """Return the protocol that a name begins with, None for a plain path."""
    found = _PROTOCOL.match(text)
    return None if found is None else found[1] or "unknown"


def _plain(path: str, options: Options | None = None) -> Name:
    return Name(path=path, files=(path,), options=options)


def _opened(text: str, cwd: str, key: str) -> Name:
    """Return what a name means that QEMU takes from its working directory.

    :param key: the block option that would say it.
    """
    if text.startswith("json:"):
        return _graph(text.removeprefix("json:"), cwd)
    path = next((text.removeprefix(prefix) for prefix in _FILE_PREFIXES if text.startswith(prefix)), text)
    if path == text and (protocol := protocol_of(text)) is not None:
        return Name(path=None, files=(), protocol=protocol)
    if os.path.isabs(path):
        return _plain(path)
    return _plain(os.path.join(cwd, path), ((key, os.path.join(cwd, path)),))


def _graph(text: str, cwd: str) -> Name:
    """Return a block graph, its relative files made absolute."""
    try:
        values = dict(_flattened(json.loads(_STRING.sub(_double_quoted, text))))
    except (ValueError, RecursionError):
        return Name(path=None, files=(), protocol="json")
    whole = {key: os.path.join(cwd, values[key]) for key in values if _is_path(values, key)}
    drivers = {value for key, value in values.items() if key.rpartition(".")[2] == "driver"}
    foreign = sorted(drivers - _FILE_DRIVERS - FORMATS)
    foreign += [found for key, value in values.items() if (found := _protocol_in(values, key, value)) is not None]
    top = values.get("driver")
    simple = len(whole) == 1 and not foreign and set(values) <= _SIMPLE_KEYS
    return Name(
        path=next(iter(whole.values())) if simple else None,
        files=tuple(whole.values()),
        protocol="file" if simple else foreign[0] if foreign else "json",
        format="raw" if top in _FILE_DRIVERS else top if simple else None,
        options=tuple((values | whole).items()) if any(values[key] != whole[key] for key in whole) else None,
    )


def _is_path(values: Mapping[str, str], key: str) -> bool:
    """Whether an option of a graph is a local path."""
    node, _, last = key.rpartition(".")
    if last == "filename":
        driver = values.get(_at(node, "driver"))
        return driver in _FILE_DRIVERS or (driver is None and protocol_of(values[key]) is None)
    if last == "path":  # of an NBD server's unix socket
        owners = (node, node.rpartition(".")[0]) if node.rpartition(".")[2] == "server" else (node,)
        return any(values.get(_at(owner, "driver")) == "nbd" for owner in owners)
    return False


def _protocol_in(values: Mapping[str, str], key: str, value: str) -> str | None:
    """Return the protocol of a file name in a graph that names no driver for it."""
    node, _, last = key.rpartition(".")
    return protocol_of(value) if last == "filename" and _at(node, "driver") not in values else None


def _at(node: str, option: str) -> str:
    return f"{node}.{option}" if node else option


def _double_quoted(found: re.Match[str]) -> str:
    """Return a string as JSON has it: QEMU takes single quotes as well."""
    if found[1] is None:
        return found[0]
    return '"' + found[1].replace("\\'", "'").replace('"', '\\"') + '"'


def _flattened(value: object, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield a graph's options as QEMU spells them on its command line.

    :raise ValueError: it is too deep, or holds what has no such spelling.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("too deep")
    if isinstance(value, dict | list) and value:
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in entries:
            yield from _flattened(one, _at(prefix, str(key)), depth + 1)
    elif isinstance(value, bool):
        yield prefix, "on" if value else "off"
    elif isinstance(value, str | int) and prefix:
        yield prefix, str(value)
    else:
        raise ValueError("no block graph")
