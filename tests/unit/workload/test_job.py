"""Job files: what they say, and what is said about mistakes in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.profiles import configs_dir
from orchestrator.errors import UsageError
from orchestrator.workload.job import Job, JobDisk, load_job

GOOD = """
description = "d"
deadline_s = 12.5
network = true
commands = ["list-devices"]
[settings]
profile = "x86_64-ovmf"
[[disks]]
path = "sub/a.img"
format = "raw"
readonly = false
size_mib = 5
[[disks]]
"""


def job(tmp_path: Path, text: str, *disks: Path) -> Job:
    path = tmp_path / "j.toml"
    path.write_text(text)
    return load_job(path, disks)


def test_everything_there_is(tmp_path: Path) -> None:
    """Each key arrives, relative paths start from the job's directory, missing ones from the command line."""
    made = job(tmp_path, GOOD, tmp_path / "one", tmp_path / "two")
    assert made.disks == (
        JobDisk(path=tmp_path / "one", format="raw", readonly=False, size_mib=5),
        JobDisk(path=tmp_path / "two"),
    )
    assert (made.name, made.deadline_s, made.network) == ("j", 12.5, True)
    assert made.settings == {"profile": "x86_64-ovmf"}
    assert made.commands == ("list-devices",)


def test_disks_are_read_only_unless_said(tmp_path: Path) -> None:
    """Nobody's disk is written to by an oversight."""
    assert job(tmp_path, "commands = ['x']\n[[disks]]\npath = 'a'").disks[0].readonly


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("comands = []", "did you mean 'commands'"),
        ("commands = ['x']\n[[disks]]\npth = 'x'", "did you mean 'path'"),
        ("commands = ['x']\n[settings]\nprofil = 'x'", "did you mean 'profile'"),
        ("commands = ['x']\n[settings]\nstate_dir = '/x'", "settings.state_dir"),
        ("", "either commands or python"),
        ("commands = ['x']\npython = 'p.py'", "either commands or python"),
        ("python = 'p.py'", "there is no such file"),
        ("commands = 'x'", "a list of texts"),
        ("commands = [1]", "a list of texts"),
        ("commands = ['x']\ndeadline_s = 0", "above 0"),
        ("commands = ['x']\ndeadline_s = inf", "above 0"),
        ("commands = ['x']\nnetwork = 1", "true or false"),
        ("commands = ['x']\ndisks = 1", "[[disks]]"),
        ("commands = ['x']\nsettings = 1", "[settings]"),
        ("commands = ['x']\n[[disks]]", "disk 1 has no path"),
        ("commands = ['x']\n[[disks]]\npath = ''", "not empty"),
        ("commands = ['x']\n[[disks]]\npath = 'a'\nsize_mib = 5", "readonly = false"),
        ("commands = ['x']\n[[disks]]\npath = 'a'\nsize_mib = -5\nreadonly = false", "whole number"),
        ("commands = ", "cannot read job"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, part: str) -> None:
    """Every mistake names the file and what would be right."""
    with pytest.raises(UsageError) as caught:
        job(tmp_path, text)
    assert part in str(caught.value)
    assert "j.toml" in str(caught.value)


def test_too_many_disks(tmp_path: Path) -> None:
    """A disk that the job has no place for is refused."""
    with pytest.raises(UsageError, match="the job has 0, the command line 1"):
        job(tmp_path, "commands = ['x']", tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    """A job that is not there is named."""
    with pytest.raises(UsageError, match="nowhere"):
        load_job(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("name", ["provision", "filesystems", "inspect"])
def test_examples_are_jobs(name: str, tmp_path: Path) -> None:
    """The shipped examples can be read, and say what they are for."""
    made = load_job(configs_dir() / f"jobs/{name}.toml", [tmp_path / "disk.img"])
    assert made.description
