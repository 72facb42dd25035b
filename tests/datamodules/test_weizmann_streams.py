"""WeizmannStreams: real frames at their places, persons kept apart, and a question that the first clip answers."""

import pickle
from dataclasses import replace
from functools import partial

import long_stream_rules as rules
import numpy as np
import pytest
import torch

from datamodules.cued_frames import question_frame
from datamodules.joined_clips import JoinedOptions, playlist
from datamodules.lanes import IGNORE
from datamodules.weizmann_streams import WeizmannStreams

LENGTHS = {"cue_frames": 9, "gap": 110, "question_frames": 2}


@pytest.fixture
def make(real_data, tmp_path, monkeypatch):
    """Streams of real clips, ready to be read; the table of clips goes to the working directory."""
    monkeypatch.chdir(tmp_path)

    def made(**options):
        options = {"root": str(real_data / "weizmann"), "size": 16, "val_person": "next", **LENGTHS, **options}
        data = WeizmannStreams(**options)
        data.setup()
        return data

    return made


RULES = [rules.reads_anywhere, rules.is_empty_outside, rules.answers_are_asked, rules.keeps_its_kind]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rules(make, rule):
    rule(make())


def test_a_stream_comes_from_its_key(make):
    rules.comes_from_its_key(make)


def test_lanes_are_handed_over_without_frames(make):
    data = make()
    rules.whole(rules.lanes_of(data))
    rules.is_handed_over(data, most_bytes=10_000)
    assert len(pickle.dumps(rules.lanes_of(data, "train"))) < 20_000


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stop_leaves_no_trace(make, num_workers):
    rules.goes_on_where_it_stopped(make, num_workers)


def test_every_frame_is_the_right_one_of_its_clip(make):
    """Each stretch of a stream is a run of a clip of its class: whole but for the cue and the last one."""
    data = make(gap=150, flip=False, question_frames=1)
    for split in ("train", "test"):
        lanes = rules.lanes_of(data, split)
        x, y = rules.whole(lanes)
        for lane in range(5):
            at = 0
            for number, begin in zip(lanes.clips.video[lane], lanes.clips.begin[lane], strict=True):
                if begin >= 159:
                    break
                assert begin == at
                video = lanes.shelf.videos[number]
                frames = lanes.shelf.store.whole(video)
                first = int(lanes.clips.first[lane, 0]) if at == 0 else 0
                count = min(9 if at == 0 else len(frames), 159 - at)
                assert torch.equal(x[lane, at : at + count], frames[first : first + count])
                assert (y[lane, at : at + count] == video.label).all()
                at += count
            assert at == 159
            assert y[lane, -1] == y[lane, 0]
            assert torch.equal(x[lane, -1, 0], torch.from_numpy(255 * question_frame(16)).byte())


def test_training_clips_are_mirrored_whole_or_not_at_all(make):
    data = make(gap=200, size=24)
    lanes = rules.lanes_of(data, "train", 8)
    plain = rules.lanes_of(data, "train", 8)
    plain.clips = replace(plain.clips, mirrored=np.zeros_like(plain.clips.mirrored))
    (x, _), (straight, _) = rules.whole(lanes), rules.whole(plain)
    as_it_is, mirrored = ((x == other).flatten(2).all(2) for other in (straight, straight.flip(-1)))
    assert (as_it_is | mirrored)[:, :-2].all()
    for lane in range(8):
        ends = [*lanes.clips.begin[lane, 1:].clip(max=209), 209]
        for begin, end, turned in zip(lanes.clips.begin[lane], ends, lanes.clips.mirrored[lane], strict=True):
            assert (mirrored if turned else as_it_is)[lane, begin:end].all()
    assert 0.2 < lanes.clips.mirrored.mean() < 0.8
    assert not rules.lanes_of(data, "test", 8).clips.mirrored.any()


