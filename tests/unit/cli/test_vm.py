"""guestlaunch vm: options become a request."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cli.main import invoke
from orchestrator.cli.vm import commands
from orchestrator.errors import UsageError
from orchestrator.vm import create, ssh
from orchestrator.vm.customization import Customization
from orchestrator.vm.note import VmNote
from orchestrator.vm.request import ReadySign, VmRequest

NOTE = VmNote(
    digest="d", specification="{}", folder="/vms/one", files="disk.qcow2", image="/i", arch="aarch64",
    created="2026-11-26", number="5e",
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the command asks for."""
    found = SimpleNamespace(request=None, place=None)

    def make(request: VmRequest, place: create.VmPlace) -> create.Created:
        found.request, found.place = request, place
        return create.Created(name=request.name, uri=place.uri, how="already there", note=NOTE)

    monkeypatch.setattr(create, "create", make)
    return found


def test_a_request(
    asked: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that can be said of a VM reaches it, paths absolute."""
    monkeypatch.chdir(tmp_path)
    Path("n").touch()
    for name in "kfc":
        Path(name).write_text("#cloud-config\n")
    words = (
        "vm create one --image i --image-format raw --copy --size 2G --memory-mib 512 --vcpus 2 --network none "
        "--nvram n --hostname h --user u --ssh-key k --run date --install a,b --install c --copy-in f:/srv "
        "--cloud-init c --ready login --timeout 9 -c qemu:///system --folder vms --keep"
    )
    assert invoke(words.split()) == 0
    here = Path.cwd()
    assert asked.request == VmRequest(
        name="one", image=here / "i", image_format="raw", copy=True, size_bytes=2 << 30, memory_mib=512, vcpus=2,
        network="none", nvram=here / "n", ready=ReadySign.LOGIN, timeout_s=9.0,
        customization=Customization(
            hostname="h", user="u", ssh_keys=(here / "k",), run=("date",), install=("a", "b", "c"),
            copy_in=((here / "f", "/srv"),), cloud_init=here / "c",
        ),
    )  # fmt: skip
    assert (asked.place.uri, asked.place.parent, asked.place.keep) == ("qemu:///system", here / "vms", True)
    assert capsys.readouterr().out == "one: already there, on qemu:///system\n"


def test_what_cannot_be_kept() -> None:
    """The private connection ends with the command."""
    for uri in ("qemu:///embed", "qemu:///embed?root=/tmp/x"):
        with pytest.raises(UsageError, match="ends with this command"):
            invoke(["vm", "list", "-c", uri])
        with pytest.raises(UsageError, match="ends with this command"):
            invoke(["domain", "define", "--name", "one", "-c", uri])
        with pytest.raises(UsageError, match="ends with this command"):
            invoke(["install", "--location", "x", "--disk", "d", "--name", "one", "-c", uri])
    with pytest.raises(UsageError, match="FILE:/FOLDER is wanted"):
        invoke(["vm", "create", "one", "--image", "i", "--copy-in", "f"])
    with pytest.raises(UsageError, match="a VM needs NAME and --image"):
        invoke(["vm", "create", "one"])
    for words in (["one"], ["--hostname", "h"], ["--ready", "none"], ["--size", "1G"]):
        with pytest.raises(UsageError, match="options exclude each other"):
            invoke(["vm", "create", *words, "-f", "vms.toml"])


def test_several(asked: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """All that a file describes are made, and each is told of."""
    (tmp_path / "vms.toml").write_text("[vm.one]\nimage = 'i'\n[vm.two]\nimage = 'i'\n")
    assert invoke(["vm", "create", "-f", str(tmp_path / "vms.toml"), "-c", "qemu:///session"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{name}: already there, on qemu:///session" for name in ("one", "two")]
    assert (asked.request.image, asked.request.memory_mib) == (tmp_path / "i", None)
    words = ["-c", "qemu:///session", "--memory-mib", "99"]
    assert invoke(["vm", "create", "-f", str(tmp_path / "vms.toml"), *words]) == 0
    assert asked.request.memory_mib == 99


def test_ssh_has_its_options_before_or_after_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those behind -- are the command's."""
    seen: list[tuple[object, ...]] = []

    def command(_note: VmNote, _address: str, *rest: object) -> list[str]:
        seen.append(rest)
        return ["true"]

    vm = SimpleNamespace(domain=SimpleNamespace(is_active=True), note=NOTE)
    connection = SimpleNamespace(is_local=True)
    monkeypatch.setattr(commands, "found", lambda *_: contextlib.nullcontext((connection, vm)))

    def reached(*given: object, here: bool) -> contextlib.AbstractContextManager[tuple[str, int]]:
        assert here
        return contextlib.nullcontext(("127.0.0.1", int(str(given[2]).removesuffix(".0"))))

    monkeypatch.setattr(ssh, "reached", reached)
    monkeypatch.setattr(ssh, "command", command)
    for words in ("vm1 --user me --timeout 9 -- ls --user -l", "--user me --timeout 9 vm1 -- ls --user -l"):
        assert invoke(["vm", "ssh", *words.split()]) == 0
    assert seen == [(9, "me", ("ls", "--user", "-l"))] * 2
