"""The picture of what runs predicted: the right frames in the right places, and only of runs that can be compared."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "future_frames" / "pictures.py"
T, K, SIZE = 12, 2, 32


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pictures", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pictures"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["pictures"]


def run_folder(folder, *, prediction=100, frames=(4, 5, 6), clip_id="a.avi", brightness=10):
    """The artifacts of a run on one clip whose frame t has the gray value brightness * t."""
    own = folder / "predictions" / "0123"
    own.mkdir(parents=True)
    context = np.stack([np.full((1, SIZE, SIZE), brightness * t, np.uint8) for t in range(T)])
    target = np.stack([np.stack([context[m + k] for k in range(1, K + 1)]) for m in frames])
    np.savez(own / "context.npz", context=context, first=0)
    np.savez(own / "target.npz", target=target, frames=np.array(frames))
    np.savez(own / "prediction.npz", prediction=np.full_like(target, prediction), frames=np.array(frames))
    clip = {
        "clip_id": clip_id,
        "folder": "predictions/0123",
        "label": "walk",
        "frames": list(frames),
        "mse": [0.1, 0.3],
    }
    index = {"schema": 1, "horizons": [1, 2], "fps": 25.0, "lmin": 4, "clips": [clip]}
    (folder / "predictions" / "index.json").write_text(json.dumps(index))
    return folder


def test_truth_copy_prediction_and_error_stand_where_they_belong(script, tmp_path):
    (clips,) = script.matched({"skip": script.read_clips(run_folder(tmp_path))})
    pixels = np.asarray(script.sheet(clips, 5))
    cell = SIZE * 2 + script.GAP_PX

    def gray(line, column):
        return pixels[script.HEAD_PX + line * cell + 32, script.LABEL_PX + column * cell + 32].tolist()

    table = [[gray(line, column)[0] for column in range(1 + 2 * K)] for line in range(3)]
    assert table == [
        [50, 60, 70, 255, 255],  # truth
        [50, 50, 50, 128 - 10, 128 - 20],  # copy_last
        [50, 100, 100, 128 + 40, 128 + 30],  # the row
    ]
    assert clips["skip"].mse == pytest.approx(0.2)
    assert script.mean_error(clips["skip"]) == pytest.approx((10**2 + 20**2) / 2 / 255**2)


def test_a_still_and_a_looping_picture_over_shared_frames(script, tmp_path):
    runs = {
        "skip": script.read_clips(run_folder(tmp_path / "skip")),
        "sideways": script.read_clips(run_folder(tmp_path / "sideways", frames=(5, 6, 7), prediction=90)),
    }
    png, gif = script.draw(script.matched(runs), tmp_path / "out" / "toy")
    with Image.open(png) as still, Image.open(gif) as moving:
        assert still.size == moving.size == (190 + 5 * 66, 22 + 4 * 66)
        assert (moving.n_frames, moving.info["loop"]) == (2, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_id": "b.avi"}, "did not keep clip a.avi, as one"),
        ({"brightness": 9}, "have other frames or horizons of clip a.avi"),
    ],
)
def test_other_clips_are_not_drawn_side_by_side(script, tmp_path, options, message):
    runs = {"one": script.read_clips(run_folder(tmp_path / "1"))}
    runs["two"] = script.read_clips(run_folder(tmp_path / "2", **options))
    with pytest.raises(ValueError, match=message):
        script.matched(runs)


def test_folders_of_predict_are_drawn(script, tmp_path, capsys):
    named = []
    for row in ("skip", "sideways"):
        folder = run_folder(tmp_path / row) / "predictions"
        index = json.loads((folder / "index.json").read_text())
        index["clips"][0] |= {"folder": "0123", "mse": [None, 0.3]}
        (folder / "index.json").write_text(json.dumps(index))
        named.append(f"{row}={folder}")
    assert script.main(["--folders", *named, "--output", str(tmp_path / "picture")]) == 0
    assert (tmp_path / "picture.png").is_file()
    assert script.main(["--folders", "skip"]) == 2
    assert "expected ROW=DIR" in capsys.readouterr().err
    assert script.main([]) == 2
    assert "give either" in capsys.readouterr().err


def test_runs_are_found_by_row_fold_and_seed(script, tmp_path, capsys):
    path = tmp_path / "results.json"
    run = {"row": "skip", "fold": 0, "seed": 0, "status": "ok", "run_id": "1"}
    path.write_text(
        json.dumps({"rows": [run, run | {"seed": 1, "run_id": "2"}, run | {"row": "b", "status": "failed"}]})
    )
    assert script.run_ids(path, None, 0, 1) == {"skip": "2"}
    assert script.main([str(tmp_path), "--rows", "skip", "b"]) == 2
    assert "no finished run of fold 0, seed 0 of b; it has skip" in capsys.readouterr().err
