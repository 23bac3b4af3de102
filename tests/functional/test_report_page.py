"""The report in a real browser: headless Chromium draws it without an error or a request, and its filters work."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests import simulated_results
from tests.hosts import program
from tests.running import Guestlaunch
from tests.simulated_launches import mixture

COUNT = 150
CHARTS = ("waterfall", "phase-ab", "phases", "launch-ecdf", "trend")
LAPTOP, PHONE = (1366, 900), (390, 844)
WAIT_S = 60


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """A headless Chromium that logs what it says and what it asks the network for."""
    binary, server = program("chromium"), program("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tempfile.mkdtemp(prefix="glpage-")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(server))
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> webdriver.Chrome:
    """The same with an empty page, no log, and the host's time zone."""
    chromium.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})
    chromium.get("about:blank")
    for kind in ("browser", "performance"):
        chromium.execute("getLog", {"type": kind})
    return chromium


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    """Simulated launches, some of them failed."""
    return mixture(count=COUNT)


@pytest.fixture(scope="module")
def page(
    shared_guestlaunch: Guestlaunch, lines: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A page that the real command made from a log with a broken line, and from three results."""
    folder = tmp_path_factory.mktemp("report")
    log = folder / "events.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + "half a line")
    results = [folder / name for name in ("fw-cfg.json", "sweep.json", "seed.json")]
    simulated_results.fw_cfg(results[0])
    simulated_results.sweep(results[1])
    simulated_results.seed(results[2], quick=False)
    shared_guestlaunch("report", log, *results, "--html", folder / "page.html").ok()
    return folder / "page.html"


def show(driver: webdriver.Chrome, page: Path, size: tuple[int, int] = LAPTOP, scheme: str = "light") -> None:
    """Open a page as a screen of that size and colour scheme does, and wait until it is drawn."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(page.as_uri())
    WebDriverWait(driver, WAIT_S).until(lambda one: one.execute_script("return document.body.dataset.ready") == "yes")


def choose(driver: webdriver.Chrome, **filters: str) -> None:
    """Set filters and wait until the page is drawn again."""
    for name, value in filters.items():
        before = driver.execute_script("return document.body.dataset.drawn")
        element = driver.find_element(By.ID, f"filter-{name}")
        if name in {"since", "until"}:
            set_value = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))"
            driver.execute_script(set_value, element, value)
        else:
            Select(element).select_by_value(value)
        wait_for_drawing(driver, before)


def wait_for_drawing(driver: webdriver.Chrome, before: str) -> None:
    """Wait until the page has been drawn once more."""
    WebDriverWait(driver, WAIT_S).until(lambda one: one.execute_script("return document.body.dataset.drawn") != before)


def count_of(driver: webdriver.Chrome) -> int:
    """Return how many launches the page says it shows."""
    text = driver.find_element(By.ID, "filter-count").get_property("value")
    return int(str(text).split()[0].replace(",", ""))


def marks(driver: webdriver.Chrome, chart: str) -> int:
    """Return how many marks a chart shows."""
    query = "svg .mark-rect.role-mark path, svg .mark-line.role-mark path, svg .mark-symbol.role-mark path"
    found = driver.find_elements(By.CSS_SELECTOR, f"#chart-{chart} :is({query})")
    return len([one for one in found if one.get_attribute("d")])


def complaints(driver: webdriver.Chrome) -> list[str]:
    """Return what the console holds against the page, and every request that the page makes beyond itself."""
    logged: dict[str, list[dict[str, Any]]] = {
        kind: driver.execute("getLog", {"type": kind})["value"] for kind in ("browser", "performance")
    }
    found = [str(entry["message"]) for entry in logged["browser"] if entry["level"] == "SEVERE"]
    requests = 0
    for entry in logged["performance"]:
        message = json.loads(entry["message"])["message"]
        # The browser's own start page makes requests too; they belong to another document.
        if message["method"] == "Network.requestWillBeSent" and message["params"]["documentURL"].startswith("file:"):
            url = str(message["params"]["request"]["url"])
            requests += 1
            if not url.startswith("data:") and url != message["params"]["documentURL"]:
                found.append(url)
    assert requests, "the browser's log does not show the page being loaded: nothing was looked at"
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_drawn_without_an_error(
    browser: webdriver.Chrome, page: Path, size: tuple[int, int], scheme: str, evidence: Path
) -> None:
    """On laptop and phone, in light and dark: every chart has marks within the screen; nothing is asked for."""
    show(browser, page, size, scheme)
    browser.save_screenshot(str(evidence / "page.png"))
    assert complaints(browser) == []
    for chart in (*CHARTS, "result-0-ratios", "result-1-sweep", "result-2-seed", "result-2-sweep"):
        assert marks(browser, chart) > 0, chart
    wide = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1] == size[0]
    for svg in browser.find_elements(By.CSS_SELECTOR, ".chart svg"):
        card = svg.find_element(By.XPATH, "./ancestor::*[contains(@class, 'card')][1]")
        assert svg.rect["x"] >= card.rect["x"]
        assert svg.rect["x"] + svg.rect["width"] <= card.rect["x"] + card.rect["width"]
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 3 * 128) == (scheme == "light")
    # Labels take the colour of the scheme: resolved, not merely named.
    label, text = browser.execute_script(
        "return [getComputedStyle(document.querySelector('#chart-phases .role-axis-label text')).fill,"
        " getComputedStyle(document.body).color]"
    )
    assert label == text


