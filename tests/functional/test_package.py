"""The Debian package: built from what is committed, installed on a system without it, used, upgraded, purged.

The system is this host's own, seen through an overlay in mount and pid namespaces that end with the module: what is
installed there, by apt itself, is gone afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import TOP

pytestmark = [pytest.mark.timeout(600), pytest.mark.needs("git", "dpkg-deb")]

# By hand also with the root of another release, such as tools/on makes.
ROOT = os.environ.get("PACKAGE_TEST_ROOT", "/")
VERSION = re.search(r'__version__ = "(.+)"', (TOP / "orchestrator/__init__.py").read_text("utf-8"))
NEXT = "99.1"
PROGRAMS = ("guestlaunch", "guestlaunchd", "guestlaunch-hv")
# What is in the system's folders of ours when the package is there; not below folders where the checkout may be.
OURS = r"find /usr /etc /var/lib /run -xdev \( -iname '*guestlaunch*' -o -name orchestrator \) ! -path '/usr/src/*'"
_SETUP = """
set -eu
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$3,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
for file in /etc/resolv.conf /etc/hosts; do [ ! -r $file ] || cp --remove-destination $file "$1/root$file"; done
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount -t sysfs -o ro sysfs "$1/root/sys"
mount -t tmpfs -o mode=755 tmpfs "$1/root/run"
mount -t tmpfs -o mode=1777 tmpfs "$1/root/tmp"
mkdir -p "$1/root/mnt"
mount --bind "$2" "$1/root/mnt"
printf '#!/bin/sh\\nexit 101\\n' >"$1/root/usr/sbin/policy-rc.d"
chmod 755 "$1/root/usr/sbin/policy-rc.d"
echo there
exec sleep infinity
"""


def run(*command: str | Path, **options: object) -> str:
    """Run a command to its end and return what it printed; fail the test with all of it when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system in namespaces of its own.

    :ivar process: the first process in them, as seen from outside.
    """

    process: int
    root: Path

    def __call__(self, *command: str) -> str:
        """Run a command there, as from a fresh login of root's, and return what it printed."""
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        environ |= {"DEBIAN_FRONTEND": "noninteractive", "GUESTLAUNCH_ACCEL": "tcg", "GUESTLAUNCH_LEARN": "off"}
        inside = ("nsenter", f"--target={self.process}", "--mount", "--pid", "chroot", str(self.root))
        return run(*inside, *command, env=environ)

    def ours(self) -> set[str]:
        """Return the files and folders of ours that are there."""
        return set(self("sh", "-c", OURS).split())


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The package of this checkout as it is, and the one of a next version, by version."""
    folder = tmp_path_factory.mktemp("debs")
    tree = folder / "tree"
    tree.mkdir()
    listed = run("git", "-C", TOP, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        if (TOP / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, tree / name, follow_symlinks=False)
    (tree / ".venv").symlink_to(TOP / ".venv")
    git = ("git", "-C", tree, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    run(*git, "init", "-q")
    run(*git, "add", "-A")
    run(*git, "commit", "-q", "-m", "as it is")
    made = {}
    for version in (VERSION[1] if VERSION else "", NEXT):
        source = tree / "orchestrator/__init__.py"
        source.write_text(
            re.sub('__version__ = ".+"', f'__version__ = "{version}"', source.read_text("utf-8")), "utf-8"
        )
        if version == NEXT:
            refused = subprocess.run([tree / "tools/package", folder], capture_output=True, text=True, check=False)
            assert (refused.returncode, "not committed" in refused.stderr) == (1, True), refused.stderr
            run(*git, "commit", "-q", "-a", "-m", "next")
        made[version] = Path(run(tree / "tools/package", folder).strip())
    return made


@pytest.fixture(scope="module")
def deb(debs: dict[str, Path]) -> Path:
    """The package of this checkout."""
    return next(iter(debs.values()))


@pytest.fixture(scope="module")
def system(debs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system without the package; the packages, of both versions, lie in its /mnt."""
    if os.geteuid() != 0:
        pytest.skip("mount namespaces need root")
    place = tmp_path_factory.mktemp("system")
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private", "sh", "-c", _SETUP]
    folder = next(iter(debs.values())).parent
    with subprocess.Popen([*command, "sh", place, folder, ROOT], stdout=subprocess.PIPE, text=True) as outside:
        try:
            assert outside.stdout is not None
            assert outside.stdout.readline() == "there\n"
            children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text("utf-8").split()
            fresh = System(process=int(children[0]), root=place / "root")
            if (
                "ii"
                in subprocess.run(["dpkg", "-l", "guestlaunch"], capture_output=True, text=True, check=False).stdout
            ):
                fresh("dpkg", "--purge", "guestlaunch")
            fresh("sh", "-c", "rm -rf /var/lib/guestlaunch /etc/guestlaunch /root/.config")
            yield fresh
        finally:
            outside.kill()


