"""Settings: sources, precedence, values, and what is said about mistakes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import settings, sockets
from orchestrator.errors import SettingsError
from orchestrator.settings import Deadlines, Settings, for_launch, load, private_directory, private_state, to_environ


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return an environment whose files all lie under tmp_path."""
    monkeypatch.setattr(settings.sources, "SYSTEM_CONFIG", tmp_path / "etc/config.toml")
    (tmp_path / "run").mkdir(mode=0o700)
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "xdg"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults(home: dict[str, str], tmp_path: Path) -> None:
    """Without any source the documented defaults hold."""
    got = load(environ=home)
    assert (got.profile, got.connect, got.fw_cfg_dma, got.accel) == ("aarch64-uefi", None, True, "auto")
    assert got.runtime_dir == tmp_path / "run/guestlaunch"
    assert got.deadlines == Deadlines()
    assert got.deadlines.kernel == 180


def test_precedence(home: dict[str, str], tmp_path: Path) -> None:
    """Each source overrides the one below it, key by key."""
    write(tmp_path / "etc/config.toml", 'cpu = "etc"\nvcpus = 1\nmemory_mib = 101\nconsole_kib = 1\nprofile = "etc"\n')
    write(tmp_path / "xdg/guestlaunch/config.toml", "vcpus = 2\nmemory_mib = 102\nconsole_kib = 2\nprofile = 'xdg'\n")
    named = write(tmp_path / "named.toml", "memory_mib = 103\nconsole_kib = 3\nprofile = 'named'\n")
    env = {**home, "GUESTLAUNCH_CONSOLE_KIB": "4", "GUESTLAUNCH_PROFILE": "variable"}
    got = load(config=named, environ=env, overrides={"profile": "option", "connect": None})
    assert (got.cpu, got.vcpus, got.memory_mib, got.console_kib, got.profile) == ("etc", 2, 103, 4, "option")


