"""VideoFolder: clips as the contract has them, whatever the files."""

import logging
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from sample_videos import truncate, write_video
from torch.utils.data import DataLoader

from datamodules import VideoFolder
from datamodules.faults import refuse
from datamodules.video_dataset import TrainClips


def make(root, stage=None, min_frames=1, **options):
    defaults = {"frames": 6, "size": 24, "batch_size": 2, "group_pattern": r"^(\w)_"}
    data = VideoFolder(str(root), **{**defaults, **options})
    data.min_frames = min_frames
    data.setup(stage)
    return data


def test_all_four_loaders_keep_the_contract(video_folder):
    data = make(video_folder, val_group="next", views=2)
    sizes = {}
    for name in ("train", "val", "test", "predict"):
        batches = list(getattr(data, f"{name}_dataloader")())
        sizes[name] = sum(len(batch["label"]) for batch in batches)
        for batch in batches:
            assert batch["video"].shape == (2, 6, 3, 24, 24)
            assert batch["video"].dtype == torch.uint8
            assert batch["video"].max() > 200
            assert batch["length"].tolist() == [6, 6]
            assert batch["label"].dtype == batch["video_index"].dtype == torch.int64
    assert sizes == {"train": 4, "val": 4, "test": 4, "predict": 4}
    assert data.num_classes == 2
    assert data.class_names == ["left", "right"]
    assert data.channels == 3
    assert data.folds() == 4
    assert data.split_name == "leave-one-group-out"


