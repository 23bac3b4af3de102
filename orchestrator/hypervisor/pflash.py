"""Which images libvirt can give a guest as pflash. libvirt is loaded only when asked."""

from __future__ import annotations

# The release that learnt other formats, as `library_version` has it.
_FORMATS_SINCE = 9_002_000
_RAW_ONLY = ("raw",)


def flash_formats() -> tuple[str, ...]:
    """Return the formats that libvirt can give a guest as pflash: before 9.2, or where it is not there, raw alone."""
    try:
        from orchestrator.hypervisor.binding import library_version
    except ImportError:
        return _RAW_ONLY
    return ("raw", "qcow2") if library_version() >= _FORMATS_SINCE else _RAW_ONLY
