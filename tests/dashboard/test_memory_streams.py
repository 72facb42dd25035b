"""Saved streams: what is checked before it is shown, the chart, the frames, and scores against the gap."""

from __future__ import annotations

import json
from dataclasses import replace

import altair as alt
import numpy as np
import pandas as pd
import pytest
from memory_store import CUE, GAPS, chosen, entry, memory_artifacts, stream_arrays, uncertainty

from dashboard import charts, memory_chart, memory_gaps, memory_strip
from dashboard.memory_chart import ANSWER, BOTH, CHOSEN
from dashboard.memory_streams import Entry, NoStreams, Stream, parse_index, roles, stream
from dashboard.palette import KNOWN, Palette, own_style
from dashboard.runs import as_table
from dashboard.scores import scores_of

GAP = 40
LAST = CUE + GAP
NAME = Entry("a", "memory/a.npz", (LAST,), CUE)


def parsed(**changes):
    content = json.loads(memory_artifacts(GAP)["memory/streams.json"])
    return parse_index({**content, **changes})


def bare(values, chosen=(), answers=()):
    count = np.zeros(len(answers), np.int64)
    return Stream(np.asarray(values, float), tuple(chosen), tuple(answers), count, count, count.astype(float))


def test_the_index_of_the_artifact_layout_is_read():
    index = parsed()
    assert (index.detector, index.selector, index.k, index.rollout, index.gap) == ("entropy", "top_k", 4, 8, GAP)
    assert index.has_frames
    assert index.streams["test-0-1"] == Entry("test-0-1", "memory/test-0-1.npz", (LAST,), CUE)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"schema": 2, "streams": []},
        {"schema": 1},
        {"schema": 1, "streams": {"a": 1}},
        {"schema": "1", "streams": []},
        {"schema": 1, "streams": [], "class_names": 3},
    ],
)
def test_an_index_that_is_none_is_refused(content):
    with pytest.raises(NoStreams, match=r"memory/streams\.json"):
        parse_index(content)


def test_entries_that_are_none_are_left_out_and_odd_numbers_read_as_none():
    good = entry("a", 45, [3, 1, 3])
    odd = [3, {}, {**good, "id": 5}, {**good, "file": None}, {**good, "answers": "x"}, {**good, "answers": [1.5]}, good]
    index = parsed(streams=odd, k="many", rollout=-1, gap=1e400, detector=None)
    assert list(index.streams) == ["a"]
    assert index.streams["a"].answers == (1, 3)
    assert (index.k, index.rollout, index.gap, index.detector) == (0, 0, 0, "")


@pytest.mark.parametrize(
    ("value", "said"),
    [(3, "3"), (-100, "–"), (12, "12"), (-1, "-1"), (0.25, "0.25"), (np.nan, "–"), (np.int64(9), "9")],
)
def test_a_class_is_called_by_its_name_and_what_is_none_by_its_number(value, said):
    assert parsed().name(value) == said


