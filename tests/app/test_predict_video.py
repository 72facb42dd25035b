"""`predict --video`: one file through the checkpoint's own data options."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from launch import MODEL, QUIET, checkpoint, fit

from app.cli import main
from app.one_video import RememberedData, remember, remembered
from datamodules.video_dataset import ClipOptions

FRAMES = 12


def write_clip(path, frames, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 48
        for _ in range(frames):
            image = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture
def trained(tmp_cwd, mlflow_store):
    for label in ("left", "right"):
        for number in range(5):
            write_clip(tmp_cwd / "videos" / label / f"{number}.mp4", FRAMES, number)
    argv = ["fit", "--data=VideoFolder", "--data.root=videos", "--data.frames=8", "--data.size=32", "--data.jobs=1"]
    argv += [f"--model.{k}={v}" for k, v in MODEL.items()] + [f"--trainer.{k}={v}" for k, v in QUIET.items()]
    assert main([*argv, "--trainer.max_epochs=1"]) == 0
    (path,) = tmp_cwd.glob("runs/*/last.ckpt")
    return path


def predict(path, video, *more) -> int:
    return main(["predict", f"--ckpt_path={path}", f"--video={video}", "--output=out.csv", "--top_k=9", *more])


def test_one_file_gives_one_row_without_a_label(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "new.mp4", 15, 99)
    assert predict(trained, "new.mp4") == 0
    assert "1 predictions written to out.csv" in capfd.readouterr().out
    head, row = (tmp_cwd / "out.csv").read_text().splitlines()
    assert head == "clip_id,label,class_1,probability_1,class_2,probability_2"
    clip, label, first, p1, second, p2 = row.split(",")
    assert clip.startswith("new.mp4@")
    assert label == ""
    assert {first, second} == {"left", "right"}
    assert float(p1) + float(p2) == pytest.approx(1, abs=1e-5)


def row(tmp_cwd) -> str:
    return (tmp_cwd / "out.csv").read_text().splitlines()[1]


def test_the_training_videos_need_not_be_there(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "new.mp4", 40, 99)
    assert predict(trained, "new.mp4") == 0
    with_them = row(tmp_cwd)
    shutil.rmtree(tmp_cwd / "videos")
    (tmp_cwd / "out.csv").unlink()
    assert predict(trained, "new.mp4") == 0
    assert row(tmp_cwd) == with_them
    assert main(["predict", f"--ckpt_path={trained}", "--output=out.csv"]) == 2  # the data set's own clips


def test_options_on_the_command_line_count_more_than_the_checkpoint(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "new.mp4", 40, 99)
    assert predict(trained, "new.mp4", "--data.views=3") == 0
    assert "3 predictions written" in capfd.readouterr().out


def test_a_checkpoint_from_before_the_names_were_kept_asks_the_data_set(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "new.mp4", 15, 99)
    assert predict(trained, "new.mp4") == 0
    with_names = row(tmp_cwd)
    content = torch.load(trained, weights_only=True)
    del content["skip_sideways"]["data"]
    torch.save(content, trained)
    assert predict(trained, "new.mp4") == 0
    assert row(tmp_cwd) == with_names
    shutil.rmtree(tmp_cwd / "videos")
    assert predict(trained, "new.mp4") == 2
    assert "no folder videos" in capfd.readouterr().err


def test_all_that_a_clip_depends_on_is_remembered():
    options = ClipOptions(8, 32, 2, "squash", 4, True, True, "median", "pyav")
    data = SimpleNamespace(dataset_name="d", class_names=["a", "b"], views=2, clip_options=options, channels=1)
    given = {"init_args": {"stride": 1, "root": "videos", "batch_size": 3}}
    section = remembered({"data": remember(data)}, given)
    chosen = section.init_args.as_dict()
    made = RememberedData(**chosen | {"clip_options": ClipOptions(**chosen["clip_options"])})
    assert made.clip_options == replace(options, stride=1)
    assert (made.class_names, made.views, made.channels, made.batch_size) == (["a", "b"], 2, 1, 3)


def test_data_that_is_not_made_of_videos_is_said(tmp_cwd, mlflow_store, capfd):
    fit(trainer={"max_epochs": 1})
    (path,) = tmp_cwd.glob("runs/*/last.ckpt")
    assert checkpoint(tmp_cwd)["skip_sideways"]["data"]["class_names"] == ["right", "down", "left", "up"]
    assert predict(path, "new.mp4") == 2
    assert "moving_digits, which is not made of video files" in capfd.readouterr().err


def test_a_file_that_is_too_short_or_missing_is_said(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "short.mp4", 3, 1)
    assert predict(trained, "short.mp4") == 2
    assert "has 3 frames; this network needs at least 7" in capfd.readouterr().err
    assert predict(trained, "none.mp4") == 2
    assert "there is no such file" in capfd.readouterr().err


def test_a_file_that_was_cut_off_is_refused(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "whole.avi", 60, 2)
    content = (tmp_cwd / "whole.avi").read_bytes()
    (tmp_cwd / "cut.avi").write_bytes(content[: len(content) // 2])
    assert predict(trained, "cut.avi") == 2
    assert "cut.avi ends early: the header says 60 frames" in capfd.readouterr().err
    assert not (tmp_cwd / "out.csv").exists()
