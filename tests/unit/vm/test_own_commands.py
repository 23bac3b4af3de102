"""What is said of a tool that failed."""

from __future__ import annotations

import os
import threading
import tomllib
from pathlib import Path

import pytest

from orchestrator.errors import StoppedError, UsageError
from orchestrator.launch.stop import Stop
from orchestrator.settings import Settings
from orchestrator.vm import own_commands
from orchestrator.vm.own_commands import last_words, run_job, run_tool


def test_the_line_that_says_what_went_wrong() -> None:
    """Libguestfs's tools end with advice, not with the error; ours end with it."""
    said = """[   1.0] Examining the guest ...
virt-customize: error: useradd: command exited with an error

If reporting bugs, run virt-customize with debugging enabled and include the complete output:

  virt-customize -v -x [...]
"""
    assert last_words(said) == "virt-customize: error: useradd: command exited with an error"
    assert last_words("one\nguestlaunch: cannot launch: x: y\n\n") == "cannot launch: x: y"
    assert last_words("") == ""


@pytest.mark.parametrize("name", ["😀 ü.img", 'a"b\\c', "a\tb"])
def test_a_look_into_an_image_of_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job has it as it is."""
    seen: list[object] = []

    def run(command: list[str], *_: object) -> tuple[int, str, str]:
        seen.append(tomllib.loads(Path(command[2]).read_text("utf-8"))["disks"])
        return 0, '{"outcome": "success", "result": 1}', ""

    monkeypatch.setattr(own_commands, "_run", run)
    with Stop() as stop:
        assert (
            run_job(
                tmp_path / "look.py", tmp_path / name, "raw", Settings(state_dir=tmp_path, runtime_dir=tmp_path), stop
            )
            == 1
        )
        with pytest.raises(UsageError, match="its name is not UTF-8"):
            run_job(
                tmp_path / "look.py",
                tmp_path / os.fsdecode(b"\xff"),
                "raw",
                Settings(state_dir=tmp_path, runtime_dir=tmp_path),
                stop,
            )
    assert seen == [[{"path": str(tmp_path / name), "format": "raw"}]]


def test_a_command_that_does_not_end_when_told_to_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end that the user asked for is what is told, not that it took long."""
    deaf = tmp_path / "guestlaunch"
    deaf.write_text('#!/bin/sh\ntrap \'\' TERM\n: >"$0.deaf"\nwhile :; do read -r _ <"$0.fifo"; done\n')
    deaf.chmod(0o755)
    os.mkfifo(tmp_path / "guestlaunch.fifo")
    monkeypatch.setattr(own_commands, "wrapper_path", lambda: tmp_path / "guestlaunch-hv")
    monkeypatch.setattr(own_commands, "_END_S", 0.2)
    settings = Settings(state_dir=tmp_path, runtime_dir=tmp_path)
    with Stop() as stop:

        def end() -> None:
            while not (tmp_path / "guestlaunch.deaf").exists():
                threading.Event().wait(0.01)
            stop.request("SIGINT")

        ending = threading.Thread(target=end, daemon=True)
        ending.start()
        with pytest.raises(StoppedError, match="SIGINT"):
            run_tool("cannot customise", ["virt-customize"], tmp_path / "image", settings, stop)
        ending.join()
