"""A killed run goes on where it was: same MLflow run, same bits."""

import json
import signal
import time

import mlflow
import pytest
import torch
from launch import checkpoint, finish, launch, options, runs
from test_future_frames_cli import argv as frames_options

CHANGES = {"data": {"train_clips": 64}, "trainer": {"max_epochs": 2, "log_every_n_steps": 1}}
ARGV = options(**CHANGES, checkpoint={"every_n_train_steps": 5})
FRAMES = [*frames_options(model={"lead": 2}, **CHANGES), "--checkpoint.every_n_train_steps=5"]


def leaves(value, path=""):
    """Flatten nested containers to {path: leaf}."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{path}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in leaves(item, f"{path}/{i}").items()}
    return {path: value}


def differences(a, b):
    """Return the paths at which two nested states differ in any bit."""
    a, b = leaves(a), leaves(b)
    same = lambda x, y: torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y  # noqa: E731
    return sorted(a.keys() ^ b.keys()) + [key for key in a.keys() & b.keys() if not same(a[key], b[key])]


def kill_after_first_checkpoint(folder, sig=signal.SIGKILL, argv=ARGV):
    process = launch(argv, folder)
    while not list(folder.glob("runs/*/last.ckpt")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(sig)
    process.communicate(timeout=60)
    return process.returncode


def uninterrupted(folder, mlflow_template, argv):
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    finish(launch(argv, folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("argv", [ARGV, FRAMES], ids=["recognition", "future frames with a lead"])
def test_killed_and_continued_equals_uninterrupted(argv, tmp_path, mlflow_template):
    other = uninterrupted(tmp_path / "uninterrupted", mlflow_template, argv)
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    assert kill_after_first_checkpoint(tmp_path, argv=argv) == -signal.SIGKILL
    killed = checkpoint(tmp_path)
    assert 0 < killed["global_step"] < 16, "the kill must come inside the first epoch for this test to mean anything"
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert [run.info.status for run in runs(uri)] == ["RUNNING"]

    finish(launch([*argv, "--ckpt_path=last"], tmp_path))

    whole, continued = checkpoint(other), checkpoint(tmp_path)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "video_task"):
        assert differences(whole[part], continued[part]) == [], part
    assert differences(whole["callbacks"]["RandomState"], continued["callbacks"]["RandomState"]) == []
    assert whole["global_step"] == continued["global_step"] == 32
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    assert run.info.run_id == killed["skip_sideways"]["run_id"] == continued["skip_sideways"]["run_id"]
    assert history(uri) == history(f"sqlite:///{other}/mlflow.db")


def history(uri, experiment="moving_digits"):
    """Every training and validation value by step: a continued run shows no step twice and none missing."""
    client, (run,) = mlflow.MlflowClient(uri), runs(uri, experiment)
    names = [name for name in run.data.metrics if name.startswith(("train/loss", "val/", "frames_seen"))]
    assert "train/loss" in names
    return {name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)) for name in names}


@pytest.mark.slow
def test_sigterm_marks_the_run_killed_and_it_can_go_on(tmp_path, mlflow_template):
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    assert kill_after_first_checkpoint(tmp_path, signal.SIGTERM) == 143
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (run,) = runs(uri)
    assert run.info.status == "KILLED"
    finish(launch([*ARGV, "--ckpt_path=last"], tmp_path))
    (again,) = runs(uri)
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_starts_again_in_the_same_run(tmp_path, mlflow_template):
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    process = launch(ARGV, tmp_path)
    while not (notes := list(tmp_path.glob("runs/*/run.json"))) or not notes[0].read_text():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.kill()
    process.communicate()
    if list(tmp_path.glob("runs/*/last.ckpt")):
        pytest.skip("this machine wrote a checkpoint faster than a kill arrived")
    finish(launch([*ARGV, "--ckpt_path=last"], tmp_path))
    (run,) = runs(f"sqlite:///{tmp_path}/mlflow.db")
    assert run.info.run_id == json.loads(notes[0].read_text())["run_id"]
    assert run.info.status == "FINISHED"