def test_views_share_their_video_and_its_label(video_folder):
    batch = next(iter(make(video_folder, views=3, batch_size=6).test_dataloader()))
    assert batch["video_index"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["clip_id"][:3] == ["left/a_left.avi@0", "left/a_left.avi@4", "left/a_left.avi@8"]


def test_frames_are_the_files_frames(video_folder):
    clip = make(video_folder, size=48, views=2, fit="squash").test_dataloader().dataset[(0, 1)]
    assert clip["clip_id"].endswith("@8")
    levels = clip["video"][:, :, 40:, 40:].float().mean((1, 2, 3))
    torch.testing.assert_close(levels, 10.0 * torch.arange(8, 14), atol=4, rtol=0)


def test_training_clips_are_a_function_of_seed_epoch_index(video_folder):
    one, again, other = (
        TrainClips(data.videos["train"], data.store, seed=seed, clips_per_video=4)
        for seed in (1, 1, 2)
        for data in [make(video_folder, margin=6)]
    )
    keys = [(epoch, index) for epoch in range(3) for index in range(len(one))]
    assert len(one) == 24
    assert all(torch.equal(one[key]["video"], again[key]["video"]) for key in keys)
    ids = [dataset[key]["clip_id"] for dataset in (one, other) for key in keys]
    assert ids[: len(keys)] != ids[len(keys) :]
    assert len(set(ids[: len(keys)])) > 30


def test_one_choice_for_all_frames_of_a_clip(tmp_path):
    for group in "ab":
        write_video(tmp_path / "still" / f"{group}_still.avi", frames=1)
    data = make(tmp_path, frames=5, margin=8, size=16)
    frame = torch.randint(0, 256, (1, 3, 24, 32), dtype=torch.uint8)
    data.videos["train"] = [replace(video, frames=5) for video in data.videos["train"]]
    data.store._kept = {video.video_id: frame.repeat(5, 1, 1, 1) for video in data.videos["train"]}
    dataset = data.train_dataloader().dataset
    clips = [dataset[(epoch, 0)]["video"] for epoch in range(12)]
    assert all((clip == clip[:1]).all() for clip in clips)
    assert len({clip.sum().item() for clip in clips}) > 4


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize(("stride", "length"), [(1, 14), (3, 5)])
def test_a_short_video_is_used_whole_with_zeros_behind(video_folder, cache, stride, length):
    clip = make(video_folder, frames=20, stride=stride, cache=cache).test_dataloader().dataset[(0, 0)]
    assert clip["length"] == length
    assert clip["clip_id"].endswith("@0")
    assert clip["video"].shape[0] == 20
    assert (clip["video"][:length].amax((1, 2, 3)) > 128).all()
    assert clip["video"][length:].max() == 0


@pytest.mark.parametrize("background", ["none", "median", "mean"])
def test_cached_and_uncached_clips_are_the_same(video_folder, background):
    options = {"background": background, "grayscale": True, "stride": 2, "frames": 4}
    kept, read = (make(video_folder, cache=cache, **options).train_dataloader().dataset for cache in ("memory", "none"))
    for key in [(0, 0), (1, 3), (2, 5)]:
        assert kept[key]["video"].shape == (4, 1, 24, 24)
        assert torch.equal(kept[key]["video"], read[key]["video"])
    assert len(kept.store._kept) > 0 == len(read.store._kept)


def test_pytorchvideo_gives_the_same_clips(video_folder):
    one, other = (
        make(video_folder, decoder=decoder).test_dataloader().dataset[(0, 0)] for decoder in ("pyav", "pytorchvideo")
    )
    assert (one["video"].float() - other["video"].float()).abs().mean() < 2.5


def spoil(root, group):
    truncate(write_video(root / "left" / f"{group}_cut.avi", frames=60), 0.5)
    write_video(root / "right" / f"{group}_short.avi", frames=3)


def test_training_skips_what_it_cannot_use_and_says_how_many(video_folder, caplog):
    spoil(video_folder, "c")
    with caplog.at_level(logging.WARNING):
        data = make(video_folder, min_frames=5, stride=1)
    assert "training skips 2 of 8 videos: 1 broken, 1 short" in caplog.text
    assert "left/c_cut.avi: ends early" in caplog.text
    assert "right/c_short.avi: 3 frames" in caplog.text
    assert len(data.videos["train"]) == 6
    assert [batch["video_index"].max() <= 5 for batch in data.train_dataloader()] == [True] * 3


def test_the_test_refuses_with_the_list(video_folder):
    spoil(video_folder, "a")
    with pytest.raises(
        ValueError, match=r"2 videos of the test(.|\n)*a_cut.avi: ends early(.|\n)*a_short.avi: 3 frames"
    ):
        make(video_folder, min_frames=5)
    make(video_folder, "fit", min_frames=5)  # training alone does not need the test videos


def test_a_fit_goes_on_without_broken_validation_videos_and_a_score_does_not(video_folder, caplog):
    spoil(video_folder, "b")
    with caplog.at_level(logging.WARNING):
        data = make(video_folder, "fit", min_frames=5, val_group="next")
    assert "validation while training skips 2 of 4 videos: 1 broken, 1 short" in caplog.text
    assert len(data.videos["val"]) == 2
    assert set(data.skipped) == {"left/b_cut.avi", "right/b_short.avi"}
    with pytest.raises(ValueError, match=r"2 videos of the val split(.|\n)*skip-sideways data verify --root"):
        make(video_folder, "validate", min_frames=5, val_group="next")


def test_a_long_list_of_faults_is_in_a_file(video_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    faults = [f"broken: v{number}.avi: no frame decodes" for number in range(50)]
    with pytest.raises(ValueError, match=r"and 30 more: .skip-sideways/unusable-test.txt"):
        refuse(faults, "test", "skip-sideways data verify --root DIR")
    assert (tmp_path / ".skip-sideways" / "unusable-test.txt").read_text().splitlines() == faults


def test_a_video_too_short_to_learn_from_may_be_long_enough_for_an_answer(video_folder):
    """As HMDB51 has: clips of 18 frames, where a pipeline of ten units learns from 19 and answers at 10."""
    data = VideoFolder(str(video_folder), frames=20, size=24, group_pattern=r"^(\w)_")
    data.min_frames, data.min_scored_frames = 18, 10
    data.setup("test")
    assert {video.frames < 18 for video in data.videos["test"]} == {True}
    with pytest.raises(ValueError, match="no video left to train on"):
        data.setup("fit")


def test_short_counts_frames_after_the_stride(video_folder):
    make(video_folder, min_frames=5, stride=3)
    with pytest.raises(ValueError, match="14 frames, 4 at stride 4, needed 5"):
        make(video_folder, min_frames=5, stride=4)


def test_nothing_left_to_train_on_is_an_error(video_folder):
    with pytest.raises(ValueError, match="no video left to train on"):
        make(video_folder, "fit", min_frames=100)


def test_no_validation_unless_a_group_is_held_out(video_folder):
    assert make(video_folder).val_dataloader() == []


@pytest.mark.parametrize(("stage", "option"), [("validate", "--data.val_group"), ("test", "--data.test_fraction")])
def test_a_score_of_no_video_is_refused(video_folder, stage, option):
    options = {"group_pattern": None, "val_fraction": 0.0, "test_fraction": 0.0}
    make(video_folder, "fit", **options)
    with pytest.raises(ValueError, match=rf"8 videos, none of them .*nothing to score.*{option}"):
        make(video_folder, stage, **options)


def test_random_and_csv_splits(video_folder, tmp_path):
    data = make(video_folder, group_pattern=None, val_fraction=0.25, test_fraction=0.25)
    assert [len(data.videos[split]) for split in ("train", "val", "test")] == [4, 2, 2]
    assert data.split_name == "random"
    assert data.folds() == 1
    file = tmp_path / "mine.csv"
    file.write_text("path,split\nleft/a_left.avi,train\nright/a_right.avi,train\nleft/b_left.avi,test\n")
    data = make(video_folder, group_pattern=None, split_csv=str(file))
    assert [len(data.videos[split]) for split in ("train", "val", "test")] == [2, 0, 1]
    assert data.split_name == "mine"


def test_hash_follows_files_and_split_not_the_seed(video_folder):
    one = make(video_folder).data_hash
    assert one == make(video_folder, seed=5, frames=3).data_hash
    assert one != make(video_folder, fold=1).data_hash
    write_video(video_folder / "left" / "a_left.avi", frames=30)
    assert one != make(video_folder).data_hash


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"background": "mode"}, "none, median, mean"),
        ({"fit": "stretch"}, "crop, squash"),
        ({"cache": "ram"}, "memory, disk, none"),
        ({"decoder": "opencv"}, "auto or one of pyav, torchcodec, pytorchvideo"),
        ({"stride": 0}, "must be >= 1"),
        ({"fps": 0.0}, "expected fps > 0"),
        ({"fps": 12.5, "stride": 2}, "frames are chosen by time or by number"),
        ({"crops": 2}, "1 or 3 crops"),
        ({"crops": 3, "fit": "squash"}, "has no longer side"),
        ({"views": 0}, "1 view or more"),
        ({"crop_scale": [0.5]}, "two shares of the area"),
        ({"fold": 4}, "folds 0 to 3"),
        ({"group_pattern": None, "fold": 1}, "need groups"),
        ({"split_csv": "x.csv"}, "give one of them"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(video_folder, wrong, said):
    with pytest.raises(ValueError, match=said):
        make(video_folder, **wrong)


def test_folders_that_are_no_dataset_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        VideoFolder(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="no video file: expected one folder per class"):
        VideoFolder(str(tmp_path))
    write_video(tmp_path / "loose.avi")
    with pytest.raises(ValueError, match=r"outside of any folder, first loose\.avi"):
        VideoFolder(str(tmp_path))


def test_workers_give_the_same_batches_and_resume(video_folder):
    whole = [batch["clip_id"] for batch in make(video_folder).train_dataloader()]
    loader = make(video_folder, num_workers=2).train_dataloader()
    batches = iter(loader)
    first = next(batches)["clip_id"]
    state = loader.state_dict()
    del batches
    resumed = make(video_folder).train_dataloader()
    resumed.load_state_dict(state)
    assert [first, *(batch["clip_id"] for batch in resumed)] == whole


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_spawned_workers(video_folder, cache):
    dataset = make(video_folder, cache=cache).train_dataloader().dataset
    keys = [(0, index) for index in range(len(dataset))]
    spawned = DataLoader(dataset, batch_size=2, sampler=keys, num_workers=1, multiprocessing_context="spawn")
    videos = torch.cat([batch["video"] for batch in spawned])
    assert torch.equal(videos, torch.stack([dataset[key]["video"] for key in keys]))


def test_dataset_survives_pickling(video_folder):
    dataset = make(video_folder).train_dataloader().dataset
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[(1, 2)]["video"], dataset[(1, 2)]["video"])


@pytest.mark.parametrize("feeds", [True, False])
def test_only_processes_that_feed_frames_decode(video_folder, feeds):
    """Units on several devices: the first stage decodes; the others make no table either, one process did for all."""
    data = VideoFolder(str(video_folder), frames=6, size=16, num_workers=2, seed=1)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(feeds_frames=feeds), is_global_zero=feeds)
    data.prepare_data()
    data.setup("fit")
    assert bool(data.store._kept) is feeds
