"""VMs described in a file (TOML), as values: a table for each, with the keys that requests have.

[vm.web1]                        the name; libvirt's as well
image = "debian-12.qcow2"        from the file's folder; or a volume of a storage pool: "vol=POOL/VOLUME"
size = "20G"                     bytes, or with M, G or T
memory_mib = 2048
vcpus = 2
network = "user"
graphics = "vnc"
hostname = "web1"
user = "me"
ssh_keys = ["~/.ssh/id_ed25519.pub"]
install = ["nginx"]
run = ["systemctl enable nginx"]
copy_in = [["index.html", "/var/www/html"]]
cloud_init = "user-data"
ready = "any"
timeout_s = 600
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.domain.model import Arch, GraphicsKind
from orchestrator.errors import UsageError, nearest
from orchestrator.vm.customization import Customization
from orchestrator.vm.request import PoolVolume, ReadySign, VmRequest, image_of, path_of, size_of

_PURPOSE = "cannot use the description"


def load_requests(path: Path) -> list[VmRequest]:
    """Return the VMs that a file describes.

    :raise UsageError: names the file, the table, the key and what would be right.
    """
    try:
        whole = tomllib.loads(files.read_whole(path, pipe=True).decode("utf-8"))
    except OSError as error:
        raise UsageError(_PURPOSE, path, error.strerror or error) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(_PURPOSE, path, error) from error
    tables = whole.get("vm")
    if set(whole) != {"vm"} or not isinstance(tables, dict) or not tables:
        raise UsageError(_PURPOSE, path, "it needs a table for each VM and nothing else", "as [vm.NAME]")
    return [_request(name, table, path) for name, table in tables.items()]


def _request(name: str, table: object, path: Path) -> VmRequest:
    """Return one VM.

    :raise UsageError: its table is wrong.
    """
    where = f"{path} [vm.{name}]"
    if not isinstance(table, Mapping):
        raise UsageError(_PURPOSE, where, "it is no table")
    for key in table:
        if key not in _KEYS:
            hint = nearest(key, _KEYS) or f"keys: {', '.join(_KEYS)}"
            raise UsageError(_PURPOSE, where, f"unknown key '{key}'", hint)
    if "image" not in table:
        raise UsageError(_PURPOSE, where, "it names no image")
    read: dict[str, Any] = {}
    for key, value in table.items():
        try:
            read[key] = _KEYS[key](value, path.absolute().parent)
        except (TypeError, ValueError) as error:
            raise UsageError(_PURPOSE, where, f"{key} = {value!r}", f"expected {error}") from error
    changed = {key: read.pop(key) for key in _CUSTOMIZATION if key in read}
    if "size" in read:
        read["size_bytes"] = read.pop("size")
    return VmRequest(name=name, customization=Customization(**changed), **read)


def _text(value: object, _folder: Path) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a text that is not empty")
    return value


def _flag(value: object, _folder: Path) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _whole(value: object, _folder: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("a whole number above 0")
    return value


def _seconds(value: object, _folder: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError("seconds, above 0")
    return float(value)


def _path(value: object, folder: Path) -> Path:
    return path_of(_text(value, folder), folder)


def _paths(value: object, folder: Path) -> tuple[Path, ...]:
    return tuple(_path(one, folder) for one in _list(value))


def _texts(value: object, folder: Path) -> tuple[str, ...]:
    return tuple(_text(one, folder) for one in _list(value))


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("a list of texts")
    return value


def _copies(value: object, folder: Path) -> tuple[tuple[Path, str], ...]:
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in _list(value)):
        raise ValueError('pairs, as [["file", "/folder"]]')
    return tuple((_path(source, folder), _text(target, folder)) for source, target in value)  # type: ignore[attr-defined]


def _image(value: object, folder: Path) -> Path | PoolVolume:
    return image_of(_text(value, folder), folder)


def _arch(value: object, _folder: Path) -> Arch:
    try:
        return Arch(str(value))
    except ValueError:
        raise ValueError(f"one of {', '.join(Arch)}") from None


def _graphics(value: object, _folder: Path) -> GraphicsKind | None:
    try:
        return None if value == "none" else GraphicsKind(str(value))
    except ValueError:
        raise ValueError(f"one of {', '.join(GraphicsKind)}, none") from None


def _bytes(value: object, folder: Path) -> int:
    return _whole(value, folder) if isinstance(value, int) else size_of(_text(value, folder))


def _sign(value: object, _folder: Path) -> ReadySign:
    try:
        return ReadySign(str(value))
    except ValueError:
        raise ValueError(f"one of {', '.join(ReadySign)}") from None


_CUSTOMIZATION: Mapping[str, Callable[[object, Path], object]] = {
    "hostname": _text,
    "user": _text,
    "ssh_keys": _paths,
    "run": _texts,
    "install": _texts,
    "copy_in": _copies,
    "cloud_init": _path,
}
_KEYS: Mapping[str, Callable[[object, Path], object]] = {
    "image": _image,
    "image_format": _text,
    "arch": _arch,
    "copy": _flag,
    "size": _bytes,
    "memory_mib": _whole,
    "vcpus": _whole,
    "network": _text,
    "graphics": _graphics,
    "nvram": _path,
    "ready": _sign,
    "timeout_s": _seconds,
    **_CUSTOMIZATION,
}
