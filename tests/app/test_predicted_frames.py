"""Saved predictions: one fixed bounded sample, files that can be read back, errors of full disks that say so."""

import errno
import io
import json
from pathlib import Path
from types import SimpleNamespace

import av
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from app.frame_files import clip_digest, h264_encoder, write_clip, write_index
from app.predicted_frames import PredictedFrameFiles, PredictedFrames, SampleOfClips
from app.run_logger import RunLogger
from lightning_modules import horizon as h
from lightning_modules.execution.team import Team
from lightning_modules.networks import build_frame_predictor
from lightning_modules.predicted_clips import PredictedClips

IDS = [f"person {i}/walk <b>@{i}" for i in range(9)]
SHORT = IDS[4]  # has no scored frame
K, NEWEST = 2, torch.arange(5, 9)


def batch(numbers, channels=1, height=12, width=16):
    """Clips of 13 frames, the last ones of shorter clips being padding; a clip is a function of its number alone."""
    videos = []
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        videos.append(torch.randint(256, (13, channels, height, width), generator=generator) / 255)
    video = torch.stack(videos)
    lengths = torch.tensor([4 if IDS[n] == SHORT else 13 - n % 2 for n in numbers])
    scored = h.scored_outputs(NEWEST, lengths, depth=3, horizon=K)
    target = h.target_frames(video, NEWEST, K)
    return PredictedClips(
        [IDS[n] for n in numbers], ["walk"] * len(numbers), video, lengths, NEWEST, target, target + 0.1, scored
    )


class Predictor(pl.LightningModule):
    """Hands on fixed clips: the callbacks need no more of a task."""

    def __init__(self, saved_clips=3, channels=1):
        super().__init__()
        self.save_hyperparameters()
        self.hparams["horizon"] = K
        self.network = build_frame_predictor("small_autoencoder", wiring="unet", width=0.1)
        self.team = Team()

    def test_step(self, numbers, batch_idx):
        return batch(numbers.tolist(), self.hparams["channels"])

    predict_step = test_step


def trainer(callback, logger=False):
    return pl.Trainer(
        accelerator="cpu", callbacks=[callback], logger=logger, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip


def loader(order, size):
    return DataLoader(order, batch_size=size, num_workers=0)


class Folder:
    """A logger's one method."""

    def __init__(self, place):
        self.place = place

    def log_folder(self, local, artifact_path):
        for file in sorted(Path(local).rglob("*")):
            if file.is_file():
                target = self.place / artifact_path / file.relative_to(local)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())


def run_test(place, order=(0, 1, 2, 3, 4, 5, 6, 7, 8), size=4, **options):
    """Return the index of a test whose artifacts go to `place`."""
    callback, module = PredictedFrames(), Predictor(**options)
    fake = SimpleNamespace(loggers=[Folder(place)], is_global_zero=True)
    callback.on_test_start(fake, module)
    for numbers in torch.tensor(list(order)).split(size):
        callback.on_test_batch_end(fake, module, module.test_step(numbers, 0), None, 0)
    callback.on_test_end(fake, module)
    return json.loads((place / "predictions" / "index.json").read_text())


def contents(place):
    return {str(f.relative_to(place)): f.read_bytes() for f in place.rglob("*") if f.suffix != ".mp4" and f.is_file()}


def test_the_sample_is_the_same_in_any_order_and_batches(tmp_path):
    index = run_test(tmp_path / "a")
    wanted = sorted((i for i in IDS if i != SHORT), key=clip_digest)[:3]
    assert [entry["clip_id"] for entry in index["clips"]] == wanted
    assert run_test(tmp_path / "b", order=reversed(range(9)), size=1) == index
    assert run_test(tmp_path / "c", order=[3, 3, 8, 1, 0, 2, 5, 4, 7, 6, 8], size=11) == index
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_the_sample_is_bounded_and_merges():
    whole, parts = SampleOfClips(3), [SampleOfClips(3), SampleOfClips(3)]
    for number in range(9):
        whole.update(batch([number]))
        parts[number % 2].update(batch([number]))
        assert len(whole) <= 3
    parts[0].merge(parts[1])
    parts[0].merge(parts[1])
    assert [clip.clip_id for clip in parts[0].clips] == [clip.clip_id for clip in whole.clips]


