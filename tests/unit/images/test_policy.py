"""Untrusted images: nothing that a bad one names is opened or connected to; a good one is described whole."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.images.chain import read_chain
from orchestrator.images.policy import ImagePolicyError, Policy, confine, confine_overlay
from tests.disks import host
from tests.images import MIB, Watched, bad_images, good_images, put, qcow2, watched

POLICY = Policy(max_bytes=1 << 40)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Path, Watched]]:
    """A directory for images, and what nobody may touch outside of it."""
    folder = tmp_path / "images"
    folder.mkdir()
    with watched(tmp_path / "outside") as w:
        yield folder, w


def test_nothing_is_read_and_nobody_is_called(place: tuple[Path, Watched]) -> None:
    """Each of the bad images is refused with one line that names it and the reason; the canary stays unread."""
    folder, w = place
    cases = bad_images(w)
    assert len({case.name for case in cases}) >= 40
    wrong = []
    for case in cases:
        path = put(case, folder)
        with pytest.raises(ImagePolicyError) as caught:
            confine(str(path), case.format, str(folder), POLICY)
        line = str(caught.value)
        if case.says not in line or str(path) not in line or "\n" in line:
            wrong.append(f"{case.name}: {line}")
        wrong += [f"{case.name}: {what}" for what in w.touched()]
    assert wrong == []


def test_the_watch_sees(place: tuple[Path, Watched]) -> None:
    """What the test above relies on: QEMU, left to itself, does read the canary, and does connect."""
    folder, w = place
    cases = {case.name: case for case in bad_images(w)}
    for name in ("absolute", "data", "guessed", "qcow", "qed", "vmdk-extent", "nbd", "nbd-json"):
        path = put(cases[name], folder)
        options = f"driver={cases[name].format}" if cases[name].format else "read-only=on"
        command = ["qemu-io", "--image-opts", "-r", "-c", "read 0 512", f"{options},file.filename={path}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if name.startswith("nbd"):
            w.tcp.settimeout(60)
            w.tcp.accept()[0].close()
            w.tcp.setblocking(False)
            process.wait(60)
            continue
        process.wait(60)
        assert w.touched() == ["the canary was opened"], name


def test_good_images(place: tuple[Path, Watched]) -> None:
    """Images of every kind are described with all their files, named absolutely, and end where they end."""
    folder, _ = place
    for case in good_images():
        path = put(case, folder)
        confined = confine(str(path), case.format, str(folder), POLICY)
        graph = json.loads(confined.graph)
        assert graph["driver"] == (case.format or "raw"), case.name
        names = {Path(name).name for name in confined.files}
        assert names | {case.link} - {""} == {case.name, case.link, *(name for name, _ in case.more)} - {""}, case.name
        if graph["driver"] in {"qcow", "qcow2", "qed", "vmdk"}:
            last = graph
            while last.get("backing"):
                last = last["backing"]
            assert last["driver"] == "raw" or last["backing"] is None, case.name
        identities = {(status.st_dev, status.st_ino) for status in map(os.stat, confined.files)}
        assert confined.identities == identities


def test_qemu_understands_the_graph(place: tuple[Path, Watched]) -> None:
    """QEMU opens the graph of what qemu-img made, from a directory that has nothing to do with it."""
    folder, _ = place
    (folder / "base").write_bytes(b"x" * MIB)
    for image_format in ("qcow2", "qed", "vmdk", "vdi", "vpc", "vhdx", "qcow"):
        host("qemu-img", "create", "-q", "-f", image_format, folder / image_format, "4M")
    host("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base", folder / "mid")
    host("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "mid", folder / "top")
    for name in ("qcow2", "qed", "vmdk", "vdi", "vpc", "vhdx", "qcow", "top"):
        graph = confine(str(folder / name), "qcow2" if name == "top" else name, "/", POLICY).graph
        command = ["qemu-io", "-r", "-c", f"read -P {ord('x') if name == 'top' else 0} 0 512", f"json:{graph}"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
        assert (run.returncode, "Pattern" in run.stdout) == (0, False), f"{name}: {run.stdout}{run.stderr}"


def test_roots(place: tuple[Path, Watched]) -> None:
    """With roots of the user's, image and backing file may be below different ones, and nowhere else."""
    folder, w = place
    (folder / "top").write_bytes(qcow2(str(w.canary), backing_format="raw"))
    both = Policy(roots=(str(folder), str(w.canary.parent)), max_bytes=MIB)
    assert len(confine(str(folder / "top"), "qcow2", "/", both).files) == 2
    for roots in ((str(folder),), (str(w.canary.parent),), (str(folder) + "x",), ("/no/such",)):
        with pytest.raises(ImagePolicyError, match="not below"):
            confine(str(folder / "top"), "qcow2", "/", Policy(roots=roots, max_bytes=MIB))
    assert confine(str(folder / "top"), "qcow2", "/", Policy(roots=("/",), max_bytes=MIB)).format == "qcow2"


def test_special_files(place: tuple[Path, Watched]) -> None:
    """A pipe is not waited for, a directory and a socket are no images."""
    folder, _ = place
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(folder / "socket"))
        for name in ("pipe", "folder", "socket"):
            for image_format in ("raw", None):
                with pytest.raises(ImagePolicyError, match="neither a file nor"):
                    confine(str(folder / name), image_format, "/", POLICY)


def test_overlay_of_a_read_only_drive(place: tuple[Path, Watched], tmp_path: Path) -> None:
    """Libguestfs's own overlay is the tool's word; what lies below it is judged, and opened without its locks."""
    folder, w = place
    (tmp_path / "tool").mkdir()
    overlay = tmp_path / "tool" / "overlay1.qcow2"
    (folder / "good").write_bytes(bytes(MIB))
    (folder / "bad").write_bytes(qcow2(str(w.canary)))
    overlay.write_bytes(qcow2(str(folder / "good")))
    confined = confine_overlay(str(overlay), "qcow2", "/", POLICY)
    graph = json.loads(confined.graph)
    file = {"driver": "file", "filename": str(folder / "good"), "locking": "off"}
    assert graph["backing"] == {"driver": "raw", "file": file}
    assert confined.files == (str(overlay), str(folder / "good"))
    for name, image_format in (("bad", "qcow2"), ("bad", "")):
        overlay.write_bytes(qcow2(str(folder / name), backing_format=image_format))
        with pytest.raises(ImagePolicyError):
            confine_overlay(str(overlay), "qcow2", "/", POLICY)
    assert w.touched() == []


def test_trusted_is_not_judged(place: tuple[Path, Watched]) -> None:
    """What a trusted image names is listed as far as it can be followed, and never an error."""
    folder, w = place
    for case in (*bad_images(w), *good_images()):
        path = put(case, folder)
        assert read_chain(str(path), case.format, str(folder)).files[0] == str(path)
