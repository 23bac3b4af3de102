"""The commands of tools/: what they say on a system they cannot set up, and the package list they read."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
LIST = TOP / "tools" / "packages.txt"
# What tools/setup runs before it knows the system.
EARLY = ("awk", "dirname", "sed", "uname")
ARM_HOST_SMOKE = (
    "arm-host env TMPDIR=/var/tmp .venv/bin/python -m pytest tests/functional/test_arm_host.py -m arm_host -s"
)


@pytest.fixture
def without_apt(tmp_path: Path) -> dict[str, str]:
    """An environment in which no package manager is found."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in EARLY:
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    return {"PATH": str(programs)}


@pytest.mark.parametrize("command", ["quickstart", "test"])
def test_unsupported_system_gets_one_line_and_the_list(command: str, without_apt: dict[str, str]) -> None:
    """Without apt both commands end with status 1 and one line that lists the packages by name."""
    run = subprocess.run(
        ["/bin/bash", TOP / "tools" / command], env=without_apt, capture_output=True, text=True, timeout=60, check=False
    )
    lines = [line for line in run.stderr.splitlines() if not line.startswith("quickstart: 1/3")]
    assert run.returncode == 1, run.stderr
    assert len(lines) == 1, run.stderr
    assert "unsupported system: no apt-get and dpkg here" in lines[0]
    assert "python3-guestfs" in lines[0]
    assert ("shellcheck" in lines[0]) == (command == "test")


