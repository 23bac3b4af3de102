"""The page: one file that needs nothing else, holds what was counted, and cannot be broken by what a log says."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.records.filters import INSTRUMENT_MARK
from orchestrator.report import theme
from orchestrator.report.collection import Collection, Group, collect
from orchestrator.report.observed import Observed, Ratio
from orchestrator.report.page import render as page_of
from orchestrator.report.reader import Broken
from orchestrator.report.tiles import observed_tiles, result_tiles
from orchestrator.timeline.phases import Phase
from tests import simulated_results
from tests.simulated_launches import BARE, INSTRUCTIONS, event, mixture

PAGE = Path(theme.__file__).parent / "assets"
EVIL = "</script><b>&\"'\u2028"


class Page(HTMLParser):
    """The parts of a page that the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.shown = ""
        self.data = ""
        self._inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count an element and note what it refers to."""
        values = dict(attrs)
        self.tags[tag] += 1
        if values.get("id"):
            self.ids[str(values["id"])] += 1
        self.links += [str(values[name]) for name in ("src", "href", "action", "srcset") if values.get(name)]
        self._inside = ["data"] if values.get("id") == "data" else [tag]

    def handle_endtag(self, tag: str) -> None:
        """Leave a script or style."""
        self._inside = []

    def handle_data(self, data: str) -> None:
        """Keep text that is shown, and the embedded data."""
        if self._inside == ["data"]:
            self.data += data
        elif self._inside not in (["script"], ["style"]):
            self.shown += data


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep the bundled library: making it takes seconds."""
    return tmp_path_factory.mktemp("library")


def render(collection: Collection, cache: Path, broken: Broken | None = None, title: str = "Launches") -> Page:
    """Return a page, parsed."""
    return Page(page_of(collection, broken=broken or Broken(), cache=cache, title=title))


def test_the_page_needs_nothing_else(cache: Path) -> None:
    """Nothing in it refers to another file or host, and its policy forbids the browser to ask."""
    text = page_of(collect(mixture()), broken=Broken(), cache=cache)
    page = Page(text)
    assert page.links == ["data:,"]
    assert "default-src 'none'" in text
    css = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css
    assert [name for name, count in page.ids.items() if count > 1] == []


def test_data_and_counts_are_those_of_the_launches(cache: Path) -> None:
    """The embedded launches are the sample, the table counts all of them exactly, in ms what the log says in ns."""
    lines = mixture(count=200)
    page = render(collect(lines, size=50), cache)
    data = json.loads(page.data)
    assert len(data["launches"]) == 50
    by_id = {line["launch_id"]: line for line in lines}
    for one in data["launches"]:
        line = by_id[one["id"]]
        assert one["total"] == pytest.approx(line["total_ns"] / 1e6, abs=1e-3)
        path = {True: "on", False: "off", None: "unknown"}[line["fw_cfg_dma"]]
        assert one["dma"] == (path if line["start"] == "cold" else "none")
        seen = [phase["name"] for phase in line["phases"] if phase["duration_ns"] is not None]
        assert [phase[0] for phase in one["phases"]] == seen
        assert set(seen) <= set(data["parts"])
    assert "random sample of 50" in page.shown
    assert "200 launches from" in page.shown


def test_slowest_and_failed_with_console(cache: Path) -> None:
    """The slowest are named, the longest first; a failure shows its error and the console's tail."""
    lines = [event(number, factor=1 + number / 10) for number in range(30)]
    lines.append(event(99, failed_in=Phase.KERNEL))
    page = render(collect(lines), cache)
    slow = page.shown[page.shown.index("Slowest launches") : page.shown.index("Latest failures")]
    found = re.findall(r"simulated-\d+", slow)
    slowest = sorted(lines[:-1], key=lambda line: -int(line["launch_ns"]))
    assert found == [line["launch_id"] for line in slowest[: len(found)]]
    assert len(found) == 15
    failed = page.shown[page.shown.index("Latest failures") :]
    assert "simulated-99" in failed
    assert "simulated failure: kernel: for a test" in failed
    assert "simulated console\nsecond line" in failed


def test_nothing_in_a_log_can_break_out(cache: Path) -> None:
    """Text of a log or a title stays text, in the page as in the embedded data."""
    line = event(1, failed_in=Phase.KERNEL)
    line |= {"launch_id": f"a{EVIL}", "error": EVIL, "console_tail": [EVIL], "profile": EVIL}
    line["phases"][0]["source"] = EVIL
    broken = Broken()
    broken.add(f"/x/{EVIL}", 3, EVIL)
    page = render(collect([line]), cache, broken, title=EVIL)
    assert page.tags["b"] == 0
    assert page.tags["script"] == 3
    assert json.loads(page.data)["launches"][0]["phases"][0][3] == EVIL


def test_broken_lines_are_named(cache: Path) -> None:
    """How many, and the first of them by file, line and reason."""
    broken = Broken()
    for number in range(25):
        broken.add("some.jsonl", number + 1, "not JSON")
    page = render(collect([event(1)]), cache, broken)
    assert "25 lines could not be used" in page.shown
    assert "some.jsonl:1: not JSON" in page.shown
    assert "The first 20 are named" in page.shown
    assert "could not be used" not in render(collect([event(1)]), cache).shown


