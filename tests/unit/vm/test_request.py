"""What a VM is asked to be: what is refused, and what makes two requests the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain.model import Interface, InterfaceKind
from orchestrator.errors import UsageError
from orchestrator.vm.request import ReadySign, VmRequest

REQUEST = VmRequest(name="one", image=Path("/images/one.img"))


def test_the_same_request() -> None:
    """How it is waited for makes no other VM of it; all else does."""
    assert replace(REQUEST, ready=ReadySign.AGENT, timeout_s=1.0).digest() == REQUEST.digest()
    for other in (replace(REQUEST, copy=True), replace(REQUEST, vcpus=2), replace(REQUEST, nvram=Path("/n"))):
        assert other.digest() != REQUEST.digest()


@pytest.mark.parametrize("name", ["", "a/b", "-a", ".a", "a b", "a" * 56, "ä"])
def test_names_that_are_refused(name: str) -> None:
    """A name is a file's and a domain's."""
    with pytest.raises(UsageError, match="bad name of a VM"):
        replace(REQUEST, name=name).check()


def test_networks() -> None:
    """Each kind leads to an interface, or to none."""
    assert replace(REQUEST, network="none").interface() is None
    assert REQUEST.interface() == Interface(kind=InterfaceKind.USER)
    joined = Interface(kind=InterfaceKind.BRIDGE, source="br0")
    assert replace(REQUEST, network="bridge=br0").interface() == joined
    for wrong in ("network", "network=", "user=x", "tap=x"):
        with pytest.raises(UsageError, match="cannot understand"):
            replace(REQUEST, network=wrong).interface()
