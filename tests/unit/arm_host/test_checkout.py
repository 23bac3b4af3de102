"""The checkout as it is brought into the emulated host."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tools.arm_host.checkout import digest, names, write_archive


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small checkout of git's, with a change that is not committed, and what git ignores."""
    top = tmp_path / "top"
    (top / "orchestrator").mkdir(parents=True)
    (top / ".gitignore").write_text(".venv\n")
    (top / "orchestrator/a.py").write_text("A = 1\n")
    (top / "gone").touch()
    git = ["git", "-C", str(top), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *words], check=True)
    (top / "gone").unlink()
    (top / "new").write_text("new")
    (top / ".venv").mkdir()
    (top / ".venv/x").touch()
    return top


def test_what_is_new_is_in_it_and_what_is_gone_or_ignored_is_not(tree: Path) -> None:
    """It is the tree as it is now, not as it was committed."""
    assert names(tree) == [".gitignore", "new", "orchestrator/a.py"]


def test_each_change_gives_another_digest(tree: Path) -> None:
    """Contents and the right to execute count, times do not."""
    before = digest(tree)
    (tree / "new").touch()
    assert digest(tree) == before
    (tree / "new").chmod(0o755)
    executable = digest(tree)
    (tree / "new").write_text("old")
    assert len({before, executable, digest(tree)}) == 3


def test_the_archive_has_byte_code_that_names_the_place_it_goes_to(tree: Path, tmp_path: Path) -> None:
    """Nothing is left of making it."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    out = io.BytesIO()
    write_archive(tree, "/there", out, scratch)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        [code] = [name for name in tar.getnames() if name.endswith(".pyc")]
        file = tar.extractfile(code)
        assert file is not None
        assert b"/there/orchestrator/a.py" in file.read()
        assert "./new" in tar.getnames()
    assert not list(scratch.iterdir())