def test_filters_choose_launches(browser: webdriver.Chrome, page: Path, lines: list[dict[str, Any]]) -> None:
    """Every filter shows as many launches as the log has of that kind; charts follow; reset goes back."""
    show(browser, page)
    tcg = [
        line
        for line in lines
        if line["accel"] == "tcg" and line["start"] == "cold" and line["profile"] == "aarch64-uefi"
    ]
    assert count_of(browser) == len(tcg)
    both = marks(browser, "phases")
    for dma, seen in (("on", True), ("off", False)):
        choose(browser, dma=dma)
        assert count_of(browser) == sum(line["fw_cfg_dma"] is seen for line in tcg)
        assert 0 < marks(browser, "phases") < both
        assert [row.text.split()[0] for row in browser.find_elements(By.CSS_SELECTOR, "#summary tr")] == [dma]
    choose(browser, dma="", outcome="failure")
    failed = [line for line in tcg if line["outcome"] == "failure"]
    assert count_of(browser) == len(failed) > 0
    assert "empty" in str(browser.find_element(By.ID, "card-phases").get_attribute("class"))
    assert browser.find_element(By.CSS_SELECTOR, "#slowest .none").is_displayed()
    browser.find_element(By.ID, "filter-reset").click()
    WebDriverWait(browser, WAIT_S).until(lambda one: count_of(one) == len(tcg))
    assert browser.find_element(By.ID, "filter-outcome").get_property("value") == ""
    choose(browser, profile="x86_64-seabios", accel="kvm")
    assert count_of(browser) == sum(line["accel"] == "kvm" for line in lines)
    assert marks(browser, "waterfall") > 0
    assert complaints(browser) == []


def test_dates_are_utc(browser: webdriver.Chrome, page: Path, lines: list[dict[str, Any]]) -> None:
    """A day is a day of UTC, whatever the reader's time zone is."""
    browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Pacific/Auckland"})
    show(browser, page)
    shown = count_of(browser)
    choose(browser, since="2025-06-16")
    after = count_of(browser)
    choose(browser, since="", until="2025-06-15")
    assert after + count_of(browser) == shown
    midnight_ns = 1_750_032_000 * 10**9
    tcg = [line for line in lines if line["accel"] == "tcg" and line["start"] == "cold"]
    assert after == sum(line["wall_start_ns"] >= midnight_ns for line in tcg)


def test_the_waterfall_shows_the_launch_that_is_chosen(
    browser: webdriver.Chrome, page: Path, lines: list[dict[str, Any]]
) -> None:
    """Its bars are that launch's phases: as many, and with their durations beside them."""
    show(browser, page)
    failed = next(line for line in lines if line["outcome"] == "failure" and line["error_phase"] == "kernel")
    options = Select(browser.find_element(By.ID, "filter-launch"))
    assert {option.text.split(":")[0] for option in options.options} >= {"median, DMA on", "median, DMA off", "failure"}
    chosen = next(str(o.get_attribute("value")) for o in options.options if o.text.startswith("failure"))
    line = next(one for one in lines if one["launch_id"] == chosen)
    options.select_by_value(chosen)
    reached = [phase["name"] for phase in line["phases"] if phase["duration_ns"] is not None]
    WebDriverWait(browser, WAIT_S).until(lambda one: marks(one, "waterfall") == len(reached))
    labels = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#chart-waterfall .role-axis-label text")]
    assert set(reached) <= set(labels)
    assert failed["console_tail"][0] in str(browser.find_element(By.ID, "failures").get_attribute("textContent"))


def test_printed_it_is_whole_and_light(browser: webdriver.Chrome, page: Path, evidence: Path) -> None:
    """On paper, from a dark screen too: a light ground, consoles unfolded, a few pages of PDF."""
    show(browser, page, scheme="dark")
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    (evidence / "page.pdf").write_bytes(pdf)
    assert pdf.startswith(b"%PDF")
    assert browser.execute_script("return [...document.querySelectorAll('details')].every((one) => one.open)")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    colours = browser.execute_script(
        "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    )
    assert colours == ["rgb(255, 255, 255)", "rgb(27, 31, 36)"]
    assert not browser.find_element(By.ID, "filter-reset").is_displayed()
    assert complaints(browser) == []
