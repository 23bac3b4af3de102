"""Reads the committed dashboards: their queries with the variables filled in, and what LogQL queries refer to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "dashboards"
PROMETHEUS = "launches-prometheus.json"
LOKI = "launches-loki.json"

_LINE_FILTER = re.compile(r"\|= `\"(\w+)\"`")
_JSON_STAGE = re.compile(r"\| json ((?:\w+=\"[^\"]+\"(?:, )?)+)")
_TAKEN = re.compile(r"(\w+)=\"([^\"]+)\"")
# What comes after the `| json` stage and names a field: label filters, unwrap, templates, grouping.
_FILTER = re.compile(r"\| (\w+)(=~|!~|!=|=)\"([^\"]*)\"")
_UNWRAP = re.compile(r"\| unwrap (\w+)")
_TEMPLATE = re.compile(r"\{\{\.?(\w+)\}\}")
_BY = re.compile(r"\bby \(([^)]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query of a panel."""

    panel: str
    expression: str
    legend: str


def load(name: str) -> dict[str, Any]:
    """Return a committed dashboard."""
    return dict(json.loads((FOLDER / name).read_text("utf-8")))


def queries(name: str, variables: Mapping[str, str]) -> Iterator[Query]:
    """Yield the queries of a dashboard, with `$name` replaced by its value."""
    for panel in load(name)["panels"]:
        for target in panel.get("targets", []):
            expression = re.sub(r"\$(\w+)", lambda match: variables[match[1]], target["expr"])
            yield Query(panel=panel["title"], expression=expression, legend=target["legendFormat"])


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFields:
    """What a LogQL query takes out of a line and what it uses of that.

    :ivar event: the event that its line filter asks for, None when it takes any.
    :ivar taken: label to path in the JSON line.
    :ivar filters: (label, operator, value) of each label filter.
    :ivar used: labels that filters, templates, legends and groupings name.
    """

    event: str | None
    taken: Mapping[str, str]
    filters: Sequence[tuple[str, str, str]]
    used: frozenset[str]


def log_fields(query: Query) -> LogFields:
    """Take a LogQL query apart."""
    text = query.expression
    stage = _JSON_STAGE.search(text)
    assert stage is not None, text
    line_filter = _LINE_FILTER.search(text)
    rest = text[stage.end() :]
    filters = _FILTER.findall(rest)
    used = {
        *(label for label, _, _ in filters),
        *_UNWRAP.findall(rest),
        *_TEMPLATE.findall(rest),
        *_TEMPLATE.findall(query.legend),
    }
    for labels in _BY.findall(text):
        used |= {label.strip() for label in labels.split(",")}
    return LogFields(
        event=line_filter[1] if line_filter else None,
        taken=dict(_TAKEN.findall(stage[1])),
        filters=[one for one in filters if one[0] != "__error__"],
        used=frozenset(used - {"__error__", "__auto"}),
    )


def at_path(line: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return the value at a dotted path of a line, as Loki's `| json label="path"` does.

    :raise KeyError: when the line has no such field.
    """
    value: Any = line
    for part in path.split("."):
        value = value[part]
    return value


_OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "=": lambda value, other: value == other,
    "!=": lambda value, other: value != other,
    "=~": lambda value, other: re.fullmatch(other, value) is not None,
    "!~": lambda value, other: re.fullmatch(other, value) is None,
}


def lets_through(fields: LogFields, line: Mapping[str, Any]) -> bool:
    """Tell whether a query's line and label filters let a line through."""
    if fields.event is not None and f'"{fields.event}"' not in json.dumps(line):
        return False
    labels = {}
    for label, path in fields.taken.items():
        try:
            value = at_path(line, path)
        except KeyError:
            value = None
        labels[label] = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return all(_OPERATORS[operator](labels[label], other) for label, operator, other in fields.filters)