def test_persons_are_kept_apart_and_each_test_clip_is_the_first_equally_often(make):
    data = make(fold=8)
    seen = {}
    for split in ("train", "val", "test"):
        lanes = rules.lanes_of(data, split, 100)
        seen[split] = {lanes.shelf.videos[n].path.name.split("_")[0] for n in lanes.clips.video.flatten()}
        if split != "train":
            assert np.bincount(lanes.clips.video[:, 0]).tolist() == [10] * 10
            assert lanes.read(lanes.answers_BA)[1].flatten().bincount().tolist() == [20] * 10
    assert seen["test"] == {"shahar"}
    assert seen["val"] == {"daria"}
    assert len(seen["train"]) == 7
    assert not seen["train"] & {"shahar", "daria"}
    assert data.folds() == 9
    assert data.fold == 8


def test_what_is_kept_does_not_change_the_frames(make, tmp_path):
    """Memory, disk and none; background subtraction is of the clip, not of the stream."""
    made = partial(make, background="median", grayscale=True, gap=40)
    kept = [made(), made(cache="disk", cache_dir=str(tmp_path / "frames")), made(cache="none")]
    read = [rules.whole(rules.lanes_of(data, count=2)) for data in kept]
    assert all(torch.equal(x, read[0][0]) for x, _ in read)
    assert len(list((tmp_path / "frames").rglob("*.npy"))) >= 2
    assert kept[0].channels == read[0][0].shape[2] == 1
    lanes = rules.lanes_of(kept[0])
    begins = torch.from_numpy(lanes.clips.begin[:, 1:2])
    assert not lanes.read(begins)[0].any(), "the first frame of a clip is its own background"


def test_playlists_fill_the_gap():
    frames_V = np.array([10, 25, 40])
    options = JoinedOptions(cue_frames=6, gap=1000, question_frames=1, flip=True)
    clips = playlist(np.arange(50).astype(np.uint64), np.arange(50) % 3, frames_V, options)
    assert (clips.video[:, 0] == np.arange(50) % 3).all()
    assert (clips.first[:, 0] + 6 <= frames_V[clips.video[:, 0]]).all()
    assert len(set(clips.first[clips.video[:, 0] == 2, 0])) > 5, "the cue begins anywhere"
    lengths = np.diff(clips.begin, axis=1)
    assert (lengths[:, 0] == 6).all()
    assert (lengths[:, 1:] == frames_V[clips.video[:, 1:-1]]).all()
    assert (clips.begin[:, -1] + frames_V[clips.video[:, -1]] >= 1006).all()
    assert (np.bincount(clips.video[:, 1:].flatten()) / clips.video[:, 1:].size > 0.28).all()
    none = playlist(np.zeros(2, np.uint64), np.zeros(2, int), frames_V, replace(options, gap=0))
    assert none.video.shape == (2, 1)


def test_without_a_validation_person_nothing_is_validated_on(make):
    data = make(val_person=None)
    assert data.val_dataloader() == []
    assert len(data.source("train").frames_V) == 80
    with pytest.raises(ValueError, match=r"nothing to score.*--data.val_person next"):
        data.setup("validate")


def test_facts(make):
    data = make(size=24)
    assert (data.size, data.channels, data.num_classes, data.steps, data.gap) == (24, 3, 10, 121, 110)
    assert data.class_names[:2] == ["bend", "jack"]
    assert data.protocol == "200 streams of 121 steps, scored at 2 steps"
    hashes = {make(**options).data_hash for options in ({}, {"gap": 111}, {"fold": 1}, {"background": "mean"})}
    assert len(hashes) == 4
    assert make(seed=1).data_hash == make().data_hash
    assert (rules.lanes_of(data).read(torch.tensor([[-1]] * 5))[1] == IGNORE).all()


@pytest.mark.parametrize("name", ["cue_frames", "gap", "question_frames"])
def test_lengths_that_make_no_stream_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} -1: expected . or more frames. Give --data.{name}"):
        WeizmannStreams(**{name: -1})


def test_a_cue_longer_than_all_clips_is_refused(make):
    with pytest.raises(ValueError, match=r"(?s)no video left to train on.*needed 500"):
        make(cue_frames=500)
