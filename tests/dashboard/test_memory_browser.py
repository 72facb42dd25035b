"""The page Memory as a person meets it in Chromium: open, choose another stream, share the link; on a telephone too."""

from __future__ import annotations

import shutil

import pytest
from dashboard_store import uri_of
from memory_store import CUE, GAPS, write_memory_run
from test_browser import POINTS, browser, page, pytestmark, serve

from dashboard.runs import open_store
from dashboard.screenshots import free_port

__all__ = ["browser", "page", "pytestmark"]
HOSTILE = "<img src=x onerror=document.title='broken'> [l](http://example.org)"
LABELS = "[...document.querySelectorAll('.stream b')].map(label => label.textContent)"
CHARTS = f"{POINTS}.length === 2 && {POINTS}[0] === 4 && {POINTS}[1] === 4"  # four chosen; memup at 3 gaps and HOSTILE
FITS = "document.querySelector('[data-testid=stMain]').scrollWidth <= window.innerWidth"


@pytest.fixture(scope="module")
def server(_stores, tmp_path_factory):
    """Return the address of the dashboard over runs at three gaps, and one with a hostile name."""
    folder = tmp_path_factory.mktemp("server")
    database = shutil.copy(_stores / "bare.db", folder / "mlflow.db")
    client = open_store(uri_of(database))
    experiment = client.create_experiment("memory", artifact_location=(folder / "artifacts").as_uri())
    for gap in GAPS:
        write_memory_run(client, experiment, f"memup@gap{gap}", gap)
    write_memory_run(client, experiment, HOSTILE, GAPS[0])
    yield from serve(database, free_port(), folder)


def test_a_person_sees_the_chosen_frames_chooses_another_stream_and_shares_the_link(server, page):
    page.goto(f"{server}/memory")
    page.wait_for_selector(".stream img")
    page.wait_for_function(CHARTS)
    assert page.evaluate(LABELS)[-1] == f"step {CUE + GAPS[-1]}"
    assert page.get_by_text("1 of 1 answers are right").is_visible()
    page.locator(".st-key-stream input").click()
    page.get_by_role("option", name="test-0-1").click()
    page.wait_for_url("**stream=test-0-1**")
    page.wait_for_selector("text=0 of 1 answers are right")

    link = page.url
    page.goto("about:blank")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(link)
    page.wait_for_selector("text=0 of 1 answers are right")
    page.wait_for_function(CHARTS)
    page.wait_for_function(FITS)
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.evaluate("document.title").startswith("Memory")
