"""Whether a typed dictionary says what a JSON Schema says of an object."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, NotRequired, get_args, get_origin, get_type_hints


def assert_typed(typed: type, described: Mapping[str, Any]) -> None:
    """Assert that both have the same keys, need the same of them, and allow null for the same."""
    hints = get_type_hints(typed, include_extras=True)
    needed = {name for name, hint in hints.items() if get_origin(hint) is not NotRequired}
    assert set(hints) == set(described["properties"]), typed
    assert needed == set(described["required"]), typed
    nullable = {name for name, one in described["properties"].items() if _allows_null(one)}
    assert {name for name, hint in get_type_hints(typed).items() if NoneType in get_args(hint)} == nullable, typed


def _allows_null(described: Mapping[str, Any]) -> bool:
    return "null" in described.get("type", ()) or None in described.get("enum", ())
