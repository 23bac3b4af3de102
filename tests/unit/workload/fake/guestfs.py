"""Stands for the guestfs bindings where no guest is to be started: same shapes, no appliance."""

from __future__ import annotations

import os
import time
from typing import Any, List, Optional  # noqa: UP035 - as in the bindings themselves


class GuestFS:
    """A handle that notes what is asked of it."""

    def __init__(self, python_return_dict: bool = False, environment: bool = True, close_on_exit: bool = True) -> None:
        self.drives: list[tuple[str, dict[str, Any]]] = []
        self.state = "config"

    def add_drive_opts(self, filename: str, readonly: Optional[bool] = None, format: Optional[str] = None) -> None:  # noqa: UP045, A002
        self.drives.append((filename, {"readonly": readonly, "format": format}))

    def set_network(self, network: bool) -> None:
        self.network = network

    def launch(self) -> None:
        if os.environ.get("FAKE_LAUNCH") == "fails":
            raise RuntimeError("guestfs_launch failed")
        time.sleep(float(os.environ.get("FAKE_LAUNCH", "0")))
        self.state = "ready"

    def list_devices(self) -> List[str]:  # noqa: UP006
        return [f"/dev/sd{chr(ord('a') + index)}" for index in range(len(self.drives))]

    def part_add(self, device: str, prlogex: str, startsect: int, endsect: int) -> None:
        self.added = (device, prlogex, startsect, endsect)

    def cat(self, path: str) -> str:
        if path == "/missing":
            raise RuntimeError("cat: open: /missing: No such file or directory")
        return f"content of {path}\n"

    def read_file(self, path: str) -> bytes:
        return b"\xff\x00" if path == "/binary" else b"text"

    def command(self, arguments: List[str]) -> str:  # noqa: UP006
        return repr(arguments)

    def mkfs(self, fstype: str, device: str, blocksize: Optional[int] = None, label: Optional[str] = None) -> None:  # noqa: UP045
        self.made = (fstype, device, blocksize, label)

    def write(self, path: str, content: bytes) -> None:
        self.written = (path, content)

    def is_file(self, path: str, followsymlinks: Optional[bool] = None) -> bool:  # noqa: UP045
        return bool(followsymlinks)

    def die(self) -> None:
        os.abort()

    def sleep(self, secs: int) -> None:
        time.sleep(secs)

    def shutdown(self) -> None:
        if os.environ.get("FAKE_SHUTDOWN") == "fails":
            raise RuntimeError("shutdown failed")

    def close(self) -> None:
        self.state = "closed"
