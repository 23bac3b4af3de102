"""A storage pool's volume as libvirt XML: an overlay over another volume, or one of its own. No policy and no I/O."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from orchestrator.domain.model import Backing
from orchestrator.domain.xml import to_text


def volume_xml(name: str, size_bytes: int, volume_format: str, backing: Backing | None = None) -> str:
    """Return the XML that has libvirt make a volume.

    :param size_bytes: the disk's, as its guest sees it.
    :raise UsageError: a value holds a character that XML cannot hold.
    """
    root = ET.Element("volume")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "capacity", unit="bytes").text = str(size_bytes)
    target = ET.SubElement(root, "target")
    ET.SubElement(target, "format", type=volume_format)
    if volume_format == "qcow2":
        ET.SubElement(target, "compat").text = "1.1"  # libvirt's default is of 2010
    if backing is not None:
        below = ET.SubElement(root, "backingStore")
        ET.SubElement(below, "path").text = backing.path
        ET.SubElement(below, "format", type=backing.format)
    return to_text(root)
