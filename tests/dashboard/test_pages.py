"""The pages Predicted frames, Learning and Run over a real store, by Streamlit's AppTest; hostile runs among them."""

from __future__ import annotations

import json
import re
import sqlite3

import numpy as np
import pytest
from dashboard_store import uri_of, write_run
from frames_store import CLIPS, CONFIG, CONFUSION, NEWEST, clip, folder_of, frame_artifacts, npz, write_frames_run

from dashboard.pages.run import run_folder
from dashboard.runs import open_store

SCRIPT = """
from dashboard import links
from dashboard.pages import {page} as page
from dashboard.runs import tracking_uri
with links.written():
    page.draw(tracking_uri())
"""
HOSTILE = "<img src=x onerror=alert(1)> [l](javascript:alert(1)) $x$ :red[r] ../../etc/passwd"


@pytest.fixture
def open_one(monkeypatch, tmp_path):
    """Return a function: draw one page on a tracking URI with query parameters, and return it."""
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    monkeypatch.chdir(tmp_path)
    st.cache_data.clear()
    st.cache_resource.clear()

    def run(page, database, **parameters):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(database))
        drawn = AppTest.from_string(SCRIPT.format(page=page), default_timeout=60)
        for name, value in parameters.items():
            drawn.query_params[name] = value
        drawn.run()
        assert not drawn.exception, [(each.message, each.stack_trace) for each in drawn.exception]
        return drawn

    return run


@pytest.fixture
def client(bare_db):
    return open_store(uri_of(bare_db))


@pytest.fixture
def experiment(client, tmp_path):
    return client.create_experiment("future", artifact_location=(tmp_path / "artifacts").as_uri())


@pytest.fixture
def frames_db(bare_db, client, experiment):
    for row in ("skip-sideways", "sideways"):
        write_frames_run(client, experiment, row)
    return bare_db


def widget(page, key):
    return next(each for each in [*page.selectbox, *page.multiselect, *page.select_slider] if each.key == key)


def table_of(page):
    """Return the rows of the table of frames: {name: notes}, and the numbers of its columns."""
    (html,) = [each.proto.body for each in page.get("html") if 'class="frames"' in each.proto.body]
    rows = re.findall(r'<th scope="row"[^>]*>(?:<span[^>]*></span>)?([^<]*)</th>(.*?)</tr>', html)
    return {name: re.findall(r"<small>(.*?)</small>", cells) for name, cells in rows}, rows[0][1]


def columns_of(page):
    return [int(number) for number in re.findall(r">(\d+)</th>", table_of(page)[1])]


def texts(page):
    return " ".join(each.value for each in [*page.warning, *page.info, *page.error, *page.markdown, *page.caption])


# Predicted frames


def test_frames_of_every_run_stand_below_the_truth_with_their_scores(open_one, frames_db):
    page = open_one("frames", frames_db)
    rows, _ = table_of(page)
    assert [name for name in rows if name != "difference"] == [
        "frame",
        "truth",
        "copy last frame",
        "sideways",
        "skip-sideways",
    ]
    assert columns_of(page) == [NEWEST[0] + 1 + step for step in range(6)]
    # One ahead skip-sideways is 10 of 255 too bright: 20 log10(25.5) = 28.1 dB.
    assert rows["skip-sideways"] == ["28.1 dB"] * 6
    assert len(page.get("video")) == 1
    assert len(page.get("vega_lite_chart")) == 1


def test_the_slider_and_the_horizon_move_every_row_at_once(open_one, frames_db):
    page = open_one("frames", frames_db)
    widget(page, "horizon").set_value(3).run()
    assert columns_of(page)[0] == NEWEST[0] + 3
    # 30 of 255 too bright
    assert set(table_of(page)[0]["skip-sideways"]) == {"18.6 dB"}
    before = table_of(page)
    starts = widget(page, "frame").options
    widget(page, "frame").set_value(int(starts[-1])).run()
    assert columns_of(page)[-1] == NEWEST[-1] + 3
    assert table_of(page) != before
    assert page.query_params["horizon"] in ("3", ["3"])
    assert page.query_params["frame"] in (starts[-1], [starts[-1]])


