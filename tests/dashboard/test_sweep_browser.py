"""The page Sweep as a person meets it in Chromium: lines and markers on the page, a study that goes on, a telephone."""

from __future__ import annotations

import re
import shutil

import pytest
from dashboard_store import uri_of
from sweeps_store import fill_sweeps, mixed, summary, trial, write_content, write_study
from test_browser import browser, page, pytestmark, serve

from dashboard.runs import open_store
from dashboard.screenshots import free_port

__all__ = ["browser", "page", "pytestmark"]
FITS = "document.querySelector('[data-testid=stMain]').scrollWidth <= window.innerWidth"
HOSTILE = "<img src=x onerror=document.title='broken'> [l](http://evil.test)"
PICTURE = "https://evil.test/a.png"


# how the charts begin, or go on, for who does not see them
HISTORY, PARALLEL = "of each trial, and the best so far", "Parallel coordinates of"
CURVES, FRONT = "over the validations of", "On the Pareto front: "


def chart(said):
    """Return the selector of a chart by a part of its description."""
    return f'[data-testid=stVegaLiteChart][aria-label*="{said}"]'


@pytest.fixture(scope="module")
def sweeps(_stores, tmp_path_factory):
    """Return the address of the dashboard over the studies of `fill_sweeps` and a hostile one, its client, the ids."""
    folder = tmp_path_factory.mktemp("sweeps")
    database = shutil.copy(_stores / "bare.db", folder / "mlflow.db")
    client = open_store(uri_of(database))
    ids = fill_sweeps(client, folder)
    params = {"image": PICTURE, "title": HOSTILE, HOSTILE: HOSTILE}
    trials = [trial(n, params=params, values=[0.1 + n]) for n in range(3)]
    trials.append(trial(3, state="failed", values=None, error=HOSTILE))
    content = summary(HOSTILE, trials, space={}, objectives=[{"metric": HOSTILE, "direction": "maximize"}])
    experiment = client.get_experiment_by_name("sweeps").experiment_id
    ids["hostile"] = write_study(client, experiment, content, started_ms=10**12)
    for address in serve(database, free_port(), folder):
        yield address, client, ids


def test_a_person_sees_the_charts_chooses_a_study_and_its_objective_and_shares_the_link(sweeps, page):
    address, _, _ = sweeps
    asked = set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(f"{address}/sweep")
    page.wait_for_selector(chart(PARALLEL))
    page.wait_for_selector(chart(CURVES))
    history = page.locator(chart(HISTORY))
    legend = history.locator(".role-legend-label text").all_text_contents()
    assert legend == ["complete", "pruned", "failed", "running", "retried", "best so far"]
    assert history.locator("[aria-roledescription=point]").count() == 42  # all but the one that waits
    assert "the best, 5, 0.9102" in history.get_attribute("aria-label")
    texts = page.locator(chart(PARALLEL)).locator("text").all_text_contents()
    assert {"lr", "lag_strength", "0.0001", "exponential", "null", "–", "val/top1"} <= set(texts)

    page.get_by_role("link", name="Sweep").wait_for()
    page.locator(".st-key-study input").click()
    page.get_by_role("option", name="accuracy-latency").click()
    page.wait_for_selector(chart(FRONT))
    page.locator(".st-key-objective input").click()
    page.get_by_role("option", name="latency/tick_ms").click()
    page.wait_for_url("**objective=latency%2Ftick_ms**")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector(chart(FRONT))
    page.wait_for_selector(chart("latency/tick_ms (less is better) " + HISTORY))
    assert page.locator("[data-testid=stException]").count() == 0
    assert {url for url in asked if not re.match(rf"(data:|blob:|{address})", url)} == set()


def test_the_command_of_the_best_trial_is_copied_by_a_click(sweeps, page):
    address, _, ids = sweeps
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{address}/sweep?study={ids['accuracy-latency']}")
    block = page.locator("[data-testid=stCode]").first
    block.wait_for()
    block.hover()
    block.get_by_role("button").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "skip-sideways fit --config runs/sweeps/accuracy-latency/best.yaml"


@pytest.mark.slow
def test_a_study_that_goes_on_is_shown_without_a_click(sweeps, page):
    address, client, ids = sweeps
    write_content(client, ids["weizmann-wiring"], mixed())  # as at first, where this test is run again
    client.update_run(ids["weizmann-wiring"], status="RUNNING")
    page.goto(f"{address}/sweep?study={ids['weizmann-wiring']}")
    page.wait_for_selector("text=40 of 60 trials")
    content = mixed()
    better = trial(43, params=content["best"]["params"], values=[0.99])
    content["trials"].append(better)
    content["best"] |= {"trial": 43, "values": [0.99]}
    write_content(client, ids["weizmann-wiring"], content)
    page.wait_for_selector("text=41 of 60 trials")
    page.wait_for_selector("text=Best trial: 43")
    client.set_terminated(ids["weizmann-wiring"], "KILLED")
    page.wait_for_selector("text=The study was stopped before its end.")
    assert page.locator("[data-testid=stProgress]").count() == 0


def test_names_of_strangers_are_text_in_charts_and_tooltips_and_fetch_nothing(sweeps, page):
    address, _, ids = sweeps
    asked = set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(f"{address}/sweep?study={ids['hostile']}")
    page.wait_for_selector(chart(PARALLEL))
    page.locator(chart(HISTORY)).locator("[aria-roledescription=point]").first.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element")
    tooltip.wait_for()
    assert PICTURE in tooltip.inner_text()
    assert "<img src=x onerror" in tooltip.inner_text()
    assert tooltip.locator("img, h2").count() == 0
    assert page.evaluate("document.title") != "broken"
    main = "[data-testid=stMain]"
    assert page.locator(f"{main} img[src=x], {main} script, a[href*=evil]").count() == 0
    assert {url for url in asked if not re.match(rf"(data:|blob:|{address})", url)} == set()


@pytest.mark.slow
def test_on_a_telephone_every_study_fits(sweeps, page):
    address, _, ids = sweeps
    page.set_viewport_size({"width": 390, "height": 844})
    for run_id in ids.values():
        page.goto(f"{address}/sweep?study={run_id}")
        page.wait_for_selector(chart(PARALLEL))
        page.wait_for_timeout(500)
        assert page.evaluate(FITS)
        assert page.locator(chart(PARALLEL)).locator("svg").bounding_box()["width"] <= 390
