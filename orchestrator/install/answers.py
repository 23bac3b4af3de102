"""What an installer is given beside its own initrd: answers to its questions, files, and the way to say how it went.

All of it is in an archive behind the initrd: a kernel unpacks one after the other, and later files win. Debian's
installer finds /preseed.cfg there, Anaconda what `inst.ks=file:` names; Ubuntu's has cloud-init look for a disk. All
are made to leave the record without which no installation counts as done: behind everything that the user has them do.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from importlib import resources
from pathlib import Path

from orchestrator import files
from orchestrator.appliance.initrd import CpioEntry, write_cpio
from orchestrator.domain.cmdline import split_words
from orchestrator.errors import GuestlaunchError, LocationError, UsageError
from orchestrator.images.cidata import make_cidata
from orchestrator.install.tree import Family

_HOME = "guestlaunch"
_RECORD = f"{_HOME}/record"
_PRESEED, _KICKSTART = "preseed.cfg", "ks.cfg"
_SAY_DONE = f"sh /{_RECORD} 0"
# Of whatever owner, but not behind a #: the example that everybody starts from has one that is commented out.
_LATE = re.compile(r"^[ \t]*[^\s#]\S*[ \t]+preseed/late_command[ \t]+string[ \t]*(.*)$", re.MULTILINE)
_CLOUD_CONFIG = "#cloud-config"
# Of the second part of cloud-init's user data: into what the first one says, at the ends of its lists.
_MERGED = "dict(recurse_array,no_replace)+list(append)"
_INJECTED_BYTES = 1 << 30
_CONTINUED = re.compile(r"\\\n[ \t]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the user gives an installer.

    :ivar preseed: answers for Debian's installer; `kickstart` for Anaconda; `autoinstall`, user data for Ubuntu's.
    :ivar inject: files that are put at the top of the initrd, under their own names.
    """

    preseed: Path | None = None
    kickstart: Path | None = None
    autoinstall: Path | None = None
    inject: Sequence[Path] = ()

    def check(self, family: Family) -> None:
        """Refuse what an installer would not understand.

        :raise UsageError: says what.
        """
        options = (
            ("--preseed", self.preseed, Family.DEBIAN),
            ("--kickstart", self.kickstart, Family.ANACONDA),
            ("--autoinstall", self.autoinstall, Family.UBUNTU),
        )
        given = [(option, path, installer) for option, path, installer in options if path is not None]
        if len(given) > 1:
            raise UsageError("options exclude each other", given[0][0], f"with {given[1][0]}")
        for option, path, installer in given:
            if family not in {installer, Family.OTHER}:
                raise UsageError("cannot use", f"{option} {path}", f"the tree's installer is that of {family}")
        taken = {_PRESEED: self.preseed, _KICKSTART: self.kickstart, _HOME: True}
        names = [path.name for path in self.inject]
        for name in names:
            if taken.get(name) or names.count(name) > 1:
                raise UsageError("cannot inject", name, "the initrd gets another file of that name")

    def check_files(self) -> None:
        """Refuse what cannot be read, before anything is fetched.

        :raise LocationError: names it.
        """
        for path in (*filter(None, (self.preseed, self.kickstart, self.autoinstall)), *self.inject):
            try:
                files.check_regular(path, pipe=True)
            except OSError as error:
                raise LocationError("cannot read", path, error.strerror or error) from error


def arguments(answers: Answers, cmdline: str, serial: str | None = None) -> tuple[str, ...]:
    """Return the arguments that the installer needs to find its answers, but for those of which the user has a say.

    :param serial: the kernel's name of the console, where there is a display as well.
    """
    given = {word.partition("=")[0] for word in split_words(cmdline)}
    ours: tuple[str, ...] = ()
    if answers.preseed is not None:
        ours = ("auto=true", "priority=critical")
    elif answers.kickstart is not None:
        ours = (f"inst.ks=file:/{_KICKSTART}",)
    elif answers.autoinstall is not None:  # without the former it asks before it writes to a disk
        ours = ("autoinstall", "ds=nocloud")
    if serial is not None:
        ours += ("console=tty0", f"console={serial}")
    return tuple(word for word in ours if word.partition("=")[0] not in given)


