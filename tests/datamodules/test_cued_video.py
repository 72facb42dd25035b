"""CuedVideo: any frame alone, nothing in the frames before the question tells the cue, and no gap costs more."""

import pickle
import time
from functools import partial

import long_stream_rules as rules
import numpy as np
import pytest
import torch

from datamodules.cued_frames import question_frame
from datamodules.cued_video import CuedVideo
from datamodules.digit_clips import digit_images, digit_split
from datamodules.lanes import IGNORE
from datamodules.motion import render

MAKERS = {
    "plain": partial(CuedVideo, gap=20, hold=3),
    "noisy": partial(CuedVideo, gap=9, noise=0.2, question_frames=3, motion="bounce"),
    "large": partial(CuedVideo, gap=0, size=40, digit_size=30, cue_frames=1, speed=0.0),
}
RULES = [rules.reads_anywhere, rules.is_empty_outside, rules.answers_are_asked, rules.keeps_its_kind]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_rules(make, rule):
    rule(make())


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_stream_comes_from_its_key(make):
    rules.comes_from_its_key(make)


def test_lanes_are_handed_over():
    rules.is_handed_over(CuedVideo(), most_bytes=4000)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stop_leaves_no_trace(num_workers):
    rules.goes_on_where_it_stopped(MAKERS["plain"], num_workers)


