"""VideoData under any leaf: clips by time, ranges of longer files, crops, protocol."""

import numpy as np
import pytest
import torch
from sample_videos import write_video

from datamodules.listing import Entry, Listing
from datamodules.video_data import VideoData


class Few(VideoData):
    """A leaf whose entries are given."""

    dataset_name = "few"

    def __init__(self, root, entries, official=None, **options):
        splits = {"train": entries, "val": [], "test": entries}
        expected = {s: len(ids) for s, ids in official.items()} if official else None
        super().__init__(
            Listing(root, ["a", "b"], splits, "given", 0, expected, {}, official),
            **{"frames": 4, "size": 48, "flip": False, "cache": "none", **options},
        )

    def folds(self):
        return 1


def few(root, *entries, stage=None, **options):
    data = Few(root, list(entries), **options)
    data.setup(stage)
    return data


def levels(clip):
    """The frame numbers that a clip of `write_video` shows, from its grey level."""
    return (clip["video"][: clip["length"], :, 40:, 40:].float().mean((1, 2, 3)) / 10).round().int().tolist()


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        VideoData(Listing(None, [], {}, "", 0))


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_clips_have_their_own_frame_rate(tmp_path, cache):
    write_video(tmp_path / "v.avi", frames=16)
    options = {"cache": cache, "cache_dir": str(tmp_path / "c") if cache == "disk" else None, "views": 3}
    test = few(tmp_path, Entry("v.avi", "v", 0), fps=12.5, **options).test_dataloader().dataset
    assert [levels(test[(0, i)]) for i in range(3)] == [[0, 2, 4, 6], [4, 6, 8, 10], [9, 11, 13, 15]]
    slow = few(tmp_path, Entry("v.avi", "v", 0), fps=50.0, **options).test_dataloader().dataset
    assert [levels(slow[(0, i)]) for i in (0, 2)] == [[0, 0, 1, 1], [14, 14, 15, 15]]


def test_a_file_of_variable_rate_is_sampled_by_its_stamps(tmp_path):
    stamps = [0, 40, 80, 120, 520, 560, 600, 640]
    write_video(tmp_path / "v.mp4", frames=8, codec="libx264", stamps=stamps)
    data = few(tmp_path, Entry("v.mp4", "v", 0), fps=12.5, frames=8)
    assert data.videos["test"][0].facts.variable_rate
    shown = {
        0: [0, 2, 3, 3, 3, 3, 3, 5],
        1: [1, 3, 3, 3, 3, 3, 4, 6],
        2: [2, 3, 3, 3, 3, 3, 5, 7],
        3: [3, 3, 3, 3, 3, 4, 6, 7],
    }
    assert levels(data.test_dataloader().dataset[(0, 0)]) == shown[1]
    train = data.train_dataloader().dataset
    starts = set()
    for epoch in range(90):
        clip = train[(epoch, 0)]
        starts.add(start := int(clip["clip_id"].split("@")[1]))
        assert levels(clip) == shown[start]
    assert starts == set(shown)


@pytest.mark.parametrize("options", [{}, {"cache": "memory"}, {"background": "mean"}, {"fps": 25.0}])
def test_a_range_of_a_longer_file_is_a_video_of_its_own(tmp_path, options):
    write_video(tmp_path / "long.avi", frames=60)
    write_video(tmp_path / "trimmed.avi", frames=12)
    entries = [Entry("long.avi", "x_0.2_0.6", 0, 0.2, 0.6), Entry("trimmed.avi", "y_1_2", 1, 1.0, 2.0)]
    data = few(tmp_path, *entries, views=2, **options)
    assert [(video.first, video.frames) for video in data.videos["test"]] == [(5, 10), (0, 12)]
    test = data.test_dataloader().dataset
    assert [test[(0, i)]["clip_id"] for i in range(4)] == ["x_0.2_0.6@0", "x_0.2_0.6@6", "y_1_2@0", "y_1_2@8"]
    if "background" in options:
        assert test[(0, 0)]["video"][0].max() == 0  # the background begins with the range
    else:
        assert [levels(test[(0, i)]) for i in (0, 1)] == [[5, 6, 7, 8], [11, 12, 13, 14]]
    starts = {int(data.train_dataloader().dataset[(epoch, 0)]["clip_id"].split("@")[1]) for epoch in range(60)}
    assert starts == set(range(7))


