"""From every checkpoint that a run writes, a resumed run ends with the same bits, in the same MLflow run."""

import shutil

import mlflow
import pytest
from launch import checkpoint, fit, options, runs
from test_kill_and_continue import differences, history

import app.checkpoint_io as checkpoint_io
from app.cli import main

CASES = {
    "two epochs": {"trainer": {"max_epochs": 2}},
    "validation inside the epoch": {"trainer": {"max_epochs": 2, "val_check_interval": 2}},
    "epochs of one batch": {"trainer": {"max_epochs": 4}, "data": {"train_clips": 4}},
    "steps, not epochs": {"trainer": {"max_steps": 12}},
    "accumulation": {"trainer": {"max_epochs": 2}, "model": {"accumulate": 2}},
    "pipelined, a step at every tick": {
        "trainer": {"max_epochs": 2},
        "model": {"executor": "pipelined", "update": "frame"},
    },
    "whole clips": {
        "trainer": {"max_epochs": 2},
        "model": {"network": "cnn3d", "rule": "backprop", "depth": "null"},
    },
    "gradients logged": {"trainer": {"max_epochs": 2}, "model": {"log_gradients_every": 2}},
    "no validation": {"trainer": {"max_epochs": 2, "limit_val_batches": 0}},
    "future frames": {
        "trainer": {"max_epochs": 2},
        "model": {"class_path": "FutureFrames", "depth": 6, "horizon": 1, "wiring": "unet"},
        "data": {"frames": 13},
    },
    "two loader processes": {"trainer": {"max_epochs": 2}, "data": {"num_workers": 2}},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_checkpoint_is_a_place_to_go_on_from(case, tmp_cwd, mlflow_store, monkeypatch):
    changes = {"data": {}, "trainer": {}, **CASES[case]}
    changes["data"] = {"train_clips": 20, "val_clips": 4} | changes["data"]
    changes["trainer"] |= {"log_every_n_steps": 1}
    write, kept = checkpoint_io.write_atomically, tmp_cwd / "kept"
    kept.mkdir()

    def write_and_keep(content, path):
        write(content, path)
        if path.name == "last.ckpt":
            shutil.copy(path, kept / f"{len(list(kept.iterdir())):03}.ckpt")

    monkeypatch.setattr(checkpoint_io, "write_atomically", write_and_keep)
    fit(**changes, checkpoint={"every_n_train_steps": 1})
    monkeypatch.undo()
    monkeypatch.chdir(tmp_cwd)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    whole, values = checkpoint(tmp_cwd), history(mlflow_store)
    places = sorted(kept.iterdir())
    assert len(places) >= 4
    for place in places:
        fit(f"--ckpt_path={place}", **changes, checkpoint={"every_n_train_steps": 0})
        continued = checkpoint(tmp_cwd)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "video_task"):
            assert differences(whole[part], continued[part]) == [], (place.name, part)
        assert continued["global_step"] == whole["global_step"]
        assert differences(whole["callbacks"]["RandomState"], continued["callbacks"]["RandomState"]) == []
    assert len(runs(mlflow_store)) == 1
    assert history(mlflow_store) == values


def test_a_finished_run_goes_on_to_more_epochs(tmp_cwd, mlflow_store):
    constant = {"model": {"schedule": "constant"}, "data": {"train_clips": 20}}
    fit(trainer={"max_epochs": 2}, **constant)
    whole = checkpoint(tmp_cwd)
    shutil.rmtree(tmp_cwd / "runs")
    fit(trainer={"max_epochs": 1}, **constant)
    fit("--ckpt_path=last", trainer={"max_epochs": 2}, **constant)
    continued = checkpoint(tmp_cwd)
    assert continued["global_step"] == whole["global_step"] == 10
    assert differences(whole["state_dict"], continued["state_dict"]) == []
    assert len(runs(mlflow_store)) == 2


def test_another_rule_starts_from_the_weights_as_a_new_run_that_names_its_origin(tmp_cwd, mlflow_store):
    small = {"data": {"train_clips": 20}}
    constant = {"schedule": "constant"}
    fit(trainer={"max_epochs": 1}, model=constant, **small)
    (first,) = runs(mlflow_store)
    (path,) = tmp_cwd.glob("runs/*/last.ckpt")
    fit(f"--ckpt_path={path}", trainer={"max_epochs": 2}, model=constant | {"rule": "backprop_shifted"}, **small)
    newest = mlflow.MlflowClient(mlflow_store).get_run(runs(mlflow_store)[0].info.run_id)
    assert newest.info.run_id != first.info.run_id
    assert newest.data.tags["origin_run_id"] == first.info.run_id
    assert newest.data.tags["rule"] == "backprop_shifted"


def test_a_schedule_that_ended_says_so(tmp_cwd, mlflow_store, capfd):
    small = {"data": {"train_clips": 20}}
    fit(trainer={"max_epochs": 1}, **small)
    assert main([*options(trainer={"max_epochs": 2}, **small), "--ckpt_path=last"]) == 2
    assert "train with --model.schedule constant from the start" in capfd.readouterr().err.splitlines()[-1]
    (run,) = runs(mlflow_store)
    assert run.info.status == "FAILED"
