"""The files that a run is given, looked at before anything runs: what several runs take has to be there for all."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator import files
from orchestrator.appliance.probe import check_initrd, kernel_arch
from orchestrator.errors import CapabilityError, DiskError, FirmwareError
from orchestrator.images.header import qcow_format
from orchestrator.kernel.request import KernelRequest


def check_inputs(request: KernelRequest) -> None:
    """Refuse a run whose files are not there, or not what they should be; whatever it runs on.

    :raise GuestlaunchError: with the class that fits.
    """
    kernel_arch(request.kernel)
    for path in request.initrds:
        check_initrd(path)
    for path, _ in request.disks:
        disk_format(path)
    for path in filter(None, request.firmware):
        check_firmware(path)
    for told in (*request.fw_cfg, *request.credentials):
        if told.path is not None:
            try:
                files.check_regular(told.path)
            except OSError as error:
                raise CapabilityError("cannot read", told.path, error.strerror or error) from error
    if request.share is not None and not request.share.is_dir():
        raise CapabilityError("cannot share the directory", request.share, "no such directory")


def disk_format(path: Path) -> str:
    """Return the format of a disk of the user's, as told by its first bytes: raw unless qcow2.

    :raise DiskError: it cannot be opened, or is no disk.
    """
    try:
        with os.fdopen(files.open_image(path), "rb") as stream:
            return "qcow2" if qcow_format(stream.read(8)) == "qcow2" else "raw"
    except OSError as error:
        raise DiskError("cannot open the disk", path, error.strerror or error) from error


def check_firmware(path: Path) -> None:
    """Refuse a file of firmware that is none.

    :raise FirmwareError: it is not there.
    """
    if not path.is_file():
        raise FirmwareError("cannot use the firmware", path, "no such file")
