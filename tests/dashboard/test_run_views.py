"""The pure views of the pages Learning and Run: curves, heat map, confusion matrix, clock, horizons."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from frames_store import CLOCK, CONFUSION

from dashboard import (
    chosen_runs,
    clock_chart,
    confusion,
    heatmap,
    histories,
    horizon_chart,
    plain,
    run_curves,
    run_facts,
)
from dashboard.clock_chart import NoClock
from dashboard.confusion import NoMatrix
from dashboard.runs import METRICS as METRIC_COLUMNS

HISTORY = pd.DataFrame({"step": [0, 10, 20], "value": [3.0, 2.0, 1.0], "seconds": [100.0, 110.0, 130.0]})


def test_a_history_stands_against_updates_frames_and_time():
    frames = pd.DataFrame({"step": [0, 20], "value": [0.0, 640.0]})
    started = pd.Timestamp(95, unit="s", tz="UTC")
    assert histories.on_axis(HISTORY, "step", frames, started)["x"].tolist() == [0, 10, 20]
    assert histories.on_axis(HISTORY, "frames_seen", frames, started)["x"].tolist() == [0, 320, 640]
    assert histories.on_axis(HISTORY, "seconds", frames, started)["x"].tolist() == [5, 15, 35]
    assert histories.on_axis(HISTORY, "seconds", frames, pd.NaT)["x"].tolist() == [0, 10, 30]


def test_infinities_keep_their_sign():
    entries = [SimpleNamespace(step=step, timestamp=0, value=sign * 1.7e308) for step, sign in enumerate((1, -1))]
    client = SimpleNamespace(get_metric_history=lambda run_id, metric: entries)
    assert histories.read_timed_history(client, "u", "r", "m")["value"].tolist() == [np.inf, -np.inf]


def test_curves_are_bounded_and_leave_out_what_is_not_finite():
    long = pd.DataFrame({"x": np.arange(50_000.0), "value": np.ones(50_000)})
    broken = pd.DataFrame({"x": [0.0, 1.0, 2.0], "value": [1.0, np.nan, np.inf]})
    drawn = run_curves.drawn({"long": long, "broken": broken})
    assert drawn.groupby("run").size().to_dict() == {"long": run_curves.MOST_POINTS, "broken": 1}
    assert not run_curves.all_finite(broken)


def test_a_page_opens_on_the_loss_and_lists_every_metric():
    keys = ["train/frames_per_second", "test/mse", "train/loss", "alignment/unit_1"]
    assert list(run_curves.metrics_to_choose([dict.fromkeys(keys, 0.0)])) == [keys[2], keys[0], keys[1], keys[3]]


def test_the_heat_map_means_spans_of_time_and_keeps_units_apart():
    early = pd.DataFrame({"x": np.arange(400.0), "value": np.arange(400.0)})
    cells = heatmap.cells({1: early, 2: early.assign(value=[np.nan] * 399 + [7.0])})
    assert cells.groupby("unit").size().to_dict() == {1: heatmap.COLUMNS, 2: 1}
    assert cells.loc[0, "value"] == pytest.approx(4.5)  # 0 .. 9
    assert heatmap.cells({}).empty
    assert heatmap.units_of(
        ["alignment/unit_10", "alignment/unit_2", "alignment/unit_x", "grad_norm/unit_1"], "alignment"
    ) == [2, 10]


def test_a_cell_reaches_to_the_next_logged_step_and_what_was_not_logged_is_no_value():
    curve = pd.DataFrame({"x": [0.0, 100.0, 200.0, 280.0], "value": [1.0, 0.5, np.nan, 0.1]})
    cells = heatmap.cells({1: curve})
    assert cells[["x", "x2"]].to_numpy().tolist() == [[0, 100], [100, 200], [280, 380]]
    behind, _ = heatmap.chart(cells, "alignment", "Updates").to_dict()["layer"]
    assert behind["mark"]["color"] == heatmap.UNLOGGED


def test_a_single_logged_step_is_one_cell():
    assert len(heatmap.cells({1: pd.DataFrame({"x": [5.0], "value": [0.5]})})) == 1


def test_confusion_counts_become_accuracies_and_the_likeliest_mistake():
    names, counts = confusion.read_matrix(CONFUSION)
    table = confusion.per_class(names, counts).set_index("class")
    assert table.loc["walk", ["videos", "accuracy", "taken for", "times"]].tolist() == [4, 0.75, "run", 1]
    assert table.loc["run", "taken for"] == ""
    assert np.isnan(table.loc["<b>jump</b>", "accuracy"])
    assert len(confusion.chart(names, counts).to_dict()["datasets"].popitem()[1]) == 9


def test_of_many_classes_those_with_most_mistakes_are_drawn():
    counts = np.eye(100, dtype=int)
    counts[70, 3] = 5
    chosen = confusion.drawn_classes(counts)
    assert len(chosen) == confusion.DRAWN_CLASSES
    assert {3, 70} <= set(chosen)


@pytest.mark.parametrize(
    "content",
    [{}, {"matrix": [[1, 2]]}, {"matrix": []}, {"matrix": "x"}, {"matrix": [[1, 2], [3]]}, {"matrix": [[-1]]},
     {"matrix": [[float("nan")]]}, {"matrix": [[[1]]]}, {"matrix": [[1e300]]}],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_a_matrix_that_is_none_is_refused(content):
    with pytest.raises(NoMatrix, match=r"confusion\.json"):
        confusion.read_matrix(content)


def test_classes_without_or_with_the_same_name_stay_apart():
    names, _ = confusion.read_matrix({"matrix": [[1, 0, 0]] * 3, "class_names": ["a", "a"]})
    assert names == ["a (0)", "a (1)", "class 2"]


def cells_of(html, row):
    (line,) = [part for part in html.split("<tr") if f">{row}" in part]
    return [cell.split(">")[1].split("<")[0] for cell in line.split("<td")[1:]]


def test_the_clock_shows_frames_stages_and_what_skips_bring():
    html = clock_chart.clock_table(CLOCK)
    assert cells_of(html, "unit 2 forward · stage 2") == ["", "1–2", "2–3", "3–4", "4–5", "5–6"]
    assert cells_of(html, "unit 1 backward · stage 1") == ["", "", "1", "2", "3", "4"]
    assert clock_chart.facts(CLOCK)["Each unit reads from"] == "0, 1+0"


@pytest.mark.parametrize(
    "change",
    [{"depth": 3}, {"depth": 10**6}, {"ticks": [[1, 2]]}, {"ticks": 7}, {"ticks": [[{}, {}]]},
     {"stage_of_unit": ["<b>", 1]}, {"ticks": [[{"forward": "<script>", "backward": None}] * 2]}, {"depth": None}],
)  # fmt: skip
def test_a_clock_that_is_none_is_refused(change):
    with pytest.raises(NoClock, match=r"clock\.json"):
        clock_chart.clock_table({**copy.deepcopy(CLOCK), **change})


def test_what_a_run_says_of_itself_is_escaped():
    html = run_facts.description(run_facts.settings({"row": "<script>alert(1)</script>", "rule": ""}))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "Rule" not in html


@pytest.mark.parametrize(
    "text", ["[a](http://x)", ":red[x]", "$x$", "<b>x</b>", "`x`", ":material/home:", "![i](http://x/y.png)"]
)
def test_a_sentence_has_no_markup_left(text):
    escaped = plain.sentence(text + "\nnext")
    assert "\n" not in escaped
    assert escaped.replace("\\", "") == f"{text} next"
    for mark in "[](){}:$<>`!*_":
        assert escaped.count(mark) == escaped.count("\\" + mark)


METRICS = {"test/mse_1": 0.5, "test/mse_2": float("nan"), "test/copy_last/mse_1": 1.0, "test/mse_sum_1": 9.0,
           "test/mse": 3.0, "test/mse_1x": 8.0}  # fmt: skip


def test_metrics_by_horizon_are_told_from_their_namesakes():
    assert horizon_chart.by_horizon(METRICS, "mse") == {1: 0.5}
    assert horizon_chart.by_horizon(METRICS, "mse", "copy_last") == {1: 1.0}
    runs = {"a": ("a", "0", METRICS), "b": ("b", "0", {"test/copy_last/mse_1": 3.0})}
    table = horizon_chart.table(runs, "mse")
    assert table.set_index("label")["value"].to_dict() == {"a": 0.5, "copy last frame": 2.0}


def test_baselines_of_several_folds_are_not_mixed():
    runs = {"a": ("a", "0", METRICS), "b": ("b", "1", {"test/copy_last/mse_1": 3.0})}
    table = horizon_chart.table(runs, "mse").set_index("label")
    assert table["value"].to_dict() == {"a": 0.5, "copy last frame · fold 0": 1.0, "copy last frame · fold 1": 3.0}
    assert set(table["line"]) == {"a", "copy last frame"}


def runs(*cells, **columns):
    table = pd.DataFrame(cells, columns=["run_id", "line", "fold", "seed", "status", "started"])
    table = table.astype({"fold": "Int64", "seed": "Int64"}).assign(row=table["line"], task="future_frames")
    return table.assign(
        **{"wiring": "chain", "rule": "sideways", "control": "", **dict.fromkeys(METRIC_COLUMNS), **columns}
    )


def test_the_page_opens_with_one_run_a_row_of_the_cell_with_most_rows():
    table = runs(
        ("a", "x", 0, 0, "FINISHED", 1), ("b", "x", 0, 0, "FINISHED", 2), ("c", "y", 0, 0, "FINISHED", 3),
        ("d", "x", 1, 0, "FINISHED", 0), ("f", "y", 1, 0, "RUNNING", 8), ("e", "y", 0, 0, "RUNNING", 9),
    )  # fmt: skip
    assert sorted(chosen_runs.default_runs(table)) == ["b", "c"]
    assert chosen_runs.default_runs(table.iloc[:0]) == []


def test_of_many_rows_the_page_opens_with_control_sideways_and_the_best_of_each_family():
    rows = {  # rule, wiring, PSNR; alphabetically the best come last
        "backprop_frame": ("backprop_frame", "chain", 31), "frozen": ("backprop_shifted", "unet", 20),
        "backprop_shifted": ("backprop_shifted", "unet", 30), "backprop_shifted_a": ("backprop_shifted", "chain", 29),
        "sideways": ("sideways", "chain", 22), "sideways_lead": ("sideways", "chain", 23),
        **{f"skip_{number}": ("sideways", "unet", 24 + number / 10) for number in range(9)},
    }  # fmt: skip
    table = runs(*((row, row, 0, 0, "FINISHED", number) for number, row in enumerate(rows)), control="backprop_shifted")
    rule, wiring, psnr = zip(*rows.values(), strict=True)
    table = table.assign(rule=rule, wiring=wiring, **{"test/psnr_db": psnr})
    assert chosen_runs.default_runs(table) == [
        "backprop_shifted", "sideways", "backprop_frame", "skip_8", "sideways_lead", "frozen", "backprop_shifted_a",
        "skip_7",
    ]  # fmt: skip


def test_labels_tell_every_run_apart():
    table = chosen_runs.with_labels(
        runs(("a1", "x", 0, 0, "", 1), ("b2", "x", 0, 0, "", 2), ("c3", "y", None, 1, "", 3))
    )
    assert table["label"].tolist() == ["x · fold 0 · seed 0 · a1", "x · fold 0 · seed 0 · b2", "y · fold – · seed 1"]
    assert chosen_runs.with_names(table)["name"].tolist()[2] == "y"
