"""Frozen dataclasses that are made without compiling anything.

The standard library's decorator generates and compiles some six functions for each class, whenever its module is
imported: three million instructions a class, more than a third of what it took to import all that a launch needs. Our
values are of one kind (frozen, slots, keywords only), for which the same functions can be written once. It still finds
the fields, so that `replace`, `fields` and `asdict` work, and it makes what is of another kind. Type checkers see the
standard library's decorator.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

__all__ = ["dataclass"]

_OURS = {"frozen": True, "slots": True, "kw_only": True}

if TYPE_CHECKING:
    from collections.abc import Iterator
    from dataclasses import dataclass
else:

    def dataclass(cls: type | None = None, /, **options: bool) -> object:
        """Make a class a dataclass, as `dataclasses.dataclass` does."""
        if cls is None:
            return lambda decorated: dataclass(decorated, **options)
        derived = any(hasattr(base, "__dataclass_fields__") for base in cls.__mro__[1:])
        special = any(name in cls.__dict__ for name in (*_METHODS, "__post_init__"))
        if derived or special or options != _OURS:
            return dataclasses.dataclass(cls, **options)
        made = dataclasses.dataclass(cls, init=False, repr=False, eq=False, slots=True, kw_only=True)
        for name, method in _METHODS.items():
            setattr(made, name, method)
        return made


class _Value:
    """Has the functions that each class gets."""

    def __init__(self, /, **given: object) -> None:
        lacking = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            name = field.name
            if field.init and name in given:
                object.__setattr__(self, name, given.pop(name))
            elif field.default is not dataclasses.MISSING:
                object.__setattr__(self, name, field.default)
            elif field.default_factory is not dataclasses.MISSING:
                object.__setattr__(self, name, field.default_factory())
            else:
                lacking.append(repr(name))
        if given or lacking:
            raise TypeError(f"{type(self).__qualname__}.__init__() {_what_is_wrong(given, lacking)}")

    def __repr__(self) -> str:
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)  # type: ignore[arg-type]
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return tuple(_compared(self)) == tuple(_compared(other))

    def __hash__(self) -> int:
        return hash(tuple(_compared(self)))

    def __setattr__(self, name: str, _: object) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def __getstate__(self) -> list[object]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]  # type: ignore[arg-type]

    def __setstate__(self, state: list[object]) -> None:
        for field, value in zip(dataclasses.fields(self), state, strict=True):  # type: ignore[arg-type]
            object.__setattr__(self, field.name, value)


_METHODS = {name: method for name, method in vars(_Value).items() if callable(method)}


def _compared(value: object) -> Iterator[object]:
    return (getattr(value, field.name) for field in dataclasses.fields(value) if field.compare)  # type: ignore[arg-type]


def _what_is_wrong(given: dict[str, object], lacking: list[str]) -> str:
    """Say it as Python does of a function's arguments."""
    if given:
        return f"got an unexpected keyword argument {next(iter(given))!r}"
    listed = " and ".join(filter(None, (", ".join(lacking[:-1]), lacking[-1])))
    plural = "" if len(lacking) == 1 else "s"
    return f"missing {len(lacking)} required keyword-only argument{plural}: {listed}"
