"""What an installer is given: answers that end with the record, files, arguments that the user has not given."""

from __future__ import annotations

import base64
import email
import json
import os
import subprocess
from pathlib import Path
from typing import cast

import pytest

from orchestrator.appliance.initrd import read_cpio
from orchestrator.errors import GuestlaunchError, LocationError, UsageError
from orchestrator.install.answers import (
    Answers,
    archive,
    arguments,
    seed,
    with_last_commands,
    with_last_scripts,
    with_late_command,
)
from orchestrator.install.tree import Family

NUMBER = "ab" * 16
RECORD = "sh /guestlaunch/record 0"


@pytest.mark.parametrize(
    ("preseed", "command"),
    [
        ("", RECORD),
        ("d-i a/b string c\n", RECORD),
        ("d-i preseed/late_command string\n", RECORD),
        ("d-i preseed/late_command string in-target x; y;\n", f"sh -c 'in-target x; y;' && {RECORD}"),
        ("d-i preseed/late_command string a; \\\n  b\nd-i z boolean true", f"sh -c 'a;  b' && {RECORD}"),
        ("d-i preseed/late_command string a\nd-i preseed/late_command string b\n", f"sh -c b && {RECORD}"),
    ],
)
def test_the_record_is_the_last_command(preseed: str, command: str) -> None:
    """Behind the user's own, as the one that debconf keeps; everything else stays."""
    text = with_late_command(preseed)
    assert text.splitlines()[-1] == f"d-i preseed/late_command string {command}"
    assert text.count("late_command") == 1
    for line in preseed.splitlines():
        assert "late_command" in line or line.strip(" \\") in text


def test_a_late_command_that_is_commented_out() -> None:
    """It stays so: Debian's example-preseed.txt has one that installs zsh."""
    preseed = "#d-i preseed/late_command string apt-install zsh\n # d-i preseed/late_command string b\n"
    text = with_late_command(preseed)
    assert text == f"{preseed}d-i preseed/late_command string {RECORD}\n"


@pytest.mark.parametrize(("theirs", "status"), [("exit 0", 0), ("true &", 0), ("true # so", 0), ("exit 3", 3)])
def test_how_a_late_command_may_end(theirs: str, status: int) -> None:
    """As the installer's shell runs it: what follows it is run if it went well."""
    line = with_late_command(f"d-i preseed/late_command string {theirs}\n")
    command = line.partition(" string ")[2].replace(RECORD, "echo recorded")
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=30)
    assert (ran.returncode, ran.stdout) == (status, "" if status else "recorded\n")


def test_both_ends_of_a_kickstart() -> None:
    """The last script says that all went well, and one more that it did not."""
    text = with_last_scripts("text\n%post\nx\n%end", "#!/bin/sh\nrecord $1\n")
    assert text.startswith("text\n%post\nx\n%end\n")
    assert "%post --nochroot --interpreter=/bin/sh\nset -- 0\nrecord $1\n%end" in text
    assert "%onerror --interpreter=/bin/sh\nset -- 1\nrecord $1\n%end" in text


def test_both_ends_of_an_autoinstallation() -> None:
    """The user's own user data are whole, and a second part has the record behind their commands."""
    own = '#cloud-config\nautoinstall:\n  version: 1\n  late-commands: ["a: ü"]\n'
    whole = email.message_from_bytes(with_last_commands(own, "#!/bin/sh\nrecord $1\n"))
    theirs, ours = cast("list[email.message.Message]", whole.get_payload())
    assert [part.get_content_type() for part in (theirs, ours)] == ["text/cloud-config"] * 2
    assert cast("bytes", theirs.get_payload(decode=True)).decode() == own
    assert (theirs["Merge-Type"], ours["Merge-Type"]) == (None, "dict(recurse_array,no_replace)+list(append)")
    head, _, text = cast("bytes", ours.get_payload(decode=True)).decode().partition("\n")
    assert head == "#cloud-config"
    said = json.loads(text)["autoinstall"]
    assert said["late-commands"] == [["sh", "-c", "#!/bin/sh\nrecord $1\n", "record", "0"]]
    assert [command[-1] for command in said["error-commands"]] == ["1", "poweroff"]


