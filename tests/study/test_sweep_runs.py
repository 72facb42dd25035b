"""Trials that really train: what is pruned, what MLflow holds of them, and that best.yaml is a run."""

import json

import optuna
import pytest

from app.cli import main
from app.study.children import Children
from app.study.execute import run_study
from app.study.trial_run import experiment_runner, run_trial
from app.tracking import experiment_id, new_client

MODEL = {"network": "small_cnn", "depth": 3, "width": 0.25, "wiring": "residual", "lr": 1e-2}
DATA = {"frames": 8, "size": 16, "train_clips": 24, "val_clips": 8, "test_clips": 8, "batch_size": 8}


@pytest.fixture
def real_plan(plan_of, mlflow_store):
    """Return a function that makes a plan whose runs train for two updates, validated after each."""

    def make(rule="sideways", model=None, trainer=None, **options):
        plan = plan_of(**options)
        plan.config["trainer"] = {"max_steps": 4, "val_check_interval": 1, "accelerator": "cpu", **(trainer or {})}
        plan.config["model"]["init_args"] = {**MODEL, "rule": rule, **(model or {})}
        plan.config["data"]["init_args"] = dict(DATA)
        return plan

    return make


@pytest.fixture
def parent(mlflow_store):
    """The study's MLflow run: (client, its experiment, its id)."""
    client = new_client(mlflow_store)
    experiment = experiment_id(client, mlflow_store, "toy")
    return client, experiment, client.create_run(experiment).info.run_id


def one_trial(plan, parent, pruner=None):
    """Run the first trial in this process; return (the trial, what it ended with, its MLflow runs)."""
    client, experiment, run_id = parent
    study = optuna.create_study(direction="maximize", pruner=pruner or optuna.pruners.NopPruner())
    trial, ended = study.ask(), None
    try:
        ended = run_trial(plan, trial, experiment_runner, Children("toy", run_id))
    except Exception as error:
        ended = error
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return trial, ended, runs


@pytest.mark.parametrize("rule", ["sideways", "backprop_shifted"])
def test_the_pruner_ends_a_training_of_any_rule_and_mlflow_shows_it_as_pruned(real_plan, parent, rule, tmp_cwd):
    plan = real_plan(rule, pruner="median")
    always = optuna.pruners.ThresholdPruner(upper=-1.0, n_warmup_steps=1)
    trial, ended, runs = one_trial(plan, parent, always)
    assert isinstance(ended, optuna.TrialPruned)
    assert str(ended) == "after validation 2 (update 2), by median on val/top1"
    [run] = runs
    assert run.info.status == "FINISHED"
    assert run.data.tags["trial_state"] == "pruned"
    assert run.data.tags["mlflow.note.content"] == f"Pruned {ended}"
    assert run.data.tags["kind"] == "trial"
    assert not [name for name in run.data.metrics if name.startswith("test/")]
    assert "error" not in run.data.tags
    assert "trial_state" not in run.data.params
    assert len(trial.user_attrs["runs"][0]["reported"]) == 2


def test_a_trial_is_the_mean_over_its_folds_and_seeds(real_plan, parent, tmp_cwd):
    plan = real_plan(seeds=(0, 1), trainer={"max_steps": 1})
    trial, ended, runs = one_trial(plan, parent)
    own = [run.data.metrics["val/top1"] for run in runs]
    assert ended == (pytest.approx(sum(own) / 2),)
    assert {run.data.tags["seed"] for run in runs} == {"0", "1"}
    assert {run.data.tags["trial_state"] for run in runs} == {"complete"}
    assert {run.data.params["lr" if "lr" in run.data.params else "model.lr"] for run in runs} == {
        str(trial.params["model.init_args.lr"])
    }


def test_a_trial_that_cannot_even_be_made_has_a_failed_run_with_its_error(real_plan, parent, tmp_cwd):
    plan = real_plan(model={"depth": 1})
    _, ended, runs = one_trial(plan, parent)
    assert isinstance(ended, ValueError)
    [run] = runs
    assert run.info.status == "FAILED"
    assert run.data.tags["trial_state"] == "failed"
    assert "depth" in run.data.tags["error"]


def test_a_training_that_diverges_fails_with_the_reason(real_plan, parent, tmp_cwd):
    plan = real_plan(objectives=("val/loss",), space={"model.init_args.lr": [1e30, 1e31]})
    plan.config["model"]["init_args"] |= {"optimizer": "sgd", "schedule": "constant"}
    _, ended, [run] = one_trial(plan, parent)
    assert "diverged" in str(ended)
    assert run.info.status == "FAILED"
    assert "diverged" in run.data.tags["error"]


def test_a_pruner_without_validation_says_what_to_type(real_plan, parent, tmp_cwd):
    plan = real_plan(objectives=("test/psnr_db",), pruner="median", trainer={"max_steps": 1})
    _, ended, _ = one_trial(plan, parent)
    assert "the pruner watches val/psnr_db, which the validation does not log; it logs" in str(ended)


@pytest.mark.slow
def test_a_study_of_real_runs_ends_in_a_best_yaml_that_fit_runs(real_plan, tmp_cwd, mlflow_store, capfd):
    plan = real_plan(trials=2, trainer={"max_steps": 1}, objectives=("test/top1", "memory/peak_mib"))
    summary = run_study(plan)
    assert [trial["state"] for trial in summary["trials"]] == ["complete"] * 2
    first, second = (trial["cpu_seconds"] for trial in summary["trials"])
    assert first < 3 * second + 1.5  # the worker's imports, many seconds, are nobody's
    assert summary["front"]
    client = new_client(mlflow_store)
    experiment = client.get_experiment_by_name("toy").experiment_id
    parents = client.search_runs([experiment], "tags.kind = 'sweep'")
    children = client.search_runs([experiment], "tags.kind = 'trial'")
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert parents[0].data.tags.items() >= {"study": "toy", "schema_version": "1"}.items()
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    stored = client.download_artifacts(parents[0].info.run_id, "sweep.json", str(tmp_cwd))
    with open(stored) as file:
        assert json.load(file) == json.loads(json.dumps(summary))
    assert main(["fit", "--config", str(plan.output / "best.yaml"), "--trainer.max_steps", "1"]) == 0
