"""Charts as files, and the bundled library: what is written is whole, of the kind that was asked for, never mixed."""

from __future__ import annotations

import contextlib
import re
import resource
import struct
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from orchestrator.errors import GuestlaunchError, NotFoundError, UsageError
from orchestrator.report import charts, export
from orchestrator.report.collection import Collection, collect
from tests import simulated_results
from tests.simulated_launches import event, mixture


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Simulated launches of all kinds, and a result of each kind that has a chart."""
    folder = tmp_path_factory.mktemp("results")
    found = collect(mixture(count=120))
    for make in (simulated_results.fw_cfg, simulated_results.sweep, simulated_results.seed):
        path = folder / f"{make.__name__}.json"
        found.results.append((path, make(path)))
    return found


@pytest.mark.parametrize("name", charts.FIGURES)
def test_every_chart_as_svg(name: str, collection: Collection, tmp_path: Path) -> None:
    """A well-formed picture with a title, real colours and no name of the page's left."""
    path = tmp_path / f"{name}.svg"
    export.write_figure(name, collection, path)
    text = path.read_text()
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--" not in text
    assert re.search(r"role-title", text)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_chart_as_png(collection: Collection, tmp_path: Path) -> None:
    """Twice the size, for paper."""
    path = tmp_path / "a.PNG"
    export.write_figure("phase-ab", collection, path)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width >= 2 * 600
    assert height >= 2 * 300


def test_a_figure_never_mixes(collection: Collection) -> None:
    """Rows come from the largest group alone; the subtitle names it and how many launches it has."""
    spec = export.figure("trend", collection)
    ids = {row["id"] for row in spec["datasets"]["rows"]}
    group = collection.groups()[0]
    own = collection.of(group)
    assert ids <= {line["launch_id"] for line in own}
    assert spec["title"]["subtitle"] == f"{group.title}, n = {len(own)}"
    assert len(own) < collection.count


def test_a_modelled_result_says_so(tmp_path: Path) -> None:
    """In the picture itself, which travels without its page."""
    path = tmp_path / "a.json"
    found = Collection(results=[(path, simulated_results.fw_cfg(path, cost_ns=5_900))])
    assert "MODELLED trap cost 5.9 µs" in export.figure("ratios", found)["title"]["subtitle"]


def test_mistakes_are_named(collection: Collection, tmp_path: Path) -> None:
    """An unknown figure names the nearest, another kind of file the two there are; a chart without data says so."""
    with pytest.raises(UsageError, match="phase-ab"):
        export.figure("phase-ba", collection)
    with pytest.raises(UsageError, match=".svg or .png"):
        export.write_figure("trend", collection, tmp_path / "a.pdf")
    with pytest.raises(NotFoundError, match="sweep"):
        export.figure("sweep", collect([event(1)]))
    with pytest.raises(NotFoundError, match="waterfall"):
        export.figure("waterfall", Collection())
    with pytest.raises(GuestlaunchError, match="nowhere"):
        export.write_figure("trend", collection, tmp_path / "nowhere" / "a.svg")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Under a temporary name first; readable by others; nothing else is left."""
    path = tmp_path / "a.html"
    path.write_text("before")
    export.write_file(path, b"after")
    assert path.read_bytes() == b"after"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


@contextlib.contextmanager
def no_room(most_bytes: int) -> Iterator[None]:
    """Have no file grow beyond a size: Python does without the signal, and a write fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [5_000, 5_000_000])
def test_a_failed_write_leaves_nothing(tmp_path: Path, size: int) -> None:
    """Neither a temporary file nor a part of the new one in the old one's place: small or large, named or cached."""
    path = tmp_path / "a.html"
    path.write_text("old")
    with no_room(1_000), pytest.raises(GuestlaunchError, match="cannot write: .*a.html: File too large"):
        export.write_file(path, bytes(size))
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


def test_a_name_that_cannot_be_had_leaves_nothing(tmp_path: Path) -> None:
    """A directory of the file's name stays, and no temporary file beside it."""
    path = tmp_path / "a.html"
    path.mkdir()
    with pytest.raises(GuestlaunchError, match="cannot write"):
        export.write_file(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_of_the_library_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is bundled anew the next time."""
    monkeypatch.setattr(export, "_bundle", lambda: "x" * 5_000)
    with no_room(1_000):
        assert export.library(tmp_path / "cache") == "x" * 5_000
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_library_is_bundled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot end its script element, asks nothing of the network, and is taken from the cache the second time."""
    made: list[int] = []
    bundle = export._bundle

    def counted() -> str:
        made.append(1)
        return bundle()

    monkeypatch.setattr(export, "_bundle", counted)
    first = export.library(tmp_path / "cache")
    assert "</script" not in first
    assert "vegaEmbed" in first
    assert export.library(tmp_path / "cache") == first
    assert len(made) == 1
    (tmp_path / "file").touch()
    assert export.library(tmp_path / "file") == first
