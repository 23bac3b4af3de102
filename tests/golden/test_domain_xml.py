"""Domain XML against golden files and libvirt's schema, and that nothing of the model escapes both."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lxml import etree  # type: ignore[import-untyped]

from orchestrator.domain.model import (
    Backing,
    Channel,
    Disk,
    Domain,
    FileSource,
    FwCfgFile,
    Graphics,
    Incoming,
    Interface,
    Loader,
    Metadata,
    Network,
    NetworkSource,
    Privileges,
    Ram,
    Rom,
    Share,
)
from orchestrator.domain.xml import domain_xml
from orchestrator.errors import GuestlaunchError
from tests.golden.domains import all_domains

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.golden.conftest import Golden

DOMAINS = all_domains()
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")  # Debian package libvirt0

# What libvirt takes and its schema does not know, by the end of a golden domain's name: the formats of libvirt 9.2.
BEYOND_THE_SCHEMA = {"minimum": {' format="qcow2"': ""}}

# Fields that XML cannot show, and why.
UNSHOWN = {
    (Disk, "snapshot"): "an overlay is made before; a unit test has the refusal",
    (Disk, "identities"): "what QEMU has opened is compared with them; a unit test does that",
    (Privileges, "own_network"): "it is left by the thread that starts QEMU",
    (Privileges, "reason"): "it is for the log",
    (Privileges, "threads"): "a limit of the process",
    (Privileges, "data_bytes"): "a limit of the process",
}

# Fields that hold values which are looked into themselves.
MADE_OF_VALUES = {
    "profile",
    "source",
    "loader",
    "rom",
    "network",
    "disks",
    "later",
    "channels",
    "ram",
    "incoming",
    "flash",
    "privileges",
    "fw_cfg_files",
    "share",
    "backing",
    "interface",
    "metadata",
    "graphics",
}


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    """Libvirt's schema of domain XML, the qemu namespace included."""
    if not SCHEMA.exists():
        pytest.fail(f"{SCHEMA} is missing: install libvirt0", pytrace=False)
    return etree.RelaxNG(etree.parse(SCHEMA))


@pytest.mark.parametrize("name", DOMAINS)
def test_golden(name: str, golden: Golden) -> None:
    """The XML of each domain is exactly what it was when somebody last looked at it."""
    golden(f"domain/{name}.xml", domain_xml(DOMAINS[name]))


@pytest.mark.parametrize("name", DOMAINS)
def test_schema(name: str, schema: etree.RelaxNG) -> None:
    """Libvirt's own schema accepts the XML of each domain."""
    xml = domain_xml(DOMAINS[name])
    for unknown, known in BEYOND_THE_SCHEMA.get(name.rpartition("-")[2], {}).items():
        assert unknown in xml
        xml = xml.replace(unknown, known)
    assert schema.validate(etree.fromstring(xml)), schema.error_log


def test_schema_refuses(schema: etree.RelaxNG) -> None:
    """The schema is not so loose that it would accept anything."""
    xml = domain_xml(DOMAINS["aarch64-uefi-dma-on"])
    for good, bad in (('pflash"', 'flash"'), ("<qemu:arg value", "<qemu:arg walue"), ('unit="MiB"', 'unit="M B"')):
        assert good in xml
        assert not schema.validate(etree.fromstring(xml.replace(good, bad)))


def test_no_secret() -> None:
    """The text of a secret is nowhere in the XML, its file is."""
    xml = domain_xml(DOMAINS["x86_64-ovmf-rich"])
    assert "not in the XML" not in xml
    assert "/launch/secret,,6" in xml


def changed(value: object) -> object:
    """Return another value of the same kind."""
    match value:
        case StrEnum():
            return next(member for member in type(value) if member is not value)
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "z"
        case tuple():
            return ()
    raise AssertionError(f"no other value for {value!r}")


def variants(value: Any) -> Iterator[tuple[type, str, Any]]:  # noqa: ANN401 - any dataclass of the model
    """Yield (kind, field, value with that field changed) for every field in value and in what it is made of."""
    for field in dataclasses.fields(value):
        child = getattr(value, field.name)
        if dataclasses.is_dataclass(child):
            for kind, name, new in variants(child):
                yield kind, name, dataclasses.replace(value, **{field.name: new})
        elif isinstance(child, tuple) and any(map(dataclasses.is_dataclass, child)):
            for i, part in enumerate(child):
                for kind, name, new in variants(part):
                    yield kind, name, dataclasses.replace(value, **{field.name: (*child[:i], new, *child[i + 1 :])})
        elif child is not None:
            yield type(value), field.name, dataclasses.replace(value, **{field.name: changed(child)})


def outcome(domain: Domain) -> str:
    """Return the XML of domain, or why there is none: what a changed field may change."""
    try:
        return domain_xml(domain)
    except GuestlaunchError as e:
        return str(e)


@pytest.fixture(scope="module")
def shown() -> set[tuple[type, str]]:
    """Every (kind, field) of the model whose change changes what becomes of some golden domain."""
    return {
        (kind, field)
        for domain in DOMAINS.values()
        for before in (outcome(domain),)
        for kind, field, variant in variants(domain)
        if outcome(variant) != before
    }


@pytest.mark.parametrize(
    "kind",
    [
        Domain,
        Disk,
        FileSource,
        NetworkSource,
        Loader,
        Rom,
        Network,
        Channel,
        Ram,
        Incoming,
        Privileges,
        FwCfgFile,
        Share,
        Backing,
        Interface,
        Metadata,
        Graphics,
    ],
)
def test_every_field_shows(kind: type, shown: set[tuple[type, str]]) -> None:
    """Changing any field of the model changes some golden domain: none is forgotten, and none goes unexercised."""
    simple = {f.name for f in dataclasses.fields(kind) if f.name not in MADE_OF_VALUES}
    assert simple - {field for k, field in shown | UNSHOWN.keys() if k is kind} == set()


def test_choices_are_all_made() -> None:
    """The golden domains contain every accelerator, bus, arch, firmware, kind of source and network."""
    domains = list(DOMAINS.values())
    disks = [disk for domain in domains for disk in domain.disks]
    assert {d.accel for d in domains} == set(type(domains[0].accel))
    assert {d.profile.arch for d in domains} == set(type(domains[0].profile.arch))
    assert {d.profile.firmware for d in domains} == set(type(domains[0].profile.firmware))
    assert {d.bus for d in disks} == set(type(disks[0].bus))
    assert {type(d.source).__name__ for d in disks} == {"FileSource", "NetworkSource", "VolumeSource"}
    assert {d.source.block_device for d in disks if isinstance(d.source, FileSource)} == {True, False}
    assert {d.channels == () for d in domains} == {True, False}
