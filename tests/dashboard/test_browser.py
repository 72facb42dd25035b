"""What a person sees: the real server, a real headless Chromium, the rows and the charts on the page."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from dashboard_store import TOP1, uri_of, write_run
from test_command import COMMAND, wait_for

from dashboard.runs import open_store

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
GRID = "[data-testid=stDataFrame]"
# JavaScript: how many data points each chart has drawn (legends have none)
POINTS = """[...document.querySelectorAll('[data-testid=stVegaLiteChart]')]
    .map(chart => chart.querySelectorAll('svg [aria-roledescription=point]').length)"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium"),
]


@pytest.fixture
def server(demo_db, free_port, tmp_path):
    """Return the address of `skip-sideways dashboard` over the demo's store; it is ended by its own handle."""
    arguments = ["--port", str(free_port), "--no-browser", "--tracking-uri", uri_of(demo_db)]
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(f"http://127.0.0.1:{free_port}/_stcore/health", process)
        yield f"http://127.0.0.1:{free_port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def page():
    """Return a page 1280 px wide in the system's Chromium, which ends with the test."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            yield browser.new_page(viewport={"width": 1280, "height": 1400})
        finally:
            browser.close()


def test_a_person_sees_the_rows_and_charts_of_the_demo(server, page):
    asked = set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(server)
    # Marks, not only frames: ten points for each of four rows, and one for each of four rows.
    page.wait_for_function(f"{POINTS}.join() === '40,4'", timeout=60_000)
    page.wait_for_selector(f"{GRID} canvas table td", state="attached")
    # What a screen reader gets; the pixels are on a canvas.
    grid = page.locator(f"{GRID} canvas table").first.inner_text()
    for row in TOP1:
        assert row in grid
    assert "exactbackprop_shiftedresidual3220.91" in grid  # 3 runs, 2 folds, 2 seeds; fold means 0.88 and 0.94
    assert page.locator("text=1 of 12 runs failed").is_visible()
    assert page.locator("[data-testid=stException]").count() == 0
    assert {url for url in asked if not re.match(rf"(data:|blob:|{server})", url)} == set()


def test_a_link_with_a_comparison_alone_opens_it_and_becomes_one_that_names_its_data_set(server, page, demo_db):
    client = open_store(uri_of(demo_db))
    write_run(client, client.create_experiment("w"), "exact", 0, 0, dataset="weizmann", comparison="w")
    page.goto(f"{server}/?comparison=demo")
    page.wait_for_function(f"{POINTS}.join() === '40,4'", timeout=60_000)
    page.wait_for_url("**dataset=moving_digits**", timeout=20_000)


def test_a_choice_becomes_a_link_that_opens_the_same_page(server, page):
    page.goto(server)
    page.locator(".st-key-control input").click(timeout=60_000)
    page.get_by_role("option", name="frozen").click()
    page.wait_for_url("**control=frozen**", timeout=20_000)
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector("text=difference to frozen", timeout=60_000)
