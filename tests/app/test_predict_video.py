"""`predict --video`: one file through the checkpoint's own data options."""

import csv
import shutil
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from launch import MODEL, QUIET, checkpoint, fit

from app.answers import Rows, printed_every_s
from app.cli import main
from app.one_video import RememberedData, remember, remembered
from datamodules.video_dataset import ClipOptions
from tests.datamodules.sample_videos import write_sound, write_video

FRAMES = 14


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


def train(tmp_cwd, **model):
    for label in ("left", "right"):
        for number in range(5):
            write_clip(tmp_cwd / "videos" / label / f"{number}.mp4", FRAMES, number)
    argv = ["fit", "--data=VideoFolder", "--data.root=videos", "--data.frames=8", "--data.size=32", "--data.jobs=1"]
    argv += [f"--model.{k}={v}" for k, v in (MODEL | model).items()] + [f"--trainer.{k}={v}" for k, v in QUIET.items()]
    assert main([*argv, "--trainer.max_epochs=1"]) == 0
    (path,) = tmp_cwd.glob("runs/*/last.ckpt")
    return path


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory, mlflow_template):
    """The folder of a finished run and its videos."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copyfile(mlflow_template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(folder)
    return folder


@pytest.fixture
def trained(trained_once, tmp_cwd):
    """The checkpoint in this test's own copy of that folder, which is the working directory."""
    shutil.copytree(trained_once, tmp_cwd, dirs_exist_ok=True)
    (path,) = tmp_cwd.glob("runs/*/last.ckpt")
    return path


def predict(path, video, *more) -> int:
    return main(["predict", f"--ckpt_path={path}", f"--video={video}", "--output=out.csv", "--top_k=9", *more])


def rows(tmp_cwd, name="out.csv"):
    with (tmp_cwd / name).open(newline="") as file:
        return list(csv.DictReader(file))


def probability_of(row, name):
    (place,) = [key for key, value in row.items() if key.startswith("class_") and value == name]
    return float(row[place.replace("class", "probability")])


def test_one_file_gives_rows_over_time(trained, tmp_cwd, capfd):
    """Ten frames a second, an answer about every frame but the last three (D = 4)."""
    write_clip(tmp_cwd / "new.mp4", 15, 99)
    assert predict(trained, "new.mp4") == 0
    said = capfd.readouterr().out
    assert "new.mp4: 15 frames of 48 x 48, 10 frames a second" in said
    assert "2 classes (left, right)" in said
    assert "the mean of 12 answers, one a frame; each comes 3 frames after its frame, so that the last 3" in said
    assert "3 rows written to out.csv" in said
    found = rows(tmp_cwd)
    assert list(found[0]) == ["from_s", "to_s", "class_1", "probability_1", "class_2", "probability_2"]
    assert [(row["from_s"], row["to_s"]) for row in found] == [
        ("0.000", "0.500"),
        ("0.500", "1.000"),
        ("1.000", "1.200"),
    ]
    for row in found:
        assert {row["class_1"], row["class_2"]} == {"left", "right"}
        assert float(row["probability_1"]) + float(row["probability_2"]) == pytest.approx(1, abs=1e-5)
    printed = [line for line in said.splitlines() if " - " in line]
    assert [line.split()[3] for line in printed] == [row["class_1"] for row in found]


def test_every_sets_the_rows(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "new.mp4", 15, 99)
    assert predict(trained, "new.mp4", "--every=0") == 0
    each = rows(tmp_cwd)
    assert [row["from_s"] for row in each] == [f"{k / 10:.3f}" for k in range(12)]
    assert predict(trained, "new.mp4", "--every=1") == 0
    first, _ = rows(tmp_cwd)
    mean = sum(probability_of(row, "left") for row in each[:10]) / 10
    assert probability_of(first, "left") == pytest.approx(mean, abs=1e-5)
    assert predict(trained, "new.mp4", "--every=-1") == 2
    assert "--every is -1" in capfd.readouterr().err
    assert main(["predict", f"--ckpt_path={trained}", "--every=1"]) == 2
    assert "--every 1 without --video" in capfd.readouterr().err


@pytest.mark.parametrize("options", [[], ["--data.stride=2"], ["--data.background=median"], ["--data.fps=5"]])
def test_the_whole_video_is_scored_as_a_test_with_stream_scores_it(trained, tmp_cwd, capfd, options):
    """Of one of the data set's own videos: the mean of all answers is the streamed test's score."""
    assert main(["predict", f"--ckpt_path={trained}", "--output=set.csv", "--data.stream=true", *options]) == 0
    for row in rows(tmp_cwd, "set.csv"):
        name = row["clip_id"].split("@")[0]
        assert predict(trained, f"videos/{name}", "--every=0", *options) == 0
        answers = [probability_of(answer, "left") for answer in rows(tmp_cwd)]
        assert sum(answers) / len(answers) == pytest.approx(probability_of(row, "left"), abs=2e-6)
        assert f"{float(row['probability_1']):.2f}" in capfd.readouterr().out.split("whole video")[1].split()[1]


