"""What prepares guestfsd in a template: built for either architecture, and how it treats the program that it is in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.appliance.prepared import NAME, add_prepared
from orchestrator.domain.model import Arch

# Augeas, but for that it does nothing: it tells what it is called with, and each handle is another number.
AUGEAS = """
#include <stdio.h>
static long made;
void *aug_init(const char *root, const char *path, unsigned flags) {
    printf("made %ld: %s %s %#x\\n", ++made, root, path ? path : "-", flags);
    return (void *)made;
}
void aug_close(void *handle) { printf("closed %ld\\n", (long)handle); }
"""
# A program that does as guestfsd does: umask, then what it is asked.
GUESTFSD = """
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
void *aug_init(const char *, const char *, unsigned);
void aug_close(void *);
int main(void) {
    unsigned was = umask(022), is = umask(0);
    printf("umask %o %o, preloaded %s\\n", was, is, getenv("LD_PRELOAD") ? "yes" : "no");
    void *one = aug_init("/sysroot/", 0, 0x130), *two = aug_init("/sysroot", 0, 0x120);
    void *path = aug_init("/sysroot", "/p", 0x130);
    void *first = aug_init("/sysroot", 0, 0x130), *second = aug_init("/sysroot", 0, 0x130);
    printf("got %ld %ld %ld, %ld %ld\\n", (long)one, (long)two, (long)path, (long)first, (long)second);
    aug_close(second);
    aug_close(first);
    aug_close(one);
    return 0;
}
"""


def compiled(folder: Path, name: str, text: str, *options: str) -> Path:
    """Return a program or library made of C."""
    source, made = folder / f"{name}.c", folder / name
    source.write_text(text)
    subprocess.run([os.environ.get("CC") or "cc", "-o", made, source, *options], check=True)
    return made


def native() -> Arch:
    """Return the architecture of this host."""
    return Arch(os.uname().machine)


def root_of(folder: Path) -> Path:
    """Return an appliance's root directory without the library."""
    (folder / "tree/usr/lib/guestlaunch").mkdir(parents=True)
    return folder / "tree"


@pytest.mark.skipif(shutil.which(os.environ.get("CC") or "cc") is None, reason="no C compiler")
def test_a_handle_is_made_early_and_given_once(tmp_path: Path) -> None:
    """For exactly what inspection asks for; it is never freed. All others are as ever.

    Programs that are started later do not have it; one without Augeas, as the shell here, is left alone.
    """
    root = root_of(tmp_path)
    add_prepared(root, native())
    compiled(tmp_path, "libaugeas.so", AUGEAS, "-shared", "-fPIC")
    program = compiled(tmp_path, "guestfsd", GUESTFSD, f"-L{tmp_path}", "-l:libaugeas.so", f"-Wl,-rpath,{tmp_path}")
    library = root / "usr/lib/guestlaunch" / NAME
    environ = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(
        ["sh", "-c", f"umask 077; exec {program}"], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "made 1: /sysroot - 0x130", "umask 77 22, preloaded no",
        "made 2: /sysroot/ - 0x130", "made 3: /sysroot - 0x120", "made 4: /sysroot /p 0x130",
        "made 5: /sysroot - 0x130", "got 2 3 4, 1 5", "closed 5", "closed 2",
    ]  # fmt: skip
    assert done.stderr == ""


@pytest.mark.parametrize(("arch", "machine"), [(Arch.AARCH64, 183), (Arch.X86_64, 62)])
def test_it_takes_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: Arch, machine: int) -> None:
    """An appliance of either architecture has it wherever it was built."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-cc")
    root = root_of(tmp_path)
    add_prepared(root, arch)
    head = (root / "usr/lib/guestlaunch" / NAME).read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert int.from_bytes(head[18:20], "little") == machine
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
