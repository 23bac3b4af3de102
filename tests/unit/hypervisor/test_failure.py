"""libvirt's codes and QEMU's complaints become the right errors, with the objects they concern."""

from __future__ import annotations

import pytest

from orchestrator import errors
from orchestrator.hypervisor.failure import Code, translate


class Failure:
    """What libvirt's exception offers."""

    def __init__(self, code: int | None, message: str | None) -> None:
        self.code, self.message = code, message

    def get_error_code(self) -> int | None:
        return self.code

    def get_error_message(self) -> str | None:
        return self.message


QEMU_LOCK = (
    "internal error: qemu unexpectedly closed the monitor: 2026-01-02T03:04:05.678901Z qemu-system-aarch64: -device "
    '{"driver":"scsi-hd","drive":"libvirt-1-format","id":"scsi0-0-0-0"}: Failed to get "write" lock\n'
    "Is another process using the image [/data/a b], [c].img]?"
)


@pytest.mark.parametrize(
    ("code", "text", "kind", "subject"),
    [
        (Code.NO_CONNECT, "no connection driver available", errors.CapabilityError, "t1"),
        (Code.CONFIG_UNSUPPORTED, "unsupported configuration: x", errors.CapabilityError, "t1"),
        (Code.INVALID_CONN, "invalid connection", errors.ConnectionLostError, "t1"),
        (Code.RPC, "Cannot recv data: Connection reset", errors.ConnectionLostError, "t1"),
        (Code.SYSTEM_ERROR, "Failed to connect socket to '/run/x': No such file", errors.ConnectionLostError, "t1"),
        (Code.SYSTEM_ERROR, "Failed to connect socket to '/r/a-sock': Permission denied", errors.HypervisorError, "t1"),
        (Code.AUTH_FAILED, "authentication failed", errors.HypervisorError, "t1"),
        (Code.XML_ERROR, "XML error: no name", errors.HypervisorError, "t1"),
        (Code.NO_DOMAIN, "Domain not found", errors.NotFoundError, "t1"),
        (Code.INTERNAL_ERROR, QEMU_LOCK, errors.DiskInUseError, "/data/a b], [c].img"),
        (
            Code.INTERNAL_ERROR,
            "internal error: qemu unexpectedly closed the monitor: qemu: Could not open '/a'b': Permission denied",
            errors.DiskError,
            "/a'b",
        ),
        (
            Code.SYSTEM_ERROR,
            "Cannot access storage file '/gone': No such file or directory",
            errors.NotFoundError,
            "/gone",
        ),
        (Code.INTERNAL_ERROR, "internal error: write: No space left on device", errors.HypervisorError, "t1"),
        (9999, "something new", errors.HypervisorError, "t1"),
        (None, None, errors.HypervisorError, "t1"),
    ],
)
def test_class_and_subject(code: int | None, text: str | None, kind: type[Exception], subject: str) -> None:
    """Each code gives its class, and the file that was named becomes the subject."""
    error = translate(Failure(code, text), "cannot start domain", "t1")
    assert type(error) is kind
    assert error.subject == subject
    assert "\n" not in str(error)


def test_text_alone_does_not_decide() -> None:
    """A code that has one meaning keeps it, whatever the text resembles."""
    error = translate(Failure(Code.NO_DOMAIN, 'Failed to get "write" lock'), "cannot find domain", "t1")
    assert type(error) is errors.NotFoundError


def test_qemus_complaint_is_the_reason() -> None:
    """Of QEMU's output the complaint is shown, without time stamp, program name and warnings."""
    text = (
        "internal error: process exited while connecting to monitor: 2026-01-02T03:04:05.6Z qemu-system-aarch64: "
        "warning: old option\nqemu-system-aarch64: -machine virt,x=y: Property 'virt-7.2-machine.x' not found"
    )
    error = translate(Failure(Code.INTERNAL_ERROR, text), "cannot start domain", "t1")
    assert error.why == "-machine virt,x=y: Property 'virt-7.2-machine.x' not found"


def test_the_domain_that_libvirt_names_is_no_part_of_the_reason() -> None:
    """Newer releases put the domain between what the monitor did and QEMU's complaint."""
    text = "internal error: QEMU unexpectedly closed the monitor (vm='t1'): qemu: failed to initialize kvm: Denied"
    error = translate(Failure(Code.INTERNAL_ERROR, text), "cannot start domain", "t1")
    assert error.why == "failed to initialize kvm: Denied"


def test_name_in_use_says_what_to_do() -> None:
    """A name that is taken gives its hint under each of the codes libvirt uses for it."""
    for code, text in ((Code.DOM_EXIST, "x"), (Code.OPERATION_FAILED, "domain 'a' already exists with uuid b")):
        assert "another name" in translate(Failure(code, text), "cannot start domain", "a").hint


@pytest.mark.parametrize(
    ("code", "text", "hint"),
    [
        (
            Code.INTERNAL_ERROR,
            "internal error: while connecting to monitor: Could not access KVM kernel module: Permission denied",
            "--accel tcg does without",
        ),
        (
            Code.SYSTEM_ERROR,
            "Couldn't create lock file for device '/dev/pts/3' in path '/var/lock/LCK.._pts_3': File exists",
            "have it removed",
        ),
        (
            Code.OPERATION_FAILED,
            "Requested device '/dev/pts/3' is locked by lock file '/var/lock/LCK.._pts_3' held by process 4",
            "end what has that console open",
        ),
    ],
)
def test_what_helps_is_said(code: int, text: str, hint: str) -> None:
    """Where libvirt's words leave it to the reader."""
    found = translate(Failure(code, text), "cannot start domain", "t1")
    assert isinstance(found, errors.HypervisorError)
    assert hint in str(found)
