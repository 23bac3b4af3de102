"""What a run is asked to be: options understood, names checked, credentials spelled as systemd reads them."""

from __future__ import annotations

import os
from base64 import b64decode
from pathlib import Path

import pytest

from orchestrator.domain.model import Accel
from orchestrator.domain.profiles import load_profile
from orchestrator.errors import CapabilityError, UsageError
from orchestrator.kernel.plan import command_line
from orchestrator.kernel.request import KernelRequest, Told, credential_string

KERNEL = Path("/boot/Image")


@pytest.mark.parametrize(
    ("given", "name", "text", "path"),
    [
        ("opt/a=b", "opt/a", "b", None),
        ("opt/a=", "opt/a", "", None),
        ("opt/a=b=c@d", "opt/a", "b=c@d", None),
        ("opt/a@/etc/motd", "opt/a", None, Path("/etc/motd")),
        ("opt/a@/x=y", "opt/a", None, Path("/x=y")),
    ],
)
def test_a_text_or_a_file(given: str, name: str, text: str | None, path: Path | None) -> None:
    """Whichever sign comes first says which."""
    assert Told.parse("--fw-cfg", given) == Told(name=name, text=text, path=path)


def test_neither_a_text_nor_a_file() -> None:
    """What has neither sign is refused with the option's name."""
    with pytest.raises(UsageError, match="--fw-cfg opt/a: neither"):
        Told.parse("--fw-cfg", "opt/a")


@pytest.mark.parametrize("name", ["a", "opt/", "opt/" + "x" * 52, "opt/a b", "opt/ä", "etc/boot/kernel"])
def test_a_name_that_qemu_would_not_take(name: str) -> None:
    """Or that is QEMU's own: libvirt would hand it on, and QEMU fail."""
    with pytest.raises(UsageError, match="cannot use the fw_cfg file"):
        KernelRequest(kernel=KERNEL, fw_cfg=(Told(name=name, text=""),)).check()


def test_a_name_of_55_bytes_is_one() -> None:
    """As long as fw_cfg has room for."""
    KernelRequest(kernel=KERNEL, fw_cfg=(Told(name="opt/" + "x" * 51, text=""),)).check()


def test_a_name_that_is_there_twice() -> None:
    """Of which QEMU would say that it failed, which to a bisection is the end."""
    files = (Told(name="opt/a", text="1"), Told(name="opt/b", text=""), Told(name="opt/a", text="2"))
    with pytest.raises(UsageError, match="it is there twice"):
        KernelRequest(kernel=KERNEL, fw_cfg=files).check()


def test_a_share_without_anybody_to_mount_it() -> None:
    """A user's own initrd would not know of it."""
    with pytest.raises(UsageError, match="only the builtin initrd mounts it"):
        KernelRequest(kernel=KERNEL, share=Path("/tmp")).check()
    KernelRequest(kernel=KERNEL, share=Path("/tmp"), command=("true",)).check()


def test_credentials(tmp_path: Path) -> None:
    """Plain where that can be read back, else in base64; a file that is missing is named."""
    assert credential_string(Told(name="a.b", text="x,y=z")) == b"io.systemd.credential:a.b=x,y=z"
    binary = tmp_path / "binary"
    binary.write_bytes(b"two\nlines\xff")
    head, _, rest = credential_string(Told(name="a.b", path=binary)).partition(b"=")
    assert head == b"io.systemd.credential.binary:a.b"
    assert b64decode(rest) == b"two\nlines\xff"
    with pytest.raises(CapabilityError, match="missing"):
        credential_string(Told(name="a", path=tmp_path / "missing"))


def test_a_pipe_is_read_at_once(tmp_path: Path) -> None:
    """As a shell makes it of `<(...)`; the run may be repeated. One that nobody writes to is waited for by nobody."""
    reading, writing = os.pipe()
    os.write(writing, b"x\xff")
    os.close(writing)
    told = Told.parse("--credential", f"a@/dev/fd/{reading}")
    os.close(reading)
    assert [told.content(), told.content()] == [b"x\xff", b"x\xff"]
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CapabilityError, match="nobody writes to it"):
        Told.parse("--fw-cfg", f"opt/a@{tmp_path / 'fifo'}")
    with pytest.raises(CapabilityError, match="no regular file"):
        Told.parse("--fw-cfg", "opt/a@/dev/zero").content()


def test_no_file_is_for_two_purposes(tmp_path: Path) -> None:
    """What the guest writes to is no other disk, nor what it is started from; what is only read may be."""
    disk, link = tmp_path / "d", tmp_path / "link"
    disk.touch()
    link.hardlink_to(disk)
    KernelRequest(kernel=KERNEL, disks=((disk, True), (link, True))).check(("--console", Path("/dev/null")))
    for request, what in (
        (KernelRequest(kernel=KERNEL, disks=((disk, False), (link, False))), "both as --disk"),
        (KernelRequest(kernel=KERNEL, disks=((disk, False), (link, True))), "as --disk and as --disk-ro"),
        (KernelRequest(kernel=link, disks=((disk, False),)), "as --disk and as KERNEL"),
        (KernelRequest(kernel=KERNEL, initrds=(link,), disks=((disk, False),)), "as --disk and as --initrd"),
    ):
        with pytest.raises(UsageError, match=what):
            request.check()
    with pytest.raises(UsageError, match="as --console and as KERNEL"):
        KernelRequest(kernel=link).check(("--console", disk))
    with pytest.raises(UsageError, match="as --disk and as --console"):
        KernelRequest(kernel=KERNEL, disks=((disk, False),)).check(("--console", link))


def test_credentials_are_not_shown() -> None:
    """A request may come into a log or a traceback."""
    assert "secret" not in repr(KernelRequest(kernel=KERNEL, credentials=(Told(name="a", text="secret"),)))


@pytest.mark.parametrize(
    ("theirs", "command", "wanted"),
    [
        ("", (), "console=ttyAMA0 panic=-1"),
        ("quiet", (), "console=ttyAMA0 panic=-1 quiet"),
        ("console=hvc0 panic=5", (), "console=hvc0 panic=5"),
        ("", ("true",), "console=ttyAMA0 panic=-1 rdinit=/guestlaunch/init"),
        ("rdinit=/mine quiet -- arg", ("true",), "console=ttyAMA0 panic=-1 rdinit=/guestlaunch/init quiet -- arg"),
        ('dyndbg="file a.c +p" -- panic=1', (), 'console=ttyAMA0 panic=-1 dyndbg="file a.c +p" -- panic=1'),
    ],
)
def test_the_command_line_is_theirs(theirs: str, command: tuple[str, ...], wanted: str) -> None:
    """Only what a verdict needs is added, and only where they say nothing of it."""
    request = KernelRequest(kernel=KERNEL, cmdline=theirs, command=command)
    assert command_line(request, load_profile("aarch64-uefi"), Accel.TCG) == wanted


def test_an_emulated_timer_is_not_judged() -> None:
    """On a busy host it is late; an x86 kernel would panic for that."""
    profile = load_profile("x86_64-ovmf")
    plain, given = KernelRequest(kernel=KERNEL), KernelRequest(kernel=KERNEL, cmdline="no_timer_check")
    assert command_line(plain, profile, Accel.TCG) == "console=ttyS0 panic=-1 no_timer_check"
    assert command_line(given, profile, Accel.TCG) == "console=ttyS0 panic=-1 no_timer_check"
    assert command_line(plain, profile, Accel.KVM) == "console=ttyS0 panic=-1"
