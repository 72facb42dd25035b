"""Future frames by the command line: a run's names, figures and files, and one video of one's own."""

import json

import mlflow
import numpy as np
import pytest
import torch
from launch import QUIET, checkpoint, finish, launch, runs
from test_predict_video import write_clip

from app.checkpoints import better
from app.cli import main
from app.parser import given_class

MODEL = {"width": 0.25, "horizon": 2, "wiring": "unet", "lr": 3e-3}
DATA = {"size": 32, "frames": 14, "batch_size": 4, "train_clips": 8, "val_clips": 4, "test_clips": 8}


def argv(name="MovingDigits", **changes):
    sections = {
        "data": DATA if name == "MovingDigits" else {},
        "model": MODEL,
        "trainer": QUIET | {"max_epochs": 1},
    }
    given = {part: values | changes.get(part, {}) for part, values in sections.items()}
    return [
        "fit", f"--data={name}", "--model=FutureFrames",
        *(f"--{part}.{key}={value}" for part, values in given.items() for key, value in values.items()),
    ]  # fmt: skip


@pytest.fixture
def trained(tmp_cwd, mlflow_store):
    assert main(argv()) == 0
    (path,) = tmp_cwd.glob("runs/*/last.ckpt")
    return path


def artifact(run, path):
    return mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path)


def read(run, path):
    with open(artifact(run, path), encoding="utf-8") as file:
        return json.load(file)


def test_a_run_from_fit_to_predictions(trained, mlflow_store, tmp_cwd, capfd):
    assert trained.with_name("best.ckpt").exists()  # by val/mse, the task's own
    assert main(["test", f"--ckpt_path={trained}", "--trainer.enable_progress_bar=false"]) == 0
    (run,) = runs(mlflow_store)
    printed = capfd.readouterr().out.splitlines()
    (line,) = [line for line in printed if line.startswith("mse this network")]
    assert [float(cell) for cell in line.split()[-3:]] == pytest.approx(
        [run.data.metrics[name] for name in ("test/mse_1", "test/mse_2", "test/mse")], rel=1e-3
    )
    assert sum(line.startswith(("ssim copy last", "ssim mean last")) for line in printed) == 2
    tags = {"task": "future_frames", "lmin": "2", "horizon": "2", "network": "small_autoencoder", "wiring": "unet"}
    assert {key: run.data.tags[key] for key in tags} == {key: run.data.params[key] for key in tags} == tags
    names = {"val/mse", "val/psnr_db", "val/copy_last/mse", "test/mse_1", "test/ssim_2", "test/mean_last/psnr_db_2"}
    assert names <= run.data.metrics.keys()
    about = read(run, "future_frames.json")
    # Newest frames 5 to 14 - 2 - 6 of each of 8 clips.
    assert {key: about[key] for key in ("horizons", "lmin", "depth", "clips", "frames", "predict")} == {
        "horizons": [1, 2], "lmin": 2, "depth": 6, "clips": 8, "frames": 16, "predict": "change",
    }  # fmt: skip
    clock = read(run, "clock.json")
    assert (clock["lags"], clock["first_gradient_ticks"]) == ([10, 8, 6, 4, 2, 0], [11, 10, 9, 8, 7, 6])
    assert clock["sources"] == [[0], [1], [2], [3], [4, 2], [5, 1]]
    assert clock["ticks"][5][5] == {"unit": 6, "forward": 1, "newest": 5, "backward": 1}
    assert clock["ticks"][10][0] == {"unit": 1, "forward": 11, "newest": 11, "backward": 1}
    assert (len(clock["ticks"]), clock["stage_of_unit"]) == (14, [1] * 6)
    kept = read(run, "predictions/index.json")["clips"]
    assert len(kept) == 4

    capfd.readouterr()
    assert main(["predict", f"--ckpt_path={trained}", "--output=frames"]) == 0
    assert "8 clips written to frames" in capfd.readouterr().out
    found = {clip["clip_id"]: clip for clip in json.loads((tmp_cwd / "frames/index.json").read_text())["clips"]}
    assert len(found) == 8
    for clip in kept:
        assert found[clip["clip_id"]]["mse"] == pytest.approx(clip["mse"])


