"""guestfish command lines as calls of the `guestfs` bindings: words to typed arguments by the methods' annotations.

Knows guestfish's syntax as far as a job needs it: quoted words, `name:value` for optional arguments, sizes with
suffixes, lists as one quoted word, a leading `-` for "may fail". What guestfish does itself (`!`, pipes, glob, edit)
is refused by name. The bindings are only looked at here, not imported: the caller passes their class.
"""

from __future__ import annotations

import inspect
import re
import shlex
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError, nearest

# guestfish's own commands, which are no calls of the library.
_GUESTFISH_ONLY = frozenset(
    {
        "alloc",
        "allocate",
        "sparse",
        "delete-event",
        "display",
        "echo",
        "edit",
        "vi",
        "emacs",
        "event",
        "glob",
        "hexedit",
        "hexdump",
        "lcd",
        "list-events",
        "man",
        "manual",
        "more",
        "less",
        "prepared-disk",
        "reopen",
        "setenv",
        "unsetenv",
        "supported",
        "time",
        "exit",
        "quit",
        "help",
    }
)
# Names under which guestfish knows other calls, or that a job has no use for.
_ALIASES = {"run": "launch", "add": "add_drive", "domain": "add_domain"}
_TRUE = frozenset({"true", "t", "1", "yes", "y", "on"})
_FALSE = frozenset({"false", "f", "0", "no", "n", "off"})
_SIZE = re.compile(r"([+-]?(?:0[xX][0-9a-fA-F]+|\d+))(?:([KMGTPE])(i?B)?)?")
_POWERS = {letter: index + 1 for index, letter in enumerate("KMGTPE")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the bindings. `may_fail` goes on after an error."""

    line: str
    method: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    may_fail: bool = False


def parse(line: str, bindings: type) -> Call | None:
    """Return the call that a command line stands for, None for a comment or an empty line.

    :param bindings: the class whose methods are the commands (`guestfs.GuestFS`).
    :raise UsageError: the line is malformed, or there is no such command; names the nearest.
    """
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    may_fail = text.startswith("-")
    try:
        words = shlex.split(text.removeprefix("-"))
    except ValueError as error:
        raise UsageError("bad command", line, error) from error
    if not words:
        raise UsageError("bad command", line, "it has no name")
    name, *rest = words
    if name.startswith("!") or "|" in words:
        raise UsageError("bad command", line, "a job runs no shell on the host", "use exec -- guestfish for that")
    method = _ALIASES.get(name, name.replace("-", "_"))
    function = _commands(bindings).get(method)
    if function is None:
        raise _unknown(name, line, bindings)
    arguments, options = _bind(function, rest, line)
    return Call(line=line, method=method, arguments=arguments, options=options, may_fail=may_fail)


def _commands(bindings: type) -> dict[str, Callable[..., Any]]:
    return {name: one for name, one in inspect.getmembers(bindings, inspect.isfunction) if not name.startswith("_")}


def _unknown(name: str, line: str, bindings: type) -> UsageError:
    if name in _GUESTFISH_ONLY:
        return UsageError("bad command", line, f"{name} is guestfish's own", "use exec -- guestfish for that")
    names = [one.replace("_", "-") for one in _commands(bindings)]
    return UsageError("bad command", line, f"there is no command {name}", nearest(name, names))


def _bind(function: Callable[..., Any], words: list[str], line: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and optional arguments, converted."""
    hints = typing.get_type_hints(function)
    parameters = [one for one in inspect.signature(function).parameters.values() if one.name != "self"]
    required = [one.name for one in parameters if one.default is inspect.Parameter.empty]
    optional = [one.name for one in parameters if one.default is not inspect.Parameter.empty]
    if len(words) < len(required):
        raise UsageError("bad command", line, f"it lacks {', '.join(required[len(words) :])}")
    arguments = tuple(_convert(word, hints.get(name), name, line) for name, word in zip(required, words, strict=False))
    options: dict[str, Any] = {}
    for word in words[len(required) :]:
        name, colon, value = word.partition(":")
        if not colon or name not in optional:
            known = f"optional arguments: {', '.join(f'{one}:...' for one in optional)}" if optional else ""
            raise UsageError("bad command", line, f"argument too many: {word}", nearest(name, optional) or known)
        if name in options:
            raise UsageError("bad command", line, f"{name} is given twice")
        options[name] = _convert(value, hints.get(name), name, line)
    return arguments, options


def _convert(word: str, hint: object, name: str, line: str) -> object:
    """Return a word as the type that a parameter is annotated with; text when it is not."""
    wanted = [one for one in typing.get_args(hint) if one is not type(None)] if _is_optional(hint) else [hint]
    kind = wanted[0]
    if kind is bool:
        if word.lower() in _TRUE | _FALSE:
            return word.lower() in _TRUE
        raise UsageError("bad command", line, f"{name} is {word!r}", "expected true or false")
    if kind is int:
        return _number(word, name, line)
    if kind is bytes:
        return word.encode("utf-8", "surrogateescape")
    if typing.get_origin(kind) is list:
        return shlex.split(word)
    return word


def _is_optional(hint: object) -> bool:
    return type(None) in typing.get_args(hint)


def _number(word: str, name: str, line: str) -> int:
    """Return a number; K, M, G... are powers of 1024, as are KiB..., and KB... are powers of 1000."""
    match = _SIZE.fullmatch(word)
    if match is None:
        raise UsageError("bad command", line, f"{name} is {word!r}", "expected a whole number, as 512 or 10M")
    digits, letter, suffix = match.groups()
    base = 1000 if suffix == "B" else 1024
    hexadecimal = digits.lstrip("+-")[:2].lower() == "0x"
    return int(digits, 16 if hexadecimal else 10) * (base ** _POWERS[letter] if letter else 1)
