"""NVRAM copies: equal to the template, sparse, and gone with the launch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import FirmwareError
from orchestrator.firmware.nvram import copy_nvram, keep_nvram, settle

MIB = 1024 * 1024
CONTENT = b"\xff" * 5000 + bytes(3 * MIB) + b"variables" + bytes(MIB + 1) + b"end" + bytes(700_000)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A fully allocated file that is mostly zeros."""
    path = tmp_path / "template.fd"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("cached", [False, True])
def test_copy_is_equal_private_and_removed(tmp_path: Path, template: Path, cached: bool) -> None:
    """The copy has the template's bytes, is the owner's alone, and is removed whatever happens."""
    cache = tmp_path / "cache" if cached else None
    target = tmp_path / "launch"
    target.mkdir()
    for _ in range(2):  # the second time from the cache
        with pytest.raises(RuntimeError, match="boom"), copy_nvram(template, target, cache=cache) as path:  # noqa: PT012
            assert path.read_bytes() == CONTENT
            assert path.stat().st_mode & 0o777 == 0o600
            path.write_bytes(b"the guest's")
            raise RuntimeError("boom")
        assert list(target.iterdir()) == []
    assert template.read_bytes() == CONTENT


def test_settled_variables_are_those_of_their_firmware(tmp_path: Path, template: Path) -> None:
    """They are copied for the same code and the same template until one of them changes; what is kept first stays."""
    code, cache, left = tmp_path / "code.fd", tmp_path / "cache", tmp_path / "left.fd"
    code.write_bytes(b"code")
    left.write_bytes(b"settled" + CONTENT[7:])

    def copied(settled_by: Path | None) -> tuple[bytes, bool]:
        with copy_nvram(template, tmp_path, cache=cache, settled_by=settled_by) as path:
            return path.read_bytes(), path.name.startswith("nvram-settled-")

    assert copied(code) == (CONTENT, False)
    settle(left, code=code, template=template, cache=cache)
    settle(template, code=code, template=template, cache=cache)
    assert copied(code) == (left.read_bytes(), True)
    assert copied(None) == (CONTENT, False)
    other = tmp_path / "other.fd"
    other.write_bytes(b"code")
    assert copied(other) == (CONTENT, False)
    os.utime(template, ns=(1, 1))  # an upgrade of the package
    assert copied(code) == (CONTENT, False)


def test_variables_in_another_format_are_not_kept(tmp_path: Path, template: Path) -> None:
    """A qcow2 image grows: what has another size than its template is none of these files."""
    left = tmp_path / "left.fd"
    left.write_bytes(b"longer" + CONTENT)
    settle(left, code=template, template=template, cache=tmp_path / "cache")
    with copy_nvram(template, tmp_path, cache=tmp_path / "cache", settled_by=template) as path:
        assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("cached", [False, True])
def test_copy_takes_little_room(tmp_path: Path, template: Path, cached: bool) -> None:
    """The zeros of a fully allocated template take no blocks in the copy."""
    assert template.stat().st_blocks * 512 >= len(CONTENT)
    with copy_nvram(template, tmp_path, cache=tmp_path / "cache" if cached else None) as path:
        assert path.stat().st_blocks * 512 < len(CONTENT) // 2


def test_sparse_template(tmp_path: Path) -> None:
    """A template with holes, at its end too, is copied whole."""
    template = tmp_path / "sparse.fd"
    with template.open("wb") as file:
        file.seek(MIB)
        file.write(b"data")
        file.truncate(8 * MIB)
    with copy_nvram(template, tmp_path) as path:
        assert path.read_bytes() == template.read_bytes()


@pytest.mark.parametrize("content", [b"", b"x", bytes(10)])
def test_tiny_templates(tmp_path: Path, content: bytes) -> None:
    """Files smaller than a chunk are copied, too."""
    template = tmp_path / "tiny.fd"
    template.write_bytes(content)
    with copy_nvram(template, tmp_path, cache=tmp_path / "cache") as path:
        assert path.read_bytes() == content


def test_changed_template_is_noticed(tmp_path: Path, template: Path) -> None:
    """A package upgrade that keeps the size is not answered from the cache."""
    cache = tmp_path / "cache"
    with copy_nvram(template, tmp_path, cache=cache):
        pass
    template.write_bytes(CONTENT[::-1])
    with copy_nvram(template, tmp_path, cache=cache) as path:
        assert path.read_bytes() == CONTENT[::-1]


def test_damaged_twin_is_replaced(tmp_path: Path, template: Path) -> None:
    """A twin of the wrong size is made again."""
    cache = tmp_path / "cache"
    with copy_nvram(template, tmp_path, cache=cache):
        pass
    [twin] = cache.iterdir()
    os.truncate(twin, 10)
    with copy_nvram(template, tmp_path, cache=cache) as path:
        assert path.read_bytes() == CONTENT


def test_copies_are_apart(tmp_path: Path, template: Path) -> None:
    """Two launches from one template write to different files."""
    with copy_nvram(template, tmp_path) as one, copy_nvram(template, tmp_path) as two:
        one.write_bytes(b"x")
        assert two.read_bytes() == CONTENT


@pytest.mark.parametrize("cached", [False, True])
def test_errors_are_one_line(tmp_path: Path, template: Path, cached: bool) -> None:
    """A missing template or directory is a FirmwareError that names the template, and leaves nothing."""
    cache = tmp_path / "cache" if cached else None
    with (
        pytest.raises(FirmwareError, match=r"missing\.fd.*No such file"),
        copy_nvram("/missing.fd", tmp_path, cache=cache),
    ):
        pass
    with pytest.raises(FirmwareError, match="No such file"), copy_nvram(template, tmp_path / "no", cache=cache):
        pass
    assert {path.name for path in tmp_path.iterdir()} <= {"template.fd", "cache"}


@pytest.mark.parametrize("cached", [False, True])
def test_variables_that_stay(tmp_path: Path, *, cached: bool) -> None:
    """They are a copy like any other, under a name that nothing had; nothing is overwritten."""
    template, target = tmp_path / "vars", tmp_path / "kept"
    template.write_bytes(b"variables" + bytes(1 << 20))
    keep_nvram(template, target, cache=tmp_path / "cache" if cached else None)
    assert target.read_bytes() == template.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600
    target.write_bytes(b"mine")
    with pytest.raises(FirmwareError, match="cannot make the NVRAM"):
        keep_nvram(template, target)
    assert target.read_bytes() == b"mine"


def test_variables_that_are_a_pipe(tmp_path: Path) -> None:
    """Nobody waits for whoever might write to it."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FirmwareError, match="neither a file nor a block device"):
        keep_nvram(tmp_path / "fifo", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
