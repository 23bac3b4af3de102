"""A storage pool of libvirt's, on whichever host the connection leads to: volumes found, read, made, filled, removed.

`connection` finds pools. What a volume is for is `orchestrator.vm`'s affair.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from orchestrator.errors import CapabilityError, NotFoundError
from orchestrator.hypervisor.binding import libvirt
from orchestrator.hypervisor.failure import translate

_T = TypeVar("_T")
_BLOCK = 256 * 1024


class Volume:
    """One volume.

    :ivar path: where it is, on its host; `subject` is what errors call it.
    """

    def __init__(self, handle: libvirt.virConnect, volume: libvirt.virStorageVol, subject: str) -> None:
        self.subject = subject
        self._handle, self.volume = handle, volume
        self.path = _call("cannot look at volume", subject, volume.path)

    def is_file(self) -> bool:
        """Tell whether it is a file of its host's, and no block device, say."""
        return bool(self._info(0)[0] == libvirt.VIR_STORAGE_VOL_FILE)

    def stored_bytes(self) -> int:
        """Return how long it is as it is stored, which is not how large a disk it is."""
        return int(self._info(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])

    def _info(self, flags: int) -> list[int]:
        return _call("cannot look at volume", self.subject, lambda: self.volume.infoFlags(flags))

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes as they are stored, fewer where it ends."""
        length = min(length, self.stored_bytes() - offset)
        if length <= 0:
            return b""

        def download() -> bytes:
            stream = self._handle.newStream(0)
            self.volume.download(stream, offset, length, 0)
            data = b""
            while isinstance(block := stream.recv(_BLOCK), bytes) and block:
                data += block
            stream.finish()
            return data

        return _call("cannot read volume", self.subject, download)

    def fill(self, data: bytes) -> None:
        """Write data to its beginning."""

        def upload() -> None:
            stream = self._handle.newStream(0)
            self.volume.upload(stream, 0, len(data), 0)
            rest = memoryview(data)
            while rest:
                rest = rest[stream.send(bytes(rest[:_BLOCK])) :]
            stream.finish()

        _call("cannot fill volume", self.subject, upload)

    def resize(self, size_bytes: int) -> None:
        """Make the disk larger."""
        _call("cannot resize volume", self.subject, lambda: self.volume.resize(size_bytes, 0))

    def delete(self) -> None:
        """Remove it."""
        _call("cannot delete volume", self.subject, lambda: self.volume.delete(0))


class StoragePool:
    """One pool, which is active.

    :raise CapabilityError: it is not.
    """

    def __init__(self, handle: libvirt.virConnect, pool: libvirt.virStoragePool) -> None:
        self.name = pool.name()
        self._handle, self._pool = handle, pool
        if not _call("cannot look at storage pool", self.name, pool.isActive):
            hint = f"virsh pool-start {self.name}"
            raise CapabilityError("cannot use storage pool", self.name, "it is not active", hint)

    def find(self, name: str) -> Volume | None:
        """Return a volume, None where there is none. What came by other ways is only known once libvirt looks again."""
        with contextlib.suppress(NotFoundError):
            return self._volume("cannot look for volume", name, lambda: self._pool.storageVolLookupByName(name))
        with contextlib.suppress(libvirt.libvirtError):  # it does not look while it makes a volume
            self._pool.refresh(0)
        with contextlib.suppress(NotFoundError):
            return self._volume("cannot look for volume", name, lambda: self._pool.storageVolLookupByName(name))
        return None

    def make(self, name: str, xml: str) -> Volume:
        """Make a volume."""
        return self._volume("cannot make volume", name, lambda: self._pool.createXML(xml, 0))

    def copy(self, name: str, xml: str, source: Volume) -> Volume:
        """Make a volume with what is in another one."""
        make = partial(self._pool.createXMLFrom, xml, source.volume, 0)
        return self._volume("cannot make volume", name, make)

    def _volume(self, what: str, name: str, function: Callable[[], libvirt.virStorageVol]) -> Volume:
        subject = f"{self.name}/{name}"
        return Volume(self._handle, _call(what, subject, function), subject)


def _call(what: str, subject: str, function: Callable[[], _T]) -> _T:
    try:
        return function()
    except libvirt.libvirtError as failure:
        raise translate(failure, what, subject) from failure
