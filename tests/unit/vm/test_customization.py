"""What is changed on a disk, in virt-customize's words, and the unit that tells of readiness."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.vm import customise
from orchestrator.vm.customise import unit_text
from orchestrator.vm.customization import Customization
from orchestrator.vm.request import ReadySign, VmRequest

UNIT = "[Unit]\n"


def test_nothing_is_wanted() -> None:
    """Then no appliance is launched, and any sign of readiness counts."""
    request = VmRequest(name="one", image=Path("/i"))
    assert not Customization(cloud_init=Path("/u")).offline
    assert request.awaited is ReadySign.ANY
    changed = replace(request, customization=Customization(hostname="h"))
    assert changed.awaited is ReadySign.RECORD
    assert replace(changed, ready=ReadySign.LOGIN).awaited is ReadySign.LOGIN
    assert changed.digest() != request.digest()


def test_words_in_order() -> None:
    """A user comes before the keys, packages and files before commands; what a shell sees is quoted."""
    wanted = Customization(
        hostname="h", user="a b", ssh_keys=(Path("/k.pub"),), run=("date",), install=("vim", "git"),
        copy_in=((Path("/f"), "/srv"),),
    )  # fmt: skip
    words = list(wanted.words(UNIT))
    assert "useradd -m -s /bin/bash 'a b'" in words[3]
    pairs = list(zip(words[::2], words[1::2], strict=True))
    assert [pair[0] for pair in pairs] == [
        "--hostname", "--run-command", "--ssh-inject", "--install", "--copy-in", "--run-command", "--mkdir", "--write",
        "--link",
    ]  # fmt: skip
    assert pairs[2:6] == [
        ("--ssh-inject", "a b:file:/k.pub"), ("--install", "vim,git"), ("--copy-in", "/f:/srv"),
        ("--run-command", "date"),
    ]  # fmt: skip
    assert pairs[7][1] == "/etc/systemd/system/guestlaunch-ready.service:[Unit]\n"
    assert next(Customization(hostname="h").words(UNIT)) == "--no-network"


def test_what_is_not_there(tmp_path: Path) -> None:
    """It is said before anything is made."""
    named = tmp_path / "named"
    for wanted in (
        Customization(ssh_keys=(named,)),
        Customization(cloud_init=named),
        Customization(copy_in=((named, "/srv"),)),
    ):
        with pytest.raises(UsageError, match="No such file"):
            wanted.check()
        os.mkfifo(named)
        with pytest.raises(UsageError, match="no regular file"):
            wanted.check()
        named.unlink()
    Customization(copy_in=((tmp_path, "/srv"),)).check()


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (b"#cloud-config\n{}", True),
        (b"\n #Cloud-Config-Archive\n", True),
        (b"#!/bin/sh\n", True),
        (b"#include-once\n", True),
        (b"## template: jinja\n#cloud-config\n", True),
        (b'Content-Type: multipart/mixed; boundary="x"\nMIME-Version: 1.0\n', True),
        (b"\x1f\x8b\x08", True),
        (b"", False),
        (b"packages: [vim]\n", False),
        (b"# cloud-config\n", False),
    ],
)
def test_what_cloud_init_knows(tmp_path: Path, text: bytes, *, known: bool) -> None:
    """What it would pass over in silence, in the guest, is refused here."""
    data = tmp_path / "user-data"
    data.write_bytes(text)
    wanted = Customization(cloud_init=data)
    if known:
        wanted.check()
        return
    with pytest.raises(UsageError, match="cloud-init would pass over it"):
        wanted.check()


def test_what_nobody_means(tmp_path: Path) -> None:
    """An empty name, as of a variable that is not set, and a private key, which the guest would have in a file."""
    for wanted in (Customization(hostname=""), Customization(user="", run=("date",))):
        with pytest.raises(UsageError, match="it is empty"):
            wanted.check()
    (tmp_path / "a:b").touch()
    with pytest.raises(UsageError, match="takes a colon"):
        Customization(copy_in=((tmp_path / "a:b", "/srv"),)).check()
    key = tmp_path / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n")
    with pytest.raises(UsageError, match="it is a private key"):
        Customization(ssh_keys=(key,)).check()
    key.write_text("ssh-ed25519 AAAA me\n")
    Customization(ssh_keys=(key,)).check()


def test_a_change_leaves_no_file_beside_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while it goes on: a storage pool's folder is that of other VMs', too, and who is killed removes none."""
    seen: list[object] = []

    def run(_what: str, command: list[str], *_: object) -> None:
        seen.extend([list(tmp_path.iterdir()), command[-3]])

    monkeypatch.setattr(customise, "run_tool", run)
    with Stop() as stop:
        customise.customise(
            Customization(hostname="h"),
            tmp_path / "one.qcow2",
            "5e",
            Settings(state_dir=tmp_path, runtime_dir=tmp_path),
            stop,
        )
    assert seen == [[], f"/etc/systemd/system/guestlaunch-ready.service:{unit_text('5e')}"]


def test_the_unit() -> None:
    """It comes behind everything, says the VM's number, and keeps nobody waiting."""
    text = unit_text("5e")
    for line in (
        "After=multi-user.target",
        "ConditionPathExists=/dev/virtio-ports/org.guestlaunch.control.0",
        "Type=simple",
        "ExecStart=/bin/sh -c 'echo guestlaunch-ready 5e >/dev/virtio-ports/org.guestlaunch.control.0'",
    ):
        assert f"{line}\n" in text
