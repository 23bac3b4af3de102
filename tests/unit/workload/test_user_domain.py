"""A domain of the user's own on another host: its libvirt chooses what only that host knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from orchestrator.domain.model import Accel, Disk, Loader, VolumeSource
from orchestrator.domain.xml import domain_xml
from orchestrator.settings import Settings
from orchestrator.workload import user_domain
from orchestrator.workload.user_domain import BootSource, Wish, plan_domain


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for another host; this one has neither QEMU nor firmware."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("this host was asked")

    for name in ("find_emulator", "find_firmware", "host_arch", "flash_formats"):
        monkeypatch.setattr(user_domain, name, never)
    return Settings(state_dir=tmp_path, runtime_dir=tmp_path, connect="qemu+ssh://elsewhere/system")


@pytest.mark.parametrize(("profile", "arch"), [("aarch64-uefi", "aarch64"), ("x86_64-ovmf", "x86_64")])
def test_another_hosts_emulator_and_firmware(settings: Settings, profile: str, arch: str) -> None:
    """Neither is named: libvirt takes its own, without Secure Boot; KVM is only asked for if the user says so."""
    wish = Wish(name="one", boot=BootSource.DISK, disks=(Path("/images/one.qcow2"),))
    planned = plan_domain(wish, replace(settings, profile=profile))
    assert (planned.emulator, planned.loader, planned.accel) == ("", Loader(code=""), Accel.TCG)
    root = ET.fromstring(domain_xml(planned))
    assert root.find("devices/emulator") is None
    system = root.find("os")
    assert system is not None
    assert (system.get("firmware"), system.find("type[@arch]") is not None) == ("efi", True)
    assert [one.attrib for one in system.findall("firmware/feature")] == [{"enabled": "no", "name": "secure-boot"}]
    assert root.findtext("os/type") == "hvm"
    assert planned.profile.arch == arch
    assert plan_domain(wish, replace(settings, profile=profile, accel="kvm")).accel is Accel.KVM


def test_disks_that_are_known(settings: Settings) -> None:
    """They are taken as they are: nobody looks for files."""
    disk = Disk(source=VolumeSource(pool="default", volume="one.qcow2"), format="qcow2")
    planned = plan_domain(Wish(name="one", boot=BootSource.DISK), settings, (disk,))
    assert planned.disks == (disk,)
    source = ET.fromstring(domain_xml(planned)).find("devices/disk[@type='volume']/source")
    assert source is not None
    assert source.attrib == {"pool": "default", "volume": "one.qcow2"}
