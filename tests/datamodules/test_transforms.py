"""Transforms: one choice per clip, and a mask instead of copies."""

import numpy as np
import torch

from datamodules.transforms import Choice, apply_choice, centre_choice, grey, random_choice, to_float


def test_every_frame_gets_the_same_cut_and_mirror():
    frame = torch.randint(0, 256, (1, 3, 12, 15), dtype=torch.uint8)
    still = frame.repeat(6, 1, 1, 1)
    for seed in range(20):
        choice = random_choice(np.random.default_rng(seed), 12, 15, size=10, flip=True)
        cut = apply_choice(still, choice, 10)
        assert cut.shape == (6, 3, 10, 10)
        assert (cut == cut[:1]).all()


def test_choices_cover_all_places_and_both_mirrors():
    rng = np.random.default_rng(0)
    choices = [random_choice(rng, 12, 15, size=10, flip=True) for _ in range(600)]
    assert len(set(choices)) == 3 * 6 * 2
    assert {choice.mirrored for choice in (random_choice(rng, 12, 15, size=10, flip=False) for _ in range(50))} == {
        False
    }


def test_mirrored_is_left_for_right():
    video = torch.arange(4).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert apply_choice(video, Choice(0, 0, True), 4)[0, 0, 0].tolist() == [3, 2, 1, 0]


def test_evaluation_cuts_the_middle():
    assert centre_choice(12, 15, size=10) == Choice(1, 2, False)


def test_floats_are_in_0_1_and_zero_beyond_the_video():
    out = to_float(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), 5)
    assert out.dtype == torch.float32
    assert out[:, 0, 0, 0].tolist() == [1, 1, 1, 0, 0]


def test_grey_is_luma():
    red = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    red[:, 0] = 200
    assert grey(red).flatten().tolist() == [60]
    assert grey(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)).unique().tolist() == [255]
