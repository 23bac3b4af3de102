"""What an installer is given beside its own initrd: answers to its questions, files, and the way to say how it went.

All of it is in an archive behind the initrd: a kernel unpacks one after the other, and later files win. Debian's
installer finds /preseed.cfg there, Anaconda what `inst.ks=file:` names. Both are made to leave the record without which
no installation counts as done: behind everything that the user has them do.
"""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from orchestrator.appliance.initrd import CpioEntry, write_cpio
from orchestrator.domain.cmdline import split_words
from orchestrator.errors import LocationError, UsageError
from orchestrator.install.tree import Family

_HOME = "guestlaunch"
_RECORD = f"{_HOME}/record"
_PRESEED, _KICKSTART = "preseed.cfg", "ks.cfg"
_SAY_DONE = f"sh /{_RECORD} 0"
_LATE = re.compile(r"^[ \t]*(?:d-i|\S+)[ \t]+preseed/late_command[ \t]+string[ \t]*(.*)$", re.MULTILINE)
_CONTINUED = re.compile(r"\\\n[ \t]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the user gives an installer.

    :ivar preseed: answers for Debian's installer; `kickstart` for Anaconda.
    :ivar inject: files that are put at the top of the initrd, under their own names.
    """

    preseed: Path | None = None
    kickstart: Path | None = None
    inject: Sequence[Path] = ()

    def check(self, family: Family) -> None:
        """Refuse what an installer would not understand.

        :raise UsageError: says what.
        """
        if self.preseed is not None and self.kickstart is not None:
            raise UsageError("options exclude each other", "--preseed", "with --kickstart")
        for option, path, installers in (
            ("--preseed", self.preseed, {Family.DEBIAN, Family.OTHER}),
            ("--kickstart", self.kickstart, {Family.ANACONDA, Family.OTHER}),
        ):
            if path is not None and family not in installers:
                raise UsageError("cannot use", f"{option} {path}", f"the tree's installer is that of {family}")
        taken = {_PRESEED: self.preseed, _KICKSTART: self.kickstart, _HOME: True}
        names = [path.name for path in self.inject]
        for name in names:
            if taken.get(name) or names.count(name) > 1:
                raise UsageError("cannot inject", name, "the initrd gets another file of that name")


def arguments(answers: Answers, cmdline: str) -> tuple[str, ...]:
    """Return the arguments that the installer needs to find its answers, but for those of which the user has a say."""
    given = {word.partition("=")[0] for word in split_words(cmdline)}
    ours: tuple[str, ...] = ()
    if answers.preseed is not None:
        ours = ("auto=true", "priority=critical")
    elif answers.kickstart is not None:
        ours = (f"inst.ks=file:/{_KICKSTART}",)
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
        data = _read(path)
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


def with_late_command(preseed: str) -> str:
    """Return a preseed file whose last command is the record; the user's own must have gone well before it."""
    text = _CONTINUED.sub(" ", preseed.replace("\r\n", "\n"))
    theirs = [match[1].strip() for match in _LATE.finditer(text)]
    command = f"{{ {theirs[-1].rstrip('; ')}; }} && {_SAY_DONE}" if theirs and theirs[-1] else _SAY_DONE
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LocationError("cannot read", path, error.strerror or error) from error