def test_a_stream_counts_chosen_answers_and_right_ones():
    found = stream(NAME, stream_arrays(GAP, 3))
    assert found.steps == CUE + GAP + 1
    assert found.chosen[:2] == (LAST, CUE + GAP // 3)
    assert (found.chosen_answers, found.right, found.numeric) == (1, 1, False)
    assert stream(NAME, stream_arrays(GAP, 3, right=False)).right == 0
    # -1 stands for no step, and one that is chosen twice counts once
    few = {**stream_arrays(GAP, 3), "chosen": np.array([LAST, -1, LAST, -1])}
    assert stream(NAME, few).chosen == (LAST,)


def test_what_a_frame_is_follows_from_the_cue_the_choice_and_the_answers():
    found = stream(NAME, stream_arrays(GAP, 3))
    named = dict(zip(found.shown, roles(found), strict=True))
    assert [step for step, each in named.items() if "cue" in each] == [0, 1, CUE - 1]
    assert named[LAST] == ["chosen", "answer"]
    assert [step for step, each in named.items() if "chosen" in each] == sorted(chosen(GAP))
    assert not any("cue" in each for each in roles(stream(replace(NAME, cue=0), stream_arrays(GAP, 3))))


@pytest.mark.parametrize(
    ("said", "gap", "cue"),
    [({"cue": 7}, GAP, 7), ({}, GAP, LAST - 3 - GAP), ({}, 0, 0), ({"cue": "x"}, GAP, 0), ({"cue": -1}, GAP, 0)],
)
def test_the_cue_ends_where_the_run_says_else_before_the_gap_of_the_first_answer(said, gap, cue):
    """The page had a formula of its own, wrong where a stream does not end with its answers."""
    index = parsed(gap=gap, streams=[{**entry("a", LAST + 9, [LAST - 3, LAST]), **said}])
    assert index.streams["a"].cue == cue


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": np.zeros(4, np.int64)}, "45 uncertainties and 4 targets"),
        ({"uncertainty": np.zeros((45, 1))}, "one dimension"),
        ({"uncertainty": np.zeros(45, bool)}, "expected numbers"),
        ({"uncertainty": np.array(["x"] * 45)}, "expected numbers"),
        ({"chosen": np.array([45])}, "step 45 of a stream of 45"),
        ({"chosen": np.array([-2])}, "step -2"),
        ({"chosen": np.array([1.5])}, "expected whole numbers"),
        ({"prediction": np.zeros(2, np.int64)}, "2 predictions and 1 probabilities stand for 1 answers"),
        ({"frames": np.zeros((3, 1, 8, 8), np.uint8)}, "expected uint8"),
        ({"frames": np.zeros((13, 1, 8, 8))}, "float64"),
        ({"shown": np.array([0]), "frames": np.zeros((1, 2, 8, 8), np.uint8)}, "1 or 3 channels"),
        ({"shown": np.array([0]), "frames": np.zeros((1, 1, 0, 8), np.uint8)}, "1 or 3 channels"),
        ({"shown": np.array([99]), "frames": np.zeros((1, 1, 8, 8), np.uint8)}, "`shown` names step 99"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(changes, reason):
    with pytest.raises(NoStreams, match=reason):
        stream(NAME, {**stream_arrays(GAP, 3), **changes})


def test_answers_outside_the_stream_are_refused():
    with pytest.raises(NoStreams, match="`answers` names step 45"):
        stream(Entry("a", "f", (45,)), stream_arrays(GAP, 3))


def test_a_long_stream_is_thinned_and_keeps_its_peaks():
    values = np.zeros(5000)
    values[[17, 2500, 4999]] = 1.0, 3.0, 2.0
    values[100:200] = np.nan
    table = memory_chart.thinned(values)
    assert len(table) == 600
    assert table.set_index("step")["value"].loc[[17, 2500, 4999]].tolist() == [1.0, 3.0, 2.0]
    assert not table["step"].between(100, 199).any()
    assert len(memory_chart.thinned(values, 4500)) == 500
    assert memory_chart.thinned(values, 4500)["step"].min() == 4500


def test_a_step_without_an_uncertainty_has_no_point_on_the_line_and_its_mark_is_at_the_bottom():
    found = bare([np.nan, 0.5, np.nan, 0.7], chosen=(3, 1), answers=(2, 3))
    assert memory_chart.thinned(found.uncertainty_T)["step"].tolist() == [1, 3]
    marks = memory_chart.marked(found).set_index("step")
    assert marks["kind"].to_dict() == {1: CHOSEN, 2: ANSWER, 3: BOTH}
    assert marks["value"].to_dict() == {1: 0.5, 2: 0.0, 3: 0.7}


def test_of_very_many_answers_some_are_drawn():
    found = bare(np.zeros(20_000), answers=range(20_000), chosen=(19_999,))
    marks = memory_chart.marked(found)
    assert len(marks) <= 601
    assert BOTH in set(marks["kind"])


@pytest.mark.parametrize("found", [bare([]), bare([np.nan, np.nan]), bare([1.0], (0,), (0,)), bare(uncertainty(GAP))])
def test_a_chart_of_little_is_a_chart(found):
    spec = memory_chart.chart(found, 8).to_dict()
    assert ("rect" in json.dumps(spec)) == (found.steps > 8)
    assert spec["width"] == "container"


def test_the_frames_hold_their_pixels_and_their_steps():
    found = stream(NAME, stream_arrays(GAP, 3))
    html = memory_strip.strip(found.shown, found.frames_nCHW, roles(found), '"><img src=x onerror=y>')
    assert "<img src=x" not in html
    assert html.count("<li>") == len(found.shown)
    assert f'alt="step {LAST}: chosen, answer"' in html
    assert "data:image/png;base64," in html


# Against the gap


def record(row, gap, top1, /, **changes):
    return {"run_id": f"{row}{gap}{top1}", "row": row, "rule": "memup", "wiring": "", "network": "lstm",
            "status": "FINISHED", "dataset": "d", "comparison": "c", "task": "t", "fold": "0", "seed": "0",
            "gap": gap, "started": 1, "test/top1": top1, **changes}  # fmt: skip


def gaps_of(*records):
    return memory_gaps.joined(memory_gaps.with_gap(as_table(list(records))))


def test_rows_of_a_comparison_are_joined_by_what_stands_before_the_at():
    runs = gaps_of(
        record("memup@gap40", "40", 0.9, seed="0", views="of 45"),
        record("memup@gap40", "40", 0.7, seed="1", views="of 45"),
        record("memup@gap100", "100", 0.6, views="of 105"), record("other@gap40", "40", 0.1),
    )  # fmt: skip
    table = memory_gaps.points(runs, "test/top1").set_index(["line", "gap"])
    assert list(table.index) == [("memup", 40), ("memup", 100), ("other", 40)]
    found = table.loc[("memup", 40)]
    assert found[["mean", "low", "high", "runs"]].tolist() == [pytest.approx(0.8), 0.7, 0.9, 2]
    assert found["std"] == pytest.approx(0.2 / np.sqrt(2))
    assert np.isnan(table.loc[("memup", 100), "std"])


def test_networks_detectors_encoders_and_comparisons_of_one_name_are_lines_of_their_own():
    runs = gaps_of(record("memup", "40", 0.9), record("memup", "40", 0.8, network="gru"), record("memup", "40", 0.7,
                   comparison="other"), record("memup", "40", 0.6, encoder="joint"), record("memup", "40", 0.5,
                   encoder="joint", detector="surprise"))  # fmt: skip
    table = memory_gaps.points(runs, "test/top1")
    assert sorted(table["mean"]) == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert all(line.startswith("memup") for line in table["line"])


def test_only_finished_runs_count_and_of_a_repeated_one_the_newest():
    runs = gaps_of(
        record("memup", "40", 0.2, started=1), record("memup", "40", 0.9, started=2),
        record("memup", "40", 0.1, status="FAILED", started=3), record("memup", "40", 0.1, tuning="yes", started=4),
    )  # fmt: skip
    assert memory_gaps.points(runs, "test/top1")["mean"].tolist() == [0.9]


@pytest.mark.parametrize("tag", [None, "", "many", "4.5", "-3", "1e3", "٤", "9" * 30])
def test_a_gap_that_is_no_whole_number_is_none(tag):
    assert memory_gaps.with_gap(as_table([record("memup", tag, 0.5)])).empty


def test_chance_is_what_runs_say_and_of_the_main_score_alone():
    """Of classes that no answer is of, as the digits that pass by, it was guessed to be half of what it is."""
    runs = gaps_of(record("memup", "40", 0.5, **{"test/loss": 1.0, "test/chance": 0.11}))
    assert memory_gaps.chance_of(runs, "test/top1") == 0.11
    assert memory_gaps.chance_of(runs, "test/loss") is None
    told = gaps_of(record("memup", "40", np.nan, **{"test/mse": 0.01, "test/chance": 0.167}))
    assert memory_gaps.chance_of(told, "test/mse") == 0.167
    assert memory_gaps.chance_of(gaps_of(record("memup", "40", 0.5)), "test/top1") is None


def test_two_folders_at_one_gap_are_two_lines():
    """They were one, of which the later run alone was shown."""
    runs = gaps_of(
        record("memup", "40", 0.9, data_hash="a" * 16), record("memup", "40", 0.7, data_hash="b" * 16),
        record("memup", "100", 0.6, data_hash="b" * 16), record("other", "40", 0.1, data_hash="a" * 16),
    )  # fmt: skip
    table = memory_gaps.points(runs, "test/top1").set_index(["line", "gap"])["mean"]
    ours = {("memup · data aaaaaaaa", 40): 0.9, ("memup · data bbbbbbbb", 40): 0.7, ("memup · data bbbbbbbb", 100): 0.6}
    assert table.to_dict() == {**ours, ("other", 40): 0.1}


def test_data_that_differs_with_gap_and_fold_is_one_line():
    told = [("40", "0", "a"), ("40", "1", "b"), ("100", "0", "c"), ("100", "1", "d")]
    runs = gaps_of(*(record("memup", gap, 0.5, fold=fold, data_hash=data) for gap, fold, data in told))
    assert {*runs["line"]} == {"memup"}


@pytest.mark.parametrize(("gaps", "kind"), [(GAPS, "log"), ((0, 40), "symlog"), ((40,), "log")])
def test_the_axis_is_logarithmic_with_a_tick_at_every_gap(gaps, kind):
    runs = gaps_of(*(record(f"memup@{gap}", str(gap), 0.5) for gap in gaps))
    table = memory_gaps.points(runs, "test/top1")
    spec = charts.score_against_gap(table, Palette(runs), "Share", share=True, chance=0.1).to_dict()
    axes = [layer["encoding"]["x"] for layer in spec["layer"] if layer["encoding"].get("x", {}).get("field") == "gap"]
    assert {each["scale"]["type"] for each in axes} == {kind}
    assert axes[0]["axis"]["values"] == list(gaps)
    assert "chance 0.1" in json.dumps(spec)
    assert isinstance(charts.score_against_gap(table, Palette(runs), "Share"), alt.LayerChart)


def test_the_file_names_the_metric_and_runs_no_formula():
    table = pd.DataFrame(
        {"line": ["=1+1"], "gap": [40], "mean": [0.5], "std": [0.1], "low": [0.4], "high": [0.6], "runs": [2]}
    )
    assert memory_gaps.csv(table, "test/top1").splitlines() == [
        "line,gap,test/top1 mean,test/top1 std,test/top1 low,test/top1 high,runs",
        "'=1+1,40,0.5,0.1,0.4,0.6,2",
    ]


def test_a_variant_looks_like_its_row_and_leaves_the_look_to_it():
    assert own_style("memup", "") == (own_style("memup@gap40", "")[0], True)
    assert own_style("memup@gap40", "")[1] is False
    assert len({own_style(row, "")[0] for row in KNOWN}) == len(KNOWN)
    runs = gaps_of(record("memup", "40", 0.5)).assign(line="memup")
    lines = [runs.assign(row=row, line=row) for row in ("memup@gap100", "memup", "memup@gap40")]
    palette = Palette(pd.concat(lines))
    looks = [(palette.shape(line), tuple(palette.dash(line))) for line in ("memup", "memup@gap40", "memup@gap100")]
    assert len(set(looks)) == 3
    assert len({shape for shape, _ in looks}) == 1


def test_the_other_pages_compare_such_runs_by_their_answers():
    runs = as_table([record("memup", "40", 0.5, **{"test/loss": 1.0})])
    assert [score.metric for score in scores_of("long_memory", runs)] == ["test/top1", "test/loss"]
    numbers = as_table([record("memup", "40", np.nan, **{"test/mse": 0.1})])
    assert [(score.metric, score.lower) for score in scores_of("long_memory", numbers)] == [("test/mse", True)]
    assert [score.short for score in scores_of("unheard of", runs)] == ["Top-1", "Loss"]
