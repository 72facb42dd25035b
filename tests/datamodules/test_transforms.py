"""Transforms: one choice per clip, and a mask instead of copies."""

import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from datamodules.transforms import Augmentations, Choice, apply_choice, crop_choice, grey, padded, random_choice, seeded


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


def test_evaluation_cuts_the_middle_or_along_the_longer_side():
    assert crop_choice(12, 15, size=10, crop=0, crops=1) == Choice(1, 2, False)
    assert [crop_choice(12, 15, size=10, crop=crop, crops=3).left for crop in range(3)] == [0, 2, 5]
    upright = [crop_choice(15, 10, size=10, crop=crop, crops=3) for crop in range(3)]
    assert [(choice.top, choice.left) for choice in upright] == [(0, 0), (2, 0), (5, 0)]


def test_zeros_stand_beyond_the_video():
    out = padded(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), 5)
    assert out.dtype == torch.uint8
    assert out[:, 0, 0, 0].tolist() == [255, 255, 255, 0, 0]
    assert padded(torch.empty(0, 1, 2, 2, dtype=torch.uint8), 2).tolist() == torch.zeros(2, 1, 2, 2).tolist()


def test_grey_is_luma():
    red = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    red[:, 0] = 200
    assert grey(red).flatten().tolist() == [60]
    assert grey(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)).unique().tolist() == [255]


TRANSFORMS = {
    "crop_scale": lambda: Augmentations(10, [0.5, 1.0], []),
    "ColorJitter": lambda: Augmentations(10, None, [v2.ColorJitter(0.5, 0.5, 0.5, 0.2)]),
    "RandomGrayscale": lambda: Augmentations(10, None, [v2.RandomGrayscale(0.5)]),
    "GaussianBlur": lambda: Augmentations(10, None, [v2.GaussianBlur(3)]),
    "RandAugment": lambda: Augmentations(10, None, [v2.RandAugment()]),
    "TrivialAugmentWide": lambda: Augmentations(10, None, [v2.TrivialAugmentWide()]),
    "RandomErasing": lambda: Augmentations(10, None, [v2.RandomErasing(0.9)]),
    "all": lambda: Augmentations(10, [0.3, 0.9], [v2.RandomApply([v2.ColorJitter(0.5)]), v2.RandAugment()]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_augmentations_choose_once_a_clip_by_seed_epoch_index(name):
    still = torch.randint(0, 256, (1, 3, 12, 15), dtype=torch.uint8).repeat(6, 1, 1, 1)
    before, kept = torch.get_rng_state(), still.clone()
    keys = [(seed, epoch, index) for seed in range(2) for epoch in range(3) for index in range(3)]
    clips, again = ([TRANSFORMS[name]()(still, Choice(1, 2, False), key) for key in keys] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(still, kept), "the frames may be those of the cache"
    assert all(clip.shape == (6, 3, 10, 10) and (clip == clip[:1]).all() for clip in clips)
    assert all(torch.equal(one, other) for one, other in zip(clips, again, strict=True))
    assert len({clip.numpy().tobytes() for clip in clips}) > 1


def test_the_choice_of_the_cut_holds_with_augmentations():
    video = torch.randint(0, 256, (2, 3, 12, 15), dtype=torch.uint8)
    plain = Augmentations(10, None, [torch.nn.Identity()])(video, Choice(1, 4, True), (0, 0, 0))
    assert torch.equal(plain, video[:, :, 1:11, 4:14].flip(-1))


def test_the_generators_of_python_and_numpy_are_left_alone():
    def draw():
        return random.random(), np.random.random(), torch.rand(1).item()

    def one(seed):
        with seeded(seed):
            return draw()

    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = draw(), draw()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    found = draw(), one(5), one(5), one(6), draw()
    assert (found[0], found[4]) == expected
    assert found[1] == found[2]
    assert all(a != b for a, b in zip(found[2], found[3], strict=True))


def test_transforms_that_change_the_form_are_refused():
    video = torch.zeros(2, 3, 12, 12, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"Pad made \(2, 3, 14, 14\).*expected \(2, 3, 10, 10\)"):
        Augmentations(10, None, [v2.Pad(2)])(video, Choice(0, 0, False), (0, 0, 0))
    with pytest.raises(ValueError, match=r"ToDtype made.*float32.*expected.*uint8"):
        Augmentations(10, None, [v2.ToDtype(torch.float32, scale=True)])(video, Choice(0, 0, False), (0, 0, 0))
    for scale in ([0.5], [0.0, 1.0], [0.9, 0.5], [0.5, 1.5]):
        with pytest.raises(ValueError, match=r"crop_scale .* 0 < smallest <= largest <= 1"):
            Augmentations(10, scale, [])
