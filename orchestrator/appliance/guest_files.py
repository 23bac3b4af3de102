"""The files that run in the guest: which there are, which appliance has which, and the digest of them all."""

from __future__ import annotations

import hashlib
from importlib import resources

from orchestrator.appliance.manifest import Init

INITRD_INIT = "initrd-init"
ROOT_INIT = "root-init"
INITRD_FILES = (INITRD_INIT, "marker.sh")


def guest_file(name: str) -> bytes:
    """Return a file that runs in the guest."""
    return resources.files("orchestrator.appliance").joinpath("guest", name).read_bytes()


def root_files() -> list[str]:
    """Return the names of the files that are in a lean root, beside its init."""
    folder = resources.files("orchestrator.appliance").joinpath("guest")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    return [name for name in names if name not in {INITRD_INIT, ROOT_INIT}]


def scripts_digest(init: Init) -> str:
    """Return the digest of the files of which an appliance is made here and now, `sha256:HEX`."""
    names = {*INITRD_FILES, *((ROOT_INIT, *root_files()) if init is Init.LEAN else ())}
    total = hashlib.sha256()
    for name in sorted(names):
        text = guest_file(name)
        total.update(f"{name} {len(text)}\n".encode() + text)
    return f"sha256:{total.hexdigest()}"
