"""The disk by which cloud-init's NoCloud source is told what to do: an ISO 9660 file system called cidata."""

from __future__ import annotations

import io
from collections.abc import Mapping

LABEL = "cidata"
_MOST = 8 << 20


def make_cidata(files: Mapping[str, bytes]) -> bytes:
    """Return the disk.

    :param files: content by name.
    :raise ValueError: it is too much.
    """
    if sum(map(len, files.values())) > _MOST:
        raise ValueError(f"at most {_MOST >> 20} MiB")
    from pycdlib import PyCdlib  # here: most VMs want none

    disk, out = PyCdlib(), io.BytesIO()
    disk.new(vol_ident=LABEL, rock_ridge="1.09")
    for number, (name, content) in enumerate(files.items()):
        disk.add_fp(io.BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name)
    disk.write_fp(out)
    disk.close()
    return out.getvalue()
