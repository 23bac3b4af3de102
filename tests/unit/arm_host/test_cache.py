"""Where what was made lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.arm_host.cache import Cache, default_folder, key


def test_a_key_depends_on_every_part_and_on_nothing_else() -> None:
    """The same values give the same name in each process."""
    assert key("a", [1, 2]) == key("a", (1, 2))
    assert len({key("a", [1]), key("a", [2]), key("b", [1]), key("a"), key(["a", [1]])}) == 5


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"ARM_HOST_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/guestlaunch/arm-host"),
        ({"XDG_CACHE_HOME": "x"}, str(Path.home() / ".cache/guestlaunch/arm-host")),
    ],
)
def test_the_folder_is_the_variables_or_the_users_cache(environ: dict[str, str], folder: str) -> None:
    """A relative XDG_CACHE_HOME is no folder, as the specification says."""
    assert default_folder(environ) == Path(folder)


def test_what_is_made_appears_whole_and_once(tmp_path: Path) -> None:
    """A failed attempt leaves nothing, the next one makes it, and a third finds it."""
    cache = Cache(tmp_path)
    final = cache.place("saved", "k")

    def make(*, fail: bool) -> bool:
        with cache.making(final) as folder:
            if folder is None:
                return False
            (folder / "ram").touch()
            assert not final.exists()
            if fail:
                raise OSError(28, "no space")
            return True

    with pytest.raises(OSError, match="no space"):
        make(fail=True)
    assert not [path for path in final.parent.iterdir() if path.is_dir()]
    assert make(fail=False)
    assert (final / "ram").exists()
    assert not make(fail=False)


def test_what_is_used_stays(tmp_path: Path) -> None:
    """Neither `drop`, nor `sweep`, nor `remove` takes a folder from a machine that runs."""
    cache = Cache(tmp_path / "cache")
    used, unused = cache.place("saved", "used"), cache.place("saved", "unused")
    for folder in (used, unused):
        folder.mkdir(parents=True)
    with cache.using(used) as there:
        assert there
        os.utime(used, (0, 0))
        os.utime(unused, (0, 0))
        cache.drop("saved", "used")
        assert cache.sweep() == [unused]
        assert cache.remove() == [used]
        assert used.exists()
    assert cache.remove() == []
    assert not cache.folder.exists()
    with cache.using(used) as there:
        assert not there