def install(system: System, deb: Path) -> None:
    """Install a package as a person would; lists that have aged are fetched anew."""
    command = ("apt-get", "install", "-q", "-y", "--no-install-recommends", f"/mnt/{deb.name}")
    system("sh", "-c", f"{' '.join(command)} || {{ apt-get update -q && {' '.join(command)}; }}")


@pytest.fixture(scope="module")
def installed(system: System, deb: Path) -> System:
    """The system with the package of this checkout."""
    assert system.ours() == set()
    install(system, deb)
    return system


def test_what_is_in_it(deb: Path) -> None:
    """Programs, manual, completion, units, the user and the folders they take, settings; nothing by another's name."""
    listed = {line.split()[5] for line in run("dpkg-deb", "--contents", deb).splitlines()}
    files = {name.removeprefix(".") for name in listed if not name.endswith("/")}
    wanted = {f"/usr/bin/{name}" for name in PROGRAMS} | {
        "/etc/guestlaunch/config.toml",
        "/usr/lib/systemd/system/guestlaunchd.service",
        "/usr/lib/systemd/user/guestlaunchd.service",
        "/usr/lib/sysusers.d/guestlaunch.conf",
        "/usr/lib/tmpfiles.d/guestlaunch.conf",
        "/usr/share/bash-completion/completions/guestlaunch",
        "/usr/share/fish/vendor_completions.d/guestlaunch.fish",
        "/usr/share/zsh/vendor-completions/_guestlaunch",
        "/usr/share/man/man1/guestlaunch.1.gz",
        "/usr/share/man/man1/guestlaunch-hv.1.gz",
        "/usr/share/man/man5/guestlaunch.toml.5.gz",
        "/usr/share/man/man8/guestlaunchd.8.gz",
        "/usr/share/guestlaunch/profiles/aarch64-uefi.toml",
        "/usr/lib/python3/dist-packages/orchestrator/appliance/guest/root-init",
    }
    assert wanted <= files
    assert not {name for name in files if "__pycache__" in name or "tests" in name}
    owners = {line.split()[1] for line in run("dpkg-deb", "--contents", deb).splitlines()}
    assert owners == {"root/root"}
    assert run("dpkg-deb", "--field", deb, "Architecture").strip() == "all"
    depends = run("dpkg-deb", "--field", deb, "Depends")
    assert "libguestfs0 | libguestfs0t64" in depends
    assert "python3-venv" not in depends