def test_a_link_opens_the_same_frames(open_one, frames_db):
    page = open_one("frames", frames_db, horizon="2", clip="person/run_2", show="difference", frame="5")
    assert widget(page, "clip").value == "person/run_2"
    assert columns_of(page)[0] == 5
    assert "skip-sideways: difference" in table_of(page)[0]


def test_with_more_than_three_runs_the_page_opens_without_differences(open_one, frames_db, client, experiment):
    for row in ("exact", "another"):
        write_frames_run(client, experiment, row)
    write_frames_run(client, experiment, "going", status="RUNNING")
    page = open_one("frames", frames_db)
    assert list(table_of(page)[0]) == [
        "frame", "truth", "copy last frame", "another", "exact", "sideways", "skip-sideways"
    ]  # fmt: skip
    assert "4 of 5 rows are shown" in texts(page)
    widget(page, "show").set_value("both").run()
    # The largest error shown is 60 of 255, of sideways, all over the frame: black in the maps of all rows.
    assert "black 0.24 of the range" in texts(page)


def test_a_link_to_what_is_gone_still_opens(open_one, frames_db):
    page = open_one("frames", frames_db, horizon="99", clip="no such", show="x", frame="-1", runs=["f" * 32], score="?")
    assert len(table_of(page)[0]) >= 4


def test_runs_without_frames_are_named_with_what_they_lack(open_one, frames_db, client, experiment):
    write_frames_run(client, experiment, "no index", files={"predictions/index.json": b"{}"})
    run_id = write_run(client, experiment, "exact", 0, 0, task="future_frames", comparison="future", row="untested")
    page = open_one("frames", frames_db)
    assert "untested" in texts(page)
    assert r"no artifact predictions\/index\.json" in texts(page)
    assert "lists no horizons and clips" in texts(page)
    assert "skip-sideways" in table_of(page)[0]
    assert run_id


def test_a_clip_that_is_another_is_not_compared(open_one, frames_db, client, experiment):
    other = {f"{folder_of(name)}/context.npz": npz(context=clip("other")) for name in CLIPS}
    write_frames_run(client, experiment, "z-other", files=other)
    page = open_one("frames", frames_db, clip="person/run_2")
    assert "saved other frames under this clip" in texts(page)
    assert "z-other" not in table_of(page)[0]


def test_a_store_without_future_frames_says_what_to_type(open_one, demo_db):
    page = open_one("frames", demo_db)
    assert "No run here predicts frames" in page.info[0].value
    assert "--model FutureFrames" in page.code[0].value


