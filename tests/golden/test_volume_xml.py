"""Volumes' XML: as libvirt's schema has it, and with everything in it that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree  # type: ignore[import-untyped]

from orchestrator.domain.model import Backing
from orchestrator.domain.volumes import volume_xml

SCHEMA = Path("/usr/share/libvirt/schemas/storagevol.rng")  # Debian package libvirt0


@pytest.mark.parametrize("backing", [None, Backing(path="/pool/a & b.img", format="raw", pooled=True)])
@pytest.mark.parametrize("volume_format", ["raw", "qcow2"])
def test_volume(volume_format: str, backing: Backing | None) -> None:
    """Name, size, format, and what is below, with its format."""
    element = etree.fromstring(volume_xml("one.img", 1 << 30, volume_format, backing))
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    assert schema.validate(element), schema.error_log
    assert (element.findtext("name"), element.findtext("capacity")) == ("one.img", str(1 << 30))
    assert element.find("target/format").get("type") == volume_format
    below = element.find("backingStore")
    assert (below is None) is (backing is None)
    if backing is not None:
        assert (below.findtext("path"), below.find("format").get("type")) == ("/pool/a & b.img", "raw")
