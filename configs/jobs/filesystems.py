"""Lists file systems and how full they are; see filesystems.toml."""

from __future__ import annotations

from typing import Any


def run(g: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a guestfs handle, for which no types are shipped
    """Return one entry a file system; sizes in bytes, None where it cannot be mounted."""
    found = []
    for device, kind in g.list_filesystems().items():
        entry = {"device": device, "type": kind, "label": None, "size": None, "used": None}
        if kind not in {"swap", "unknown"}:
            entry["label"] = g.vfs_label(device) or None
            try:
                g.mount_ro(device, "/")
            except RuntimeError:  # damaged, encrypted, or of a kind that this appliance cannot mount
                entry["error"] = "cannot be mounted"
            else:
                usage = g.statvfs("/")
                entry["size"] = usage["blocks"] * usage["frsize"]
                entry["used"] = (usage["blocks"] - usage["bfree"]) * usage["frsize"]
                g.umount_all()
        found.append(entry)
    return found
