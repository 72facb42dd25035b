"""What a person sees: the real server, a real headless Chromium, the rows and the charts on the page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from dashboard_store import TOP1, uri_of, write_run
from test_command import COMMAND, wait_for

from app.dashboard import NEEDED, main
from dashboard.runs import open_store
from dashboard.screenshots import free_port as free_port_now
from tests.forked import forked, preload

preload("app.dashboard", *NEEDED)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
PATIENCE_MS = 90_000  # a page is drawn in seconds; not so where every core is busy
GRID = "[data-testid=stDataFrame]"
# JavaScript: the first chart with what it says to screen readers; the number of markers drawn (legends have none)
SAID = "document.querySelector('[data-testid=stVegaLiteChart]').outerHTML"
POINTS = """[...document.querySelectorAll('[data-testid=stVegaLiteChart]')]
    .map(chart => chart.querySelectorAll('svg [aria-roledescription=point]').length)"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium"),
    pytest.mark.flaky(reruns=2, only_rerun=["TimeoutError"]),  # of a browser that got no time, and of nothing else
]


@pytest.fixture(scope="module")
def server(_stores, tmp_path_factory):
    """Return the address of `skip-sideways dashboard` over the demo's store, which no test of this module changes."""
    folder, port = tmp_path_factory.mktemp("server"), free_port_now()
    command = [*COMMAND, *arguments_of(shutil.copy(_stores / "demo.db", folder / "mlflow.db"), port)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/_stcore/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def changing_server(_stores, tmp_path_factory):
    """Return the address of a server over a copy of the store that tests write to, and a client of that store."""
    folder = tmp_path_factory.mktemp("changing")
    database = shutil.copy(_stores / "demo.db", folder / "mlflow.db")
    for address in serve(database, free_port_now(), folder):
        yield address, open_store(uri_of(database))


@pytest.fixture(scope="module")
def hostile_server(_stores, tmp_path_factory):
    """Return the address of `skip-sideways dashboard` over a store whose every text is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    yield from serve(shutil.copy(_stores / "hostile.db", folder / "mlflow.db"), free_port_now(), folder)


def serve(database, free_port, folder):
    """Yield the address of a server of its own process, forked: of those that import by themselves one is enough."""
    process = forked().Process(target=dashboard, args=(arguments_of(database, free_port), folder), daemon=True)
    process.start()
    try:
        ended = SimpleNamespace(poll=lambda: process.exitcode, stderr=None)
        wait_for(f"http://127.0.0.1:{free_port}/_stcore/health", ended)
        yield f"http://127.0.0.1:{free_port}"
    finally:
        process.kill()
        process.join()


def dashboard(arguments, folder):
    os.chdir(folder)
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    sys.exit(main(arguments))


def arguments_of(database, free_port):
    return ["--port", str(free_port), "--no-browser", "--tracking-uri", uri_of(database)]


@pytest.fixture(scope="module")
def browser():
    """Return the system's Chromium, headless, which ends with the module."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def page(browser):
    """Return a page 1280 px wide without any history, a new session."""
    with browser.new_context(viewport={"width": 1280, "height": 1400}) as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context.new_page()


def test_a_person_sees_the_rows_and_the_charts_of_the_demo(server, page):
    asked = set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(f"{server}/?common=off")
    page.wait_for_selector(f"{GRID} canvas table td", state="attached")
    # What a screen reader gets; the pixels are on a canvas.
    grid = page.locator(f"{GRID} canvas table").first.inner_text()
    for row in TOP1:
        assert row in grid
    assert "exact0.91" in grid  # fold means 0.88 and 0.94
    assert page.locator("text=1 of 12 runs failed").is_visible()
    page.get_by_role("link", name="Accuracy against cost").click()
    page.wait_for_function(f"{POINTS}.join() === '4'")
    assert "exact: 0.91 at" in page.evaluate(SAID)
    assert page.locator("[data-testid=stException]").count() == 0
    assert {url for url in asked if not re.match(rf"(data:|blob:|{server})", url)} == set()


def test_a_choice_goes_with_the_person_to_the_next_page_and_back_and_is_a_link_that_opens_the_same(server, page):
    page.goto(f"{server}/?rows=exact&rows=sideways")
    page.wait_for_selector(f"{GRID} canvas table td", state="attached")
    page.get_by_role("link", name="Accuracy against cost").click()
    page.wait_for_function(f"{POINTS}.join() === '2'")
    page.wait_for_url("**/cost?**rows=exact&rows=sideways**")
    page.go_back()
    page.wait_for_selector("h1:has-text('Compare runs')")
    page.wait_for_url("**rows=exact&rows=sideways**")

    page.locator(".st-key-control input").click()
    page.get_by_role("option", name="frozen").click()
    page.wait_for_url("**control=frozen**")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector("text=difference to frozen")


@pytest.mark.slow
def test_a_run_that_ends_is_shown_without_a_click(changing_server, page):
    address, client = changing_server
    experiment, tags = client.create_experiment("new"), {"dataset": "kth", "comparison": "new"}
    write_run(client, experiment, "exact", 0, 0, **tags)
    run_id = write_run(client, experiment, "exact", 0, 7, top1=None, status="RUNNING", **tags)
    page.goto(address)
    page.wait_for_selector("text=1 of 2 runs not finished yet")
    client.log_metric(run_id, "test/top1", 0.5)
    client.set_terminated(run_id)
    page.wait_for_selector("text=All runs (2)")
    page.wait_for_selector("text=1 of 2 runs not finished yet", state="detached")


@pytest.mark.parametrize(
    "address", ["/?dataset=all&comparison=all", "/cost?dataset=all&comparison=all&cost=latency%2Fstep_p50_ms"]
)
def test_hostile_texts_are_shown_as_text_and_load_nothing(hostile_server, page, address):
    asked, warned = set(), []
    page.on("request", lambda request: asked.add(request.url))
    page.on("dialog", lambda dialog: warned.append(dialog.message) or dialog.dismiss())
    page.goto(hostile_server + address)
    page.wait_for_selector(f"{GRID} canvas table td", state="attached")
    # the choice of rows offers them too
    page.locator(".st-key-rows input").click()
    page.wait_for_selector("[role=option]")
    offered = page.locator("[role=option]").all_inner_texts()
    assert any("<img src=x onerror=" in text for text in offered)
    assert any("**bold** [link](https://evil.test)" in text for text in offered)
    assert page.title().endswith("skip-sideways")
    main = "[data-testid=stMain]"
    assert page.locator(f"{main} img[src=x], {main} script, a[href*=evil]").count() == 0
    assert page.locator("[data-testid=stException]").count() == 0
    assert not warned
    assert {url for url in asked if not re.match(rf"(data:|blob:|{hostile_server})", url)} == set()
    # nothing makes the page wider than the window
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 1280


def test_a_link_with_a_comparison_alone_opens_it_and_becomes_one_that_names_its_data_set(changing_server, page):
    address, client = changing_server
    write_run(client, client.create_experiment("w"), "exact", 0, 0, dataset="weizmann", comparison="w")
    page.goto(f"{address}/?comparison=demo")
    page.wait_for_selector("text=1 of 12 runs failed")
    page.wait_for_url("**dataset=moving_digits**")


def test_on_a_telephone_the_table_comes_before_the_boxes_and_a_legend_has_fewer_columns(server, page):
    names = "[...document.querySelectorAll('.role-legend-label text')].map(each => each.getBoundingClientRect().y)"
    lines = f"new Set({names}.map(Math.round)).size"
    for address, part in (("", GRID), ("cost?common=off&cost=latency%2Ftick_ms", "[data-testid=stVegaLiteChart]")):
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(f"{server}/{address}")
        page.wait_for_selector(f"{GRID} canvas table td", state="attached")
        boxes = page.locator(".st-key-filters")
        assert page.locator(part).first.bounding_box()["y"] < boxes.bounding_box()["y"]
        if address:
            # a folder pages/ beside the script made the first visit of any page but the first a blank one
            page.wait_for_function(f"{POINTS}.join() === '4' && {lines} > 1")
            assert page.title() == "Accuracy against cost · skip-sideways"
        page.set_viewport_size({"width": 1280, "height": 1400})
        assert page.locator(part).first.bounding_box()["y"] > boxes.bounding_box()["y"]
    page.wait_for_function(f"{lines} === 1")
