"""Clip samplers: pure, inside the video, and honest about short ones."""

import numpy as np
import pytest

from datamodules.clips import clip_length, clip_rng, span, train_start, view_starts


def test_start_is_a_function_of_seed_epoch_index():
    def start(*key):
        return train_start(*key, n_frames=5000, frames=16, stride=2)

    assert start(1, 2, 3) == start(1, 2, 3)
    assert len({start(1, 2, 3), start(2, 2, 3), start(1, 3, 3), start(1, 2, 4)}) == 4


def test_every_start_that_fits_comes_equally_often():
    starts = [train_start(0, epoch, 0, n_frames=20, frames=5, stride=3) for epoch in range(4000)]
    counts = np.bincount(starts)
    assert span(5, 3) == 13
    assert len(counts) == 8
    assert counts.min() > 400


@pytest.mark.parametrize("n_frames", [1, 7, 13])
def test_a_video_no_longer_than_a_clip_starts_at_its_beginning(n_frames):
    assert train_start(0, 0, 0, n_frames=n_frames, frames=5, stride=3) == 0
    assert view_starts(n_frames=n_frames, frames=5, stride=3, views=4) == [0]


@pytest.mark.parametrize(("n_frames", "length"), [(1, 1), (3, 1), (4, 2), (12, 4), (13, 5), (99, 5)])
def test_length_counts_real_frames(n_frames, length):
    assert clip_length(n_frames, frames=5, stride=3) == length == min(5, len(range(0, n_frames, 3)))


@pytest.mark.parametrize(("views", "starts"), [(1, [42]), (2, [0, 84]), (3, [0, 42, 84]), (5, [0, 21, 42, 63, 84])])
def test_views_are_evenly_spaced_and_reach_both_ends(views, starts):
    assert view_starts(n_frames=100, frames=16, stride=1, views=views) == starts


def test_no_view_comes_twice():
    assert view_starts(n_frames=17, frames=16, stride=1, views=10) == [0, 1]


def test_purposes_draw_from_different_streams():
    assert clip_rng(0, 0, 0, "start").random() != clip_rng(0, 0, 0, "transform").random()