@pytest.mark.needs("lintian")
def test_lintian_has_no_errors(deb: Path) -> None:
    """Debian's own checks find no error."""
    done = subprocess.run(
        ["lintian", "--no-cfg", "--allow-root", "--fail-on", "error", deb],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_commands(installed: System) -> None:
    """The programs run from /usr/bin, for any user; the manual is found; doctor finds packages, and no appliance."""
    version = installed("dpkg-query", "--show", "--showformat=${Version}", "guestlaunch")
    for name in ("guestlaunch", "guestlaunchd"):
        assert version in installed("runuser", "-u", "nobody", "--", name, "--version")
    assert re.search(r"^ +template +", installed("guestlaunch", "help"), re.MULTILINE)
    for page in ("guestlaunch", "guestlaunch.toml", "guestlaunchd", "guestlaunch-hv"):
        assert f"/{page}." in installed("man", "--where", page)
    said = installed("sh", "-c", "guestlaunch doctor; echo status $?")
    assert re.search(r"^ok +packages +all there$", said, re.MULTILINE), said
    assert re.search(r"^ok +wrapper +/usr/bin/guestlaunch-hv$", said, re.MULTILINE), said
    assert "no appliance for: aarch64" in said
    assert said.endswith("status 1\n")
    assert installed("getent", "passwd", "libvirt-qemu").startswith("libvirt-qemu:")
    assert installed("stat", "--format=%a %U", "/var/lib/guestlaunch").strip() == "700 root"
    assert installed("bash", "-c", ". /usr/share/bash-completion/completions/guestlaunch; complete -p guestlaunch")


@pytest.mark.needs("systemd-analyze")
def test_units(installed: System) -> None:
    """Systemd has nothing to say about the units, where their programs are."""
    for folder, option in (("system", "--system"), ("user", "--user")):
        unit = f"/usr/lib/systemd/{folder}/guestlaunchd.service"
        verify = f"XDG_RUNTIME_DIR=/run systemd-analyze verify --man=yes {option} --recursive-errors=no {unit}"
        assert installed("sh", "-c", f"{verify} 2>&1; echo $?") == "0\n"


def test_other_distributions_names(installed: System) -> None:
    """On another distribution doctor names that one's packages, and the command that installs them there."""
    script = (
        "printf 'ID=fedora\\n' >/tmp/os-release; cp --remove-destination /tmp/os-release /etc/os-release;"
        "unshare --mount sh -c 'mount --bind /dev/null $(command -v qemu-system-aarch64); guestlaunch doctor';"
        "ln -sf ../usr/lib/os-release /etc/os-release"
    )
    said = installed("sh", "-c", script)
    assert "qemu-system-aarch64 is not there (install qemu-system-aarch64-core)" in said
    assert "not there: QEMU for aarch64 guests (dnf install qemu-system-aarch64-core)" in said


# What an upgrade must not touch.
KEPT = (
    "cd /var/lib/guestlaunch; find appliances templates -printf '%p %s %T@ %m\\n' | sort;"
    "cat /etc/guestlaunch/config.toml /etc/profile.d/guestlaunch.sh"
)


def test_upgrade_and_purge(installed: System, debs: dict[str, Path], built_state_dir: Path) -> None:
    """An upgrade keeps appliances, templates, settings and what `enable` did; purging leaves nothing of ours."""
    built = (built_state_dir / "appliances/x86_64/current").resolve()
    state = f"/proc/{installed.process}/root{installed.root}/var/lib/guestlaunch"
    run("install", "-d", f"{state}/appliances/x86_64", f"{state}/templates/one")
    run("cp", "-a", "--sparse=always", built, f"{state}/appliances/x86_64")
    run("ln", "-s", built.name, f"{state}/appliances/x86_64/current")
    installed("sh", "-c", "echo 'profile = \"x86_64-seabios\"' >>/etc/guestlaunch/config.toml")
    installed("guestlaunch", "enable", "--system")
    if shutil.which("systemctl"):
        installed("systemctl", "enable", "guestlaunchd")
        installed("systemctl", "--global", "enable", "guestlaunchd")
    kept = installed("sh", "-c", KEPT)

    install(installed, debs[NEXT])
    assert NEXT in installed("guestlaunch", "--version")
    assert installed("sh", "-c", KEPT) == kept
    assert built.name in installed("guestlaunch", "appliance", "list")
    # A login shell of anybody's has what `enable` wrote, and the appliance that was kept.
    shown = installed("bash", "-lc", "echo $LIBGUESTFS_HV $LIBGUESTFS_PATH")
    assert shown.startswith("/usr/bin/guestlaunch-hv /var/lib/guestlaunch/"), shown

    installed("apt-get", "purge", "-q", "-y", "guestlaunch")
    assert installed.ours() == set()
