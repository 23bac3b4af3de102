"""The little that starting a domain needs to know of its XML. Whether it is a good domain is libvirt's to say."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

from orchestrator.errors import HypervisorError


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The little of a domain's XML that starting it needs to know."""

    name: str
    emulator: str | None
    arch: str | None
    machine: str | None
    virt_type: str | None


def summarise(xml: str) -> Summary:
    """Return what a domain's XML says.

    :raise HypervisorError: it is no XML.
    """
    try:
        root = ET.fromstring(xml)  # noqa: S314 - written by us or by libvirt, and libvirt parses it again
    except ET.ParseError as error:
        raise HypervisorError("cannot read the domain's XML", "", error) from error
    kind = root.find("os/type")
    return Summary(
        name=root.findtext("name", ""),
        emulator=root.findtext("devices/emulator"),
        arch=kind.get("arch") if kind is not None else None,
        machine=kind.get("machine") if kind is not None else None,
        virt_type=root.get("type"),
    )
