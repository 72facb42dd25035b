"""The first page's logic, run by Streamlit's AppTest over a real store: what a person would read, without a browser."""

from __future__ import annotations

import json

import pytest
from dashboard_store import EASY, TOP1, table_of, uri_of, write_frames_run, write_run
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df
from streamlit.util import calc_hash

from dashboard import cached
from dashboard.runs import open_store


def shown_texts(page):
    """Return every text that the comparison table shows in place of its numbers."""
    shown = convert_arrow_bytes_to_pandas_df(page.dataframe[0].proto.arrow_data.styler.display_values)
    return set(shown.astype(str).to_numpy().ravel())


def widget(page, key):
    return next(each for each in [*page.selectbox, *page.multiselect] if each.key == key)


def test_the_table_has_the_figures_of_the_store(open_page, demo_db):
    page = open_page(uri_of(demo_db), common="off")
    table = table_of(page)
    assert sorted(table.index) == sorted(TOP1)
    exact, frozen = table.loc["exact"], table.loc["frozen"]
    # exact: fold means 0.88 and 0.94
    assert exact["test/top1"] == pytest.approx(0.91)
    assert "0.910 ± 0.042" in shown_texts(page)
    # frozen - skip-sideways: -0.18 and -0.13 in fold 0, -0.24 in fold 1
    assert frozen["difference"] == pytest.approx((-0.155 - 0.24) / 2)
    assert (exact["runs"], exact["folds"], exact["seeds"]) == (3, 2, 2)
    # fold 1 adds 0.1 ms to 2.0: mean over folds 2.05
    assert exact["latency/tick_ms"] == pytest.approx(2.05)


def test_the_control_is_the_comparison_s_and_the_failed_run_is_said_and_listed(open_page, demo_db):
    page = open_page(uri_of(demo_db))
    assert widget(page, "control").value == "skip-sideways"
    assert "1 of 12 runs failed" in page.warning[0].value
    listed = page.dataframe[1].value
    assert listed["status"].tolist().count("FAILED") == 1
    assert len(listed) == 12


def test_the_address_chooses_rows_control_and_score(open_page, demo_db):
    page = open_page(uri_of(demo_db), rows=["exact", "sideways"], control="frozen", score="test/loss", common="off")
    table = table_of(page)
    # a loss: the least first
    assert table.index.tolist() == ["exact", "sideways"]
    # exact - frozen by fold: 0.16 and 0.28 in top-1, though frozen itself is not shown; the loss is 1 - top-1
    assert table.loc["exact", "difference"] == pytest.approx(-0.22)
    assert widget(page, "score").value == "test/loss"


def test_every_choice_is_in_the_address(open_page, demo_db):
    page = open_page(uri_of(demo_db))
    assert page.query_params == {
        "task": "action_recognition",
        "dataset": "moving_digits",
        "comparison": "demo",
        "control": "skip-sideways",
        "score": "test/top1",
        "common": "on",
    }
    widget(page, "rows").set_value(["exact"]).run()
    assert page.query_params["rows"] == "exact"


def test_an_address_with_a_row_that_is_gone_still_opens(open_page, demo_db):
    page = open_page(uri_of(demo_db), rows=["no such row"], dataset="no such set", score="nothing")
    assert sorted(table_of(page).index) == sorted(TOP1)


def test_data_sets_are_chosen_and_not_mixed(open_page, demo_db):
    client = open_store(uri_of(demo_db))
    write_run(client, client.create_experiment("w"), "exact", 0, 0, dataset="weizmann", comparison=None, top1=0.5)
    page = open_page(uri_of(demo_db), dataset="moving_digits", common="off")
    assert table_of(page).loc["exact", "test/top1"] == pytest.approx(0.91)
    widget(page, "dataset").set_value("weizmann").run()
    assert not page.exception
    assert table_of(page)["test/top1"].tolist() == [0.5]
    assert widget(page, "comparison").value == "single runs"