def test_unknown_level_is_refused(without_apt: dict[str, str]) -> None:
    """A level that does not exist is named, with those that do."""
    run = subprocess.run(
        ["/bin/bash", TOP / "tools" / "setup", "everything"],
        env=without_apt,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr == "setup: unknown level: everything (use run, smoke or test)\n"


# Heeds no signal while what it has started runs, as unshare does for another release's root.
SET_UP_ELSEWHERE = """#!/bin/bash
trap : INT TERM
sh -c 'echo $$ >inside; exec sleep 600'
"""


def made_of_stubs(top: Path, on: str) -> dict[str, str]:
    """Make a checkout in which tools/test alone is real; return the variables that it needs.

    :param on: text of its tools/on.
    """
    programs = {
        **dict.fromkeys((".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/guestlaunch", "bin/shellcheck"), "#!/bin/sh\n"),
        ".venv/bin/pytest": '#!/bin/sh\necho "pytest $*"; echo "== 2 passed in 1s =="; exit "${PYTEST:-0}"\n',
        "tools/test": (TOP / "tools/test").read_text(encoding="utf-8"),
        "tools/setup": "#!/bin/sh\nmkdir -p .build\n",
        "tools/on": on,
    }
    for name, text in programs.items():
        program = top / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
    return {"PATH": f"{top / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.parametrize("program", ["tools/on", ".venv/bin/pytest"])
def test_an_interrupted_run_ends_what_it_runs(tmp_path: Path, program: str) -> None:
    """The set-up on the other release ends with the command, though its first process waits; so do tests."""
    environ = os.environ | made_of_stubs(tmp_path, "#!/bin/sh\n")
    (tmp_path / program).write_text(SET_UP_ELSEWHERE, encoding="utf-8")
    command: list[str | Path] = [tmp_path / "tools/test", "--all"]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL, start_new_session=True)
    inside = tmp_path / "inside"
    deadline = time.monotonic() + 60
    try:
        while not (inside.exists() and inside.read_text(encoding="utf-8").endswith("\n")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        other = Path("/proc", inside.read_text(encoding="utf-8").strip())
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
        while other.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
        if inside.exists() and (pid := inside.read_text(encoding="utf-8").strip()) and Path("/proc", pid).exists():
            os.kill(int(pid), signal.SIGKILL)


def test_continuous_integration_and_the_reader_run_the_same_command() -> None:
    """The second of README's two commands is what .ci/run runs."""
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    _, command = re.findall(r"^    \./(tools/\S+(?: --\w+)?) +#", readme, re.MULTILINE)
    assert (TOP / ".ci/run").read_text(encoding="utf-8").splitlines()[-1] == f"exec {command}"


# The set-up on another release, and its smoke test; then those of an emulated Arm host.
ON = """#!/bin/sh
if [ "$1" = arm-host ]; then
    echo "$@"
    [ "$ARM" != late ] || exec sleep 600
    if [ "$ARM" -lt 124 ]; then echo "== 4 passed in 3s =="; else echo "on: no machine"; fi
    exit "$ARM"
fi
case $3 in
    --prepare) echo "on: not to be had"; [ "$LASTS" = 0 ] || exec sleep "$LASTS"; exit "$PREPARE" ;;
    --smoke) echo "== 1 passed in 2s =="; exit "$SMOKE" ;;
esac
"""
_BOTH = "smoke test on {other}: 1 passed in 2s"
_LATE = "NO SMOKE TEST on {other}: the set-up was not done 1 s after the suite (what it said: .build/{other}.log)"
_NONE = "NO SMOKE TEST on {other}: on: not to be had"
_FAILED = "the set-up on {other} failed (everything it said: .build/{other}.log)"
_ARM = "smoke test in an emulated Arm host: 4 passed in 3s"


@pytest.mark.parametrize(
    ("statuses", "lasts", "status", "said"),
    [
        ({}, 0, 0, _BOTH),
        ({"PYTEST": "1"}, 0, 1, _BOTH),
        ({"SMOKE": "1"}, 0, 1, _BOTH),
        ({"PREPARE": "125"}, 0, 0, _NONE),
        ({"PREPARE": "125", "PYTEST": "1"}, 0, 1, _NONE),
        ({"PREPARE": "4"}, 0, 4, _FAILED),
        ({}, 600, 0, _LATE),
    ],
)
def test_all_is_the_suite_and_then_the_other_releases_smoke_test(
    tmp_path: Path, statuses: dict[str, str], lasts: int, status: int, said: str
) -> None:
    """Either fails it; where the other release cannot be had, or not in time, a line says so, and nothing fails."""
    given = {"PREPARE": "0", "SMOKE": "0", "ARM": "0", "LASTS": f"{lasts}"}
    environ = os.environ | given | made_of_stubs(tmp_path, ON) | statuses
    script = tmp_path / "tools/test"
    if lasts:
        text = script.read_text(encoding="utf-8")
        script.write_text(text.replace("SETUP_LIMIT_S=600", "SETUP_LIMIT_S=1"), encoding="utf-8")
    run = subprocess.run([script, "--all"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == status, run.stderr
    here = platform.freedesktop_os_release().get("VERSION_CODENAME")
    expected = said.format(other="bookworm" if here == "trixie" else "trixie")
    last = [line.removeprefix("test: ") for line in run.stderr.splitlines()[-3:]]
    assert last == [expected, _ARM, "all tests here: 2 passed in 1s"]
    assert run.stdout.splitlines()[1:] == ["== 2 passed in 1s =="] + ["== 1 passed in 2s =="] * (said is _BOTH)


@pytest.mark.parametrize(
    ("arm", "status", "said"),
    [
        ("0", 0, _ARM),
        ("1", 1, _ARM),
        ("125", 0, "NO SMOKE TEST in an emulated Arm host: on: no machine"),
        ("late", 0, "NO SMOKE TEST in an emulated Arm host: it was not over after 0 minutes (what it said: {log})"),
    ],
)
def test_all_has_the_smoke_test_in_an_emulated_arm_host(tmp_path: Path, arm: str, status: int, said: str) -> None:
    """It runs beside the suite; where there is no machine, or it takes too long, a line says so, and nothing fails."""
    given = {"PREPARE": "0", "SMOKE": "0", "LASTS": "0", "ARM": arm}
    environ = os.environ | given | made_of_stubs(tmp_path, ON)
    script = tmp_path / "tools/test"
    if arm == "late":
        text = script.read_text(encoding="utf-8")
        script.write_text(text.replace("ALL_LIMIT_S=2880", "ALL_LIMIT_S=2"), encoding="utf-8")
    run = subprocess.run([script, "--all"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == status, run.stderr
    log = ".build/arm-host.log"
    assert run.stderr.splitlines()[-2].removeprefix("test: ") == said.format(log=log)
    assert (tmp_path / log).read_text(encoding="utf-8").startswith(ARM_HOST_SMOKE)
    assert (ARM_HOST_SMOKE in run.stderr) == (arm == "1")  # what failed is shown


@pytest.mark.parametrize("arguments", [["--arm-host"], ["--arm-host", "-k", "xml"]])
def test_the_smoke_test_of_an_arm_host_comes_first(tmp_path: Path, arguments: list[str]) -> None:
    """It runs where it is asked for, before everything else that pytest does; and nothing else does when it fails."""
    on = '#!/bin/sh\necho "on $*"\n[ "$1" != arm-host ] || exit "$FAILS"\n'
    environ = os.environ | made_of_stubs(tmp_path, on)
    smoke = f"on {ARM_HOST_SMOKE}"
    for fails in (0, 1):
        command: list[str | Path] = [tmp_path / "tools/test", *arguments]
        variables = environ | {"FAILS": str(fails)}
        run = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
        ours = [line for line in run.stdout.splitlines() if line.startswith(("pytest", "on arm-host"))]
        assert ours[0] == smoke
        assert (run.returncode, len(ours)) == ((1, 1) if fails else (0, 2))


def test_package_list_is_well_formed() -> None:
    """Each line is a section, a comment, or package names with an optional architecture; none stands twice."""
    lines = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if re.fullmatch(r"\[\w+\]", line)] == ["[run]", "[smoke]", "[test]"]
    name = r"[a-z0-9][a-z0-9+.-]+"
    entries = [line for line in lines if not line.startswith("[")]
    assert [line for line in entries if not re.fullmatch(rf"{name}( \| {name})*( \[(amd64|arm64)\])?", line)] == []
    assert len(set(entries)) == len(entries)


def test_on_arm_host_is_a_machine_with_the_checkout(tmp_path: Path) -> None:
    """It is built where it is missing, with the suite's appliances, and pytest runs there with its own."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("on", "test"):
        shutil.copy(TOP / "tools" / name, folder)
    machine = folder / "arm-host"
    machine.write_text('#!/bin/sh\nprintf "%s|" "$GUESTLAUNCH_STATE_DIR" "$@"; echo\n[ "$1" != "$FAILS" ]\n')
    machine.chmod(0o755)
    cache = tmp_path / "cache"
    (cache / "systems").mkdir(parents=True)  # or it would ask for gigabytes of room
    said = {}
    for fails in ("nothing", "build", "run"):
        run = subprocess.run(
            ["/bin/bash", folder / "test", "--on", "arm-host", "-k", "a b"],
            env={"PATH": "/usr/bin:/bin", "FAILS": fails, "ARM_HOST_CACHE": str(cache)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said[fails] = (run.returncode, run.stdout)
    build, ran = said["nothing"][1].splitlines()
    assert build == f"{tmp_path}/.build/state|build|"
    words = ran.split("|")
    assert words[1:4] == ["run", "--env", "GUESTLAUNCH_STATE_DIR=/var/lib/guestlaunch"]
    assert words[-6:-1] == [".venv/bin/python", "-m", "pytest", "-k", "a b"]
    assert [said[fails][0] for fails in ("nothing", "build", "run")] == [0, 125, 1]