def test_what_the_files_hold(tmp_path):
    index = run_test(tmp_path)
    assert (index["schema"], index["horizons"], index["fps"], index["lmin"]) == (1, [1, 2], 25.0, 2)
    for entry in index["clips"]:
        number = IDS.index(entry["clip_id"])
        given = batch([number])
        folder = tmp_path / entry["folder"]
        assert entry["folder"] == f"predictions/{clip_digest(entry['clip_id'])[:16]}"
        assert sorted(entry["files"]) == sorted(file.name for file in folder.iterdir())
        read = {
            name: np.load(folder / f"{name}.npz", allow_pickle=False) for name in ("context", "target", "prediction")
        }
        context, target, prediction = (read[name][name] for name in read)
        length = int(given.lengths_B[0])
        assert np.array_equal(context, (given.context_BTCHW[0, :length] * 255).round().byte().numpy())
        frames = entry["frames"]
        assert frames == read["target"]["frames"].tolist() == read["prediction"]["frames"].tolist()
        assert frames == [5, 6, 7, 8] if length == 13 else [5, 6, 7]
        for n, m in enumerate(frames):
            assert all(np.array_equal(target[n, k - 1], context[m + k]) for k in (1, 2))
        error = (target / 255 + 0.1).clip(0, 1) - target / 255
        assert entry["mse"] == pytest.approx((error**2).mean((0, 2, 3, 4)).tolist(), rel=1e-4)
        assert np.abs(prediction / 255 - target / 255 - error).max() < 0.51 / 255
        assert entry["label"] == "walk"


@pytest.mark.skipif(h264_encoder() is None, reason="this PyAV has no H.264 encoder")
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_films_can_be_read_back(tmp_path, channels):
    entry = run_test(tmp_path, channels=channels)["clips"][0]
    folder = tmp_path / entry["folder"]
    for name, horizons in (("context", 1), ("target", K), ("prediction", K)):
        frames = np.load(folder / f"{name}.npz")[name]
        frames = frames[:, None] if name == "context" else frames
        with av.open(io.BytesIO((folder / f"{name}.mp4").read_bytes())) as container:
            stream = container.streams.video[0]
            pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(stream)]
            assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 25.0)
        assert len(pictures) == len(frames)
        assert pictures[0].shape == (132, 176 * horizons, 3)
        seen = frames if channels == 3 else frames.mean(2, keepdims=True)
        for k in range(horizons):
            shown = pictures[-1][:, 176 * k : 176 * (k + 1)].astype(float)
            means = shown.reshape(12, 11, 16, 11, 3).mean((1, 3)).mean(-1)
            assert np.corrcoef(means.ravel(), seen[-1, k].mean(0).ravel())[0, 1] > 0.95


def test_a_run_keeps_them_as_artifacts(mlflow_store, tmp_path):
    logger = RunLogger("frames", uri=mlflow_store)
    trainer(PredictedFrames(), logger).test(Predictor(saved_clips=2), loader(range(9), 4), verbose=False)
    paths = {item.path for item in logger.experiment.list_artifacts(logger.run_id, "predictions")}
    assert len(paths) == 3
    assert "predictions/index.json" in paths


def test_without_a_place_to_keep_them_nothing_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr("app.predicted_frames.write_clip", lambda *_: pytest.fail("nothing asked for it"))
    trainer(PredictedFrames()).test(Predictor(), loader(range(9), 4), verbose=False)


def test_predict_writes_every_clip_and_a_table(tmp_path, capsys):
    callback = PredictedFrameFiles(tmp_path / "out")
    trainer(callback).predict(Predictor(), loader(range(9), 4), return_predictions=False)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert {entry["clip_id"] for entry in index["clips"]} == set(IDS) - {SHORT}
    assert len(list((tmp_path / "out").iterdir())) == 9
    assert all((tmp_path / "out" / entry["folder"] / "prediction.npz").is_file() for entry in index["clips"])
    printed = capsys.readouterr().out
    rows = {
        line[:24].strip(): [float(x) for x in line[24:].split()]
        for line in printed.splitlines()
        if line[:3] in ("mse", "psn", "ssi")
    }
    assert len(rows) == 8
    frames = sum(len(entry["frames"]) for entry in index["clips"])
    mse = sum(entry["mse"][0] * len(entry["frames"]) for entry in index["clips"]) / frames
    assert rows["mse this network"][0] == pytest.approx(mse, rel=1e-3)
    assert rows["mse copy last"][2] == pytest.approx(sum(rows["mse copy last"][:2]) / 2, rel=1e-3)
    assert rows["mse copy last"][0] > 10 * rows["mse this network"][0]
    assert "8 clips written to" in printed


