"""What an installer is given: answers that end with the record, files, arguments that the user has not given."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.appliance.initrd import read_cpio
from orchestrator.errors import LocationError, UsageError
from orchestrator.install.answers import Answers, archive, arguments, with_last_scripts, with_late_command
from orchestrator.install.tree import Family

NUMBER = "ab" * 16
RECORD = "sh /guestlaunch/record 0"


@pytest.mark.parametrize(
    ("preseed", "command"),
    [
        ("", RECORD),
        ("d-i a/b string c\n", RECORD),
        ("d-i preseed/late_command string\n", RECORD),
        ("d-i preseed/late_command string in-target x; y;\n", f"{{ in-target x; y; }} && {RECORD}"),
        ("d-i preseed/late_command string a; \\\n  b\nd-i z boolean true", f"{{ a;  b; }} && {RECORD}"),
        ("d-i preseed/late_command string a\nd-i preseed/late_command string b\n", f"{{ b; }} && {RECORD}"),
    ],
)
def test_the_record_is_the_last_command(preseed: str, command: str) -> None:
    """Behind the user's own, as the one that debconf keeps; everything else stays."""
    text = with_late_command(preseed)
    assert text.splitlines()[-1] == f"d-i preseed/late_command string {command}"
    assert text.count("late_command") == 1
    for line in preseed.splitlines():
        assert "late_command" in line or line.strip(" \\") in text


def test_both_ends_of_a_kickstart() -> None:
    """The last script says that all went well, and one more that it did not."""
    text = with_last_scripts("text\n%post\nx\n%end", "#!/bin/sh\nrecord $1\n")
    assert text.startswith("text\n%post\nx\n%end\n")
    assert "%post --nochroot --interpreter=/bin/sh\nset -- 0\nrecord $1\n%end" in text
    assert "%onerror --interpreter=/bin/sh\nset -- 1\nrecord $1\n%end" in text


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
    assert arguments(Answers(), "a b") == ()


@pytest.mark.parametrize(
    ("answers", "family", "what"),
    [
        (Answers(preseed=Path("/p"), kickstart=Path("/k")), Family.DEBIAN, "exclude each other"),
        (Answers(preseed=Path("/p")), Family.ANACONDA, "cannot use"),
        (Answers(kickstart=Path("/k")), Family.DEBIAN, "cannot use"),
        (Answers(preseed=Path("/p"), inject=[Path("/x/preseed.cfg")]), Family.DEBIAN, "cannot inject"),
        (Answers(inject=[Path("/a/f"), Path("/b/f")]), Family.DEBIAN, "cannot inject"),
    ],
)
def test_what_no_installer_understands(answers: Answers, family: Family, what: str) -> None:
    """It is refused before anything is made."""
    with pytest.raises(UsageError, match=what):
        answers.check(family)
