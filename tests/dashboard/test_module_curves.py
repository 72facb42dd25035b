"""Figures of modules on the page Run: which are found, in which order, how they look, and a run that has them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from dashboard_store import uri_of, write_run
from mlflow.entities import Metric

from dashboard import module_curves, palette
from dashboard.runs import open_store

METRICS = {
    **{f"val/top1/module_{j}": 0.1 * j for j in (10, 2, 1)},
    **{f"train/loss/module_{j}": 1.0 / j for j in (1, 2, 10)},
    "val/top1/ensemble": 0.9,
    "val/top1": 0.8,
    "test/top1/module_2": 0.7,
    "cost/macs/module_1": 5.0,
    "buffer/age/module_2": 3.0,
    "perplexity/unit_1": 7.0,
    "perplexity/unit_4": 9.0,
    "alignment/unit_1": 1.0,
    "train/loss/module_01": 1.0,
    "<b>/module_1": 1.0,
    "train/loss/module_x": 1.0,
    "train/loss/module_1/more": 1.0,
}


def test_figures_are_those_logged_for_a_module_accuracy_first():
    named = module_curves.figures(METRICS)
    assert list(named) == ["val/top1", "test/top1", "train/loss", "buffer/age", "cost/macs", "perplexity"]
    assert named["val/top1"] == "Top-1 accuracy (validation)"
    assert list(module_curves.with_curves(named)) == ["val/top1", "train/loss", "buffer/age", "perplexity"]
    assert module_curves.figures(["val/top1", "alignment/unit_1", "x/module_01", "x/module_0"]) == {}
    assert module_curves.table({"x/module_01": 1.0}).empty


def test_modules_are_in_order_and_the_ensemble_is_last():
    assert module_curves.keys_of(METRICS, "val/top1") == {
        "module 1": "val/top1/module_1",
        "module 2": "val/top1/module_2",
        "module 10": "val/top1/module_10",
        "ensemble": "val/top1/ensemble",
    }
    assert list(module_curves.keys_of(METRICS, "train/loss")) == ["module 1", "module 2", "module 10"]
    assert list(module_curves.keys_of(METRICS, "perplexity")) == ["unit 1", "unit 4"]


def test_the_table_has_the_last_value_of_each_figure_and_gaps_where_there_is_none():
    table = module_curves.table(METRICS).set_index("module")
    assert list(table.index) == ["module 1", "module 2", "module 10", "ensemble"]
    assert table["val/top1"].tolist() == pytest.approx([0.1, 0.2, 1.0, 0.9])
    assert table.loc["module 2", "test/top1"] == 0.7
    assert np.isnan(table.loc["ensemble", "train/loss"])
    assert "perplexity" not in table
    assert module_curves.table({"perplexity/unit_1": 2.0}).empty


def test_modules_are_darker_the_higher_they_are_and_stand_out_from_white():
    shades = module_curves.colours(["module 1", "module 2", "module 3", "ensemble"])
    light = [luminance(shade) for shade in shades]
    assert light == sorted(light, reverse=True)
    assert len(set(shades)) == 4
    assert all(1.05 / (each + 0.05) >= 3 for each in light)  # WCAG's contrast
    assert module_curves.colours(["module 1"]) == [shades[0]]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_every_module_of_a_deep_network_has_a_look_of_its_own():
    names = [f"module {j}" for j in range(1, 41)] + ["ensemble"]
    points = pd.DataFrame([{"run": name, "x": float(x), "value": 0.5} for name in names for x in range(3)])
    line, marks = module_curves.chart(points, "val/top1", "step").to_dict()["layer"]
    dashes = line["encoding"]["strokeDash"]["scale"]["range"]
    shapes = marks["encoding"]["shape"]["scale"]["range"]
    colours = line["encoding"]["color"]["scale"]["range"]
    assert len({(*dash, shape, colour) for dash, shape, colour in zip(dashes, shapes, colours, strict=True)}) == 41


def test_both_forms_of_greedy_have_the_methods_colour():
    colours = {palette.COLOURS[palette.family(rule, "chain")] for rule in ("greedy", "greedy_frame")}
    assert colours == {palette.COLOURS["greedy"]}
    assert palette.family("greedy", "chain", "greedy_replay_4") == palette.ASYNCHRONOUS
    assert palette.family("sideways", "chain", "replay") == "sideways"
    assert palette.family("unheard_of", "chain") == palette.OTHER


@pytest.fixture
def greedy_run(demo_db):
    """Return a finished run of three modules in a store, with 10 validations, and its id."""
    client = open_store(uri_of(demo_db))
    run_id = write_run(client, client.create_experiment("greedy"), "sideways", 0, 0, rule="greedy", comparison="g")
    values = {"module_1": 0.4, "module_2": 0.6, "module_3": 0.7, "ensemble": 0.8}
    metrics = [
        Metric(f"val/top1/{name}", reached * (step + 1) / 10, 0, 10 * step)
        for name, reached in values.items()
        for step in range(10)
    ]
    metrics += [Metric(f"train/loss/module_{j}", 1.0 / j, 0, 90) for j in (1, 2, 3)]
    client.log_batch(run_id, metrics=metrics)
    return run_id


def test_a_run_of_modules_draws_them_and_another_figure_can_be_chosen(open_page, demo_db, greedy_run):
    page = open_page(uri_of(demo_db), "run", run=greedy_run)
    assert "Modules" in [each.value for each in page.subheader]
    table = next(each.value for each in page.dataframe if "val/top1" in each.value)
    assert table["module"].tolist() == ["module 1", "module 2", "module 3", "ensemble"]
    assert table["val/top1"].tolist() == pytest.approx([0.4, 0.6, 0.7, 0.8])
    before = len(page.get("vega_lite_chart"))
    figure = next(each for each in page.selectbox if each.key == "module_figure")
    assert figure.value == "val/top1"
    figure.set_value("train/loss").run()
    assert not page.exception
    assert len(page.get("vega_lite_chart")) == before
    assert page.query_params["module_figure"] in ("train/loss", ["train/loss"])


def test_a_run_without_modules_has_no_such_part(open_page, demo_db):
    page = open_page(uri_of(demo_db), "run")
    assert "Modules" not in [each.value for each in page.subheader]
