"""What images name, and what QEMU must be told so that it finds it from another directory than the tool's."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.model import Disk, FileSource
from orchestrator.domain.passthrough import drive_option
from orchestrator.errors import DiskError
from orchestrator.hypervisor.handing import chain_of
from orchestrator.images.chain import read_chain
from orchestrator.images.header import BadImageError, Header
from orchestrator.images.names import backing_name, data_name
from orchestrator.images.reading import parse_header
from orchestrator.launch.plan import check_disk, resolve
from orchestrator.settings import Settings
from tests.disks import naming_relatively
from tests.images import bad_images, good_images, qcow2, qemu_reads, watched


def test_qemu_finds_what_is_relative_to_the_tool(tmp_path: Path) -> None:
    """With the options that a drive gets, QEMU opens from elsewhere what the tool would find; without, it does not."""
    cwd, images = naming_relatively(tmp_path)
    for _, path in images:
        for image_format in ("qcow2", None):
            disk = Disk(source=FileSource(path=str(path)), format=image_format)
            options = read_chain(str(path), image_format, str(cwd)).options
            told = Disk(source=disk.source, format=image_format, options=options)
            plain, whole = (
                drive_option(one, 0).replace("id=drive0,if=none,", "").replace("format=", "driver=")
                for one in (disk, told)
            )
            assert "No such file" in qemu_reads(plain, tmp_path)
            assert qemu_reads(whole, tmp_path) == ""


def test_nothing_is_added_where_nothing_is_relative(tmp_path: Path) -> None:
    """Plain names are QEMU's to find: a drive stays as it was."""
    (tmp_path / "base").write_bytes(bytes(512))
    for name in ("base", str(tmp_path / "base"), f"file:{tmp_path}/base", "nbd:localhost:1", "json:broken"):
        (tmp_path / "top").write_bytes(qcow2(name, backing_format="raw"))
        assert read_chain(str(tmp_path / "top"), "qcow2", "/cwd").options == ()


@pytest.mark.parametrize(
    ("text", "files", "protocol"),
    [
        ("a.img", ("/d/a.img",), "file"),
        ("a/b:c", ("/d/a/b:c",), "file"),
        ("/x", ("/x",), "file"),
        ("file:a", ("/cwd/a",), "file"),
        ("nbd:h:1", (), "nbd"),
        (":x", (), "unknown"),
        ("json:{'filename': 'a'}", ("/cwd/a",), "file"),
        ("json:{'driver':'qcow2','file':{'driver':'file','filename':\"it's\"}}", ("/cwd/it's",), "file"),
        ("json:{'driver':'nbd','server':{'type':'unix','path':'s'}}", ("/cwd/s",), "nbd"),
        ("json:{'driver':'raw','offset':512,'file.filename':'a'}", ("/cwd/a",), "json"),
        ("json:{'file.filename':'http://x/y'}", (), "http"),
        ("json:[]", (), "json"),
    ],
)  # fmt: skip
def test_names(text: str, files: tuple[str, ...], protocol: str) -> None:
    """A name means to us what it means to QEMU."""
    name = backing_name(text, "/d", "/cwd")
    assert (name.files, name.protocol) == (files, protocol)
    assert name.path == (files[0] if protocol == "file" else None)


def test_data_files_are_the_tools() -> None:
    """A data file's plain name is relative to the working directory, not to the image."""
    assert data_name("a", "/cwd").path == "/cwd/a"
    assert data_name("a", "/cwd").options == (("filename", "/cwd/a"),)
    assert data_name("/a", "/cwd").options is None


@given(st.binary(max_size=4096), st.integers(0, 1 << 63))
def test_any_bytes(content: bytes, size: int) -> None:
    """Whatever an image holds, the answer is a header or a damaged image."""
    _read(content, size)


@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    """Headers with bytes changed anywhere are read or refused, and nothing else."""
    image = bytearray(data.draw(st.sampled_from(_IMAGES)))
    for place in data.draw(st.lists(st.integers(0, min(len(image), 600) - 1), max_size=8)):
        image[place] = data.draw(st.integers(0, 255))
    _read(bytes(image[: data.draw(st.integers(0, len(image)))]), len(image))


_IMAGES = [case.content for case in good_images() if case.content]


def _read(content: bytes, size: int) -> None:
    def read(offset: int, length: int) -> bytes:
        return content[offset : offset + length] if 0 <= offset < 1 << 62 else b""

    try:
        header = parse_header(read, size)
    except BadImageError:
        return
    assert isinstance(header, Header)
    for text in (header.backing, header.data):
        if text is not None:
            backing_name(text, "/d", "/cwd")
            data_name(text, "/cwd")


@given(st.text(max_size=200))
def test_any_name(text: str) -> None:
    """Any name is understood or left to QEMU."""
    for prefix in ("", "json:", "json:{", "file:"):
        backing_name(prefix + text, "/d", "/cwd")
        data_name(prefix + text, "/cwd")


def test_chains_end(tmp_path: Path) -> None:
    """A chain that bites its tail, and images that are pipes, end the search and not us."""
    (tmp_path / "loop").write_bytes(qcow2("loop", backing_format="qcow2"))
    assert read_chain(str(tmp_path / "loop"), None, "/").files == (str(tmp_path / "loop"),)
    os.mkfifo(tmp_path / "pipe")
    assert read_chain(str(tmp_path / "pipe"), None, "/").files == (str(tmp_path / "pipe"),)
    with watched(tmp_path / "outside") as w:
        assert len(bad_images(w)) > 40


@pytest.mark.timeout(60)
def test_pipes_are_waited_for_by_nobody(tmp_path: Path) -> None:
    """A pipe as an image, or below one, is one clear error: nothing waits until somebody opens its other end."""
    settings = Settings(state_dir=tmp_path, runtime_dir=tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "top").write_bytes(qcow2("pipe", backing_format="raw"))
    top, pipe = (Disk(source=FileSource(path=str(tmp_path / name)), format="qcow2") for name in ("top", "pipe"))
    for disk in (pipe, replace(pipe, readonly=True)):
        with pytest.raises(DiskError, match="neither a file nor a block device"):
            check_disk(disk)
    with pytest.raises(DiskError, match="pipe, which it names, is a pipe"):
        resolve(top, "/", settings)
    assert chain_of(top).files == (str(tmp_path / "top"), str(tmp_path / "pipe"))
