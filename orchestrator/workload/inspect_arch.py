"""A job: the architectures of the operating systems on its disks."""

from __future__ import annotations

from typing import Any


def run(g: Any) -> list[str]:  # noqa: ANN401 - a handle of the bindings, which have no types
    """Return each architecture once, in libguestfs's words."""
    return sorted({g.inspect_get_arch(root) for root in g.inspect_os()})