def test_the_disk_of_an_autoinstallation(tmp_path: Path) -> None:
    """It is there only if there are answers on it, and they are cloud-init's."""
    data = tmp_path / "user-data"
    data.write_text("#cloud-config\nautoinstall: {version: 1}\n")
    answers = Answers(autoinstall=data)
    answers.check(Family.UBUNTU)
    disk = seed(answers, NUMBER)
    assert disk is not None
    assert f"instance-id: {NUMBER}\n".encode() in disk
    assert seed(Answers(), NUMBER) is None
    data.write_text("version: 1\n")
    with pytest.raises(UsageError, match="does not begin with #cloud-config"):
        seed(answers, NUMBER)
    data.write_bytes(b"#cloud-config\n" + bytes(9 << 20))
    with pytest.raises(GuestlaunchError, match="more than 8388608 bytes"):
        seed(answers, NUMBER)


def test_answers_from_a_pipe() -> None:
    """As a shell makes them of `<(...)`: they can be read once."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(b"#cloud-config\nautoinstall: {version: 1}\n")
    answers = Answers(autoinstall=Path(f"/dev/fd/{reading}"))
    answers.check(Family.UBUNTU)
    disk = seed(answers, NUMBER)
    os.close(reading)
    assert disk is not None
    assert base64.b64encode(b"#cloud-config\nautoinstall: {version: 1}\n") in disk


def test_what_is_in_the_archive(tmp_path: Path) -> None:
    """The record with its number, the answers, and files under their own names, with their rights."""
    preseed, program = tmp_path / "answers.cfg", tmp_path / "run"
    preseed.write_bytes(b"d-i x string \xff\n")
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    found = {e.name: e for e in read_cpio(archive(Answers(preseed=preseed, inject=[program]), Family.DEBIAN, NUMBER))}
    assert found.keys() == {"guestlaunch", "guestlaunch/record", "preseed.cfg", "run"}
    assert f"number={NUMBER}\n".encode() in found["guestlaunch/record"].data
    assert found["preseed.cfg"].data.startswith(b"d-i x string \xff\n")
    assert found["run"].mode == 0o100755
    plain = {e.name for e in read_cpio(archive(Answers(), Family.ANACONDA, NUMBER))}
    assert plain == {"guestlaunch", "guestlaunch/record"}
    with pytest.raises(LocationError, match="cannot read"):
        archive(Answers(kickstart=tmp_path / "missing"), Family.ANACONDA, NUMBER)


def test_the_record_is_a_script(tmp_path: Path) -> None:
    """A shell understands it."""
    script = next(e for e in read_cpio(archive(Answers(), Family.OTHER, NUMBER)) if e.name.endswith("record"))
    (tmp_path / "record").write_bytes(script.data)
    subprocess.run(["sh", "-n", tmp_path / "record"], check=True, timeout=30)


def test_arguments_that_the_user_has_not_given() -> None:
    """Theirs stand for ours."""
    some = Path("/x")
    assert arguments(Answers(preseed=some), "") == ("auto=true", "priority=critical")
    assert arguments(Answers(preseed=some), "priority=low a") == ("auto=true",)
    assert arguments(Answers(kickstart=some), "") == ("inst.ks=file:/ks.cfg",)
    assert arguments(Answers(autoinstall=some), "") == ("autoinstall", "ds=nocloud")
    assert arguments(Answers(autoinstall=some), "ds=none") == ("autoinstall",)
    assert arguments(Answers(), "a b") == ()
    assert arguments(Answers(), "", "ttyAMA0") == ("console=tty0", "console=ttyAMA0")
    assert arguments(Answers(), "console=ttyS3", "ttyAMA0") == ()


@pytest.mark.parametrize(
    ("answers", "family", "what"),
    [
        (Answers(preseed=Path("/p"), kickstart=Path("/k")), Family.DEBIAN, "exclude each other"),
        (Answers(preseed=Path("/p")), Family.ANACONDA, "cannot use"),
        (Answers(kickstart=Path("/k")), Family.DEBIAN, "cannot use"),
        (Answers(autoinstall=Path("/a")), Family.DEBIAN, "cannot use"),
        (Answers(kickstart=Path("/k"), autoinstall=Path("/a")), Family.UBUNTU, "exclude each other"),
        (Answers(preseed=Path("/p"), inject=[Path("/x/preseed.cfg")]), Family.DEBIAN, "cannot inject"),
        (Answers(inject=[Path("/a/f"), Path("/b/f")]), Family.DEBIAN, "cannot inject"),
    ],
)
def test_what_no_installer_understands(answers: Answers, family: Family, what: str) -> None:
    """It is refused before anything is made."""
    with pytest.raises(UsageError, match=what):
        answers.check(family)