def test_a_link_that_names_a_comparison_alone_opens_its_data_set(open_page, demo_db):
    """The page once dropped the comparison, since the newest run was of another data set."""
    client = open_store(uri_of(demo_db))
    write_run(client, client.create_experiment("w"), "exact", 0, 0, dataset="weizmann", comparison="w", top1=0.5)
    assert widget(open_page(uri_of(demo_db)), "dataset").value == "weizmann"
    page = open_page(uri_of(demo_db), comparison="demo", common="off")
    assert widget(page, "dataset").value == "moving_digits"
    assert widget(page, "comparison").value == "demo"
    assert table_of(page).loc["exact", "test/top1"] == pytest.approx(0.91)
    assert widget(open_page(uri_of(demo_db), comparison="no such"), "dataset").value == "weizmann"


def test_folds_on_which_settings_were_chosen_are_said(open_page, bare_db):
    client = open_store(uri_of(bare_db))
    write_run(client, client.create_experiment("x"), "exact", 0, 0, tuning="fold")
    page = open_page(uri_of(bare_db))
    assert "1 of 1 runs on a fold or seed on which the settings were chosen" in page.warning[0].value


def test_a_running_run_is_listed_and_shown_again_as_soon_as_it_ends(open_page, bare_db):
    client = open_store(uri_of(bare_db))
    run_id = write_run(client, client.create_experiment("x"), "exact", 0, 0, top1=None, status="RUNNING")
    page = open_page(uri_of(bare_db))
    assert "1 of 1 runs not finished yet" in page.warning[0].value
    client.log_metric(run_id, "test/top1", 0.5)
    client.set_terminated(run_id)
    cached.forget()  # as after FRESH_S seconds
    page.run()
    assert not page.warning
    assert table_of(page).loc["exact", "test/top1"] == 0.5


def test_only_a_store_that_can_change_is_looked_at_again(open_page, demo_db, monkeypatch):
    looks = []
    monkeypatch.setattr("dashboard.refresh._look", lambda uri, seen: looks.append(seen))
    open_page(uri_of(demo_db))
    assert looks == []
    client = open_store(uri_of(demo_db))
    write_run(client, client.create_experiment("x"), "exact", 0, 0, top1=None, status="RUNNING")
    cached.forget()
    open_page(uri_of(demo_db))
    open_page("sqlite:///none.db")
    assert len(looks) == 2


def test_runs_of_other_projects_and_versions_are_said_and_not_shown(open_page, demo_db):
    client = open_store(uri_of(demo_db))
    other = client.create_experiment("other")
    client.create_run(other)
    client.create_run(other, tags={"kind": "of theirs"})
    for version in ("0", "99", "x", None):
        write_run(client, other, "exact", 0, 0, schema_version=version)
    page = open_page(uri_of(demo_db), common="off")
    assert table_of(page).loc["exact", "runs"] == 3
    assert page.caption[-1].value == (
        "This store holds other runs that are not shown: "
        "1 of a newer version of the run layout (99; this dashboard reads 1); "
        "1 of an older version of the run layout (0; this dashboard reads 1); "
        "2 of no known version of the run layout; 2 of other projects."
    )


def test_a_missing_store_shows_the_command_and_stays_missing(open_page, tmp_path):
    page = open_page(uri_of(tmp_path / "none.db"))
    commands = [block.value for block in page.code]
    assert "make demo" in commands
    assert "skip-sideways compare --config app/configs/comparisons/demo.yaml" in commands
    assert not (tmp_path / "none.db").exists()


def test_a_store_without_runs_shows_the_command(open_page, bare_db):
    page = open_page(uri_of(bare_db))
    assert "No runs yet" in page.info[0].value
    assert "make demo" in [block.value for block in page.code]