def test_hostile_indexes_read_nothing_outside_and_the_other_runs_are_shown(
    open_one, frames_db, client, experiment, tmp_path
):
    """Paths that leave the run, a pickle and a lie about the size: each refused by name; the rest is shown."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "context.npz").write_bytes(npz(context=clip("person/run_2")))
    true = frame_artifacts(1)
    index = json.loads(true["predictions/index.json"])
    outside = ("../../../secret", str(secret), "predictions/../../../../secret", "file://" + str(secret))
    for number, folder in enumerate(outside):
        bad = {**index, "clips": [{**entry, "folder": folder} for entry in index["clips"]]}
        files = {"predictions/index.json": json.dumps(bad).encode()}
        write_frames_run(client, experiment, f"bad {number}", files=files, comparison="hostile")
    lies = {
        f"{folder_of(name)}/prediction.npz": npz(prediction=np.array([{}], object), frames=np.array([2]))
        for name in CLIPS
    }
    write_frames_run(client, experiment, "pickle", files=lies, comparison="hostile")
    write_frames_run(client, experiment, "skip-sideways", comparison="hostile")
    page = open_one("frames", frames_db, comparison="hostile")
    assert texts(page).count("is not a plain relative path") == 4
    assert "no plain array" in texts(page)
    assert list(table_of(page)[0]) == ["frame", "truth", "copy last frame", "skip-sideways"]


@pytest.mark.parametrize("page", ["frames", "learning", "run"])
def test_hostile_names_are_text_on_every_page(open_one, bare_db, client, experiment, page):
    names = {HOSTILE: HOSTILE, "y" * 10_000: "y" * 10_000}
    files = frame_artifacts(5, names)
    files["confusion.json"] = json.dumps({**CONFUSION, "class_names": [HOSTILE, "z" * 10_000, "\x00\u202e"]}).encode()
    run_id = write_frames_run(
        client, experiment, HOSTILE, dataset=HOSTILE, run_name=HOSTILE, comparison=HOSTILE, files=files
    )
    if page == "run":
        client.set_tag(run_id, "task", "action_recognition")
    with sqlite3.connect(bare_db) as connection:  # MLflow's client would refuse such a name, its store does not
        for table in ("metrics", "latest_metrics"):
            connection.execute(f"UPDATE {table} SET key = ? WHERE key = 'test/ssim_4'", (HOSTILE + "z" * 10_000,))
            connection.execute(f"UPDATE {table} SET key = ? WHERE key = 'alignment/unit_3'", ("alignment/unit_\u0663",))
    client.log_metric(run_id, "val/mse", float("nan"), step=200)
    client.log_metric(run_id, "val/mse", float("inf"), step=201)
    client.set_tag(run_id, "error", "# " + HOSTILE)
    drawn = open_one(page, bare_db)
    for html in drawn.get("html"):
        assert "<img src=x" not in html.proto.body
        assert len(html.proto.body) < 200_000
    unescaped = re.sub(r"(`+).*?\1", "", texts(drawn))  # a code span is plain text
    assert "](javascript" not in unescaped
    assert "<img" not in unescaped
    assert ":red[r]" not in unescaped
    assert "y" * 1000 not in texts(drawn)


# Learning


def test_every_logged_metric_can_be_chosen_and_the_axis_changes(open_one, frames_db):
    page = open_one("learning", frames_db)
    metric = widget(page, "metric")
    assert metric.value == "val/mse"
    assert {"train/loss", "frames_seen", "alignment/unit_1", "test/psnr_db_4"} <= set(metric.options)
    for axis in ("frames_seen", "seconds"):
        widget(page, "axis").set_value(axis).run()
        assert not page.exception
        assert len(page.get("vega_lite_chart")) == 3  # curves, and a heat map for each of two runs
    assert page.query_params["axis"] in ("seconds", ["seconds"])


def test_the_heat_maps_say_their_facts_in_a_table_too(open_one, frames_db):
    table = open_one("learning", frames_db).dataframe[1].value
    assert table.groupby("run")["unit"].apply(list).to_dict() == {"sideways": [1, 2, 3], "skip-sideways": [1, 2, 3]}
    first = table[table["unit"] == 1].iloc[0]
    assert (first["first"], first["last"]) == (pytest.approx(1.0), pytest.approx(0.1))


def test_runs_without_figures_of_units_say_which_option_logs_them(open_one, demo_db):
    page = open_one("learning", demo_db)
    assert "--model.log_gradients_every" in texts(page)
    assert len(page.get("vega_lite_chart")) == 1


# Run


def test_a_run_shows_its_parts_and_how_to_test_it_again(open_one, frames_db, client, experiment):
    config = CONFIG.replace("dirpath: null", "dirpath: out/runs/a-row").encode()
    files = {"confusion.json": json.dumps(CONFUSION).encode(), "config.yaml": config}
    run_id = write_frames_run(client, experiment, "skip-sideways", seed=3, files=files, task="action_recognition")
    page = open_one("run", frames_db, run=run_id)
    assert widget(page, "run").value == run_id
    assert "**finished**" in page.success[0].value
    codes = [block.value for block in page.code]
    assert codes[0] == "skip-sideways test --ckpt_path out/runs/a-row/last.ckpt"
    assert any("class_path: FutureFrames" in block for block in codes)
    assert any('"torch": "2.13.0"' in block for block in codes)
    assert any('class="clock"' in each.proto.body for each in page.get("html"))
    classes = next(table.value for table in page.dataframe if "taken for" in table.value)
    assert classes["accuracy"].round(2).tolist()[:2] == [0.75, 1.0]


def test_a_failed_run_shows_its_error_and_how_to_go_on(open_one, bare_db, client, experiment):
    name = "x; rm -rf ~ `id`"
    run_id = write_frames_run(
        client, experiment, "sideways", status="FAILED", error="ValueError: broken", run_name=name, comparison=""
    )
    page = open_one("run", bare_db, run=run_id)
    assert "**failed**" in page.error[0].value
    codes = [block.value for block in page.code]
    assert codes[0] == "ValueError: broken"
    assert codes[1] == "skip-sideways fit --config 'runs/x; rm -rf ~ `id`'/config.yaml --ckpt_path last"
    assert "To continue it" in texts(page)


def test_a_running_run_is_not_said_to_have_ended_and_one_without_values_says_so(open_one, bare_db, client, experiment):
    run = client.create_run(experiment, tags={"kind": "run", "row": "new", "dataset": "d", "task": "action_recognition",
                                              "comparison": "c", "run_name": "n", "schema_version": "1"})  # fmt: skip
    page = open_one("run", bare_db, run=run.info.run_id)
    assert "This run has logged nothing yet." in texts(page)
    assert not [table for table in page.dataframe if "metric" in table.value]
    # of a comparison, whose folder only the configuration would tell
    assert not page.code
    client.log_text(run.info.run_id, "checkpoint:\n  dirpath: out/runs/new\n", "config.yaml")
    page = open_one("run", bare_db, run=run.info.run_id)
    assert "If it was killed, to continue it" in texts(page)
    assert page.code[0].value == "skip-sideways fit --config out/runs/new/config.yaml --ckpt_path last"


@pytest.mark.parametrize("config", ["", "[1]", "checkpoint: 3", "{", "checkpoint: {dirpath: [x]}", "a: &a [*a]"])
def test_a_configuration_that_names_no_folder_leaves_the_name(config):
    tags = {"run_name": "x\ny"}
    assert run_folder(config, tags) == "runs/xy"
    assert run_folder("trainer: {default_root_dir: out}", tags) == "out/xy"
    assert run_folder(config, {**tags, "comparison": "c"}) is None


def test_a_link_to_a_run_that_is_not_there_says_so(open_one, frames_db):
    page = open_one("run", frames_db, run="0000")
    assert "The run `0000` of the address is not in this store" in texts(page)
    assert page.query_params["run"] != "0000"


def test_parts_that_a_run_lacks_are_named(open_one, demo_db):
    said = texts(open_one("run", demo_db))
    for artifact in ("confusion", "clock", "config", "environment"):
        assert rf"This run has no artifact {artifact}\." in said


def test_a_link_to_a_run_opens_its_data_set_and_comparison(open_one, frames_db, client):
    other = client.create_experiment("w", artifact_location=None)
    run_id = write_run(client, other, "exact", 0, 0, dataset="weizmann", comparison="w")
    newer = write_frames_run(client, client.get_experiment_by_name("future").experiment_id, "sideways", seed=9)
    page = open_one("run", frames_db, run=run_id)
    assert (widget(page, "dataset").value, widget(page, "run").value) == ("weizmann", run_id)
    assert widget(open_one("run", frames_db), "run").value == newer


@pytest.mark.parametrize("page", ["frames", "learning", "memory", "run"])
def test_an_empty_and_a_missing_store_say_what_to_type(open_one, bare_db, tmp_path, page):
    assert "make demo" in [block.value for block in open_one(page, bare_db).code]
    assert "make demo" in [block.value for block in open_one(page, tmp_path / "none.db").code]
