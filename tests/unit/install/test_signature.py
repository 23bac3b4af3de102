"""The signature over a list of checksums, as gpgv judges it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from orchestrator.errors import LocationError
from orchestrator.install.signature import is_signed
from orchestrator.install.source import TreeFolder

LIST = "main/installer-arm64/current/images/SHA256SUMS"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite whose release file names the list's checksum, and a gpgv that takes what is GOOD for signed."""
    top = tmp_path / "suite"
    (top / LIST).parent.mkdir(parents=True)
    (top / LIST).write_text("sums\n")
    write_release(top, hashlib.sha256(b"sums\n").hexdigest())
    gpgv = tmp_path / "bin/gpgv"
    gpgv.parent.mkdir()
    gpgv.write_text(
        '#!/bin/sh\n[ "$1 $2 $4" = "--quiet --output --keyring" ] || exit 9\n'
        'grep -q GOOD "$6" || { echo "gpgv: BAD signature" >&2; exit 1; }\nsed /GOOD/d "$6" >"$3"\n'
    )
    gpgv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gpgv.parent}:{os.environ['PATH']}")
    (tmp_path / "keys").write_text("")
    return top


def write_release(top: Path, value: str, sign: str = "GOOD") -> None:
    """Write the release file."""
    lines = ["Origin: Debian", "MD5Sum:", f" {'0' * 32} 5 {LIST}", "SHA256:", f" {value} 5 {LIST}", "X: y", sign, ""]
    (top / "InRelease").write_text("\n".join(lines))


def signed(top: Path, keys: str = "keys") -> bool:
    """Tell whether the list is signed for."""
    return is_signed(TreeFolder(top, str(top)), LIST, [top.parent / keys])


def test_a_list_that_is_signed_for(suite: Path) -> None:
    """Its checksum is in the release file, which is signed."""
    assert signed(suite)


def test_a_list_that_is_another(suite: Path) -> None:
    """The one that is signed for has another checksum."""
    write_release(suite, "0" * 64)
    with pytest.raises(LocationError, match="not the one that is signed for"):
        signed(suite)


def test_a_bad_signature(suite: Path) -> None:
    """It is worse than none."""
    write_release(suite, "0" * 64, "BAD")
    with pytest.raises(LocationError, match="the signature is not good: .*BAD signature"):
        signed(suite)


def test_nothing_to_check(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys, no gpgv, no release file: nothing is known."""
    assert not signed(suite, "none")
    (suite / "InRelease").rename(suite / "elsewhere")
    assert not signed(suite)
    (suite / "elsewhere").rename(suite / "InRelease")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert not signed(suite)
