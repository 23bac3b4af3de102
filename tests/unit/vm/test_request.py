"""What a VM is asked to be: what is refused, and what makes two requests the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain.model import Interface, InterfaceKind
from orchestrator.errors import UsageError
from orchestrator.vm.request import PoolVolume, ReadySign, VmRequest, image_of

REQUEST = VmRequest(name="one", image=Path("/images/one.img"))


def test_the_same_request() -> None:
    """How it is waited for makes no other VM of it; all else does."""
    assert replace(REQUEST, ready=ReadySign.AGENT, timeout_s=1.0).digest() == REQUEST.digest()
    assert REQUEST.specification()["image"] == "/images/one.img"
    assert replace(REQUEST, image=PoolVolume(pool="p", name="v")).specification()["image"] == "vol=p/v"
    for other in (replace(REQUEST, copy=True), replace(REQUEST, vcpus=2), replace(REQUEST, nvram=Path("/n"))):
        assert other.digest() != REQUEST.digest()


@pytest.mark.parametrize("name", ["", "a/b", "-a", ".a", "a b", "a" * 56, "ä"])
def test_names_that_are_refused(name: str) -> None:
    """A name is a file's and a domain's."""
    with pytest.raises(UsageError, match="bad name of a VM"):
        replace(REQUEST, name=name).check()


def test_images_that_are_named(tmp_path: Path) -> None:
    """A file from a folder, or a volume as virt-install names it; nothing between."""
    assert image_of("one.img", tmp_path) == tmp_path / "one.img"
    assert image_of("vol=default/one.img", tmp_path) == PoolVolume(pool="default", name="one.img")
    assert image_of("~no-such-user/one.img", tmp_path) == tmp_path / "~no-such-user/one.img"
    for wrong in ("vol=", "vol=default", "vol=default/", "vol=/one", "vol=a/b/c"):
        with pytest.raises(ValueError, match="vol=POOL/VOLUME"):
            image_of(wrong, tmp_path)


def test_networks() -> None:
    """Each kind leads to an interface, or to none."""
    assert replace(REQUEST, network="none").interface() is None
    assert REQUEST.interface() == Interface(kind=InterfaceKind.USER)
    joined = Interface(kind=InterfaceKind.BRIDGE, source="br0")
    assert replace(REQUEST, network="bridge=br0").interface() == joined
    for wrong in ("network", "network=", "user=x", "tap=x"):
        with pytest.raises(UsageError, match="cannot understand"):
            replace(REQUEST, network=wrong).interface()
