"""The parent run in a real store."""

from pathlib import Path

import pytest
from comparison_fakes import scores

from app.comparison.execute import Settings, execute
from app.comparison.grid import build_grid
from app.comparison.parent import ParentRun
from app.comparison.spec import read_comparison
from app.tracking import new_client


@pytest.fixture
def client(mlflow_store):
    return new_client(mlflow_store)


def test_parent_is_made_once_and_holds_the_table(content, client, tmp_path):
    comparison = read_comparison(content)
    settings = Settings(output=tmp_path / "out")
    first = execute(comparison, build_grid(comparison, rows=["exact"], folds=[1], seeds=[0]), settings, scores)
    second = execute(comparison, build_grid(comparison, rows=["exact"], folds=[1, 2], seeds=[0]), settings, scores)
    run_id = first.header["parent_run_id"]
    assert second.header["parent_run_id"] == run_id
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    expected = {"kind": "comparison", "comparison": "toy", "schema_version": "1", "control": "exact"}
    assert expected.items() <= run.data.tags.items()
    assert client.get_experiment(run.info.experiment_id).name == "toy"
    assert {file.path for file in client.list_artifacts(run_id)} == {"results.json", "results.md"}
    table = client.download_artifacts(run_id, "results.md", str(tmp_path))
    assert "2 (2 x 1)" in Path(table).read_text()


def test_failed_cells_make_the_parent_failed(content, client, tmp_path):
    content["rows"][2]["overrides"] = {"model.init_args.behaviour": "raise"}
    comparison = read_comparison(content)
    store = execute(comparison, build_grid(comparison, rows=["skip"], folds=[1], seeds=[0]), Settings(tmp_path), scores)
    assert client.get_run(store.header["parent_run_id"]).info.status == "FAILED"


def test_a_parent_that_is_not_in_this_store_is_made_anew(client):
    parent = ParentRun("toy", "0123456789abcdef0123456789abcdef", {})
    assert client.get_run(parent.run_id).data.tags["kind"] == "comparison"


def test_children_of_stopped_workers_do_not_stay_running(client):
    parent = ParentRun("toy", None, {})
    experiment = client.get_run(parent.run_id).info.experiment_id
    child = client.create_run(experiment, tags={"mlflow.parentRunId": parent.run_id}).info.run_id
    other = client.create_run(experiment).info.run_id
    parent.finish("KILLED", [])
    assert client.get_run(child).info.status == "KILLED"
    assert client.get_run(other).info.status == "RUNNING"
    assert client.get_run(parent.run_id).info.status == "KILLED"
