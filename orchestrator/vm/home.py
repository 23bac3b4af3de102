"""Where the disks of a VM live: in a folder of this host's, or in a storage pool of libvirt's, on whichever host.

Both are asked the same; how a VM is made and removed (`create`, `known`) is the same for either.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.domain.model import Backing, Domain, FileSource, VolumeSource
from orchestrator.domain.profiles import load_profile
from orchestrator.domain.volumes import volume_xml
from orchestrator.errors import CapabilityError, DiskError, NotFoundError, StoppedError, UsageError
from orchestrator.firmware.descriptors import find_firmware
from orchestrator.hypervisor.pflash import flash_formats
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.vm import folder as folders
from orchestrator.vm.image import VmImage, read_image, told_header
from orchestrator.vm.note import VmNote
from orchestrator.vm.request import PoolVolume, VmRequest

if TYPE_CHECKING:
    from orchestrator.hypervisor.connection import Connection
    from orchestrator.hypervisor.volumes import Volume

_SEED_VOLUME = "-seed.img"


class Home(Protocol):
    """Where the disks of one VM live.

    :ivar folder: what this host has of it; `pool` names the storage pool, if its disks are there.
    :ivar disk: the name of its disk, and `seed` of cloud-init's.
    """

    folder: Path
    pool: str
    disk: str
    seed: str

    def image(self) -> VmImage:
        """Return what its disk is made of, once it is known that it can be made there."""

    def names(self) -> list[str]:
        """Return the names of all that will be made."""

    def source(self, name: str) -> FileSource | VolumeSource:
        """Return one of these as a domain has it."""

    def described(self, planned: Domain) -> Domain:
        """Return a planned domain with the firmware's variables where they are."""

    def make(self, image: VmImage, settings: Settings, stop: Stop) -> None:
        """Make its disk, and the firmware's variables unless that is libvirt's."""

    def renew_nvram(self, settings: Settings) -> None:
        """Make the firmware's variables anew, unless libvirt does: a boot that was cut off may have spoilt them."""

    def make_seed(self, data: bytes) -> None:
        """Make cloud-init's disk."""

    def disk_here(self) -> Path | None:
        """Return its disk, as far as it is a file of this host's that can be written to."""

    def clear(self, names: list[str]) -> list[str]:
        """Remove what was made; return what else is there."""


class FolderHome:
    """A folder of its own on this host.

    :param uri: as for `orchestrator.vm.folder.make`, and `passable`.
    """

    pool = ""
    disk, seed = folders.DISK, folders.SEED

    def __init__(
        self, folder: Path, request: VmRequest | None = None, *, uri: str = "", passable: bool = False
    ) -> None:
        self.folder, self._uri = folder, uri
        self._request, self._passable = request, passable

    def image(self) -> VmImage:
        """See `Home`."""
        request, path = self._asked()
        return read_image(path, request.image_format, copied=request.copy)

    def names(self) -> list[str]:
        """See `Home`."""
        seed = [self.seed] if self._asked()[0].customization.cloud_init is not None else []
        return [self.disk, folders.NVRAM, *seed]

    def source(self, name: str) -> FileSource:
        """See `Home`."""
        return FileSource(path=str(self.folder / name))

    def described(self, planned: Domain) -> Domain:
        """See `Home`."""
        assert planned.loader is not None  # the profile is one with UEFI
        return replace(planned, loader=replace(planned.loader, nvram=str(self.folder / folders.NVRAM), template=None))

    def make(self, image: VmImage, settings: Settings, stop: Stop) -> None:
        """See `Home`."""
        folders.make(self.folder, self._uri, passable=self._passable)
        folders.make_disk(self._asked()[0], image, self.folder, stop)
        self.renew_nvram(settings)

    def renew_nvram(self, settings: Settings) -> None:
        """See `Home`."""
        profile = load_profile(settings.profile)
        firmware = find_firmware(profile.arch, profile.machine, formats=flash_formats())
        folders.make_nvram(self._asked()[0], firmware, self.folder, settings)

    def make_seed(self, data: bytes) -> None:
        """See `Home`."""
        folders.make_seed(self.folder, data)

    def disk_here(self) -> Path:
        """See `Home`."""
        return self.folder / self.disk

    def clear(self, names: list[str]) -> list[str]:
        """See `Home`."""
        return folders.clear(self.folder, [*names, folders.KNOWN_HOSTS, folders.CONNECTION])

    def _asked(self) -> tuple[VmRequest, Path]:
        assert self._request is not None
        assert isinstance(self._request.image, Path)
        return self._request, self._request.image


