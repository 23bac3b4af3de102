"""The images in a package: what is fetched stays only if all of it was unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import LocationError
from orchestrator.install.package import unpacked

_APT = """#!/bin/sh
case $* in
*--print-uris*) echo "'http://archive/one_1_all.deb' one_1_all.deb 9 SHA256:0" ;;
*) echo package >one_1_all.deb ;;
esac
"""
_DPKG = """#!/bin/sh
mkdir -p "$3/usr/lib/debian-installer/images/12/arm64/text"
touch "$3/usr/lib/debian-installer/images/12/arm64/text/linux"
[ ! -e ../cut ] || { echo interrupted >&2; exit 2; }
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, on a host whose apt has one package."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("apt-get", _APT), ("dpkg-deb", _DPKG)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return tmp_path / "cache"


def test_a_package_that_is_unpacked(cache: Path) -> None:
    """It is kept, without the package itself."""
    assert unpacked("one", cache).has("linux")
    assert [path.name for path in cache.iterdir()] == ["deb-one_1_all"]


def test_one_that_is_not_unpacked_leaves_nothing(cache: Path) -> None:
    """As when an interrupt ends dpkg-deb; then it is fetched again."""
    (cache.parent / "cut").touch()
    with pytest.raises(LocationError, match="interrupted"):
        unpacked("one", cache)
    assert not list(cache.iterdir())
    (cache.parent / "cut").unlink()
    assert unpacked("one", cache).has("linux")
