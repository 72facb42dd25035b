"""run_experiment: fit and test from Python, often, and in parallel on one store."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import mlflow
import pytest
import torch
from launch import DATA, MODEL, runs

from app.experiment import run_experiment


def config(seed=0, **trainer):
    return {
        "seed_everything": seed,
        "trainer": {"max_steps": 10, "enable_checkpointing": False, "log_every_n_steps": 1, **trainer},
        "model": {"class_path": "ActionRecognition", "init_args": dict(MODEL)},
        "data": {"class_path": "MovingDigits", "init_args": DATA | {"seed": seed}},
    }


def test_two_in_one_process_return_all_metrics_and_are_repeatable(tmp_cwd, mlflow_store, capfd):
    parent = mlflow.MlflowClient(mlflow_store)
    experiment = parent.create_experiment("table")
    parent_id = parent.create_run(experiment).info.run_id
    about = {"tags": {"row": "skip", "comparison": "t"}, "parent_run_id": parent_id, "experiment_name": "table"}
    first = run_experiment(config(), **about, quiet=True)
    assert capfd.readouterr().out == ""
    second = run_experiment(config(), **about, quiet=True)
    expected = {"train/loss", "train/top1", "val/top1", "frames_seen", "test/top1", "test/top5", "test/loss",
                "latency/step_p50_ms", "latency/step_p95_ms", "latency/tick_ms", "train/frames_per_second",
                "memory/saved_tensors_mib", "memory/peak_mib"}  # fmt: skip
    assert first["metrics"].keys() >= expected
    assert first["run_id"] != second["run_id"]
    repeatable = [name for name in expected if not name.startswith(("latency", "memory", "train/frames"))]
    assert [first["metrics"][n] for n in repeatable] == [second["metrics"][n] for n in repeatable]
    other = run_experiment(config(seed=1), **about, quiet=True)
    assert other["metrics"]["train/loss"] != first["metrics"]["train/loss"]
    children = [run for run in runs(mlflow_store, "table") if run.info.run_id != parent_id]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent_id}
    assert {(run.data.tags["row"], run.data.tags["comparison"], run.info.status) for run in children} == {
        ("skip", "t", "FINISHED")
    }
    assert {run.data.params["seed"] for run in children} == {"0", "1"}
    assert not list(tmp_cwd.glob("runs/*/*.ckpt"))


def test_without_a_logger_metrics_come_all_the_same(tmp_cwd):
    result = run_experiment(config(logger=False), quiet=True)
    assert result["run_id"] is None
    assert result["metrics"].keys() >= {"test/top1", "train/loss", "latency/tick_ms", "frames_seen"}


@pytest.mark.parametrize(
    ("section", "change", "says"),
    [
        ("model", {"rule": "sidewise"}, "sidewise"),
        ("model", {"rulee": "sideways"}, "Did you mean rule?"),
        ("data", {"frames": 4}, "at least 7"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_a_value_error(section, change, says, tmp_cwd):
    bad = config(logger=False)
    bad[section]["init_args"] |= change
    with pytest.raises(ValueError) as error:
        run_experiment(bad, quiet=True)
    assert says in str(error.value)


def _in_a_process(seed):
    torch.set_num_threads(1)
    return run_experiment(config(seed), quiet=True)["run_id"]


@pytest.mark.slow
def test_spawned_processes_share_a_store(tmp_cwd, mlflow_store):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        ids = list(pool.map(_in_a_process, [0, 1, 2]))
    assert {run.info.run_id for run in runs(mlflow_store)} == set(ids)
    assert {run.info.status for run in runs(mlflow_store)} == {"FINISHED"}


def test_several_processes_are_refused(tmp_cwd, mlflow_store):
    staged = config(accelerator="cpu", devices=2, strategy="depth_parallel", logger=False)
    with pytest.raises(ValueError, match="every run is one process"):
        run_experiment(staged, quiet=True)