def test_the_parts_of_a_stream():
    """Targets change with the digit that is seen; the border is the cue's, the checkerboard the question's."""
    data = CuedVideo(cue_frames=3, gap=10, hold=4, question_frames=2)
    x, y = rules.whole(rules.lanes_of(data, count=40))
    cue, gap, question = y[:, :3], y[:, 3:13], y[:, 13:]
    assert (cue == cue[:, :1]).all()
    assert (question == cue[:, :1]).all()
    for start, end in ((0, 4), (4, 8), (8, 10)):
        assert (gap[:, start:end] == gap[:, start : start + 1]).all()
    assert 0.75 < (gap[:, 3] != gap[:, 4]).float().mean() < 1
    border = torch.ones(16, 16, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert (x[:, :3, 0, border] == 255).all()
    assert not x[:, 3:13, 0, border].any()
    assert (x[:, :13, 0, 1:-1, 1:-1].amax((2, 3)) > 100).all(), "a digit in every frame"
    assert torch.equal(
        x[:, 13:, 0].unique(dim=0)[0], torch.from_numpy(255 * question_frame(16)).byte().expand(2, 16, 16)
    )


def test_the_digit_that_is_seen_is_the_target():
    """At rest a frame is an image of its class, of its split, somewhere on the canvas: found again exactly."""
    data = CuedVideo(speed=0.0, gap=8, hold=4, motion="bounce", size=10)
    for split in ("train", "test"):
        x, y = rules.whole(rules.lanes_of(data, split, count=8))
        for digit in range(10):
            pool = digit_images()[0][digit_split(split)[digit]]
            whole = [np.rint(255 * render(image[None], np.zeros((1, 1, 2)), 8, 1.0, wrap=False)[0]) for image in pool]
            seen = x[:, :12][y[:, :12] == digit][:, 0, 1:-1, 1:-1].numpy()
            assert all((np.abs(np.array(whole) - frame).max((1, 2)) == 0).any() for frame in seen)


def test_digits_move_as_they_should():
    """A digit's centre moves by `speed` a frame, and jumps where the next one comes."""
    x, _ = rules.whole(rules.lanes_of(CuedVideo(speed=0.5, size=60, gap=32, hold=8), count=60))
    frames = x[:, 4:36, 0].double()
    grid = torch.arange(60.0, dtype=torch.float64)
    weight = frames.sum((2, 3))
    centre = torch.stack([(frames.sum(3) * grid).sum(2), (frames.sum(2) * grid).sum(2)], -1) / weight[..., None]
    steps = (centre[:, 1:] - centre[:, :-1]).norm(dim=-1)
    kept = torch.ones(31, dtype=torch.bool)
    kept[7::8] = False
    assert (steps[:, kept].median() - 0.5).abs() < 0.02
    assert steps[:, ~kept].median() > 10


def test_cues_are_balanced_in_evaluation_and_drawn_in_training():
    data = CuedVideo()
    first = torch.zeros(1000, 1, dtype=torch.int64)
    for split in ("val", "test"):
        assert rules.lanes_of(data, split, 1000).read(first)[1].flatten().bincount().tolist() == [0] * 10 + [100] * 10
    counts = rules.lanes_of(data, "train", 1000).read(first)[1].flatten().bincount()[10:]
    assert counts.min() > 60
    assert counts.max() < 140


def test_no_distraction_tells_the_cue():
    """Over many streams the digit of any segment is independent of the cue: chi-square of the table of pairs."""
    data = CuedVideo(gap=48, hold=8)
    lanes = rules.lanes_of(data, "train", 6000)
    y = lanes.read(torch.tensor([0, 4, 12, 20, 28, 36, 44, 51]).repeat(6000, 1))[1].numpy() % 10
    for segment in range(1, 7):
        counts = np.histogram2d(y[:, 0], y[:, segment], 10, [[0, 10], [0, 10]])[0]
        expected = counts.sum(0) * counts.sum(1)[:, None] / 6000
        assert ((counts - expected) ** 2 / expected).sum() < 140  # 81 degrees: p = 5e-5
    assert abs((y[:, 1] == y[:, 2]).mean() - 0.1) < 0.02


def test_noise_is_anew_in_each_frame():
    data = CuedVideo(noise=0.1, gap=5, question_frames=2)
    x, _ = rules.whole(rules.lanes_of(data))
    one, other = x[:, -1].float() / 255, x[:, -2].float() / 255
    dark = torch.from_numpy(question_frame(16)) == 0
    assert not torch.equal(one, other)
    assert abs(one[:, 0, dark].mean() - 0.1 / (2 * np.pi) ** 0.5) < 0.005


def test_a_million_frames_cost_no_more_than_forty():
    near, far = (rules.lanes_of(CuedVideo(gap=gap), "train", 32) for gap in (40, 1_000_000))
    held = sum(value.nbytes for value in vars(far).values() if hasattr(value, "nbytes"))
    assert held < 2000
    assert abs(len(pickle.dumps(far)) - len(pickle.dumps(near))) < 10
    steps = torch.randint(1_000_000, (32, 8), generator=torch.Generator().manual_seed(0))
    assert (far.read(steps)[1] != IGNORE).all()

    def seconds(lanes, steps):
        taken = []
        for _ in range(5):
            begin = time.perf_counter()
            lanes.read(steps)
            taken.append(time.perf_counter() - begin)
        return min(taken)

    assert seconds(far, steps) < 5 * seconds(near, steps % 40) + 0.02


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"digit_size": 15}, r"digit_size 15 with size 16: expected 8 to size - 2"),
        ({"size": 9}, r"--data.digit_size 8"),
        ({"motion": "fly"}, r"motion 'fly': expected wrap or bounce"),
        ({"cue_frames": 0}, r"cue_frames 0: expected 1 frame or more. Give --data.cue_frames 1"),
        ({"hold": 0}, r"--data.hold 1"),
        ({"question_frames": 0}, r"--data.question_frames 1"),
        ({"gap": -1}, r"gap -1: expected 0 or more"),
        ({"noise": -0.1}, r"--data.noise 0"),
    ],
)
def test_options_that_make_no_stream_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        CuedVideo(**wrong)


def test_the_hash_is_of_the_streams():
    assert CuedVideo(seed=1).data_hash == CuedVideo(seed=2).data_hash
    assert len({CuedVideo(**o).data_hash for o in ({}, {"gap": 41}, {"speed": 0.6}, {"motion": "bounce"})}) == 4
    assert CuedVideo(gap=40).protocol == "512 streams of 45 steps, scored at 1 step"


@pytest.mark.slow
def test_one_frame_tells_its_digit():
    """A small network sees a digit alone in a frame, in the cue as elsewhere: nothing there must be remembered."""
    torch.manual_seed(0)
    data = CuedVideo(motion="bounce")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def frames(split, epoch, count):
        lanes = rules.lanes_of(data, split, count, epoch)
        x, y = lanes.read(torch.tensor([1, 9]).repeat(count, 1))
        return x.flatten(0, 1).float() / 255, y.flatten()

    for epoch in range(800):
        x, y = frames("train", epoch, 64)
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, y = frames("test", 0, 1000)
    right = (net(x).argmax(1) == y).view(-1, 2).float().mean(0)
    assert right.min() > 0.85
