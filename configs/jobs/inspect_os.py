"""Finds the operating systems on disks; see inspect.toml."""

from __future__ import annotations

from typing import Any


def applications(g: Any, root: str) -> int | None:  # noqa: ANN401 - as below
    """Return how many packages are installed, None where the system has no package database."""
    try:
        return len(g.inspect_list_applications2(root))
    except RuntimeError as error:
        print(f"{root}: {error}")  # noqa: T201 - as below
        return None


def run(g: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a guestfs handle, for which no types are shipped
    """Return one entry an operating system."""
    found = []
    for root in g.inspect_os():
        mountpoints = g.inspect_get_mountpoints(root)
        for place in sorted(mountpoints, key=len):
            try:
                g.mount_ro(mountpoints[place], place)
            except RuntimeError as error:  # named in the system's fstab, and not on the disks given
                print(f"{place}: {error}")  # noqa: T201 - shown to whoever runs the job, on stderr
        found.append(
            {
                "root": root,
                "type": g.inspect_get_type(root),
                "distro": g.inspect_get_distro(root),
                "product": g.inspect_get_product_name(root),
                "version": f"{g.inspect_get_major_version(root)}.{g.inspect_get_minor_version(root)}",
                "arch": g.inspect_get_arch(root),
                "hostname": g.inspect_get_hostname(root),
                "mountpoints": mountpoints,
                "applications": applications(g, root),
            }
        )
        g.umount_all()
    return found
