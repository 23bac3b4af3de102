"""A server launches only with the very files that its client means."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.daemon.client import LaunchFeed
from orchestrator.daemon.sameness import named_files, said_files
from orchestrator.settings import Settings, for_launch
from orchestrator.wrapper import argv
from tests.disks import host
from tests.unit.daemon.support import FakeLauncher, Served

BOOT = ["-kernel", "/a/kernel", "-initrd", "/a/initrd"]


def disk(path: Path, image_format: str = "raw") -> list[str]:
    return ["-drive", f"file={path},format={image_format},id=hd0,if=none", "-device", "scsi-hd,drive=hd0"]


def launch(*middle: str, users: tuple[str, ...] = ()) -> list[str]:
    return [*BOOT, *middle, "-append", "root=UUID=x", *users]


@pytest.mark.parametrize("other", [None, [1, 2], "x", True])
def test_another_file_is_not_opened(served: Served, launcher: FakeLauncher, tmp_path: Path, other: object) -> None:
    """A disk that is another file to the client, or none: nothing is launched, and the client learns that it may."""
    (tmp_path / "d.img").write_bytes(bytes(512))
    with LaunchFeed(served.path) as watch, served.client() as client:
        words = launch(*disk(tmp_path / "d.img"))
        client.lies = {"identities": [None, None, other]}
        client.launch({"GUESTLAUNCH_CLIENT": watch.token}, argv=words)
        answer = client.receive()
        assert list(watch.finished()) == []  # the launch is still to come, elsewhere
    assert answer["elsewhere"] is True
    assert str(tmp_path / "d.img") in answer["message"]
    assert launcher.calls == []
    assert any(json.loads(line)["event"] == "client_elsewhere" for line in served.log.read_text().splitlines())


@pytest.mark.parametrize("environ", [{"GUESTLAUNCH_IMAGE_POLICY": "untrusted"}, {"GUESTLAUNCH_CONFIG": "/only/there"}])
def test_files_that_only_the_client_has(
    served: Served, launcher: FakeLauncher, tmp_path: Path, environ: dict[str, str]
) -> None:
    """What is not here is not looked into, and refused for that: first it is asked whether it is the client's."""
    with served.client() as client:
        client.lies = {"identities": [None, None, [1, 2], [3, 4]][: 3 + ("GUESTLAUNCH_CONFIG" in environ)]}
        client.launch(environ, argv=launch(*disk(tmp_path / "only-there.img")))
        assert client.receive()["elsewhere"] is True
    assert launcher.calls == []


@pytest.mark.parametrize("identities", [[], [None], "x", None, {"a": 1}])
def test_wrong_answers(served: Served, launcher: FakeLauncher, identities: object) -> None:
    """An answer that does not fit the question is refused, and no file is opened on its word."""
    with served.client() as client:
        client.lies = {"identities": identities}
        client.launch()
        answer = client.receive()
    assert answer["status"] == 1
    assert "elsewhere" not in answer
    assert launcher.calls == []


def test_client_that_goes_instead_of_answering(served: Served, launcher: FakeLauncher) -> None:
    """A client that ends when it is asked has launched nothing; one that is told to end meanwhile is stopped."""
    launcher.at_once = True
    with served.client() as client:
        client.lies = {"type": "terminate"}
        client.launch()
    with served.client() as client:
        client.launch()
        assert client.receive()["status"] == 0
    assert launcher.stopped == [None]


def test_all_that_a_launch_names(tmp_path: Path) -> None:
    """Kernel, initrd, socket, disks and what they are made of, an NBD socket, settings: all are compared."""
    base, top, cwd = tmp_path / "base.img", tmp_path / "top.qcow2", tmp_path / "cwd"
    cwd.mkdir()
    base.write_bytes(bytes(1024 * 1024))
    host("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, top)
    (cwd / "c.toml").write_text("", encoding="utf-8")
    environ = {"GUESTLAUNCH_CONFIG": "c.toml", "GUESTLAUNCH_TIMELINE": str(tmp_path / "t.jsonl")}
    words = launch(
        *disk(top, "qcow2"),
        "-drive", "file=nbd:unix:/srv/nbd.sock,format=raw,id=hd1,if=none", "-device", "scsi-hd,drive=hd1",
        "-chardev", "socket,path=/t/guestfsd.sock,id=channel0",
        "-device", "virtserialport,chardev=channel0,name=org.libguestfs.channel.0",
        users=("-drive", "file=/x"),
    )  # fmt: skip
    settings = for_launch(Settings(state_dir=tmp_path, runtime_dir=tmp_path), environ, cwd)
    request = argv.parse(words, str(cwd))
    assert set(said_files(request, environ)) == {
        "/a/kernel", "/a/initrd", "/t/guestfsd.sock", str(top), "/srv/nbd.sock", str(cwd / "c.toml"),
        "/", "/proc/self/ns/mnt", "/proc/self/ns/net",
    }  # fmt: skip
    assert set(named_files(request, settings, environ)) == {str(base), str(tmp_path / "t.jsonl"), str(tmp_path)}


def test_many_disks_are_asked_for_in_parts(served: Served, launcher: FakeLauncher, tmp_path: Path) -> None:
    """More names than fit one message are asked for one message after the other."""
    words: list[str] = []
    for i in range(250):
        words += ["-drive", f"file={tmp_path}/{i},format=raw,id=hd{i},if=none", "-device", f"scsi-hd,drive=hd{i}"]
    launcher.at_once = True
    with served.client() as client:
        client.launch(argv=launch(*words))
        message = client.receive()
        assert message["type"] == "files"
        client.asked += message["names"]
        client.send({"type": "files", "identities": [None] * len(message["names"])})
        assert client.receive()["status"] == 0
    assert len(client.asked) == 252
    assert os.fspath(tmp_path / "249") in client.asked
