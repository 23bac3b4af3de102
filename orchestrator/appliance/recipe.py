"""What an appliance is made by besides packages and guest scripts: what is left out, linked, loaded.

The digest of it tells an appliance that an older guestlaunch built differently from one that is up to date.
"""

from __future__ import annotations

import hashlib

from orchestrator.appliance import image, initrd, unpack
from orchestrator.appliance.manifest import Init


def recipe_digest(init: Init) -> str:
    """Return the digest of the lists by which an appliance is made here and now, `sha256:HEX`."""
    lists: list[object] = [
        *(unpack.ALTERNATIVES, unpack.RUNTIME_LINKS, unpack.DIRECTORIES, image.FEATURES),
        *(initrd.REQUIRED, initrd.OPTIONAL, initrd.APPLETS, initrd.DRIVERS, initrd.SIGNATURES),
    ]
    if init is Init.LEAN:
        lists.append(unpack.IDLE_RULES)
    return f"sha256:{hashlib.sha256(repr(lists).encode()).hexdigest()}"