def test_modelled_launches_are_a_kind_of_their_own(cache: Path) -> None:
    """A launch with a modelled trap cost says so wherever it is, and has its own accelerator filter."""
    lines = [event(number) for number in range(4)]
    lines[0]["extra_args"] = ["-plugin", f"/x/{INSTRUMENT_MARK}.so"]
    page = render(collect(lines), cache)
    accels = Counter(one["accel"] for one in json.loads(page.data)["launches"])
    assert accels == {"tcg": 3, "tcg, MODELLED trap cost": 1}
    assert "MODELLED" in page.shown


def test_launches_of_an_emulated_host_are_a_kind_of_their_own(cache: Path) -> None:
    """A launch under KVM that was not made on hardware says so wherever it is, and has its own accelerator filter."""
    made = {"bare": BARE, "there": INSTRUCTIONS}
    lines = [event(number, accel="kvm", provenance=one) for number, one in enumerate(made.values())]
    page = render(collect(lines), cache)
    accels = Counter(one["accel"] for one in json.loads(page.data)["launches"])
    assert accels == {"kvm": 1, "kvm (emulated Arm host, instruction clock)": 1}
    assert "kvm (emulated Arm host, instruction clock)" in page.shown


def test_results_of_benchmarks(cache: Path, tmp_path: Path) -> None:
    """A result file brings its verdict, its chart's rows, its environment; a modelled one says so."""
    path = tmp_path / "proof.json"
    collection = Collection(results=[(path, simulated_results.fw_cfg(path, cost_ns=5_900))])
    page = render(collection, cache)
    assert "MODELLED trap cost: 5.9 µs an access" in page.shown
    assert "halved: no" in page.shown
    assert "Linux " in page.shown
    data = json.loads(page.data)
    assert data["launches"] == []
    assert {row["metric"] for row in data["fixed"]["result-0-ratios"]} >= {"transfer", "launch", "fw_cfg_kernel"}
    assert page.ids["chart-result-0-ratios"] == 1


def test_the_experiment_of_2015_is_drawn(cache: Path, tmp_path: Path) -> None:
    """What each side's guestfish took, and the transfers by size; without transfers the first alone."""
    path = tmp_path / "seed.json"
    data = json.loads(render(Collection(results=[(path, simulated_results.seed(path))]), cache).data)
    assert set(data["fixed"]) == {"result-0-seed", "result-0-sweep"}
    shown = {row["side"]: row for row in data["fixed"]["result-0-seed"]}
    assert shown["cold, DMA on"]["dma"] == "on"
    assert shown["stock libguestfs"]["dma"] == shown["warm"]["dma"] == "none"
    assert shown["cold, DMA on"]["seconds"] == pytest.approx(2.9, rel=0.02)


def test_every_colour_is_there_in_light_and_dark() -> None:
    """Each colour by name that charts and page use is defined for both schemes, and for paper."""
    css = (PAGE / "page.css").read_text()
    light, dark = (set(re.findall(r"--([a-z-]+):", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL))
    assert light == dark
    parts = (PAGE / "page.html.j2").read_text() + css + json.dumps(theme.themed(theme.PART_SCALE | theme.DMA_SCALE))
    used = set(re.findall(r"var\(--([a-z-]+)\)", parts))
    assert used <= light
    assert set(theme.LIGHT) <= light
    values = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", css[: css.index("@media")]))
    assert {name: values[name] for name in theme.LIGHT} == theme.LIGHT


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_is_legible(scheme: int) -> None:
    """Text has WCAG's contrast of 4.5 on page and card, marks have 3, in both schemes."""
    block = re.findall(r":root \{(.*?)\}", (PAGE / "page.css").read_text(), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
    for ground in ("bg", "card"):
        for name, least in (
            *((text, 4.5) for text in ("fg", "muted", "bad", "good")),
            *((mark, 3.0) for mark in ("on", "off", "unknown", "host", "firmware", "transfer", "guest", "tool")),
        ):
            pair = sorted((luminance(colours[name]), luminance(colours[ground])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= least, (name, ground)


def test_tiles_say_what_may_be_said(tmp_path: Path) -> None:
    """A ratio below one is shown as slower, by how much; an interval across one as no difference."""
    group = Group("aarch64-uefi", "tcg", "cold", modelled=False, made_on="bare")
    found = Observed(
        group=group, blocks=9, without=9, with_dma=9, span_ns=1, transfer=Ratio(ratio=0.5, low=0.4, high=0.6),
        launch=Ratio(ratio=1.1, low=0.9, high=1.3),
    )  # fmt: skip
    transfer, launch, halved = observed_tiles(found)
    assert (transfer["value"], transfer["says"], transfer["tone"]) == ("2.00×", "slower", "bad")
    assert (launch["value"], launch["says"], launch["tone"]) == ("1.10×", "no difference shown", "plain")
    assert (halved["value"], halved["tone"]) == ("no", "plain")
    path = tmp_path / "a.json"
    few = result_tiles(simulated_results.fw_cfg(path, runs=2))
    assert "too few runs" in few[0]["note"]
    assert result_tiles(simulated_results.sweep(path)) == []
