"""Streams: whole videos as consecutive pieces, lanes that start together, a pure order, one augmentation a video."""

import numpy as np
import pytest
import torch
from sample_videos import truncate, write_video

from datamodules.streams import epoch_groups, stream_groups
from datamodules.video_folder import VideoFolder

OPTIONS = {"frames": 4, "size": 24, "batch_size": 3, "val_fraction": 0.0, "test_fraction": 0.0, "jobs": 1, "seed": 3}


def data(root, stage="fit", **options):
    made = VideoFolder(str(root), stream=True, **{**OPTIONS, **options})
    made.setup(stage)
    return made


def videos_of(batches):
    """Return each video's frames in the order in which its pieces came."""
    found = {}
    for batch in batches:
        for lane, length in enumerate(batch["length"].tolist()):
            if length:
                found.setdefault(int(batch["video_index"][lane]), []).append(batch["video"][lane, :length])
    return {number: torch.cat(parts) for number, parts in found.items()}


def test_groups_are_of_videos_with_as_many_pieces():
    pieces = np.array([1, 9, 2, 8, 1, 9])
    groups = stream_groups(pieces, 2, np.arange(6))
    assert [sorted(group.tolist()) for group in groups] == [[1, 5], [2, 3], [0, 4]]
    used = sum(pieces)
    assert used / sum(2 * pieces[group].max() for group in groups) > 0.8
    assert used / (2 * (9 + 8 + 9)) < 0.6, "in the order of their numbers a third more lanes would be empty"


def test_an_epoch_is_a_function_of_seed_and_epoch():
    pieces = np.repeat([3, 5], 10)

    def of(seed, epoch):
        return [group.tolist() for group in epoch_groups(seed, epoch, pieces, 4)]

    assert of(1, 2) == of(1, 2)
    assert of(1, 2) != of(1, 3) != of(2, 3)
    assert sorted(number for group in of(1, 2) for number in group) == list(range(20))
    assert {sum(pieces[g].max() for g in epoch_groups(1, e, pieces, 4)) for e in range(9)} == {21}, "as many batches"
    assert len(set(map(tuple, of(1, 2))) & set(map(tuple, of(1, 3)))) < 2, "other videos meet"


def test_every_frame_comes_once_in_order(video_folder):
    """Eight videos of 14 to 17 frames: the pieces of a lane, put together, are the video."""
    made = data(video_folder, flip=False, fit="squash")
    loader = made.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 5 + 4 + 4
    assert {batch["piece"] for batch in batches[:4]} == {0, 1, 2, 3}
    found = videos_of(batches)
    assert sorted(found) == list(range(8))
    for number, frames in found.items():
        video = made.videos["train"][number]
        assert torch.equal(frames, made.store.whole(video))
    ended = [int(i) for batch in batches for i in batch["video_index"][batch["last"]]]
    assert sorted(ended) == list(range(8))


def test_lanes_that_are_over_are_empty_and_the_last_piece_is_short(video_folder):
    (video_folder / "left" / "e_left.avi").parent.mkdir(exist_ok=True)
    write_video(video_folder / "left" / "e_left.avi", frames=30)
    batches = list(data(video_folder, batch_size=9).train_dataloader())
    assert [batch["length"].max().item() for batch in batches] == [4] * 7 + [2]
    assert [batch["video"].shape[1] for batch in batches] == [4] * 7 + [2]
    assert batches[-1]["length"].tolist().count(0) == 8
    assert batches[-1]["video"][batches[-1]["length"] == 0].max() == 0
    assert [batch["start"] for batch in batches] == list(range(0, 32, 4))


def test_one_choice_a_video_and_epoch(video_folder):
    """Mirrored and cut alike in all pieces, otherwise in another epoch."""
    made = data(video_folder, margin=6, flip=True)
    streams = made.train_dataloader().dataset
    seen = set()
    for epoch in range(6):
        found = videos_of(streams[(epoch, n)] for n in range(len(streams)))
        video = made.store.whole(made.videos["train"][0])
        places = [
            (top, left, mirrored)
            for top in range(7)
            for left in range(video.shape[-1] - 23)
            for mirrored in (False, True)
            if torch.equal(found[0], cut(video, top, left, mirrored))
        ]
        assert len(places) == 1, "the whole video is one cut of the original"
        seen.add(places[0])
    assert len(seen) > 2


def cut(video, top, left, mirrored):
    part = video[..., top : top + 24, left : left + 24]
    return part.flip(-1) if mirrored else part


