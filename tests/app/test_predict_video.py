"""`predict --video`: one file through the checkpoint's own data options."""

import av
import numpy as np
import pytest
from launch import MODEL, QUIET

from app.cli import main

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


def predict(path, video) -> int:
    return main(["predict", f"--ckpt_path={path}", f"--video={video}", "--output=out.csv", "--top_k=9"])


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
