"""What prepares guestfsd in a template: built for either architecture, and how it treats the program that it is in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.appliance.prepared import LOOKING, NAME, PROBING, SHORTCUTS, add_prepared
from orchestrator.domain.model import Arch

# Augeas, but for that it does nothing: it tells what it is called with, and each handle is another number.
AUGEAS = """
#include <stdio.h>
static long made;
void *aug_init(const char *root, const char *path, unsigned flags) {
    printf("made %ld: %s %s %#x\\n", ++made, root, path ? path : "-", flags);
    return (void *)made;
}
int aug_load(void *handle) { printf("loaded %ld\\n", (long)handle); return 0; }
void aug_close(void *handle) { printf("closed %ld\\n", (long)handle); }
"""
# A program that does as guestfsd does: it reads its options, then does what it is asked, over an open channel.
GUESTFSD = """
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
void *aug_init(const char *, const char *, unsigned);
void aug_close(void *);
static const struct option OPTIONS[] = { { "channel", 1, 0, 'c' }, { "network", 0, 0, 'n' }, { 0, 0, 0, 0 } };
static void serve(int channel) {
    char asked[65536];
    int length = 0, more;
    while ((more = read(channel, asked + length, sizeof asked - length)) > 0) length += more;
    dprintf(1, "asked for '%.*s'\\n", length, asked);
    for (int i = 0; i < 100; i++) write(channel, asked, sizeof asked);
    _exit(0);
}
int main(int argc, char **argv) {
    int option;
    while ((option = getopt_long(argc, argv, "c:n", OPTIONS, 0)) != -1) {
        if (optarg && strncmp(optarg, "fd:", 3) == 0) serve(atoi(optarg + 3));
        printf("option %c %s\\n", option, optarg ? optarg : "-");
    }
    if (optind < argc) puts("too many arguments");
    printf("preloaded %s, %s\\n", getenv("LD_PRELOAD") ? "yes" : "no", getenv("GUESTLAUNCH_ARGUMENTS") ? "yes" : "no");
    void *one = aug_init("/sysroot/", 0, 0x130), *two = aug_init("/sysroot", 0, 0x120);
    void *path = aug_init("/sysroot", "/p", 0x130);
    void *first = aug_init("/sysroot", 0, 0x130), *second = aug_init("/sysroot", 0, 0x130);
    void *loaded = aug_init("/sysroot/", 0, 0x100), *again = aug_init("/sysroot/", 0, 0x100);
    printf("got %ld %ld %ld, %ld %ld, %ld %ld\\n", (long)one, (long)two, (long)path, (long)first, (long)second,
        (long)loaded, (long)again);
    aug_close(second);
    aug_close(first);
    aug_close(loaded);
    aug_close(one);
    return 0;
}
"""
MADE_FIRST = ["made 1: /sysroot - 0x130", "made 2: /sysroot/ - 0x120"]
AS_ASKED = [
    "made 3: /sysroot/ - 0x130", "made 4: /sysroot - 0x120", "made 5: /sysroot /p 0x130", "made 6: /sysroot - 0x130",
    "loaded 2", "made 7: /sysroot/ - 0x100", "got 3 4 5, 1 6, 2 7", "closed 6", "closed 3",
]  # fmt: skip


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


@pytest.fixture
def guestfsd(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A program that does as guestfsd does, and the environment in which it is prepared."""
    if shutil.which(os.environ.get("CC") or "cc") is None:
        pytest.skip("no C compiler")
    root = root_of(tmp_path)
    add_prepared(root, native())
    compiled(tmp_path, "libaugeas.so", AUGEAS, "-shared", "-fPIC")
    program = compiled(tmp_path, "guestfsd", GUESTFSD, f"-L{tmp_path}", "-l:libaugeas.so", f"-Wl,-rpath,{tmp_path}")
    return program, {**os.environ, "LD_PRELOAD": str(root / "usr/lib/guestlaunch" / NAME)}


