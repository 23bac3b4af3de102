"""Metrics, dashboards and alerts, judged by Prometheus itself: promtool, and a server that scrapes real HTTP."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.records.record import to_event
from orchestrator.telemetry.http import serve
from orchestrator.telemetry.metrics import LaunchMetrics
from orchestrator.telemetry.textfile import exposition
from tests.dashboards import FOLDER, LOKI, PROMETHEUS, load, queries
from tests.hosts import program
from tests.provisioned import provisioned
from tests.simulated_launches import mixture
from tests.unit.kernel.test_series import record

yaml = pytest.importorskip("yaml")

TOP = Path(__file__).resolve().parents[2]
NAMES = re.compile(r"\bguestlaunch_\w+")
WINDOW = "20s"
VARIABLES = {
    "profile": ".+", "accel": "tcg", "made_on": "bare", "start": "cold", "window": WINDOW,
    "__rate_interval": WINDOW, "__range": WINDOW,
}  # fmt: skip


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' checker of metrics and rules."""
    return program("promtool")


def run(*args: str, cwd: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program with a deadline."""
    return subprocess.run(args, cwd=cwd, input=text, capture_output=True, text=True, check=False, timeout=60)


def fed() -> LaunchMetrics:
    """Return metrics with launches of all kinds in them."""
    metrics = LaunchMetrics(in_flight=lambda: 1)
    for line in mixture():
        metrics.observe(line)
    return metrics


def test_metrics_follow_the_conventions(promtool: str, tmp_path: Path) -> None:
    """Names, types and help texts, by Prometheus' own checker, which finds a fault when there is one."""
    text = exposition(fed().registry)
    checked = run(promtool, "check", "metrics", cwd=tmp_path, text=text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    wrong = text.replace("guestlaunch_launches_total", "guestlaunch_launches")
    assert run(promtool, "check", "metrics", cwd=tmp_path, text=wrong).returncode != 0


@pytest.mark.parametrize("name", [PROMETHEUS, LOKI])
def test_committed_dashboards_are_what_the_generator_makes(name: str, tmp_path: Path) -> None:
    """The files that sites import are up to date, and the generator makes the same ones each time."""
    made = run(sys.executable, str(TOP / "tools" / "dashboards"), str(tmp_path), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / name).read_text() == (FOLDER / name).read_text()


def test_the_generator_tells_what_is_out_of_date(tmp_path: Path) -> None:
    """--check names changed files, with a status, and changes nothing."""
    for name in (PROMETHEUS, LOKI):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / LOKI).write_text("{}")
    checked = run(sys.executable, str(TOP / "tools" / "dashboards"), "--check", str(tmp_path), cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (1, f"out of date: {LOKI}\n")
    assert (tmp_path / LOKI).read_text() == "{}"


@pytest.mark.parametrize("name", [PROMETHEUS, LOKI])
def test_dashboards_are_complete(name: str) -> None:
    """Panels have their own numbers, places that do not overlap, a title and the data source that is chosen."""
    made = load(name)
    panels = made["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert made["templating"]["list"][0]["type"] == "datasource"
    for panel in panels:
        assert panel["title"]
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["refId"]


def test_variables_are_declared() -> None:
    """Every variable in a query is one that the dashboard offers, or Grafana's own."""
    declared = {variable["name"] for variable in load(PROMETHEUS)["templating"]["list"]}
    assert {name for name in VARIABLES if not name.startswith("__")} <= declared
    for variable in load(PROMETHEUS)["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
            assert f"{label}=" in next(row for row in exposition(fed().registry).splitlines() if row.startswith(metric))


def test_alerts_fire_and_stay_silent_as_they_should(promtool: str) -> None:
    """The alert rules are well-formed and pass their unit tests; each alert is tried."""
    checked = run(promtool, "check", "rules", "alerts.yaml", cwd=FOLDER)
    assert checked.returncode == 0, checked.stderr
    tried = run(promtool, "test", "rules", "alerts_test.yaml", cwd=FOLDER)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert set(alerts()) <= set(re.findall(r"alertname: (\w+)", (FOLDER / "alerts_test.yaml").read_text()))


def test_a_broken_alert_is_found(promtool: str, tmp_path: Path) -> None:
    """The unit tests of the alerts fail for a rule that forgot what was verified."""
    text = (FOLDER / "alerts.yaml").read_text()
    assert 'verified="false"' in text
    (tmp_path / "alerts.yaml").write_text(text.replace('requested="true", verified="false"', 'verified="false"'))
    shutil.copy(FOLDER / "alerts_test.yaml", tmp_path)
    assert run(promtool, "test", "rules", "alerts_test.yaml", cwd=tmp_path).returncode != 0


def rules() -> list[dict[str, Any]]:
    """Return all alert and recording rules."""
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[str]:
    """Return the names of the alerts."""
    return [rule["alert"] for rule in rules() if "alert" in rule]


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Run a Prometheus server that scrapes the target each second; gives a function that asks it."""
    command = program("prometheus")
    job = {"job_name": "guestlaunch", "static_configs": [{"targets": [target]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job], "rule_files": [str(FOLDER / "alerts.yaml")]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([command, *options], cwd=folder, stdout=log, stderr=log)

    def ask(expression: str) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=20) as answer:
            return list(json.load(answer)["data"]["result"])

    try:
        yield ask
    finally:
        server.terminate()
        server.wait(30)


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until the condition holds; fail the test with what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass  # not listening yet
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_every_query_has_an_answer(tmp_path: Path) -> None:
    """A Prometheus server that scraped launches and all that is none answers each panel and rule with numbers."""
    metrics = LaunchMetrics(in_flight=lambda: 2)
    lines = mixture(count=40)
    metrics.observe(lines[0])
    others = [to_event(one) for one in (record(), *provisioned())]
    for other in others:
        other |= {"host": lines[0]["host"], "clock": lines[0]["clock"]}
        metrics.provisioned.observe(other)
    with serve(metrics.registry, "127.0.0.1:0") as url:
        with urllib.request.urlopen(url, timeout=10) as answer:
            served = {family.name for family in text_string_to_metric_families(answer.read().decode())}
        with prometheus(tmp_path, urllib.parse.urlsplit(url).netloc) as ask:
            until(lambda: ask("count_over_time(guestlaunch_build_info[1m]) >= 2"), 30, "two scrapes")
            for line in lines:
                metrics.observe(line)
                for other in others:
                    metrics.provisioned.observe(other)
            total = "sum(guestlaunch_launches_total)"
            until(lambda: ask(f"{total} == {len(lines) + 1}"), 30, "a scrape of all launches")
            until(lambda: ask(f"sum(increase(guestlaunch_launches_total[{WINDOW}])) > {len(lines) // 2}"), 30, "a rate")
            for query in queries(PROMETHEUS, VARIABLES):
                found = ask(query.expression)
                assert found, (query.panel, query.expression)
                assert any(sample["value"][1] not in {"NaN", "+Inf"} for sample in found), query.panel
                for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
                    assert all(label in sample["metric"] for sample in found), (query.panel, label)
            for rule in rules():
                ask(rule["expr"])
    referred = {name for query in queries(PROMETHEUS, VARIABLES) for name in NAMES.findall(query.expression)}
    referred |= {name for rule in rules() for name in NAMES.findall(rule["expr"])}
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in referred}
    assert families == {name.removesuffix("_total") for name in served}, "every metric is shown, every name exists"
