"""Plain libguestfs programs through guestlaunch for good: what is written where, what is left alone, and back."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.workload.enabling import (
    Places,
    Scope,
    check_open_to_all,
    close_state,
    disable,
    enable,
    open_state,
    system_places,
    user_places,
)
from orchestrator.workload.own_files import Deed, NotOursError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the startup files that a new user has, and an appliance and a program to name."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    (folder / ".profile").write_text("PATH=$HOME/bin:$PATH\n")
    (folder / ".bashrc").write_text("case $- in *i*) ;; *) return;; esac\nalias ll='ls -l'\n")
    (tmp_path / "it's an appliance").mkdir()
    (tmp_path / "it's an appliance" / "README.fixed").touch()
    (tmp_path / "hv").touch(mode=0o755)
    return folder


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """What `guestlaunch env` exports."""
    (tmp_path / "appliance").mkdir()
    (tmp_path / "appliance/README.fixed").touch()
    return {
        "LIBGUESTFS_HV": str(tmp_path / "hv"),
        "LIBGUESTFS_PATH": str(tmp_path / "appliance"),
        "LIBGUESTFS_BACKEND": "direct",
        "GUESTLAUNCH_STATE_DIR": str(tmp_path / "state"),
    }


def places(home: Path, **more: str) -> Places:
    return user_places({"HOME": str(home), "SHELL": "/bin/bash", **more})


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file()
    }


def deeds(home: Path, variables: dict[str, str]) -> dict[str, Deed]:
    changes = enable(variables, places(home), scope=Scope.USER)
    return {str(change.path.relative_to(home)): change.deed for change in changes}


def test_there_and_back(home: Path, variables: dict[str, str]) -> None:
    """Each file that was changed is named; once more changes nothing; and back leaves what was there before."""
    before = snapshot(home)
    assert deeds(home, variables) == {
        ".config/guestlaunch/environment.sh": Deed.WRITTEN,
        ".config/environment.d/60-guestlaunch.conf": Deed.WRITTEN,
        ".profile": Deed.LINE_ADDED,
        ".bashrc": Deed.LINE_ADDED,
    }
    after = snapshot(home)
    assert set(deeds(home, variables).values()) == {Deed.UNCHANGED}
    assert snapshot(home) == after
    assert [change.deed for change in disable(places(home))] == [
        Deed.LINE_REMOVED, Deed.LINE_REMOVED, Deed.REMOVED, Deed.REMOVED,
    ]  # fmt: skip
    assert snapshot(home) == before
    assert list(disable(places(home))) == []


def test_folders_that_were_made_go_again(home: Path, variables: dict[str, str]) -> None:
    """Only where nothing else has come into them; those of all users are the system's."""
    deeds(home, variables)
    (home / ".config/guestlaunch/config.toml").touch()
    list(disable(places(home)))
    assert (home / ".config/guestlaunch").is_dir()
    assert not (home / ".config/environment.d").exists()
    (home / ".config/guestlaunch/config.toml").unlink()
    deeds(home, variables)
    list(disable(places(home)))
    assert not (home / ".config/guestlaunch").exists()
    where = system_places(home)
    (home / "etc/profile.d").mkdir(parents=True)
    list(enable(variables, where, scope=Scope.SYSTEM))
    list(disable(where))
    assert (home / "etc/profile.d").is_dir()


def test_other_values_replace_the_earlier_ones(home: Path, variables: dict[str, str]) -> None:
    """Enabling with another profile rewrites our files, and only those."""
    deeds(home, variables)
    again = deeds(home, {**variables, "GUESTLAUNCH_PROFILE": "x86_64-ovmf"})
    assert (again[".config/guestlaunch/environment.sh"], again[".profile"]) == (Deed.WRITTEN, Deed.UNCHANGED)


@pytest.mark.parametrize("shell", [("bash", "-l"), ("bash", "-i"), ("sh", "-l"), ("bash", "--rcfile", "{rc}", "-i")])
def test_what_shells_make_of_it(home: Path, variables: dict[str, str], tmp_path: Path, shell: tuple[str, ...]) -> None:
    """A login shell and an interactive one have the variables; where the program has gone, neither has."""
    deeds(home, variables)
    words = [word.replace("{rc}", str(home / ".bashrc")) for word in shell]
    command = [*words, "-c", 'echo "$LIBGUESTFS_BACKEND:$LIBGUESTFS_PATH"']
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}

    def said() -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=True)
        return done.stdout.strip()

    assert said() == f"direct:{variables['LIBGUESTFS_PATH']}"
    (tmp_path / "hv").unlink()
    assert said() == ":"


def test_quoting(home: Path, variables: dict[str, str]) -> None:
    """A path with spaces and a quote reaches a shell whole; what environment.d cannot hold is refused before all."""
    path = home.parent / "it's an appliance"
    with pytest.raises(UsageError, match=r"environment\.d cannot hold"):
        deeds(home, {**variables, "LIBGUESTFS_PATH": str(path)})
    assert not (home / ".config").exists()
    spaced = home.parent / "an appliance"
    shutil.copytree(path, spaced)
    deeds(home, {**variables, "LIBGUESTFS_PATH": str(spaced)})
    assert f'LIBGUESTFS_PATH="{spaced}"\n' in (home / ".config/environment.d/60-guestlaunch.conf").read_text()