def test_a_handle_is_made_early_and_given_once(guestfsd: tuple[Path, dict[str, str]]) -> None:
    """For exactly what is asked for, with what of the disk belongs to it; it is never freed. All others are as ever.

    Programs that are started later do not have it; one without Augeas, as the shell here, is left alone.
    """
    program, environ = guestfsd
    done = subprocess.run(["sh", "-c", f"exec {program} -n"], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*MADE_FIRST, "option n -", "preloaded no, no", *AS_ASKED]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("guestfsd\n--channel\n/dev/port\n--network\n", ["option c /dev/port", "option n -"]),
        ("guestfsd\n", []),
        (None, []),
    ],
)
def test_it_is_held_until_it_is_told_its_arguments(
    guestfsd: tuple[Path, dict[str, str]], tmp_path: Path, arguments: str | None, options: list[str]
) -> None:
    """With the lenses read, and none of its options."""
    program, environ = guestfsd
    told = tmp_path / "arguments"
    environ["GUESTLAUNCH_ARGUMENTS"] = str(told)
    with subprocess.Popen([program], env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        if arguments is not None:
            told.write_text(arguments)
        os.kill(process.pid, signal.SIGCONT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.splitlines() == [*MADE_FIRST, *options, "preloaded no, no", *AS_ASKED]


def test_a_child_rehearses(guestfsd: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """It is sent the messages, heard to its end, and what is held stays as it was; it may be more than one."""
    program, environ = guestfsd
    told, messages = tmp_path / "arguments", tmp_path / "messages"
    messages.write_text("list, inspect")
    environ["GUESTLAUNCH_ARGUMENTS"] = str(told)
    with subprocess.Popen([program], env=environ, stdout=subprocess.PIPE, text=True) as process:
        for arguments in (f"rehearse\n{messages}\n", f"rehearse\n{messages}\n", "rehearse\n/none\n", "guestfsd\n-n\n"):
            assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
            told.write_text(arguments)
            os.kill(process.pid, signal.SIGCONT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    asked = ["asked for 'list, inspect'", "asked for 'list, inspect'", "asked for ''"]
    assert said.splitlines() == [*asked, *MADE_FIRST, "option n -", "preloaded no, no", *AS_ASKED]


# A program that forks as guestfsd does, once its options are read.
FORKER = """
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static int parts(const char *name) {
    char line[512];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) found += strstr(line, name) != 0;
    fclose(maps);
    return found;
}
int main(int argc, char **argv) {
    static char much[1 << 20];
    int ends[2], status;
    long got = 0, more;
    getopt_long(argc, argv, "c", 0, 0);
    pid_t child = fork();
    if (child == 0) {
        for (volatile int i = 0; i < 300000000; i++) continue;
        _exit(7);
    }
    usleep(20000); /* from the end of its descriptors to its own */
    printf("ended %d\\n", waitpid(child, &status, WNOHANG) == child && WEXITSTATUS(status) == 7);
    child = fork();
    if (child == 0) execlp("sleep", "sleep", "60", NULL);
    printf("begun %d\\n", waitpid(child, &status, WNOHANG) == 0);
    kill(child, 9);
    waitpid(child, &status, 0);
    if (pipe(ends) != 0) return 1;
    child = fork();
    if (child == 0) {
        close(ends[0]);
        _exit(write(ends[1], much, sizeof much) != sizeof much);
    }
    close(ends[1]);
    while ((more = read(ends[0], much, sizeof much)) > 0) got += more;
    waitpid(child, &status, 0);
    printf("told %d\\n", got == sizeof much && status == 0);
    printf("joined %d\\n", parts("libc.so") <= 2);
    return 0;
}
"""


def test_forks(tmp_path: Path) -> None:
    """A parent goes on when its child has ended, begun another program, or waits to be read. Libraries are joined."""
    if shutil.which(os.environ.get("CC") or "cc") is None:
        pytest.skip("no C compiler")
    root = root_of(tmp_path)
    add_prepared(root, native())
    environ = {**os.environ, "LD_PRELOAD": str(root / "usr/lib/guestlaunch" / NAME)}
    program = compiled(tmp_path, "forker", FORKER, "-include", "signal.h")
    done = subprocess.run([program], env=environ, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["ended 1", "begun 1", "told 1", "joined 1"]


# What is found on a device as udev's libblkid looks for it: the types of libblkid's that follow are left out, or not.
PROBE = """
import ctypes, os, sys
blkid, libc = ctypes.CDLL(None), ctypes.CDLL(None)
blkid = ctypes.CDLL("libblkid.so.1", ctypes.RTLD_GLOBAL) if not hasattr(blkid, "blkid_new_probe") else blkid
blkid.blkid_new_probe.restype = ctypes.c_void_p
for path in sys.argv[1:]:
    probe = ctypes.c_void_p(blkid.blkid_new_probe())
    main = ctypes.CDLL(None)
    main.blkid_probe_set_superblocks_flags(probe, (1 << 1) | (1 << 3) | (1 << 5))
    file = os.open(path, os.O_RDONLY)
    main.blkid_probe_set_device(probe, file, ctypes.c_int64(0), ctypes.c_int64(0))
    value = ctypes.c_char_p()
    blkid.blkid_do_safeprobe(probe)
    found = blkid.blkid_probe_lookup_value(probe, b"TYPE", ctypes.byref(value), None)
    print(os.path.basename(path), value.value.decode() if found == 0 else "-")
"""


def fake_raid(path: Path) -> None:
    """Make what libblkid takes for a member of an array of a Promise FastTrak's BIOS."""
    with path.open("wb") as file:
        file.truncate(8 << 20)
        file.seek((8 << 20) - 63 * 512)
        file.write(b"Promise Technology, Inc.")


def test_probing(tmp_path: Path) -> None:
    """Udev does not look for what no appliance could use, and finds all else."""
    if shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None:
        pytest.skip("no mkfs.ext4")
    root = root_of(tmp_path)
    add_prepared(root, native())
    member, ext4 = tmp_path / "member", tmp_path / "ext4"
    fake_raid(member)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", ext4, "2M"], check=True)
    found = []
    for preload in ("libblkid.so.1", f"{root}/usr/lib/guestlaunch/{PROBING} libblkid.so.1"):
        environ = {**os.environ, "LD_PRELOAD": preload}
        command: list[str | Path] = [sys.executable, "-c", PROBE, member, ext4]
        found.append(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)
    assert found == ["member promise_fasttrack_raid_member\next4 ext4\n", "member -\next4 ext4\n"]


LOOKER = """
#include <fcntl.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int file = open(argv[1], O_RDWR | O_CREAT, 0640), other = open(argv[1], O_WRONLY);
    (void)argc;
    return write(file, "a", 1) != 1 || write(other, "b", 1) != 1 || open("/nowhere/at/all", O_RDWR) != -1;
}
"""


def test_only_disks_are_opened_to_look(tmp_path: Path) -> None:
    """What is not a disk is opened as ever, with its mode."""
    if shutil.which(os.environ.get("CC") or "cc") is None:
        pytest.skip("no C compiler")
    root, made = root_of(tmp_path), tmp_path / "made"
    add_prepared(root, native())
    environ = {**os.environ, "LD_PRELOAD": str(root / "usr/lib/guestlaunch" / LOOKING)}
    program = compiled(tmp_path, "looker", LOOKER)
    done = subprocess.run([program, made], env=environ, capture_output=True, text=True, check=False, umask=0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (made.read_text(), made.stat().st_mode & 0o777) == ("b", 0o640)


@pytest.mark.parametrize(("arch", "machine"), [(Arch.AARCH64, 183), (Arch.X86_64, 62)])
def test_it_takes_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: Arch, machine: int) -> None:
    """An appliance of either architecture has it wherever it was built."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-cc")
    root = root_of(tmp_path)
    add_prepared(root, arch)
    for name in (NAME, LOOKING, PROBING, SHORTCUTS):
        head = (root / "usr/lib/guestlaunch" / name).read_bytes()[:20]
        assert head[:4] == b"\x7fELF"
        assert int.from_bytes(head[18:20], "little") == machine
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize(
    ("command", "status", "output", "error"),
    [
        ("udevadm settle -E {here}", 0, "", ""),
        ("/usr/sbin/ls -d {here}", 0, "{here}\n", ""),
        ("ls --nonsense", 2, "", "ls: unrecognized option '--nonsense'"),
        ("lvm lvs", 127, "", ""),
        ("lvm lvs --help", 127, "", ""),
        ("sfdisk --help", 127, "", ""),
        ("parted -m -s -- /dev/sda unit b print", 127, "", ""),
        ("/usr/sbin/sgdisk /dev/sda -i 1", 127, "", ""),
    ],
)
def test_shortcuts(tmp_path: Path, command: str, status: int, output: str, error: str) -> None:
    """A device that is there is not waited for; else the real program is started by its own name, if it is there."""
    root = root_of(tmp_path)
    add_prepared(root, native())
    words = command.format(here=tmp_path).split()
    shortcuts = root / "usr/lib/guestlaunch" / SHORTCUTS
    done = subprocess.run(words, executable=shortcuts, env={"LC_ALL": "C"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, output.format(here=tmp_path))
    assert done.stderr.startswith(error)