class PoolHome:
    """A storage pool: that of the image. Whatever it may be on, it is libvirt that reads and writes there.

    :ivar folder: only for what ssh learns of it.
    """

    def __init__(
        self, connection: Connection, pool: str, name: str, folder: Path, request: VmRequest | None = None
    ) -> None:
        self.folder, self.pool = folder, pool
        self.disk, self.seed = f"{name}.qcow2", f"{name}{_SEED_VOLUME}"
        self._here, self._pool, self._request = connection.is_local, connection.pool(pool), request

    def image(self) -> VmImage:
        """See `Home`."""
        request, volume = self._asked(), self._image_volume()
        for name in self.names():
            if self._pool.find(name) is not None:
                why = f"there is a volume of that name, and no VM {request.name}"
                raise UsageError("cannot make volume", f"{self.pool}/{name}", why, "choose another name for the VM")
        if not volume.is_file():
            raise DiskError("cannot use the image", request.image, "this works for volumes that are files")
        stored = volume.stored_bytes()
        header = told_header(str(request.image), volume.read, stored, request.image_format, copied=request.copy)
        path = Path(volume.path)
        here = self._here and os.access(path, os.R_OK)
        return VmImage(path=path, format=header.format, size=header.size, here=here)

    def names(self) -> list[str]:
        """See `Home`."""
        return [self.disk, *([self.seed] if self._asked().customization.cloud_init is not None else [])]

    def source(self, name: str) -> VolumeSource:
        """See `Home`."""
        return VolumeSource(pool=self.pool, volume=name)

    def described(self, planned: Domain) -> Domain:
        """See `Home`: libvirt makes the variables, where it keeps those of its domains."""
        return planned

    def make(self, image: VmImage, settings: Settings, stop: Stop) -> None:
        """See `Home`."""
        del settings
        request, size = self._asked(), self._asked().size_bytes
        if request.copy:
            copied = self._pool.copy(self.disk, volume_xml(self.disk, image.size, "qcow2"), self._image_volume())
            if size is not None and size > image.size:
                copied.resize(size)
        else:
            backing = Backing(path=str(image.path), format=image.format)
            self._pool.make(self.disk, volume_xml(self.disk, size or image.size, "qcow2", backing))
        if stop.requested:
            raise StoppedError("stopped", request.name, stop.reason)

    def renew_nvram(self, settings: Settings) -> None:
        """See `Home`: a first boot that is begun again has libvirt do it."""

    def make_seed(self, data: bytes) -> None:
        """See `Home`."""
        self._pool.make(self.seed, volume_xml(self.seed, len(data), "raw")).fill(data)

    def disk_here(self) -> Path | None:
        """See `Home`."""
        volume = self._pool.find(self.disk) if self._here else None
        path = None if volume is None else Path(volume.path)
        return path if path is not None and os.access(path, os.R_OK | os.W_OK) else None

    def clear(self, names: list[str]) -> list[str]:
        """See `Home`."""
        for name in names:
            volume = self._pool.find(name)
            if volume is not None:
                volume.delete()
        return folders.clear(self.folder, [folders.KNOWN_HOSTS])

    def _asked(self) -> VmRequest:
        assert self._request is not None
        return self._request

    def _image_volume(self) -> Volume:
        """Return the image.

        :raise NotFoundError: there is none.
        """
        image = self._asked().image
        assert isinstance(image, PoolVolume)
        volume = self._pool.find(image.name)
        if volume is None:
            raise NotFoundError("no such volume", image, f"storage pool {image.pool} has none of that name")
        return volume


def home_for(request: VmRequest, connection: Connection, folder: Path) -> Home:
    """Return where the disks of a VM that is made live.

    :raise CapabilityError: its image is a file of this host's, and the VM is to be on another one.
    """
    if isinstance(request.image, PoolVolume):
        return PoolHome(connection, request.image.pool, request.name, folder, request)
    if not connection.is_local:
        why = "its image and its disk are files of this host"
        hint = "--image vol=POOL/VOLUME names an image of that host's"
        raise CapabilityError("cannot create a VM on another host", connection.uri, why, hint)
    passable = connection.uri.endswith("/system") or "/system?" in connection.uri
    return FolderHome(folder, request, uri=connection.uri, passable=passable)


def home_of(note: VmNote, connection: Connection) -> Home:
    """Return where the disks of a VM that is there live.

    :raise CapabilityError: they are files of another host.
    """
    if note.pool:
        try:
            return PoolHome(connection, note.pool, "", Path(note.folder))
        except NotFoundError as error:
            files = ", ".join(note.paths)
            hint = "virsh pool-define brings it back; virsh undefine --nvram forgets the VM alone"
            raise NotFoundError("cannot use storage pool", note.pool, f"it is gone, with {files}", hint) from error
    if not connection.is_local:
        why = f"its files are in {note.folder} of that host, where it was made"
        raise CapabilityError("cannot remove a VM on another host", connection.uri, why, "remove it there")
    return FolderHome(Path(note.folder))