def test_files_of_others(home: Path, variables: dict[str, str]) -> None:
    """A file that we did not write is never overwritten or removed, and nothing else is written then."""
    theirs = home / ".config/environment.d/60-guestlaunch.conf"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("LIBGUESTFS_BACKEND=libvirt\n")
    with pytest.raises(NotOursError, match="somebody else's file"):
        deeds(home, variables)
    assert snapshot(home / ".config") == {
        str(theirs.relative_to(home / ".config")): snapshot(theirs.parent)[theirs.name]
    }
    assert [change.deed for change in disable(places(home))] == [Deed.SKIPPED]
    assert theirs.read_text() == "LIBGUESTFS_BACKEND=libvirt\n"


def test_links(home: Path, variables: dict[str, str], tmp_path: Path) -> None:
    """Nothing is written through a link: not our files, and not a startup file, whose line the user then adds."""
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    (home / ".bashrc").unlink()
    (home / ".bashrc").symlink_to(victim)
    changes = {change.path.name: change for change in enable(variables, places(home), scope=Scope.USER)}
    assert changes[".bashrc"].deed is Deed.SKIPPED
    assert "put this into it yourself: [ ! -r" in changes[".bashrc"].why
    list(disable(places(home)))
    (home / ".config/guestlaunch").mkdir(exist_ok=True)
    (home / ".config/guestlaunch/environment.sh").symlink_to(victim)
    with pytest.raises(NotOursError, match="a symbolic link"):
        deeds(home, variables)
    assert victim.read_text() == "precious\n"


def test_folder_of_anybody(home: Path, variables: dict[str, str]) -> None:
    """A folder that others can write to is not written to: they could have us write elsewhere."""
    (home / ".config").mkdir()
    (home / ".config").chmod(0o777)
    with pytest.raises(UsageError, match="others can write to it"):
        deeds(home, variables)


def test_which_startup_files(home: Path) -> None:
    """Bash reads one of three at a login; zsh's is made for who uses zsh; fish has a folder for such files."""
    assert places(home).startup[0] == home / ".profile"
    (home / ".bash_login").touch()
    (home / ".config/fish").mkdir(parents=True)
    found = places(home, SHELL="/usr/bin/zsh")
    assert found.startup[0] == home / ".bash_login"
    assert found.made == {home / ".bash_login", home / ".zshenv"}
    assert found.fish == home / ".config/fish/conf.d/guestlaunch.fish"
    with pytest.raises(UsageError, match="HOME"):
        user_places({})


def test_startup_file_that_was_made(home: Path, variables: dict[str, str]) -> None:
    """One that only we put something into goes again."""
    (home / ".profile").unlink()
    assert deeds(home, variables)[".profile"] is Deed.LINE_ADDED
    list(disable(places(home)))
    assert not (home / ".profile").exists()


def test_for_all(tmp_path: Path, variables: dict[str, str]) -> None:
    """For all users there are only files of ours, readable by all, without what concerns root alone."""
    (tmp_path / "etc/profile.d").mkdir(parents=True)
    where = system_places(tmp_path)
    done = [change.deed for change in enable(variables, where, scope=Scope.SYSTEM)]
    assert done == [Deed.WRITTEN, Deed.WRITTEN]
    for path in where.owned:
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.parent.stat().st_mode & 0o005 == 0o005
        assert "GUESTLAUNCH_STATE_DIR" not in path.read_text()
    assert [change.deed for change in disable(where)] == [Deed.REMOVED, Deed.REMOVED]


def test_state_is_passable_for_all(tmp_path: Path) -> None:
    """Others may pass through to the appliances; it is said, done once, and taken back."""
    state = tmp_path / "state"
    appliance = state / "appliances/aarch64/current"
    appliance.mkdir(parents=True)
    state.chmod(0o700)
    assert [change.deed for change in open_state(state, appliance)] == [Deed.OPENED]
    assert state.stat().st_mode & 0o777 == 0o711
    assert list(open_state(state, appliance)) == []
    assert [change.deed for change in close_state(state)] == [Deed.CLOSED]
    assert state.stat().st_mode & 0o777 == 0o700
    assert list(open_state(state, tmp_path / "elsewhere")) == list(close_state(tmp_path / "nowhere")) == []


def test_what_others_cannot_read(tmp_path: Path) -> None:
    """A program or an appliance that is for its owner alone is named, with the folder or file that keeps others out."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "root").touch(mode=0o644)
    with pytest.raises(UsageError, match=rf"{closed}: others cannot get at it \(chmod o\+x"):
        check_open_to_all(closed / "root")
    (closed / "root").chmod(0o600)
    with pytest.raises(UsageError, match=rf"{closed}/root: .*chmod o\+r "):
        check_open_to_all(closed / "root")
    check_open_to_all(Path("/bin/sh"))