def test_a_range_that_the_file_does_not_reach_is_a_fault(tmp_path):
    write_video(tmp_path / "v.avi", frames=60)
    write_video(tmp_path / "w.avi", frames=60)
    wrong = Entry("w.avi", "w", 0, 7.0, 8.0)
    data = few(tmp_path, Entry("v.avi", "v", 0), wrong, stage="fit")
    assert list(data.skipped) == ["w"]
    assert "the file is over after 2.4 s" in data.skipped["w"]
    with pytest.raises(ValueError, match=r"w\.avi: the file is over"):
        few(tmp_path, wrong, stage="test")


def test_too_short_at_a_frame_rate_says_so(tmp_path):
    write_video(tmp_path / "v.avi", frames=14)
    data = Few(tmp_path, [Entry("v.avi", "v", 0)], fps=5.0)
    data.min_frames = 4
    with pytest.raises(ValueError, match=r"14 frames, 3 at 5 fps, needed 4"):
        data.setup("test")


def test_three_crops_lie_along_the_longer_side(tmp_path):
    write_video(tmp_path / "wide.avi", frames=8, height=48, width=96)
    write_video(tmp_path / "tall.avi", frames=8, height=96, width=48)
    entries = [Entry("wide.avi", "wide", 0), Entry("tall.avi", "tall", 1)]
    data, whole = few(tmp_path, *entries, views=2, crops=3), few(tmp_path, *entries)
    test = data.test_dataloader().dataset
    items = [test[(0, i)] for i in range(len(test))]
    assert [item["clip_id"] for item in items[:6]] == [f"wide@{start}.{crop}" for start in (0, 4) for crop in range(3)]
    assert [item["video_index"] for item in items] == [0] * 6 + [1] * 6
    wide, tall = (whole.store.frames(video, np.arange(4)) for video in whole.videos["test"])
    for crop, at in enumerate((0, 24, 48)):
        assert torch.equal(items[crop]["video"], wide[:, :, :, at : at + 48])
        assert torch.equal(items[6 + crop]["video"], tall[:, :, at : at + 48])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "1 view x 1 crop of 16 frames"),
        ({"views": 10, "crops": 3, "frames": 32, "fps": 12.5}, "10 views x 3 crops of 32 frames at 12.5 fps"),
        ({"stride": 2, "frames": 1}, "1 view x 1 crop of 1 frame at stride 2"),
    ],
)
def test_the_protocol_in_words(tmp_path, options, said):
    assert Few(tmp_path, [], **{"frames": 16, **options}).protocol == said


def test_augmentations_change_training_clips_only(tmp_path):
    from torchvision.transforms import v2

    write_video(tmp_path / "v.avi", frames=16)
    plain = few(tmp_path, Entry("v.avi", "v", 0), margin=8, size=40)
    strong = {"crop_scale": [0.3, 0.6], "augmentations": [v2.ColorJitter(0.9), v2.GaussianBlur(5)]}
    changed, again = (few(tmp_path, Entry("v.avi", "v", 0), margin=8, size=40, **strong) for _ in range(2))
    one, other, same = (data.train_dataloader().dataset[(2, 0)] for data in (plain, changed, again))
    assert one["clip_id"] == other["clip_id"]
    assert not torch.equal(one["video"], other["video"])
    assert torch.equal(same["video"], other["video"])
    tests = [data.test_dataloader().dataset[(0, 0)]["video"] for data in (plain, changed)]
    assert torch.equal(*tests)


def test_the_hash_of_an_official_set_is_of_ids_not_of_files(tmp_path):
    write_video(tmp_path / "v.avi", frames=16)
    official = {"train": {"v": 0, "w": 1}, "test": {"v": 0}}
    one = Few(tmp_path, [Entry("v.avi", "v", 0)], official)
    assert one.data_hash == Few(tmp_path, [Entry("elsewhere/v.mp4", "v", 0)], official).data_hash
    assert one.data_hash != Few(tmp_path, [], official).data_hash
    assert one.data_hash != Few(tmp_path, [Entry("v.avi", "v", 0)], {**official, "test": {"v": 1}}).data_hash
    assert (one.expected, one.found) == ({"train": 2, "test": 1}, {"train": 1, "val": 0, "test": 1})