def test_options_of_a_table_are_refused(trained, capfd):
    assert main(["predict", f"--ckpt_path={trained}", "--top_k=3"]) == 2
    assert "no table of classes" in capfd.readouterr().err
    assert main(["test", f"--ckpt_path={trained}", "--model.horizon=1"]) == 2
    assert "horizon 2 (configured: 1)" in capfd.readouterr().err


def test_one_video_is_read_as_consecutive_clips(tmp_cwd, mlflow_store, capfd):
    for label in ("left", "right"):
        for number in range(5):
            write_clip(tmp_cwd / "videos" / label / f"{number}.mp4", 16, number)
    options = {"root": "videos", "frames": 15, "size": 32, "jobs": 1, "batch_size": 4}
    assert main(argv("VideoFolder", data=options)) == 0
    (path,) = tmp_cwd.glob("runs/*/last.ckpt")
    write_clip(tmp_cwd / "mine.mp4", 50, 99)
    capfd.readouterr()
    assert main(["predict", f"--ckpt_path={path}", "--video=mine.mp4"]) == 0
    said = capfd.readouterr().out
    assert "mine.mp4: 50 frames of 48 x 48" in said
    assert "3 consecutive clips of at most 15 frames; its last 5 make no clip of 13 or more" in said
    index = json.loads((tmp_cwd / "predictions/index.json").read_text())
    assert [clip["clip_id"] for clip in index["clips"]] == ["mine.mp4@0", "mine.mp4@15", "mine.mp4@30"]
    assert [clip["frames"] for clip in index["clips"]] == [[5, 6, 7]] * 3
    folder = tmp_cwd / "predictions" / index["clips"][0]["folder"].split("/")[-1]
    with np.load(folder / "context.npz") as content:
        assert content["context"].shape == (15, 3, 32, 32)
    write_clip(tmp_cwd / "short.mp4", 9, 99)
    assert main(["predict", f"--ckpt_path={path}", "--video=short.mp4"]) == 2
    assert "no answer before frame 13" in capfd.readouterr().err


@pytest.mark.slow
def test_two_stages_end_with_one_process_s_weights_and_predict(tmp_path, mlflow_template):
    """The last stage is told the frames that it compares with; the first has none of the outputs, and writes them."""
    weights = []
    staged = {"accelerator": "cpu", "devices": 2, "strategy": "depth_parallel"}
    for name, trainer in (("alone", {}), ("staged", staged)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
        finish(launch(argv(model={"executor": "pipelined"}, trainer=trainer), folder, OMP_NUM_THREADS="1"))
        weights.append(checkpoint(folder)["state_dict"])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    (path,) = folder.glob("runs/*/last.ckpt")
    finish(launch(["predict", "--ckpt_path", str(path)], folder, OMP_NUM_THREADS="1"))
    assert len(json.loads((folder / "predictions/index.json").read_text())["clips"]) == 8


def test_the_class_that_is_asked_for_brings_its_own_defaults(tmp_path):
    """An option that two tasks share kept the first task's default: FutureFrames with network small_cnn."""
    file = tmp_path / "a.yaml"
    file.write_text("model:\n  class_path: FutureFrames\n")
    assert given_class(["fit", "--config", str(file)], "model") == "FutureFrames"
    assert given_class(["fit", f"-c={file}", "--model=ActionRecognition"], "model") == "ActionRecognition"
    assert given_class(["fit", "--model.class_path", "FutureFrames"], "model") == "FutureFrames"
    assert given_class(["fit", "--model.horizon", "2"], "model") is None


def test_which_value_of_a_metric_is_the_best():
    assert [better(f"val/{name}") for name in ("top1", "psnr_db", "ssim", "mse", "loss")] == [
        *["max"] * 3,
        *["min"] * 2,
    ]
