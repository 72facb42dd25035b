"""The page's logic, run by Streamlit's AppTest over a real store: what a person would read, without a browser."""

from __future__ import annotations

import pytest
from dashboard_store import TOP1, table_of, uri_of, write_run
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df

from dashboard.runs import open_store


def shown_texts(page):
    """Return every text that the comparison table shows in place of its numbers."""
    shown = convert_arrow_bytes_to_pandas_df(page.dataframe[0].proto.arrow_data.styler.display_values)
    return set(shown.astype(str).to_numpy().ravel())


def widget(page, key):
    return next(each for each in [*page.selectbox, *page.multiselect] if each.key == key)


def test_the_table_has_the_figures_of_the_store(open_page, demo_db):
    page = open_page(uri_of(demo_db))
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


def test_both_charts_are_drawn(open_page, demo_db):
    page = open_page(uri_of(demo_db))
    assert [chart.type for chart in page.get("vega_lite_chart")] == ["vega_lite_chart"] * 2


def test_the_address_chooses_rows_control_and_charts(open_page, demo_db):
    page = open_page(
        uri_of(demo_db), rows=["exact", "sideways"], control="frozen", metric="Training loss", cost="Peak memory"
    )
    table = table_of(page)
    assert sorted(table.index) == ["exact", "sideways"]
    # exact - frozen by fold: 0.16 and 0.28, though frozen itself is not shown
    assert table.loc["exact", "difference"] == pytest.approx(0.22)
    assert widget(page, "metric").value == "train/loss"
    assert widget(page, "cost").value == "memory/peak_mib"


def test_every_filter_is_bound_to_the_address(open_page, demo_db):
    page = open_page(uri_of(demo_db))
    keys = {each.key for each in [*page.selectbox, *page.multiselect]}
    assert keys == {"dataset", "comparison", "control", "rows", "metric", "axis", "cost"}
    assert all(each.proto.query_param_key == each.key for each in [*page.selectbox, *page.multiselect])


def test_an_address_with_a_row_that_is_gone_still_opens(open_page, demo_db):
    page = open_page(uri_of(demo_db), rows=["no such row"], dataset="no such set", cost="nothing")
    assert sorted(table_of(page).index) == sorted(TOP1)


def test_data_sets_are_chosen_and_not_mixed(open_page, demo_db):
    client = open_store(uri_of(demo_db))
    write_run(client, client.create_experiment("w"), "exact", 0, 0, dataset="weizmann", comparison=None, top1=0.5)
    page = open_page(uri_of(demo_db), dataset="moving_digits")
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
    page = open_page(uri_of(demo_db), comparison="demo")
    assert widget(page, "dataset").value == "moving_digits"
    assert widget(page, "comparison").value == "demo"
    assert table_of(page).loc["exact", "test/top1"] == pytest.approx(0.91)
    assert widget(open_page(uri_of(demo_db), comparison="no such"), "dataset").value == "weizmann"


def test_curves_leave_out_folds_on_which_settings_were_chosen(open_page, bare_db):
    client = open_store(uri_of(bare_db))
    write_run(client, client.create_experiment("x"), "exact", 0, 0, tuning="fold")
    page = open_page(uri_of(bare_db))
    assert any("has logged" in info.value for info in page.info)
    assert "1 of 1 runs on a fold or seed on which the settings were chosen" in page.warning[0].value


def test_only_running_runs_show_curves_and_say_that_there_is_no_result(open_page, bare_db):
    client = open_store(uri_of(bare_db))
    write_run(client, client.create_experiment("x"), "exact", 0, 0, top1=None, status="RUNNING")
    page = open_page(uri_of(bare_db))
    assert "1 of 1 runs not finished yet" in page.warning[0].value
    assert len(page.get("vega_lite_chart")) == 1
    assert any("No finished run" in info.value for info in page.info)


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
    page = open_page(uri_of(demo_db))
    client = open_store(uri_of(demo_db))
    write_run(client, client.get_experiment_by_name("demo").experiment_id, "exact", 1, 1, top1=0.5)
    page.button[0].click().run()
    assert not page.exception
    assert table_of(page).loc["exact", "runs"] == 4


def test_runs_without_validation_show_what_they_logged(open_page, bare_db):
    """Weizmann by default: all other persons train, none validates. The page once failed on the empty history."""
    client = open_store(uri_of(bare_db))
    experiment = client.create_experiment("weizmann", artifact_location="mlartifacts")
    write_run(client, experiment, "exact", 0, 0, validated=False)
    page = open_page(uri_of(bare_db))
    assert widget(page, "metric").options == ["Training loss"]
    assert widget(page, "metric").value == "train/loss"
    assert page.get("vega_lite_chart") or page.get("arrow_vega_lite_chart")
