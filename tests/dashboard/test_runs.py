"""dashboard.runs reads what the MLflow client wrote, and never writes."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from dashboard_store import TOP1, uri_of, write_run

from dashboard.baselines import with_baselines
from dashboard.histories import read_timed_history
from dashboard.runs import StoreMissing, StoreUnreachable, as_table, open_store, read_runs, tracking_uri


def runs_of(database):
    return read_runs(open_store(uri_of(database)), uri_of(database))


def test_reads_every_run_of_kind_run_and_no_parent(demo_db):
    runs = runs_of(demo_db)
    assert len(runs) == sum(map(len, TOP1.values())) + 1
    assert sorted(runs["status"].unique()) == ["FAILED", "FINISHED"]
    exact = runs[runs["row"] == "exact"].set_index(["fold", "seed"])["test/top1"]
    assert exact.to_dict() == TOP1["exact"]


def test_types(demo_db):
    runs = runs_of(demo_db)
    assert str(runs["fold"].dtype) == "Int64"
    assert str(runs["started"].dt.tz) == "UTC"
    failed = runs[runs["status"] == "FAILED"].iloc[0]
    assert math.isnan(failed["test/top1"])
    assert failed["ended"] >= failed["started"]


def test_a_running_run_has_no_end_and_single_runs_no_comparison(bare_db):
    client = open_store(uri_of(bare_db))
    write_run(client, client.create_experiment("x"), "exact", 0, 0, status="RUNNING", comparison=None)
    run = runs_of(bare_db).iloc[0]
    assert run["status"] == "RUNNING"
    assert run["ended"] is not None
    assert str(run["ended"]) == "NaT"
    assert run["comparison"] is None


def test_an_unnamed_row_is_named_by_rule_and_wiring(bare_db):
    client = open_store(uri_of(bare_db))
    write_run(client, client.create_experiment("x"), "sideways", 0, 0, row=None)
    assert runs_of(bare_db).loc[0, "row"] == "sideways chain"


def test_more_runs_than_a_page(bare_db, monkeypatch):
    monkeypatch.setattr("dashboard.runs._PAGE", 2)
    client = open_store(uri_of(bare_db))
    for name in "abc":
        experiment = client.create_experiment(name)
        for seed in range(2):
            write_run(client, experiment, "exact", 0, seed)
    assert len(runs_of(bare_db)) == 6


def test_history_is_by_step_and_keeps_the_later_of_two(demo_db):
    client = open_store(uri_of(demo_db))
    run_id = runs_of(demo_db).query("row == 'exact' and fold == 0 and seed == 0")["run_id"].item()
    client.log_metric(run_id, "val/top1", 0.5, timestamp=9, step=20)
    history = read_timed_history(client, uri_of(demo_db), run_id, "val/top1")
    assert history["step"].tolist() == list(range(0, 100, 10))
    assert history.loc[history["step"] == 20, "value"].item() == 0.5
    assert read_timed_history(client, uri_of(demo_db), run_id, "no/such").empty


def test_a_missing_database_is_reported_and_not_created(tmp_path):
    path = tmp_path / "none.db"
    with pytest.raises(StoreMissing, match=r"none\.db"):
        open_store(uri_of(path))
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_tables_is_reported_and_left_alone(tmp_path):
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(StoreMissing):
        open_store(uri_of(path))
    assert path.stat().st_size == 0


def test_a_file_that_is_no_database_is_reported(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("not a database, but long enough to be read as one" * 30)
    with pytest.raises(StoreUnreachable, match="not a SQLite database"):
        open_store(uri_of(path))


def test_an_absent_server_is_reported_within_seconds(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreUnreachable, match=r"127\.0\.0\.1:9"):
        open_store("http://127.0.0.1:9")


def test_the_file_store_mlflow_refuses_is_reported(tmp_path):
    with pytest.raises(StoreUnreachable):
        open_store(str(tmp_path / "mlruns"))
    assert not (tmp_path / "mlruns").exists()


def test_many_metrics_make_a_table_of_one_piece():
    """Column by column, pandas warned on the first visit of a store of future frames."""
    metrics = {f"test/{base}mse_{k}": 0.1 for base in ("", "copy_last/", "mean_last/") for k in range(1, 60)}
    runs = with_baselines(as_table([{"run_id": "1", "status": "FINISHED", "row": "a", **metrics}]))
    assert runs["row"].tolist() == ["a", "copy the last frame", "mean of the last frames"]
    assert runs["test/mse_59"].tolist() == [0.1] * 3


def test_tracking_uri(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri() == "http://server:5000"


def test_the_dashboard_imports_no_training_code():
    code = (
        "import sys, app.dashboard, dashboard.cached, dashboard.charts, dashboard.curves, dashboard.display, "
        "dashboard.empty, dashboard.filters, dashboard.tables, mlflow\n"
        "bad = {'torch', 'lightning', 'torchvision', 'lightning_modules', 'datamodules'} & set(sys.modules)\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reading_a_table_of_runs_needs_neither_mlflow_nor_streamlit_at_import():
    code = "import sys, dashboard.tables; sys.exit(bool({'mlflow', 'streamlit', 'altair'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
