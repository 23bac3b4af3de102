"""Frozen dataclasses that are made without compiling anything: they do what those of the standard library do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import values


@values.dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """A class with each kind of field."""

    name: str
    size: int
    tags: tuple[str, ...] = ()
    secret: str = dataclasses.field(default="", repr=False)
    seen: list[int] = dataclasses.field(default_factory=list, compare=False)

    @property
    def shout(self) -> str:
        """Have something of its own."""
        return self.name.upper()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """The same, by the standard library."""

    name: str
    size: int
    tags: tuple[str, ...] = ()
    secret: str = dataclasses.field(default="", repr=False)
    seen: list[int] = dataclasses.field(default_factory=list, compare=False)

    @property
    def shout(self) -> str:
        """Have something of its own."""
        return self.name.upper()


BOTH = pytest.mark.parametrize("kind", [Ours, Theirs])


@BOTH
def test_a_value(kind: type[Any]) -> None:
    """Fields, defaults, equality, hash, text, and what the standard library does with a dataclass."""
    one = kind(name="a", size=1)
    assert (one.name, one.size, one.tags, one.secret, one.seen, one.shout) == ("a", 1, (), "", [], "A")
    assert one.seen is not kind(name="a", size=1).seen
    assert one == kind(size=1, name="a", seen=[3])
    assert hash(one) == hash(kind(name="a", size=1))
    assert one != kind(name="a", size=1, secret="x")
    assert one != ("a", 1, (), "", [])
    assert repr(one) == f"{kind.__name__}(name='a', size=1, tags=(), seen=[])"
    assert dataclasses.replace(one, size=2) == kind(name="a", size=2)
    assert dataclasses.asdict(one) == {"name": "a", "size": 1, "tags": (), "secret": "", "seen": []}
    assert [field.name for field in dataclasses.fields(kind)] == ["name", "size", "tags", "secret", "seen"]
    assert not hasattr(one, "__dict__")
    assert kind.__match_args__ == ()
    for made in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert (made, made.seen) == (one, [])


REFUSALS: list[tuple[Callable[[type[Any]], object], type[Exception], str]] = [
    (lambda kind: kind(), TypeError, "missing 2 required keyword-only arguments: 'name' and 'size'"),
    (lambda kind: kind(size=1), TypeError, "missing 1 required keyword-only argument: 'name'"),
    (lambda kind: kind(name="a", size=1, other=2), TypeError, "got an unexpected keyword argument 'other'"),
    (lambda kind: kind("a", 1), TypeError, "positional argument"),
    (lambda kind: setattr(kind(name="a", size=1), "size", 2), dataclasses.FrozenInstanceError, "to field 'size'"),
    (lambda kind: delattr(kind(name="a", size=1), "size"), dataclasses.FrozenInstanceError, "delete field 'size'"),
]


@BOTH
@pytest.mark.parametrize(("act", "error", "said"), REFUSALS)
def test_what_is_refused(
    kind: type[Any], act: Callable[[type[Any]], object], error: type[Exception], said: str
) -> None:
    """The wrong arguments, and any change."""
    with pytest.raises(error, match=said):
        act(kind)


def test_nothing_is_compiled() -> None:
    """All classes share the code of their functions, which is what makes them cheap; others are the library's."""

    @values.dataclass(frozen=True, slots=True, kw_only=True)
    class Another:
        """Of the same kind."""

        size: int = 0

    @values.dataclass(frozen=True, slots=True)
    class Positional:
        """Of another kind."""

        size: int = 0

    @values.dataclass(frozen=True, slots=True, kw_only=True)
    class Named:
        """With a text of its own."""

        size: int = 0

        def __repr__(self) -> str:
            return "named"

    def code(kind: type[Any]) -> object:
        return kind.__init__.__code__

    assert code(Another) is code(Ours)
    assert code(Positional) is not code(Ours)
    assert Positional(3) == Positional(size=3)
    assert repr(Named()) == "named"
