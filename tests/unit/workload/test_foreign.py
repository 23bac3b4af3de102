"""Who is told what of a guest's architecture, by the library that is preloaded: with a pretended libguestfs."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import CapabilityError
from orchestrator.settings import Settings
from orchestrator.workload import foreign

# What a guest, its appliance and a handle are is told by variables.
LIBRARY = """
#include <stdlib.h>
#include <string.h>
struct guestfs_utsname { char *sysname, *release, *version, *machine; };
char *guestfs_inspect_get_arch(void *g, const char *root) {
	(void)g; (void)root;
	return getenv("GUEST") ? strdup(getenv("GUEST")) : NULL;
}
const char *guestfs_get_identifier(void *g) { (void)g; return getenv("HANDLE"); }
struct guestfs_utsname *guestfs_utsname(void *g) {
	struct guestfs_utsname *u = calloc(1, sizeof *u);
	(void)g;
	if (!getenv("APPLIANCE")) { free(u); return NULL; }
	u->machine = strdup(getenv("APPLIANCE"));
	return u;
}
void guestfs_free_utsname(struct guestfs_utsname *u) { free(u->machine); free(u); }
"""
TOOL = """
#include <stdio.h>
char *guestfs_inspect_get_arch(void *, const char *);
int main(void) { char *arch = guestfs_inspect_get_arch(0, "/dev/sda"); puts(arch ? arch : "none"); return 0; }
"""
OWN = os.uname().machine
OTHER = "aarch64" if OWN == "x86_64" else "x86_64"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tool and the library that it is linked with."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    path = tmp_path_factory.mktemp("foreign")
    (path / "library.c").write_text(LIBRARY)
    (path / "tool.c").write_text(TOOL)
    for command in ("cc -shared -fPIC -o libguestfs.so library.c", "cc -o tool tool.c ./libguestfs.so"):
        subprocess.run(command.split(), cwd=path, check=True)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with folders of their own, for guests of the other architecture."""
    profile = "aarch64-uefi" if OTHER == "aarch64" else "x86_64-ovmf"
    return Settings(state_dir=tmp_path / "state", runtime_dir=tmp_path, profile=profile)


def asked(
    folder: Path, settings: Settings, name: str, guest: str | None, appliance: str | None, handle: str | None = None
) -> str:
    """Return what a tool of that name hears."""
    tool = folder / name
    if not tool.exists():
        os.link(folder / "tool", tool)
    told = {"GUEST": guest, "APPLIANCE": appliance, "HANDLE": handle}
    environ = {key: value for key, value in told.items() if value is not None} | foreign.preload({}, settings)
    run = subprocess.run([tool], env=environ, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    assert not run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("name", sorted(foreign.PROGRAMS))
def test_the_three_run_what_their_appliance_can(folder: Path, settings: Settings, name: str) -> None:
    """The appliance's architecture counts as their own; any other guest is still what it is."""
    assert asked(folder, settings, name, OTHER, OTHER) == OWN
    assert asked(folder, settings, name, OWN, OWN) == OWN
    assert asked(folder, settings, name, "riscv64", OTHER) == "riscv64"
    assert asked(folder, settings, name, OTHER, OWN) == OTHER
    assert asked(folder, settings, name, OTHER, None) == OTHER
    assert asked(folder, settings, name, None, OTHER) == "none"


@pytest.mark.parametrize("name", ["virt-inspector", "guestfish", "virt-customize-of-mine", "python3"])
def test_everybody_else_hears_the_truth(folder: Path, settings: Settings, name: str) -> None:
    """So does virt-builder, where it asks about a template for its index."""
    assert asked(folder, settings, name, OTHER, OTHER) == OTHER
    assert asked(folder, settings, "virt-builder", OTHER, OTHER, handle="template") == OTHER
    assert asked(folder, settings, "virt-builder", OTHER, OTHER, handle="guestfs1") == OWN


def test_what_is_preloaded_already_stays(folder: Path, settings: Settings) -> None:
    """Ours comes first, as the definition that is found first wins."""
    del folder
    ours = foreign.preload({}, settings)["LD_PRELOAD"]
    assert foreign.preload({"LD_PRELOAD": "/lib/mine.so"}, settings) == {"LD_PRELOAD": f"{ours}:/lib/mine.so"}


def test_it_is_preloaded_once_and_taken_away_alone(settings: Settings) -> None:
    """A shell that asks twice has it once; without it, what the user preloads is left."""
    once = foreign.preload({"LD_PRELOAD": "/lib/mine.so libother.so"}, settings)
    assert foreign.preload(once, settings) == once
    assert foreign.others(once) == ["/lib/mine.so", "libother.so"]
    assert foreign.others(foreign.preload({}, settings)) == []


@pytest.mark.parametrize("harm", ["emptied", "overwritten", "a link", "a dangling link"])
def test_a_damaged_library_is_written_again(settings: Settings, harm: str) -> None:
    """Else the dynamic linker would complain in each program from then on, and the three would refuse."""
    library = Path(foreign.preload({}, settings)["LD_PRELOAD"])
    data = library.read_bytes()
    if harm.endswith("link"):
        library.unlink()
        library.symlink_to("/etc/passwd" if harm == "a link" else "/nonexistent")
    else:
        library.write_bytes(b"" if harm == "emptied" else bytes(len(data)))
    assert Path(foreign.preload({}, settings)["LD_PRELOAD"]) == library
    assert (library.is_symlink(), library.read_bytes()) == (False, data)


@pytest.mark.parametrize("name", ["a folder", "a:folder", "$LIB"])
def test_a_path_that_cannot_be_named_is_an_error(folder: Path, settings: Settings, tmp_path: Path, name: str) -> None:
    """The dynamic linker would look for something else, and say so in the middle of the tool's own words."""
    del folder
    with pytest.raises(CapabilityError, match="LD_PRELOAD takes no path with a space, a colon or a dollar sign"):
        foreign.preload({}, replace(settings, state_dir=tmp_path / name))


def test_a_folder_that_others_can_write_to_is_an_error(folder: Path, settings: Settings) -> None:
    """What lies there might be anybody's."""
    del folder
    (settings.state_dir / "cache").mkdir(parents=True)
    (settings.state_dir / "cache").chmod(0o777)
    with pytest.raises(CapabilityError, match="cannot run commands in a foreign guest: .*cache"):
        foreign.preload({}, settings)


def test_it_takes_no_compiler(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library comes with us; it is written once."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-cc")
    library = Path(foreign.preload({}, settings)["LD_PRELOAD"])
    written = library.stat()
    assert foreign.preload({}, settings)["LD_PRELOAD"] == str(library)
    assert library.stat() == written


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("virt-customize", True), ("/usr/bin/virt-sysprep", True), ("bash", True), ("./build-my-image", True),
        ("virt-df", False), ("/usr/bin/guestfish", False), ("guestmount", False),
    ],
)  # fmt: skip
def test_who_needs_it(settings: Settings, command: str, wanted: bool) -> None:
    """Whoever may run commands in a guest, and only where the guest is not of the host's architecture."""
    assert foreign.wants(command, settings) is wanted
    own = "aarch64-uefi" if OWN == "aarch64" else "x86_64-ovmf"
    assert not foreign.wants(command, replace(settings, profile=own))
