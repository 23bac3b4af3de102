"""Makes the root file system image from a directory. Sparse: what is empty takes no space."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from orchestrator.appliance.command import Deadline, require, run
from orchestrator.errors import ApplianceError, CapabilityError

SIZE_MIB = 4096  # guestfsd's scratch space is in it; as large as libguestfs's own
_INODES = 262144
# No journal and no checksums: every launch throws its writes away, and under TCG each costs time.
FEATURES = "none,dir_index,ext_attr,extent,filetype,flex_bg,large_file,sparse_super"


def _as_root(deadline: Deadline) -> Sequence[str]:
    """Return the command that makes files of this user look like root's.

    :raise CapabilityError: neither user namespaces nor fakeroot are there.
    :raise ApplianceError: it is not known by the deadline.
    """
    if os.geteuid() == 0:
        return []
    namespace = [require("unshare", "util-linux"), "--map-root-user"]
    try:
        tried = subprocess.run([*namespace, "true"], capture_output=True, timeout=deadline.left(), check=False)
    except subprocess.TimeoutExpired as error:
        raise ApplianceError("cannot build an appliance", "unshare", "not done by the deadline") from error
    if tried.returncode == 0:
        return namespace
    try:
        return [require("fakeroot", "fakeroot"), "--"]
    except CapabilityError as error:
        why = "user namespaces are disabled and fakeroot is not installed"
        raise CapabilityError("cannot build an appliance", "as a normal user", why, "install fakeroot") from error


def write_image(root: Path, image: Path, deadline: Deadline, *, size_mib: int = SIZE_MIB) -> str:
    """Write the contents of `root` into a new ext file system with an UUID of its own, and return that.

    :raise ApplianceError: mke2fs failed (no space) or the deadline passed.
    """
    name = str(uuid.uuid4())
    mke2fs = [require("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-O", FEATURES, "-m", "0", "-I", "256"]
    options = ["-N", str(_INODES), "-b", "4096", "-U", name, "-L", "guestlaunch", "-E", "root_owner=0:0"]
    run([*_as_root(deadline), *mke2fs, *options, "-d", str(root), str(image), f"{size_mib}M"], deadline)
    return name
