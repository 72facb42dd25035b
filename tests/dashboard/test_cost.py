"""Accuracy against cost: the Pareto front by hand, and the page over a store."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from dashboard_store import uri_of, write_run

from dashboard.pages.cost import by_stage
from dashboard.pareto import front
from dashboard.runs import open_store

POINTS = pd.DataFrame({"score": [0.9, 0.8, 0.8, 0.7, 0.9, math.nan], "cost": [3.0, 1.0, 2.0, 1.0, 3.0, 0.1]})


def test_the_front_is_what_no_other_row_beats():
    found = front(POINTS, "score", "cost", lower_score=False, lower_cost=True)
    assert found.tolist() == [True, True, False, False, True, False]  # ties stay, a row without a score never does
    turned = POINTS * -1
    assert front(turned, "score", "cost", lower_score=True, lower_cost=False).tolist() == found.tolist()


def test_stages_are_averaged_over_the_runs_of_a_line():
    runs = pd.DataFrame(
        {"line": ["a", "a", "b"], "memory/stage_0/peak_mib": [1.0, 3.0, math.nan], "memory/peak_mib": 9.0}
    )
    found = by_stage(runs, "peak_mib")
    assert found[["line", "stage", "mean"]].to_numpy().tolist() == [["a", 1, 2.0]]
    assert found["std"].item() == pytest.approx(2**0.5)


def test_the_page_names_the_front_of_accuracy_against_latency(open_page, demo_db):
    page = open_page(uri_of(demo_db), "cost", cost="latency/tick_ms", common="off")
    assert [chart.type for chart in page.get("vega_lite_chart")] == ["vega_lite_chart"]
    listed = page.dataframe[0].value.set_index("Row")
    assert listed["Pareto front"].to_dict() == {
        "exact": "yes",
        "skip-sideways": "yes",
        "sideways": "yes",
        "frozen": "–",
    }
    assert page.query_params["cost"] == "latency/tick_ms"
    assert any("No run here was trained in stages" in caption.value for caption in page.caption)


def test_future_frames_by_psnr_and_by_stage(open_page, frames_db):
    page = open_page(uri_of(frames_db), "cost", score="test/mse", cost="train/frames_per_second")
    assert len(page.get("vega_lite_chart")) == 2
    listed = page.dataframe[0].value.set_index("Row")
    assert listed.columns[0] == "Pareto front"
    assert "copy the last frame" not in listed.index  # it trains nothing
    drawn = json.loads(page.get("vega_lite_chart")[0].proto.spec)
    assert "copy the last frame: 0.016 without training" in drawn["description"]
    assert listed["Pareto front"].to_dict() == {"exact": "yes", "skip-sideways": "yes", "sideways": "yes"}


def test_rows_without_the_cost_are_named(open_page, demo_db):
    client = open_store(uri_of(demo_db))
    run_id = write_run(
        client, client.create_experiment("x"), "sideways", 0, 0, top1=None, row="no cost", status="RUNNING"
    )
    client.log_metric(run_id, "test/top1", 0.5)
    client.set_terminated(run_id)
    page = open_page(uri_of(demo_db), "cost", cost="latency/tick_ms")
    assert any("Without this cost, so left out: `no cost`." in caption.value for caption in page.caption)


def test_a_cost_that_no_run_has_is_said(open_page, frames_db):
    page = open_page(uri_of(frames_db), "cost", cost="memory/peak_mib")
    assert "No finished run here has both" in page.info[0].value
