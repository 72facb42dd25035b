"""The comparison table against figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from dashboard import tables
from dashboard.runs import as_table
from dashboard.scores import MSE

BASE = {
    "status": "FINISHED",
    "rule": "sideways",
    "wiring": "chain",
    "network": "small_cnn",
    "dataset": "d",
    "split": "s",
    "update": "clip",
    "data_hash": "h",
    "comparison": "c",
}


def make_runs(*cells):
    """Return runs from (row, fold, seed, top1, changes) cells; a later cell started later."""
    records = []
    for index, (row, fold, seed, top1, *changes) in enumerate(cells):
        record = {**BASE, "run_id": str(index), "row": row, "fold": fold, "seed": seed, "test/top1": top1}
        records.append({**record, "started": 1000 * index, **(changes[0] if changes else {})})
    return tables.label_lines(as_table(records))


EXACT = {"rule": "backprop_shifted"}
TWO_FOLDS = [("a", 0, 0, 0.6), ("a", 0, 1, 0.8), ("a", 1, 0, 0.9)]


def line_of(table, name):
    return table.set_index("line").loc[name]


def test_mean_is_over_folds_of_the_mean_over_seeds():
    line = line_of(tables.comparison_table(make_runs(*TWO_FOLDS), None), "a")
    # fold means 0.7 and 0.9: mean 0.8, standard deviation (n-1) 0.2 / sqrt(2)
    assert line["test/top1"] == pytest.approx(0.8)
    assert line["test/top1 std"] == pytest.approx(0.2 / math.sqrt(2))
    assert (line["runs"], line["folds"], line["seeds"]) == (3, 2, 2)


def test_with_one_fold_the_spread_is_over_seeds():
    line = line_of(tables.comparison_table(make_runs(*TWO_FOLDS[:2]), None), "a")
    assert line["test/top1"] == pytest.approx(0.7)
    assert line["test/top1 std"] == pytest.approx(0.2 / math.sqrt(2))


def test_a_single_run_has_no_spread():
    line = line_of(tables.comparison_table(make_runs(TWO_FOLDS[0]), None), "a")
    assert line["test/top1"] == 0.6
    assert math.isnan(line["test/top1 std"])


def test_differences_are_paired_and_unpaired_runs_are_said():
    control = [("b", 0, 0, 0.5, EXACT), ("b", 1, 0, 0.7, EXACT)]
    runs = make_runs(*TWO_FOLDS, *control)
    line = line_of(tables.comparison_table(runs, "b"), "a")
    # pairs (0, 0): 0.1 and (1, 0): 0.2; the run of fold 0, seed 1 has none
    assert line["difference"] == pytest.approx(0.15)
    assert line["pairs"] == 2
    assert math.isnan(line["low"])
    assert tables.remarks(runs, "b") == [
        "Not all rows have the same folds and seeds: their means and their order do not compare.",
        "`a`: 1 of 3 runs have no run of `b` on the same data, fold and seed.",
    ]


def test_three_folds_have_an_interval_around_the_difference():
    cells = [("a", fold, 0, 0.8 + 0.02 * fold) for fold in range(3)] + [("b", fold, 0, 0.7, EXACT) for fold in range(3)]
    line = line_of(tables.comparison_table(make_runs(*cells), "b"), "a")
    assert line["difference"] == pytest.approx(0.12)
    assert 0.0999 < line["low"] < 0.12 < line["high"] < 0.1401


def test_other_data_is_no_pair():
    runs = make_runs(("a", 0, 0, 0.6), ("b", 0, 0, 0.5, {"data_hash": "other"}))
    line = line_of(tables.comparison_table(runs, "b"), "a")
    assert line["pairs"] == 0
    assert math.isnan(line["difference"])


def test_only_finished_runs_with_a_score_count_and_the_rest_is_said():
    none = math.nan
    runs = make_runs(
        ("a", 0, 0, 0.6),
        ("a", 1, 0, 0.1, {"status": "FAILED"}),
        ("a", 2, 0, none, {"status": "RUNNING"}),
        ("a", 3, 0, none),
        ("a", 4, 0, 0.1, {"status": "KILLED"}),
    )
    assert line_of(tables.comparison_table(runs, None), "a")["test/top1"] == 0.6
    assert tables.remarks(runs, None) == [
        "1 of 5 runs failed: not in the means.",
        "1 of 5 runs stopped early: not in the means.",
        "1 of 5 runs not finished yet: not in the means.",
        "1 of 5 runs finished without a test score: not in the means.",
    ]


def test_folds_on_which_settings_were_chosen_are_in_no_mean_and_in_no_difference():
    tuned = {"tuning": "fold"}
    runs = make_runs(
        ("a", 0, 0, 0.1, tuned), ("a", 1, 0, 0.7), ("a", 2, 0, 0.9),
        ("b", 0, 0, 0.9, EXACT | tuned), ("b", 1, 0, 0.6, EXACT), ("b", 2, 0, 0.6, EXACT),
    )  # fmt: skip
    line = line_of(tables.comparison_table(runs, "b"), "a")
    assert line["test/top1"] == pytest.approx(0.8)
    assert line["difference"] == pytest.approx(0.2)
    assert (line["runs"], line["folds"], line["pairs"]) == (2, 2, 2)
    assert tables.remarks(runs, "b") == [
        "2 of 6 runs on a fold or seed on which the settings were chosen: not in the means."
    ]


def test_a_line_without_a_finished_run_stays_in_the_table():
    runs = make_runs(("a", 0, 0, 0.6), ("b", 0, 0, math.nan, {"status": "FAILED"}))
    table = tables.comparison_table(runs, "a")
    assert table["line"].tolist() == ["a", "b"]
    assert line_of(table, "b")["runs"] == 0


def test_of_repeats_the_newest_counts():
    runs = make_runs(("a", 0, 0, 0.2), ("a", 0, 0, 0.6))
    assert line_of(tables.comparison_table(runs, None), "a")["test/top1"] == 0.6
    assert tables.remarks(runs, None) == ["1 of 2 runs repeated later with the same fold and seed: not in the means."]


def test_a_failed_repeat_does_not_replace_a_result():
    runs = make_runs(("a", 0, 0, 0.6), ("a", 0, 0, math.nan, {"status": "FAILED"}))
    assert line_of(tables.comparison_table(runs, None), "a")["test/top1"] == 0.6


def test_data_sets_and_comparisons_are_never_mixed():
    runs = make_runs(("a", 0, 0, 0.1), ("a", 0, 0, 0.2, {"dataset": "e"}), ("a", 0, 0, 0.3, {"comparison": None})).drop(
        columns="line"
    )
    assert tables.in_scope(runs, "d", "c")["test/top1"].tolist() == [0.1]
    assert tables.in_scope(runs, "e", "c")["test/top1"].tolist() == [0.2]
    assert tables.in_scope(runs, "d", tables.SINGLE_RUNS)["test/top1"].tolist() == [0.3]
    every = tables.in_scope(runs, tables.ALL, tables.ALL)
    assert dict(zip(every["line"], every["test/top1"], strict=True)) == {
        "a · d · c": 0.1,
        "a · e · c": 0.2,
        "a · d": 0.3,
    }


def test_over_several_data_sets_each_line_has_the_control_of_its_own():
    other = {"dataset": "e", "data_hash": "i"}
    runs = make_runs(
        ("a", 0, 0, 0.6), ("b", 0, 0, 0.5, EXACT), ("a", 0, 0, 0.9, other), ("b", 0, 0, 0.2, EXACT | other)
    )
    for controls in (tables.own_controls(runs), tables.control_by_row(runs, "b")):
        table = tables.comparison_table(runs, controls)
        assert line_of(table, "a · d")["difference"] == pytest.approx(0.1)
        assert line_of(table, "a · e")["difference"] == pytest.approx(0.7)
        assert tables.remarks(runs, controls) == []


def test_a_row_with_two_settings_is_two_lines_named_by_what_differs():
    runs = make_runs(("a", 0, 0, 0.1), ("a", 0, 0, 0.2, {"update": "frame"}), ("b", 0, 0, 0.3))
    assert runs["line"].tolist() == ["a · clip", "a · frame", "b"]


def test_constant_and_varying_settings():
    table = tables.comparison_table(make_runs(("a", 0, 0, 0.1), ("b", 0, 0, 0.2, EXACT)), None)
    assert tables.varying_settings(table) == ["rule"]
    assert tables.constant_settings(table) == {
        "wiring": "chain",
        "network": "small_cnn",
        "split": "s",
        "update": "clip",
    }


FROZEN = ("a frozen", 0, 0, 0.1, EXACT)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([FROZEN, ("exact", 0, 0, 0.2, EXACT), ("z", 0, 0, 0.2, {"rule": "backprop_frame"})], "exact"),
        ([FROZEN, ("z", 0, 0, 0.2, {"rule": "backprop_frame"}), ("s", 0, 0, 0.3)], "z"),
        ([("x", 0, 0, 0.2, {"control": "s"}), ("s", 0, 0, 0.3, {"control": "s"}), ("e", 0, 0, 0.3, EXACT)], "s"),
        ([("t", 0, 0, 0.2), ("s", 0, 0, 0.3)], "s"),
        ([FROZEN], "a frozen"),
    ],
)
def test_default_control(cells, expected):
    assert tables.default_control(make_runs(*cells)) == expected


def test_no_runs_have_no_control_and_an_empty_table():
    runs = make_runs(FROZEN).iloc[:0]
    assert tables.default_control(runs) is None
    assert tables.comparison_table(runs, None).empty


# Fold 0 is easy. b beats a on it, and has the hard fold too.
UNEVEN = [("a", 0, 0, 0.8), ("b", 0, 0, 0.9, EXACT), ("b", 1, 0, 0.5, EXACT)]


def test_on_common_cells_the_order_turns_round():
    runs = make_runs(*UNEVEN)
    assert tables.cells_differ(runs, {"a", "b"})
    assert not tables.cells_differ(runs, {"b"})
    assert tables.comparison_table(runs, "b")["line"].tolist() == ["a", "b"]
    table = tables.comparison_table(runs, "b", common=True)
    assert table["line"].tolist() == ["b", "a"]
    assert table["test/top1"].tolist() == [0.9, 0.8]
    assert line_of(table, "a")["difference"] == pytest.approx(-0.1)
    assert tables.remarks(runs, "b", common=True) == [
        "Only the 1 of 2 folds and seeds that all rows have; fewer have: `a` (1)."
    ]


def test_rows_without_a_common_cell_keep_all_theirs_and_are_said():
    runs = make_runs(("a", 0, 0, 0.8), ("b", 1, 0, 0.9, EXACT), ("c", 1, 0, math.nan, {"status": "RUNNING"}))
    table = tables.comparison_table(runs, "b", common=True)
    assert table["test/top1"].dropna().tolist() == [0.9, 0.8]
    assert tables.remarks(runs, "b", common=True)[0] == (
        "The rows of `d · c` have no fold and seed in common: their means do not compare."
    )


def test_each_data_set_has_its_own_common_cells():
    other = {"dataset": "e", "data_hash": "i"}
    runs = make_runs(*UNEVEN, ("a", 5, 0, 0.3, other), ("b", 5, 0, 0.2, EXACT | other))
    table = tables.comparison_table(runs, tables.own_controls(runs), common=True)
    assert table["line"].tolist() == ["b · d", "a · d", "a · e", "b · e"]  # by data set, then best first
    assert table["runs"].tolist() == [1, 1, 1, 1]


def test_lines_are_told_apart_by_as_few_settings_as_can_be():
    """Data set, split, network and comparison differ together: the data set alone tells."""
    other = {"dataset": "e", "split": "t", "network": "big", "comparison": "x", "views": "3"}
    runs = make_runs(("a", 0, 0, 0.1), ("a", 0, 0, 0.2, other))
    assert runs["line"].tolist() == ["a · d", "a · e"]
    more = make_runs(("a", 0, 0, 0.1), ("a", 0, 0, 0.2, other), ("a", 0, 0, 0.2, {**other, "network": "small"}))
    assert more["line"].tolist() == ["a · small_cnn", "a · big", "a · small"]


def test_a_run_without_a_fold_is_another_cell_than_fold_0():
    runs = make_runs(("a", None, "0", 0.2), ("a", "0", "0", 0.6))
    assert line_of(tables.comparison_table(runs, None), "a")["test/top1"] == pytest.approx(0.4)


def test_the_relative_difference_is_of_scores_whose_size_depends_on_the_data():
    runs = make_runs(*(("a", fold, 0, 0.3) for fold in range(3)), *(("b", fold, 0, 0.2, EXACT) for fold in range(3)))
    runs["test/mse"] = runs["test/top1"] / 100
    line = line_of(tables.comparison_table(runs, "b", MSE), "a")
    assert (line["relative"], line["relative low"], line["relative high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert math.isnan(line_of(tables.comparison_table(runs, "b"), "a")["relative"])


def test_the_control_is_not_compared_with_itself(monkeypatch):
    asked = []
    whole = tables.statistics.paired_difference
    monkeypatch.setattr(tables.statistics, "paired_difference", lambda *given: asked.append(given) or whole(*given))
    table = tables.comparison_table(make_runs(*UNEVEN), "b", lines={"a"})
    assert (table["line"].tolist(), len(asked)) == (["a"], 1)
    assert tables.comparison_table(make_runs(*UNEVEN), "b", lines={"b"})["difference"].tolist() == [0.0]
    assert len(asked) == 1