def test_config_variable_names_a_file(home: dict[str, str], tmp_path: Path) -> None:
    """GUESTLAUNCH_CONFIG stands for --config, and a missing file is an error that names it."""
    write(tmp_path / "a.toml", "vcpus = 3")
    assert load(environ={**home, "GUESTLAUNCH_CONFIG": str(tmp_path / "a.toml")}).vcpus == 3
    with pytest.raises(SettingsError, match=r"b\.toml"):
        load(environ={**home, "GUESTLAUNCH_CONFIG": str(tmp_path / "b.toml")})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('profil = "x"', ("profil in", "did you mean 'profile'?")),
        ("[deadlines]\nkernl = 3", ("deadlines.kernl", "did you mean 'kernel'?")),
        ("deadlines = 3", ("deadlines in", "expected a table")),
        ("[deadlines]\nkernel = 0", ("deadlines.kernel", "more than 0")),
        ("[deadlines]\nkernel = inf", ("deadlines.kernel", "more than 0")),
        ('accel = "kvn"', ("accel in", "did you mean 'kvm'?")),
        ("fw_cfg_dma = 2", ("fw_cfg_dma", "on or off")),
        ("memory_mib = true", ("memory_mib", "whole number")),
        ("memory_mib = 63", ("memory_mib", "from 64")),
        ("vcpus = 1.5", ("vcpus", "whole number")),
        ('profile = ""', ("profile", "non-empty")),
        ("profile = 7", ("profile", "non-empty")),
        ("a = 1\nprofile = ]", ("Invalid value", "line 2")),
        ("[profile]", ("profile", "non-empty")),
    ],
)
def test_file_mistakes_are_named(home: dict[str, str], tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    """A mistake in a file is one line with file, key and what would be right."""
    path = write(tmp_path / "xdg/guestlaunch/config.toml", text)
    with pytest.raises(SettingsError) as caught:
        load(environ=home)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_file_that_is_not_text(home: dict[str, str], tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and a directory in the file's place, are settings errors."""
    path = tmp_path / "bin.toml"
    path.write_bytes(b'cpu = "\xff"')
    with pytest.raises(SettingsError, match=r"bin\.toml"):
        load(config=path, environ=home)
    with pytest.raises(SettingsError, match="no regular file"):
        load(config=tmp_path, environ=home)


def test_file_that_is_a_pipe(home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that is named is read, as a shell makes one of `<(...)`; one to which nobody writes is not waited for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SettingsError, match="nobody writes to it"):
        load(config=pipe, environ=home)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(pipe, os.O_WRONLY)
    os.write(writing, b"vcpus = 3\n")
    os.close(writing)
    assert load(config=Path(f"/dev/fd/{reading}"), environ=home).vcpus == 3
    os.close(reading)
    folder = tmp_path / "guestlaunch"
    folder.mkdir()
    pipe.rename(folder / "config.toml")
    monkeypatch.setitem(home, "XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match="no regular file"):
        load(environ=home)


def test_a_file_that_is_none(home: dict[str, str]) -> None:
    """Who names /dev/null has no settings file."""
    assert load(config=Path(os.devnull), environ=home) == load(environ=home)


def test_variable_typo_is_named(home: dict[str, str]) -> None:
    """An unknown GUESTLAUNCH_ variable is an error with the nearest known one."""
    with pytest.raises(SettingsError, match=r"GUESTLAUNCH_ACEL.*did you mean 'GUESTLAUNCH_ACCEL'"):
        load(environ={**home, "GUESTLAUNCH_ACEL": "tcg"})


def test_own_variables_are_no_settings(home: dict[str, str]) -> None:
    """The wrapper's own variables pass, and an empty variable counts as unset."""
    env = {**home, "GUESTLAUNCH_SOCKET": "/x", "GUESTLAUNCH_QUIET": "1", "GUESTLAUNCH_KVM": "1", "GUESTLAUNCH_CPU": ""}
    assert load(environ=env) == load(environ=home)


@pytest.mark.parametrize(("word", "value"), [("on", True), ("OFF", False), ("1", True), ("no", False)])
def test_switch_words(home: dict[str, str], word: str, value: bool) -> None:
    """Switches take the usual words in any case."""
    assert load(environ={**home, "GUESTLAUNCH_FW_CFG_DMA": word}).fw_cfg_dma is value


@pytest.mark.parametrize("word", ["-1", "٣", "1" * 30, "0x10", " 1"])
def test_odd_numbers_are_refused(home: dict[str, str], word: str) -> None:
    """Only plain decimal digits make a number."""
    with pytest.raises(SettingsError, match="GUESTLAUNCH_VCPUS"):
        load(environ={**home, "GUESTLAUNCH_VCPUS": word})


def test_deadline_variable_and_option(home: dict[str, str]) -> None:
    """Each deadline has a variable and an option of its own."""
    got = load(environ={**home, "GUESTLAUNCH_DEADLINE_KERNEL": "7.5"}, overrides={"deadline_init": 9})
    assert got.deadlines == dataclasses.replace(Deadlines(), kernel=7.5, init=9.0)


def test_unknown_option(home: dict[str, str]) -> None:
    """A setting that does not exist cannot be overridden."""
    with pytest.raises(SettingsError, match="did you mean 'profile'"):
        load(environ=home, overrides={"profiles": "x"})


def test_relative_paths(home: dict[str, str], tmp_path: Path) -> None:
    """Relative paths start from the working directory, or from the file that holds them."""
    named = write(tmp_path / "sub/named.toml", 'appliance = "app"\nlog = "-"\n')
    env = {**home, "GUESTLAUNCH_TIMELINE": "t.jsonl", "GUESTLAUNCH_STATE_DIR": "../state"}
    got = load(config=named, environ=env, cwd=tmp_path / "here")
    assert got.appliance == tmp_path / "sub/app"
    assert got.timeline == str(tmp_path / "here/t.jsonl")
    assert (got.state_dir, got.log) == (tmp_path / "state", "-")


def test_directories_of_images(home: dict[str, str], tmp_path: Path) -> None:
    """Roots are a list in a file, parted by colons elsewhere, and relative where their source is."""
    named = write(tmp_path / "sub/named.toml", 'image_roots = ["a", "/b"]\nimage_policy = "untrusted"\n')
    got = load(config=named, environ=home)
    assert (got.image_roots, got.image_policy) == ((tmp_path / "sub/a", Path("/b")), "untrusted")
    assert load(environ={**home, "GUESTLAUNCH_IMAGE_ROOTS": "/x:y"}, cwd=tmp_path).image_roots == (
        Path("/x"), tmp_path / "y")  # fmt: skip
    for bad in ("image_roots = []", 'image_roots = ["a:b"]', "image_roots = [1]", 'image_policy = "maybe"'):
        with pytest.raises(SettingsError, match="image_"):
            load(config=write(tmp_path / "bad.toml", bad), environ=home)


def test_one_launch_overrides_only_its_own(home: dict[str, str], tmp_path: Path) -> None:
    """A client's variables change its launch, never the server's directories or log."""
    base = load(environ=home)
    env = {"GUESTLAUNCH_FW_CFG_DMA": "off", "GUESTLAUNCH_STATE_DIR": "/elsewhere", "GUESTLAUNCH_LOG": "/elsewhere"}
    got = for_launch(base, env, tmp_path)
    assert got == dataclasses.replace(base, fw_cfg_dma=False)


def test_one_launch_with_a_bad_variable(home: dict[str, str], tmp_path: Path) -> None:
    """A client's typo is refused in the daemon as in the command."""
    with pytest.raises(SettingsError, match="GUESTLAUNCH_PROFIL"):
        for_launch(load(environ=home), {"GUESTLAUNCH_PROFIL": "x"}, tmp_path)


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(str.strip)
paths = st.from_regex(r"/[a-z0-9 ,:'é]{1,12}", fullmatch=True).map(os.path.normpath).filter(lambda p: p != "/")


made_settings = st.builds(
    Settings,
    state_dir=paths.map(Path),
    runtime_dir=paths.map(Path),
    profile=text,
    connect=st.none() | text,
    fw_cfg_dma=st.booleans(),
    accel=st.sampled_from(["auto", "kvm", "tcg"]),
    appliance=st.none() | paths.map(Path),
    memory_mib=st.none() | st.integers(64, 1 << 20),
    timeline=st.none() | st.just("-") | paths,
    measure=st.booleans(),
    image_policy=st.none() | st.sampled_from(["trusted", "untrusted"]),
    image_roots=st.lists(paths.map(lambda path: Path(path.replace(":", ""))), max_size=2).map(tuple),
    deadlines=st.builds(Deadlines, kernel=st.floats(0.001, 1e6)),
)


@given(made=made_settings)
def test_environment_round_trip(made: Settings) -> None:
    """What to_environ says, load understands: settings survive the way into a child process."""
    assert load(environ={"HOME": "/nonexistent", **to_environ(made)}) == made


def test_private_directory_is_made(tmp_path: Path) -> None:
    """The directory is made with its parents, for us alone, and found again."""
    path = tmp_path / "a/b"
    assert private_directory(path) == path
    assert private_directory(path).stat().st_mode & 0o777 == 0o700


def test_private_directory_refuses_unsafe_ones(tmp_path: Path) -> None:
    """A symlink, a file, or a directory that others can write to is refused."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name, why in (("link", "symbolic link"), ("file", "not a directory"), ("open", "others can write")):
        with pytest.raises(SettingsError, match=why):
            private_directory(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_private_directory_refuses_foreign_owner(tmp_path: Path) -> None:
    """Another user's directory is refused."""
    (tmp_path / "foreign").mkdir()
    os.chown(tmp_path / "foreign", 12345, 12345)
    with pytest.raises(SettingsError, match="belongs to uid 12345"):
        private_directory(tmp_path / "foreign")


@pytest.mark.parametrize("key", ["GUESTLAUNCH_STATE_DIR", "GUESTLAUNCH_RUNTIME_DIR"])
@pytest.mark.parametrize("name", ["a\x01b", "a\udcffb"])
def test_directory_that_libvirt_cannot_be_told(home: dict[str, str], key: str, name: str) -> None:
    """A directory with such a name is refused with the variable to set, before anything is made in it."""
    with pytest.raises(SettingsError, match=rf"unusable directory.*libvirt.*set {key}"):
        load(environ=home | {key: f"/srv/{name}"})


def test_state_directory_that_qemu_cannot_be_told(home: dict[str, str]) -> None:
    """QEMU has no way to write a per cent sign in the name of its log."""
    with pytest.raises(SettingsError, match="unusable directory: /srv/a%41: .*QEMU.*GUESTLAUNCH_STATE_DIR"):
        load(environ=home | {"GUESTLAUNCH_STATE_DIR": "/srv/a%41"})


def test_runtime_directory_that_libvirt_cannot_be_told(home: dict[str, str], tmp_path: Path) -> None:
    """Nobody chose an XDG_RUNTIME_DIR for us: one with such a name is passed over."""
    odd = tmp_path / os.fsdecode(b"a\xff")
    odd.mkdir(mode=0o700)
    assert not load(environ=home | {"XDG_RUNTIME_DIR": str(odd)}).runtime_dir.is_relative_to(tmp_path)


def modes(top: Path) -> dict[str, str]:
    return {path.relative_to(top).as_posix(): oct(path.stat().st_mode & 0o777) for path in sorted(top.rglob("*"))}


def test_state_directory_is_closed_to_others(tmp_path: Path) -> None:
    """The state directory is made for us alone; one that was open is closed, also what a group could change."""
    state = tmp_path / "a" / "state"
    private_state(state)
    assert modes(tmp_path) == {"a": "0o700", "a/state": "0o700"}
    (state / "launches").mkdir()
    (state / "launches.sqlite3").touch()
    (state / "launches").chmod(0o775)
    (state / "launches.sqlite3").chmod(0o644)
    state.chmod(0o775)
    private_state(state)
    assert modes(state) == {"launches": "0o755", "launches.sqlite3": "0o644"}
    assert state.stat().st_mode & 0o777 == 0o700


def test_state_directory_that_others_pass_through(tmp_path: Path) -> None:
    """Where all users are to reach the appliances, everything else in it is closed before there is anything in it."""
    state = tmp_path / "state"
    (state / "appliances").mkdir(parents=True)
    (state / "templates").mkdir(mode=0o755)
    state.chmod(0o711)
    private_state(state)
    assert state.stat().st_mode & 0o777 == 0o711
    made = modes(state)
    assert made.pop("appliances") == "0o755"
    assert {"launches", "libvirt", "log", "templates"} <= set(made)
    assert set(made.values()) == {"0o700"}


@pytest.mark.parametrize(
    "names", [("launches", "letters.txt"), ("demo.img", "launches"), ("log.txt", "libvirt"), ("cache", "log"), ()]
)
def test_directory_with_other_things_is_left_alone(tmp_path: Path, names: tuple[str, ...]) -> None:
    """A directory that holds anything that we do not make, or nothing that we alone make, is not only ours to close."""
    for name in names:
        (tmp_path / name).mkdir()
    tmp_path.chmod(0o755)
    private_state(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_without_home_or_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME has the password file's; relative XDG paths are ignored."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert settings.default_state_dir({}) == Path("/var/lib/guestlaunch")
    assert settings.default_runtime_dir({"XDG_RUNTIME_DIR": "relative"}) == Path("/run/guestlaunch")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert settings.default_runtime_dir({}).name == "guestlaunch-54321"
    assert settings.default_state_dir({"HOME": "/h"}) == Path("/h/.local/state/guestlaunch")
    with pytest.raises(SettingsError, match="HOME is not set"):
        settings.default_state_dir({})


def test_root_of_a_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /run and /var are the host's, root has the places of any other user."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sockets, "is_systems_root", lambda: False)
    assert settings.default_state_dir({"HOME": "/h"}) == Path("/h/.local/state/guestlaunch")
    assert settings.default_runtime_dir({"TMPDIR": "/nonexistent"}) == Path("/nonexistent/guestlaunch-0")
    said = " ".join((Settings.__doc__ or "").split())
    assert "$TMPDIR/guestlaunch-UID (/tmp/guestlaunch-UID) for others" in said  # the manual is made from it


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A number without an account needs a state directory, and nothing else; the error names what to set."""
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert load(environ={"GUESTLAUNCH_STATE_DIR": str(tmp_path)}).state_dir == tmp_path
    with pytest.raises(SettingsError, match="set HOME, or GUESTLAUNCH_STATE_DIR"):
        load(environ={})
