"""Predicted frames as a person meets them in Chromium: open, move the slider, see the frames change, share the link."""

from __future__ import annotations

import shutil

import pytest
from dashboard_store import uri_of
from frames_store import NEWEST, write_frames_run
from test_browser import browser, page, pytestmark, serve

from dashboard.runs import open_store
from dashboard.screenshots import free_port

__all__ = ["browser", "page", "pytestmark"]
HOSTILE = "<img src=x onerror=document.title='broken'> [l](http://example.org)"
# JavaScript: what the table of frames shows
PICTURES = "[...document.querySelectorAll('.frames td img')].map(image => image.src)"
COLUMNS = "[...document.querySelectorAll('.frames thead th[scope=col]')].map(head => Number(head.textContent))"
FITS = "document.querySelector('[data-testid=stMain]').scrollWidth <= window.innerWidth"
VIDEO = "document.querySelector('video')"
# A browser plays no video that nobody sees, and what is drawn above moves it away.
SEEN = f"{VIDEO}.scrollIntoView({{block: 'center'}})"


@pytest.fixture(scope="module")
def server(_stores, tmp_path_factory):
    """Return the address of the dashboard over three future-frames runs, one with a hostile name."""
    folder = tmp_path_factory.mktemp("server")
    database = shutil.copy(_stores / "bare.db", folder / "mlflow.db")
    client = open_store(uri_of(database))
    experiment = client.create_experiment("future", artifact_location=(folder / "artifacts").as_uri())
    for row in ("skip-sideways", "sideways", HOSTILE):
        write_frames_run(client, experiment, row)
    yield from serve(database, free_port(), folder)


def start_of(page):
    return page.evaluate(COLUMNS)[0]


def move(page, key, times):
    """Move a slider by the keyboard, as a person without a mouse would."""
    thumb = page.locator(f".st-key-{key}").get_by_role("slider")
    thumb.focus()
    for _ in range(times):
        page.keyboard.press("ArrowRight")


def test_a_person_moves_the_slider_sees_the_frames_change_and_shares_the_link(server, page):
    page.goto(f"{server}/frames")
    page.wait_for_selector(".frames td img")
    assert start_of(page) == NEWEST[0] + 1
    assert page.evaluate("document.title") != "broken"
    assert "<img src=x" in page.locator(".frames").inner_text()
    before = page.evaluate(PICTURES)
    assert len(before) == 6 * (1 + 2 * 4)  # truth; copy last and three runs, each with its difference
    page.locator("video").wait_for()
    page.wait_for_function(f"{SEEN}, {VIDEO}.muted && !{VIDEO}.paused && {VIDEO}.currentTime > 1")
    page.wait_for_function(f"{SEEN}, !{VIDEO}.paused && {VIDEO}.currentTime < 0.7")  # it began again

    move(page, "frame", 2)
    page.wait_for_function(f"{COLUMNS}[0] === {NEWEST[0] + 3}")
    after = page.evaluate(PICTURES)
    assert after[0] != before[0]
    assert after[0] == before[2]  # the truth has moved two columns

    move(page, "horizon", 1)
    page.wait_for_url("**horizon=2**")
    page.wait_for_function("document.querySelector('.frames').getAttribute('aria-label').includes('2 frames ahead')")
    page.locator(".st-key-show input").click()
    page.get_by_role("option", name="Differences to the truth").click()
    page.wait_for_url("**show=difference**")
    page.wait_for_function("document.querySelector('.frames').innerText.includes('skip-sideways: difference')")
    shown, link = page.evaluate(PICTURES), page.url

    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector(".frames td img")
    assert page.evaluate(PICTURES) == shown
    assert page.locator("[data-testid=stException]").count() == 0


def test_the_score_goes_to_the_frames_and_back_in_one_step_each(server, page):
    page.goto(f"{server}/?score=test%2Fmse&horizon=3")
    page.wait_for_selector("[data-testid=stDataFrame]")
    page.get_by_role("link", name="Predicted frames").click()
    page.wait_for_url("**/frames?**")
    for choice in ("score=test%2Fmse", "horizon=3"):
        assert choice in page.url
    page.get_by_role("link", name="Compare", exact=True).click()
    page.wait_for_url(lambda url: "/frames" not in url and "horizon=3" in url and "mse" in url)
    page.go_back()
    page.wait_for_selector("h1:has-text('Predicted frames')")
    page.go_back()
    page.wait_for_selector("h1:has-text('Compare runs')")


def test_the_truth_stays_in_sight_of_the_last_row_and_on_a_telephone_every_page_fits(server, page):
    page.set_viewport_size({"width": 1280, "height": 500})
    page.goto(f"{server}/frames")
    page.wait_for_selector(".frames td img")
    page.locator(".frames tbody tr").last.scroll_into_view_if_needed()
    top = page.evaluate("document.querySelector('.frames thead td img').getBoundingClientRect().top")
    assert 0 < top < 250
    assert page.evaluate("document.querySelector('.frames tbody td').getBoundingClientRect().top") < 0

    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function(FITS)
    for name, part in (("learning", "[data-testid=stVegaLiteChart] svg"), ("run", ".clock")):
        page.goto(f"{server}/{name}")
        page.wait_for_selector(part)
        assert page.evaluate(FITS), name  # the clock scrolls by itself
    assert page.evaluate("document.title") != "broken"