def test_an_absent_server_is_said_in_words(open_page, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    page = open_page("http://127.0.0.1:9")
    assert "does not answer" in page.error[0].value
    assert not page.dataframe


def test_reload_shows_a_run_that_has_come_since(open_page, demo_db):
    page = open_page(uri_of(demo_db), common="off")
    client = open_store(uri_of(demo_db))
    write_run(client, client.get_experiment_by_name("demo").experiment_id, "exact", 1, 1, top1=0.5)
    next(button for button in page.button if button.label == "Reload").click().run()
    assert not page.exception
    assert table_of(page).loc["exact", "runs"] == 4


def test_the_files_hold_the_table(open_page, demo_db):
    page = open_page(uri_of(demo_db), control="exact")
    assert [button.label for button in page.get("download_button")] == ["Download csv", "Download LaTeX"]


def test_all_data_sets_stand_in_one_table_each_with_its_own_control(open_page, demo_db):
    client = open_store(uri_of(demo_db))
    experiment = client.create_experiment("w")
    for row, top1 in (("exact", 0.5), ("sideways", 0.4)):
        write_run(client, experiment, row, 0, 0, dataset="weizmann", comparison="w", data_hash="w", top1=top1)
    page = open_page(uri_of(demo_db), dataset="all", comparison="all")
    table = page.dataframe[0].value
    assert len(table) == len(TOP1) + 2
    assert table[table["dataset"] == "weizmann"]["difference"].dropna().tolist() == pytest.approx([0.0, -0.1])


def test_future_frames_have_their_scores_baselines_and_horizons(open_page, frames_db):
    page = open_page(uri_of(frames_db))
    assert widget(page, "score").value == "test/mse"
    table = table_of(page)
    assert table.index.tolist() == [
        "exact",
        "skip-sideways",
        "copy the last frame",
        "sideways",
        "mean of the last frames",
    ]
    assert table.loc["sideways", "lmin"] == "6"
    assert table.loc["exact", "runs"] == 3
    # in thousandths, as the header says
    assert table.loc["copy the last frame", "difference"] == pytest.approx(16 - 11)
    assert {"12.0 ± 1.0", "+1.00 [+1.00, +1.00]", "+45.5 [+33.3, +60.0]"} <= shown_texts(page)
    assert '"label": "MSE ×10⁻³"' in json.dumps(json.loads(page.dataframe[0].proto.columns), ensure_ascii=False)
    widget(page, "horizon").set_value("1").run()
    assert not page.exception
    assert table_of(page).loc["skip-sideways", "test/mse_1"] == pytest.approx(0.8 * 12)
    assert page.query_params["horizon"] == "1"
    assert not page.warning


def test_rows_scored_on_other_frames_are_said(open_page, frames_db):
    client = open_store(uri_of(frames_db))
    write_frames_run(client, client.create_experiment("x"), "sideways", 0, 1, mse=0.02)
    write_frames_run(client, client.create_experiment("y"), "exact", 0, 1, mse=0.02, copy_last=0.5)
    page = open_page(uri_of(frames_db))
    assert "copy the last frame: differs between the rows in 1 of 4 folds and seeds" in page.warning[0].value


def test_a_choice_goes_along_to_the_next_page(open_page, demo_db):
    page = open_page(uri_of(demo_db), rows=["exact", "sideways"])
    page._page_hash = calc_hash("cost")
    page.query_params.clear()  # as the browser does
    page.run()
    assert not page.exception
    assert sorted(page.dataframe[0].value["Row"]) == ["exact", "sideways"]
    assert page.query_params["rows"] == ["exact", "sideways"]


def test_an_easy_fold_alone_makes_no_row_look_best(open_page, uneven_db):
    """By the means of all runs the row on the easy fold leads; on the fold that all have it is the last."""
    page = open_page(uri_of(uneven_db))
    means = table_of(page)
    assert means.index[-1] == EASY
    assert means["folds"].unique().tolist() == [1]
    assert means.loc[EASY, "difference"] == pytest.approx(
        means.loc[EASY, "test/top1"] - means.loc["exact", "test/top1"]
    )
    assert f"fewer have: `{EASY}` (1)" in page.warning[0].value
    page = open_page(uri_of(uneven_db), common="off")
    assert table_of(page).index[0] == EASY
    assert "their means and their order do not compare" in page.warning[0].value
    page = open_page(uri_of(uneven_db), "cost", cost="latency/tick_ms")
    assert page.dataframe[0].value.set_index("Row").loc[EASY, "Top-1"] == "0.780"
    assert page.dataframe[0].value.set_index("Row").loc["exact", "Top-1"] == "0.900"
    page = open_page(uri_of(uneven_db), rows=["exact", "variant 1"])
    assert not [each for each in page.toggle if each.key == "common"]  # all of these have the same folds


def test_missing_cells_read_as_a_dash(open_page, frames_db):
    page = open_page(uri_of(frames_db))
    assert page.dataframe[0].proto.placeholder == "–"


def test_the_second_look_at_the_same_table_computes_nothing(open_page, demo_db, monkeypatch):
    page = open_page(uri_of(demo_db))
    monkeypatch.setattr("dashboard.tables.comparison_table", lambda *given, **choice: pytest.fail("computed again"))
    page.run()
    assert not page.exception
