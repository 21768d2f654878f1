"""results/report.html in a real browser: it sorts, filters, fits a phone, needs no network."""

import json
import shutil
import sys
from collections.abc import Iterator

import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from modelcompression import ROOT
from modelcompression.goals import winner

sys.path.insert(0, str(ROOT / "results"))

from page import PAGE, columns_of, page
from rows import FIGURES, machine_name, machines, read_rows

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
FLAGS = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
FLAGS += " disable-component-update disable-sync window-size=1200,900"
ROWS = read_rows(ROOT)
COLUMNS_SHOWN = columns_of(ROWS)

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="needs chromium and chromedriver: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in [*FLAGS.split(), f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
        yield driver


@pytest.fixture
def opened(browser: webdriver.Chrome) -> webdriver.Chrome:
    """The page as a visitor first sees it."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get((ROOT / PAGE).as_uri())
    return browser


def names(browser: webdriver.Chrome) -> list[str]:
    """Experiments of the rows that are shown, from top to bottom."""
    script = "return [...document.querySelectorAll('tbody tr:not([hidden]) th')].map(e => e.textContent)"
    return browser.execute_script(script)


def header(browser: webdriver.Chrome, column: str) -> WebElement:
    index = [shown.name for shown in COLUMNS_SHOWN].index(column)
    return browser.find_elements(By.CSS_SELECTOR, "thead th")[index]


def choose(browser: webdriver.Chrome, field: str, value: str) -> None:
    script = "const f = document.getElementById(arguments[0]); f.value = arguments[1];"
    browser.execute_script(script + "f.dispatchEvent(new Event('input'))", field, value)


def test_no_message_in_the_console_and_no_request(opened) -> None:
    header(opened, "size_mb").click()
    choose(opened, "words", "openvino")
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    own = (ROOT / PAGE).as_uri()
    requests = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = [request["request"]["url"] for request in requests if request["documentURL"] == own]
    assert own in urls, "the log does not even hold the page"
    assert [url for url in urls if url != own and not url.startswith("data:")] == []
    text = (ROOT / PAGE).read_text(encoding="utf8")
    assert len(text.encode()) < 1_000_000 and "default-src 'none'" in text


@pytest.mark.parametrize("column", ["map50_95_delta", "size_mb", "speedup", "latency_ms", "experiment"])
def test_a_click_sorts_by_value_and_another_the_other_way(opened, column) -> None:
    choose(opened, "machine", "")
    for direction in ("ascending", "descending"):
        header(opened, column).find_element(By.TAG_NAME, "button").click()
        assert header(opened, column).get_attribute("aria-sort") == direction
        index = [shown.name for shown in COLUMNS_SHOWN].index(column)
        cells = opened.execute_script(
            "return [...document.querySelectorAll('tbody tr')].map(r => r.cells[arguments[0]].textContent)",
            index,
        )
        assert len(cells) == len(ROWS)
        measured = [cell for cell in cells if cell != "–"]
        assert cells[: len(measured)] == measured, "what was not measured stands last"
        if column != "experiment":
            numbers = [float(cell.split()[0].replace("−", "-")) for cell in measured]
            assert numbers == sorted(numbers, reverse=direction == "descending")
            assert len(set(numbers)) > 3
    assert len(opened.find_elements(By.CSS_SELECTOR, "th[aria-sort$=cending]")) == 1


def test_the_keyboard_sorts_too(opened) -> None:
    opened.execute_script("document.getElementById('table').focus()")
    chain = webdriver.ActionChains(opened)
    chain.send_keys(Keys.TAB, Keys.TAB, Keys.ENTER).perform()
    assert header(opened, COLUMNS_SHOWN[1].name).get_attribute("aria-sort") == "ascending"


def test_filters_narrow_the_rows(opened) -> None:
    published = machines(ROWS)[0]
    assert sorted(names(opened)) == sorted(published["experiment"]), "the published machine comes first"
    choose(opened, "homework", "hw5_export")
    expected = published.loc[published["homework"] == "hw5_export", "experiment"]
    assert sorted(names(opened)) == sorted(expected)
    choose(opened, "words", "FP16 openvino")
    assert 0 < len(names(opened)) < len(expected)
    assert opened.find_element(By.ID, "count").text == f"{len(names(opened))} of {len(ROWS)} rows"
    choose(opened, "words", "no such thing")
    assert names(opened) == []


def test_every_value_of_the_csv_is_on_the_page(opened) -> None:
    choose(opened, "machine", "")
    text = (ROOT / PAGE).read_text(encoding="utf8")
    assert all(run in text for run in ROWS["run_id"])
    assert len(opened.find_elements(By.CSS_SELECTOR, "dt")) == len(COLUMNS_SHOWN)


def test_each_cpu_has_its_tiles(opened) -> None:
    groups = machines(ROWS)
    titles = [title.text for title in opened.find_elements(By.CSS_SELECTOR, "#dashboard h3")]
    assert titles == [machine_name(group.iloc[0]) for group in groups]
    for group, tiles in zip(groups, opened.find_elements(By.CLASS_NAME, "tiles"), strict=True):
        shown = [tile.text.splitlines() for tile in tiles.find_elements(By.TAG_NAME, "li")]
        assert [lines[0] for lines in shown[:3]] == ["smallest file", "fastest", "small and fast"]
        best = winner(group, "speedup", 0.03)
        fits = best is None or (best["experiment"] == shown[1][1] and f"{best['size_mb']:.2f} MB" in shown[1])
        assert fits and (best is not None or "nothing loses as little" in shown[1])


def test_confirmed_numbers_opponents_and_pipelines_are_shown(browser, tmp_path) -> None:
    rows = machines(ROWS)[0].reset_index(drop=True)
    best = winner(rows, "speedup", 0.03)["experiment"]
    confirmed = {"map50_95_delta": -0.011, "loss_bound": 0.0187, "images": 1000, "speedup": 7.77}
    confirmed |= {"map50_95_delta_lo": -0.019, "map50_95_delta_hi": -0.002}
    confirmed |= {"speedup_lo": 7.7, "speedup_hi": 7.8}
    changed = {f"confirmed_{name}": value for name, value in confirmed.items()}
    changed |= {"pipeline_speedup": 3.33, "pipeline_speedup_lo": 3.3, "pipeline_speedup_hi": 3.4}
    numbers = [name for name in rows if name.startswith("confirmed_") and name != "confirmed_git_commit"]
    for name in (*numbers, *changed):
        rows[name] = float("nan")
    for name, value in changed.items():
        rows.loc[rows["experiment"] == best, name] = value
    export = "Ultralytics export, int8 (OpenVINO)"
    rows = rows[~rows["experiment"].str.startswith("Ultralytics")]
    rows = pd.concat([rows, rows[rows["experiment"] == "OpenVINO"].assign(experiment=export)])
    figures = {path: (ROOT / path).read_text(encoding="utf8") for path in FIGURES.values()}
    (tmp_path / "page.html").write_text(page(rows, figures, None), encoding="utf8")
    browser.get((tmp_path / "page.html").as_uri())
    tiles = {e.text.splitlines()[0]: e.text for e in browser.find_elements(By.CSS_SELECTOR, ".tiles li")}
    said = tiles["fastest"]
    assert (
        "loses at most 1.9 %, 1000 photographs" in said and "7.77× the speed\n3.33× the speed, JPEG" in said
    )
    assert export in tiles["for comparison"] and "not confirmed" in tiles["smallest file"]
    choose(browser, "kind", "confirmed")
    assert names(browser) == [best]
    choose(browser, "kind", "opponent")
    assert names(browser) == [export]
    heads = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "thead button")]
    assert {"Loss at most, %", "Δ confirmed, %", "Photographs", "× confirmed", "× JPEG to boxes"} <= set(
        heads
    )
    assert "× JPEG to boxes, confirmed" not in heads, "no row has it"


@pytest.mark.parametrize("width", [375, 1200])
def test_the_page_never_scrolls_sideways(opened, width) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert opened.execute_script("return window.innerWidth") == width
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    table = opened.find_element(By.ID, "table")
    assert opened.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", table)
    images = opened.find_elements(By.TAG_NAME, "img")
    assert images and all(image.get_attribute("naturalWidth") != "0" for image in images)
    assert all(image.get_attribute("alt") for image in images)


def test_both_colour_schemes_can_be_read(opened) -> None:
    pages = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        pages[scheme] = luminance(opened, "body", "backgroundColor")
        for selector, behind in (
            ("body", "body"),
            ("td small", "body"),
            ("thead button", "thead th"),
            (".tiles small", ".tiles li"),
        ):
            text = luminance(opened, selector, "color")
            dark, light = sorted([text, luminance(opened, behind, "backgroundColor")])
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{selector} in {scheme}: WCAG AA"
    assert pages["dark"] < 0.1 < 0.9 < pages["light"]


def luminance(browser: webdriver.Chrome, selector: str, style: str) -> float:
    """Relative luminance as WCAG defines it."""
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    colour = browser.execute_script(script, selector, style)
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