def test_augmentations_do_not_jump_between_pieces(video_folder):
    from torchvision.transforms import v2

    torch.manual_seed(0)
    jitter = {"augmentations": [v2.ColorJitter(0.5, hue=0.3)], "flip": False, "crop_scale": [0.3, 0.6]}
    in_pieces = videos_of(data(video_folder, **jitter).train_dataloader())
    at_once = videos_of(data(video_folder, frames=32, **jitter).train_dataloader())
    plain = videos_of(data(video_folder, flip=False).train_dataloader())
    for number, frames in in_pieces.items():
        assert torch.equal(frames, at_once[number])
        assert not torch.equal(frames, plain[number])


def test_frames_by_time_and_by_stride(video_folder):
    """A stream at half the frame rate is every second frame; decoded piece by piece or kept, the same bits."""
    half = videos_of(data(video_folder, fps=12.5).train_dataloader())
    second = videos_of(data(video_folder, stride=2, cache="none").train_dataloader())
    for number, frames in half.items():
        assert torch.equal(frames, second[number])
    assert len(half[0]) == 7


def test_a_video_shorter_than_a_piece_may_be_long_enough_as_a_stream(video_folder):
    """min_frames counts the whole video, not the frames of one piece."""
    made = VideoFolder(str(video_folder), stream=True, **OPTIONS)
    made.min_frames = 15
    made.setup("fit")
    assert len(made.videos["train"]) == 6
    assert set(made.skipped) == {"left/a_left.avi", "right/a_right.avi"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stop_inside_a_video_leaves_no_trace(video_folder, num_workers):
    whole = data(video_folder).train_dataloader()
    whole.sampler.set_epoch(1)
    expected = list(whole)
    for given in (1, 3, 6):
        stopped = data(video_folder, num_workers=num_workers).train_dataloader()
        stopped.sampler.set_epoch(1)
        batches = iter(stopped)
        for _ in range(given):
            next(batches)
        state = stopped.state_dict()
        resumed = data(video_folder, num_workers=num_workers).train_dataloader()
        resumed.load_state_dict(state)
        rest, left = list(resumed), expected[given:]
        said = [[(batch["clip_id"], batch["piece"], batch["start"]) for batch in part] for part in (rest, left)]
        assert said[0] == said[1]
        assert all(torch.equal(a["video"], b["video"]) for a, b in zip(rest, left, strict=True))


def test_a_stop_inside_a_video_goes_on_with_as_many_lanes_only(video_folder):
    state = data(video_folder).train_dataloader().state_dict()
    with pytest.raises(ValueError, match="batch_size was 3, is 2"):
        data(video_folder, batch_size=2).train_dataloader().load_state_dict(state)


def test_evaluation_is_in_a_fixed_order_and_names_a_broken_file(video_folder):
    made = data(video_folder, "test", test_fraction=0.9)
    assert made.protocol == "whole videos in pieces of 4 frames"
    one, other = ([batch["clip_id"] for batch in made.test_dataloader()] for _ in range(2))
    assert one == other
    broken = data(video_folder, "test", test_fraction=0.9, cache="none")
    truncate(broken.videos["test"][0].path, 0.5)
    with pytest.raises(ValueError, match=broken.videos["test"][0].path.name):
        list(broken.test_dataloader())


def test_training_counts_a_file_that_breaks_and_goes_on(video_folder, caplog):
    made = data(video_folder, cache="none", flip=False)
    number = 2
    truncate(made.videos["train"][number].path, 0.5)
    found = videos_of(made.train_dataloader())
    assert len(found.get(number, [])) < 14
    assert list(made.skipped) == [made.videos["train"][number].video_id]
    assert caplog.text.count("leaves out a clip") == 1


@pytest.mark.parametrize("option", ["views", "crops", "clips_per_video"])
def test_options_of_clips_are_refused(video_folder, option):
    with pytest.raises(ValueError, match=f"stream with {option} 3: a stream is the whole video, once"):
        data(video_folder, **{option: 3})


def test_lanes_go_together_on_a_real_spread_of_lengths():
    """UCF101's lengths spread over 1:10; sorted groups of 8 waste a few percent of their lanes."""
    pieces = np.random.default_rng(0).lognormal(2.3, 0.45, 500).astype(int) + 2
    lanes = sum(len(group) * pieces[group].max() for group in epoch_groups(0, 0, pieces, 8))
    assert pieces.sum() / lanes > 0.97