def test_of_an_autoencoder_no_copy_is_printed(tmp_path, capsys):
    """The copied frame would be the one that is asked for."""
    callback, module = PredictedFrameFiles(tmp_path), Predictor()
    module.hparams["horizon"] = 0
    fake, made = SimpleNamespace(is_global_zero=True), batch([0])
    made.target_BNKCHW, made.prediction_BNKCHW = made.target_BNKCHW[:, :, :1], made.prediction_BNKCHW[:, :, :1]
    callback.on_predict_start(fake, module)
    callback.on_predict_batch_end(fake, module, made, None, 0)
    callback.on_predict_end(fake, module)
    printed = capsys.readouterr().out
    assert "mse this network" in printed
    assert "copy last" not in printed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("name", ["index.json", "prediction.npz", "target.mp4"])
def test_a_full_disk_is_said(tmp_path, name, monkeypatch):
    if name.endswith("mp4") and h264_encoder() is None:
        pytest.skip("this PyAV has no H.264 encoder")
    for method in ("write_bytes", "write_text"):
        write = getattr(Path, method)

        def to_full(self, *given, write=write, **options):
            return write(Path("/dev/full") if self.name == name else self, *given, **options)

        monkeypatch.setattr(Path, method, to_full)
    with pytest.raises(ValueError, match=r"could not be written to .*: the disk is full; free space there"):
        trainer(PredictedFrameFiles(tmp_path)).predict(Predictor(), loader(range(9), 4), return_predictions=False)


def test_a_full_store_is_said():
    class Full:
        uri = "sqlite:///runs.db"

        def log_folder(self, local, artifact_path):
            raise OSError(errno.ENOSPC, "No space left on device")

    callback, module = PredictedFrames(), Predictor()
    fake = SimpleNamespace(loggers=[Full()], is_global_zero=True)
    callback.on_test_start(fake, module)
    callback.on_test_batch_end(fake, module, batch([0]), None, 0)
    with pytest.raises(ValueError, match=r"could not be written to sqlite:///runs.db: the disk is full"):
        callback.on_test_end(fake, module)


def predict(folder, order=(0, 1, 2)):
    trainer(PredictedFrameFiles(folder)).predict(Predictor(), loader(order, 4), return_predictions=False)


def test_output_must_be_a_folder(tmp_path):
    (tmp_path / "frames").touch()
    for name in ("frames", "new.csv"):
        with pytest.raises(ValueError, match=f"{name} is a file; predicted frames need a folder"):
            predict(tmp_path / name)


def test_an_earlier_prediction_is_replaced(tmp_path):
    predict(tmp_path / "out")
    predict(tmp_path / "out", [0, 1])
    folders = {clip_digest(IDS[number])[:16] for number in (0, 1)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.json", *folders}


@pytest.mark.parametrize("name", ["notes.txt", "0123456789abcdef", "thesis/a.tex"])
def test_a_folder_with_other_things_is_left_alone(tmp_path, name):
    predict(tmp_path, [0])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="which no prediction wrote there; give an empty or a new folder"):
        predict(tmp_path)
    assert contents(tmp_path) == before


def test_artifacts_of_a_test_are_left_alone(tmp_path):
    run_test(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="which no prediction wrote there"):
        predict(tmp_path / "predictions")
    assert contents(tmp_path) == before


def test_a_folder_without_an_index_is_left_alone(tmp_path):
    (tmp_path / "0123456789abcdef").mkdir()
    with pytest.raises(ValueError, match="holds '0123456789abcdef', which no prediction wrote there"):
        predict(tmp_path)
    assert (tmp_path / "0123456789abcdef").is_dir()


def test_nan_becomes_a_picture_and_stays_an_error(tmp_path):
    given = batch([0])
    broken = PredictedClips(
        *[*vars(given).values()][:6], torch.full_like(given.target_BNKCHW, torch.nan), given.scored_BN
    )
    sample = SampleOfClips(1)
    sample.update(broken)
    assert np.isnan(sample.clips[0].mse).all()
    write_index(tmp_path, [write_clip(tmp_path, sample.clips[0])], {"horizons": [1, 2]})
    text = (tmp_path / "index.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["clips"][0]["mse"] == [None, None]
    assert not sample.clips[0].prediction.any()


def test_of_other_tasks_nothing_is_kept():
    callback = PredictedFrames()
    fake, module = SimpleNamespace(loggers=[]), SimpleNamespace(hparams={})
    callback.on_test_start(fake, module)
    callback.on_test_batch_end(fake, module, None, None, 0)
    callback.on_test_end(fake, module)
    assert len(callback.sample) == 0
    assert isinstance(Predictor().network, nn.Module)
