"""The dashboard of the log: every query refers to fields that the event log's lines really have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.log import EventLog
from orchestrator.records.provenance import Clock, HostKind, Provenance
from orchestrator.records.record import FwCfg, phase_event, to_event
from tests.dashboards import LOKI, Query, at_path, lets_through, load, log_fields, queries
from tests.provisioned import provisioned
from tests.simulated_launches import records
from tests.unit.kernel.test_series import record

BARE = Provenance(host=HostKind.BARE, clock=Clock.HOST)
VARIABLES = {
    "job": "guestlaunch",
    "profile": ".+",
    "accel": "tcg",
    "host": "bare",
    "clock": "host",
    "start": "cold",
    "window": "1h",
    "__interval": "1m",
}
QUERIES = list(queries(LOKI, VARIABLES))


def written(path: Path) -> list[dict[str, Any]]:
    """Return the lines that the event log itself writes for launches of all kinds, as they stand in the file."""
    log = EventLog(str(path))
    for launch in records():
        for tile in launch.tiles:
            log.emit(**phase_event(launch, tile))
        log.emit(**to_event(launch))
    for run in (record(), replace(record(121, verdict="panic"), outcome="failure", error="said: why")):
        log.emit(**to_event(replace(run, provenance=BARE, fw_cfg=FwCfg(requested=True, dma_property=True))))
    for one in (*provisioned(), replace(provisioned()[-1], outcome="failure", error="said: why")):
        log.emit(**to_event(replace(one, provenance=BARE)))
    log.emit("client_refused", level="warning", error="for a test")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return written(tmp_path_factory.mktemp("log") / "events.jsonl")


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.panel)
def test_fields_exist(query: Query, lines: list[dict[str, Any]]) -> None:
    """Each path that a query takes leads to a value in the lines it asks for, and to more than nulls."""
    fields = log_fields(query)
    asked = [line for line in lines if fields.event in {None, line["event"]}]
    assert asked
    for path in fields.taken.values():
        assert any(at_path(line, path) is not None for line in asked), path


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.panel)
def test_only_what_was_taken_is_used(query: Query) -> None:
    """Filters, templates, legends and groupings name labels that the query itself takes out of the line."""
    fields = log_fields(query)
    assert fields.used <= set(fields.taken)
    assert fields.used >= {"event"}


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.panel)
def test_filters_let_something_through(query: Query, lines: list[dict[str, Any]]) -> None:
    """Some of the lines pass a query's filters and not all do: a value that is never written makes an empty panel."""
    fields = log_fields(query)
    assert fields.filters
    passed = sum(lets_through(fields, line) for line in lines)
    assert 0 < passed < len(lines)


def test_a_wrong_field_is_found(lines: list[dict[str, Any]]) -> None:
    """The checks above can fail: a misspelt field has no value, and an untaken label is not known."""
    query = Query(
        panel="x",
        expression='{a="b"} |= `"launch_finished"` | json event="event", ns="launch_nanos" | unwrap x',
        legend="",
    )
    fields = log_fields(query)
    assert fields.used - set(fields.taken) == {"x"}
    with pytest.raises(KeyError):
        at_path(lines[-2], fields.taken["ns"])


def test_dma_panel_shows_those_launches(lines: list[dict[str, Any]]) -> None:
    """The panel of missing DMA shows exactly the launches that asked for it and were found without."""
    query = next(query for query in QUERIES if query.panel == "DMA asked for, not active")
    shown = [line["launch_id"] for line in lines if lets_through(log_fields(query), line)]
    expected = [
        line["launch_id"]
        for line in lines
        if line["event"] == "launch_finished"
        and line["fw_cfg"]["requested"]
        and line["fw_cfg_dma"] is False
        and (line["accel"], line["start"]) == ("tcg", "cold")
    ]
    assert shown == expected != []


def test_variables_are_declared() -> None:
    """Every `$variable` of a query is one that the dashboard offers, or Grafana's own."""
    declared = {variable["name"] for variable in load(LOKI)["templating"]["list"]}
    assert set(VARIABLES) - {"__interval"} <= declared
