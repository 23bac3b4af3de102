"""Shared objects: those that come with us are what their sources give."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator import compiled
from orchestrator.errors import CapabilityError
from tools import objects


@pytest.mark.parametrize("arch", objects.ARCHS)
@pytest.mark.parametrize("name", list(objects.SOURCES))
def test_what_comes_compiled_is_what_the_source_gives(name: str, arch: str) -> None:
    """That of the source that is here always, and byte by byte where the compiler is the one that made it."""
    package, _slash, source = name.partition("/")
    brought = compiled.our_object(package, source, arch, purpose="cannot test")
    compiler = objects.compiler_for(arch)
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    if version != objects.VERSION:
        pytest.skip(f"{compiler} is of version {version}, not {objects.VERSION}")
    assert objects.compiled(objects.SOURCES[name], arch) == brought


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "0"}, r"cannot test: guest_arch\.c: \S*json was made of another .*tools\.objects"),
        ({"aarch64": None}, r"cannot test: guest_arch\.c: it is not compiled for aarch64"),
    ],
)
def test_what_does_not_fit_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], said: str
) -> None:
    """One line says what is wrong."""
    package, source = "orchestrator.workload", "guest_arch.c"
    name = f"{package}/{source}"
    made = json.loads(objects.FILE.read_text())
    made[name] = {key: value for key, value in (made[name] | change).items() if value is not None}
    (tmp_path / "made.json").write_text(json.dumps(made))
    monkeypatch.setattr(compiled, "_OURS", str(tmp_path / "made.json"))
    with pytest.raises(CapabilityError, match=said):
        compiled.our_object(package, source, "aarch64", purpose="cannot test")