def test_a_long_video_has_few_printed_rows_and_all_in_the_file(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "long.mp4", 300, 5)
    assert predict(trained, "long.mp4") == 0
    printed = [line for line in capfd.readouterr().out.splitlines() if " - " in line]
    assert 20 < len(printed) <= 40
    assert len(rows(tmp_cwd)) == 60


def table(tmp_cwd) -> str:
    return (tmp_cwd / "out.csv").read_text()


def test_the_training_videos_need_not_be_there(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "new.mp4", 40, 99)
    assert predict(trained, "new.mp4") == 0
    with_them = table(tmp_cwd)
    shutil.rmtree(tmp_cwd / "videos")
    (tmp_cwd / "out.csv").unlink()
    assert predict(trained, "new.mp4") == 0
    assert table(tmp_cwd) == with_them
    assert main(["predict", f"--ckpt_path={trained}", "--output=out.csv"]) == 2  # the data set's own clips


def test_options_on_the_command_line_count_more_than_the_checkpoint(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "new.mp4", 40, 99)
    assert predict(trained, "new.mp4", "--data.stride=3") == 0
    assert "10 frames a second, read at stride 3" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("model", "made"),
    [
        ({"network": "cnn3d", "rule": "backprop", "depth": "null"}, "3 answers to consecutive clips of 8 frames"),
        ({"rule": "backprop_frame"}, "20 answers, one a frame."),
        ({"rule": "backprop_shifted"}, "17 answers, one a frame; each comes 3 frames after"),
    ],
)
def test_every_kind_of_network_answers(tmp_cwd, mlflow_store, capfd, model, made):
    path = train(tmp_cwd, **model)
    write_clip(tmp_cwd / "new.mp4", 20, 99)
    assert predict(path, "new.mp4", "--every=0") == 0
    assert made in capfd.readouterr().out
    found = rows(tmp_cwd)
    assert len(found) == int(made.split()[0])
    assert found[0]["from_s"] == "0.000"
    assert all(one["to_s"] == next_["from_s"] for one, next_ in pairwise(found))
    assert found[-1]["to_s"] == ("1.700" if "3 frames after" in made else "2.000")


def test_rows_end_with_the_first_frame_past_each_multiple():
    times, scores = np.arange(11) / 10, torch.tensor([0.25, 0.75])
    for_025 = Rows(times, 0.25)
    found = [row for k in range(9) if (row := for_025.add(scores, k, k + 1))]
    assert [(row.from_s, row.to_s) for row in found] == [(0.0, 0.3), (0.3, 0.5), (0.5, 0.8)]
    assert for_025.end().to_s == 0.9
    assert for_025.end() is None
    assert torch.equal(found[0].scores_K, scores)


@pytest.mark.parametrize(
    ("duration", "every", "printed"), [(9, 0.5, 0.5), (600, 0.5, 15), (600, 20, 20), (99999, 1, 99999 / 40)]
)
def test_printed_rows_fit_on_a_screen(duration, every, printed):
    assert printed_every_s(duration, every) == printed


def test_a_checkpoint_from_before_the_names_were_kept_asks_the_data_set(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "new.mp4", 15, 99)
    assert predict(trained, "new.mp4") == 0
    with_names = table(tmp_cwd)
    content = torch.load(trained, weights_only=True)
    del content["skip_sideways"]["data"]
    torch.save(content, trained)
    assert predict(trained, "new.mp4") == 0
    assert table(tmp_cwd) == with_names
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
    assert "short.mp4 has 3 frames; this network gives no answer before frame 4" in capfd.readouterr().err
    assert predict(trained, "none.mp4") == 2
    assert "there is no such file" in capfd.readouterr().err
    assert predict(trained, "videos") == 2
    assert "--video videos: is a folder" in capfd.readouterr().err


def test_a_file_of_sound_or_of_no_video_is_said(trained, tmp_cwd, capfd):
    (tmp_cwd / "text.mp4").write_text("no video")
    write_sound(tmp_cwd / "sound.mp4")
    for name, reason in (("text.mp4", "cannot be opened as a video"), ("sound.mp4", "holds sound only")):
        assert predict(trained, name) == 2
        (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
        assert f"--video {name} {reason}" in line


def test_a_turned_video_is_read_upright(trained, tmp_cwd, capfd):
    write_video(tmp_cwd / "turned.mp4", frames=12, rotation=90)
    assert predict(trained, "turned.mp4") == 0
    assert "12 frames of 48 x 64, turned upright by " in capfd.readouterr().out


def test_a_file_that_was_cut_off_is_refused(trained, tmp_cwd, capfd):
    write_clip(tmp_cwd / "whole.avi", 60, 2)
    content = (tmp_cwd / "whole.avi").read_bytes()
    (tmp_cwd / "cut.avi").write_bytes(content[: len(content) // 2])
    assert predict(trained, "cut.avi") == 2
    assert "cut.avi ends early: the header says 60 frames" in capfd.readouterr().err
    assert not (tmp_cwd / "out.csv").exists()
