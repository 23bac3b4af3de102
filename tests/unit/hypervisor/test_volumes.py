"""A storage pool's volumes, by libvirt's own driver for tests: found, made, removed. What a host's libvirt offers."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.domain.model import Backing
from orchestrator.domain.volumes import volume_xml
from orchestrator.errors import CapabilityError, GuestlaunchError, NotFoundError

pytest.importorskip("libvirt", reason="python3-libvirt is not installed")

from orchestrator.hypervisor.binding import libvirt
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.volumes import StoragePool


@pytest.fixture
def connection() -> Iterator[libvirt.virConnect]:
    """A connection to nothing."""
    handle = libvirt.open("test:///default")
    yield handle
    handle.close()


def test_volumes(connection: libvirt.virConnect) -> None:
    """What is there is found, what was made is removed, and nothing is there twice."""
    pool = StoragePool(connection, connection.storagePoolLookupByName("default-pool"))
    assert pool.find("base.img") is None
    base = pool.make("base.img", volume_xml("base.img", 1 << 20, "raw"))
    assert (base.path, base.subject) == ("/default-pool/base.img", "default-pool/base.img")
    backing = Backing(path=base.path, format="raw", pooled=True)
    over = pool.make("over.qcow2", volume_xml("over.qcow2", 2 << 20, "qcow2", backing))
    copied = pool.copy("copy.qcow2", volume_xml("copy.qcow2", 1 << 20, "qcow2"), base)
    with pytest.raises(GuestlaunchError, match=r"cannot make volume: default-pool/over\.qcow2"):
        pool.make("over.qcow2", volume_xml("over.qcow2", 2 << 20, "qcow2"))
    for volume in (over, copied):
        volume.delete()
    assert [pool.find(name) is None for name in ("over.qcow2", "copy.qcow2", "base.img")] == [True, True, False]
    with pytest.raises(GuestlaunchError, match=r"cannot read volume: default-pool/base\.img|cannot look at volume"):
        base.read(0, 512)


def test_a_pool_that_is_not_active(connection: libvirt.virConnect) -> None:
    """It is said, with what to do."""
    pool = connection.storagePoolLookupByName("default-pool")
    pool.destroy()
    with pytest.raises(CapabilityError, match=r"default-pool: it is not active \(virsh pool-start default-pool\)"):
        StoragePool(connection, pool)


def test_what_a_connection_has(connection: libvirt.virConnect) -> None:
    """A pool by its name; KVM only for the architectures that libvirt says it of."""
    on = Connection(connection, "test:///default", None)
    assert on.pool("default-pool").name == "default-pool"
    with pytest.raises(NotFoundError, match="cannot use storage pool: gone"):
        on.pool("gone")

    def said(_emulator: None, arch: str, _machine: None, kind: str) -> str:
        assert kind == "kvm"
        if arch == "x86_64":
            return "<domainCapabilities/>"
        error = libvirt.libvirtError("")
        error.err = (8 if arch == "aarch64" else 38, 10, "KVM is not supported")  # type: ignore[attr-defined]
        raise error

    handle = SimpleNamespace(getDomainCapabilities=said)
    offering = Connection(cast("libvirt.virConnect", handle), "qemu+ssh://elsewhere/system", None)
    assert [offering.offers_kvm(arch) for arch in ("x86_64", "aarch64")] == [True, False]
    with pytest.raises(GuestlaunchError, match="cannot ask for capabilities"):
        offering.offers_kvm("riscv64")