def archive(answers: Answers, family: Family, number: str) -> bytes:
    """Return the archive that goes behind the initrd.

    :param number: this installation's own, by which its record is known.
    :raise LocationError: a file cannot be read.
    """
    record = _record(number)
    entries = [
        CpioEntry(name=_HOME, mode=stat.S_IFDIR | 0o755),
        CpioEntry(name=_RECORD, mode=stat.S_IFREG | 0o755, data=record.encode()),
    ]
    for path in answers.inject:
        data = _read(path, _INJECTED_BYTES)
        mode = stat.S_IFREG | (0o755 if path.stat().st_mode & 0o111 else 0o644)
        entries.append(CpioEntry(name=path.name, mode=mode, data=data))
    if answers.preseed is not None or family is Family.DEBIAN:  # without answers, it asks, and tells us all the same
        text = _text(answers.preseed) if answers.preseed is not None else ""
        entries.append(CpioEntry(name=_PRESEED, mode=stat.S_IFREG | 0o644, data=_bytes(with_late_command(text))))
    if answers.kickstart is not None:
        text = with_last_scripts(_text(answers.kickstart), record)
        entries.append(CpioEntry(name=_KICKSTART, mode=stat.S_IFREG | 0o644, data=_bytes(text)))
    out = io.BytesIO()
    write_cpio(entries, out)
    return out.getvalue()


def seed(answers: Answers, number: str) -> bytes | None:
    """Return the disk that an installer's cloud-init looks for; None if there is nothing to tell it.

    :param number: this installation's own, by which its record is known.
    :raise GuestlaunchError: the answers cannot be read, or are too much.
    """
    if answers.autoinstall is None:
        return None
    text, meta = _text(answers.autoinstall), f"instance-id: {number}\n"  # read once: it may be a pipe
    if not text.startswith(_CLOUD_CONFIG):
        why = "it does not begin with #cloud-config, as cloud-init's user data do, with an autoinstall section"
        raise UsageError("cannot use", f"--autoinstall {answers.autoinstall}", why)
    try:
        return make_cidata({"user-data": with_last_commands(text, _record(number)), "meta-data": meta.encode()})
    except ValueError as error:
        raise GuestlaunchError("cannot make cloud-init's disk of", answers.autoinstall, error) from error


def with_last_commands(user_data: str, record: str) -> bytes:
    """Return user data of two parts, as cloud-init takes them: the user's own, and the record behind its commands.

    Nothing of ours has to understand the user's part; cloud-init joins them by what the header of the other says.
    """
    told = [["sh", "-c", record, "record", status] for status in ("0", "1")]
    ours = {"late-commands": told[:1], "error-commands": [told[1], ["systemctl", "poweroff"]]}
    whole = MIMEMultipart()
    for text, merged in ((user_data, None), (f"#cloud-config\n{json.dumps({'autoinstall': ours})}\n", _MERGED)):
        part = MIMEText(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), "cloud-config", "utf-8")
        if merged is not None:
            part["Merge-Type"] = merged
        whole.attach(part)
    return whole.as_bytes()


def with_late_command(preseed: str) -> str:
    """Return a preseed file whose last command is the record; the user's own must have gone well before it.

    Theirs is run by a shell of its own: it may end in `exit`, in `&` or in a comment.
    """
    text = _CONTINUED.sub(" ", preseed.replace("\r\n", "\n"))
    theirs = [match[1].strip() for match in _LATE.finditer(text)]
    command = f"sh -c {shlex.quote(theirs[-1])} && {_SAY_DONE}" if theirs and theirs[-1] else _SAY_DONE
    kept = _LATE.sub("", text).rstrip("\n")
    return f"{kept}\nd-i preseed/late_command string {command}\n".lstrip("\n")


def with_last_scripts(kickstart: str, record: str) -> str:
    """Return a kickstart file whose last script is the record, and which says so when the installer gives up."""
    scripts = "".join(
        f"\n{section} --interpreter=/bin/sh\nset -- {status}\n{_without_interpreter(record)}%end\n"
        for section, status in (("%post --nochroot", 0), ("%onerror", 1))
    )
    return kickstart.rstrip("\n") + "\n" + scripts


def _record(number: str) -> str:
    script = resources.files("orchestrator.install").joinpath("guest", "record").read_text("utf-8")
    return script.replace("@NUMBER@", number)


def _without_interpreter(script: str) -> str:
    return script.partition("\n")[2]


def _text(path: Path) -> str:
    return _read(path).decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _read(path: Path, most: int = files.SETTINGS_BYTES) -> bytes:
    try:
        return files.read_whole(path, most, pipe=True)
    except OSError as error:
        raise LocationError("cannot read", path, error.strerror or error) from error
