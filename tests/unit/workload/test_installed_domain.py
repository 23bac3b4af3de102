"""The domain of a system that was installed: under a free name, with the variables that its installation left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.domain.model import Graphics, GraphicsKind, Loader
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.install.request import InstallRequest
from orchestrator.install.unfinished import held
from orchestrator.settings import Settings
from orchestrator.workload import installed_domain
from tests.golden.domains import kernel_run


class PretendedConnection:
    """libvirt, with one domain that it knows."""

    def __init__(self) -> None:
        self.defined: list[str] = []
        self.names = ["taken"]
        self.active, self.xml = False, ""

    def list_names(self) -> list[str]:
        """Return the domains."""
        return self.names

    def define(self, xml: str) -> None:
        """Take a domain."""
        self.defined.append(xml)
        self.names.append("vm")

    def stored(self, name: str) -> SimpleNamespace | None:
        """Return a domain, if it is there."""
        if name not in self.names:
            return None
        return SimpleNamespace(undefine=lambda: self.names.remove(name), is_active=self.active, xml=lambda: self.xml)


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> PretendedConnection:
    """The connection that is opened."""
    one = PretendedConnection()

    @contextlib.contextmanager
    def connected(_: Settings) -> Iterator[Any]:
        yield one

    monkeypatch.setattr(installed_domain, "_connected", connected)
    return one


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a daemon."""
    return Settings(state_dir=tmp_path, runtime_dir=tmp_path, connect="qemu:///session")


def test_names_that_cannot_be_had(settings: Settings, connection: PretendedConnection) -> None:
    """One that is taken, and any where no daemon keeps domains, or one of another host does."""
    request = InstallRequest(location="x", disks=(settings.state_dir / "d.img",))
    installed_domain.definition("free", request, settings)
    with pytest.raises(UsageError, match="there is one of that name"):
        installed_domain.definition("taken", request, settings)
    for uri in (None, "qemu:///embed"):
        with pytest.raises(UsageError, match="no libvirt daemon named"):
            installed_domain.definition("free", request, replace(settings, connect=uri))
    with pytest.raises(CapabilityError, match="files of this host"):
        installed_domain.definition("free", request, replace(settings, connect="qemu+ssh://there/system"))
    assert not connection.defined


def test_a_name_that_an_interrupted_installation_has_left(settings: Settings, connection: PretendedConnection) -> None:
    """It may be had again by an installation of the same system, as long as nobody has started it."""
    request = InstallRequest(location="x", disks=(settings.state_dir / "d.img",))
    with held(request.kept_nvram) as note:
        note.begin("qemu:///session", "taken")
        connection.xml = f"<nvram>{request.kept_nvram}</nvram>"
        assert installed_domain.definition("taken", request, settings).name == "taken"
        for active, xml in ((True, connection.xml), (False, "<nvram>/another</nvram>")):
            connection.active, connection.xml = active, xml
            with pytest.raises(UsageError, match="there is one of that name"):
                installed_domain.definition("taken", request, settings)
        note.begin("qemu:///system", "taken")
        with pytest.raises(UsageError, match="there is one of that name"):
            installed_domain.definition("taken", request, settings)


def test_what_is_defined(
    settings: Settings, connection: PretendedConnection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Disks and kept variables, no template of others, no kernel; it restarts with its guest."""
    planned = replace(
        kernel_run(), name="vm", kernel=None, initrd=None, cmdline="", kept=True,
        loader=Loader(code="/code", template="/vars"),
    )  # fmt: skip
    monkeypatch.setattr(installed_domain, "plan_domain", lambda *_: planned)
    request = InstallRequest(location="x", disks=(tmp_path / "d.img",))
    definition = installed_domain.definition("vm", request, settings)
    definition.define(settings)
    (xml,) = connection.defined
    assert f"<nvram>{tmp_path}/d.img.nvram.fd</nvram>" in xml
    assert "template=" not in xml
    assert "<kernel>" not in xml
    assert "<on_reboot>restart</on_reboot>" in xml
    assert "virtio-net-pci" in xml
    assert connection.list_names() == ["taken", "vm"]
    definition.forget()
    assert connection.list_names() == ["taken"]
    definition.forget()  # somebody else may have been quicker
    shown = replace(request, network=False, graphics=GraphicsKind.VNC)
    alone = installed_domain.installed_domain("vm", shown, settings)
    assert alone.graphics == Graphics(kind=GraphicsKind.VNC)
    assert cast("Any", alone).network is None
