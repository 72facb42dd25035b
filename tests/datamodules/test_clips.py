"""Clip samplers: pure, inside the video, and honest about short ones."""

import numpy as np
import pytest

from datamodules.clips import (
    clip_length,
    clip_rng,
    cut_range,
    frames_at,
    frames_in_all,
    span,
    timeline,
    train_start,
    train_start_at,
    view_starts,
    view_starts_at,
)


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


def line_of(frames, fps):
    return timeline(np.arange(frames) / fps, fps)


# A film at 25 frames a second that stands still from 0.12 s to 0.52 s, then goes on; stamps in milliseconds.
STANDSTILL = timeline(np.array([0, 40, 80, 120, 520, 560, 600, 640]) / 1000, 25, tick_s=0.001)
NTSC = 30000 / 1001


@pytest.mark.parametrize(
    ("line", "start", "fps", "numbers"),
    [
        (line_of(20, 25), 3, 12.5, [3, 5, 7, 9, 11, 13, 15, 17]),
        (line_of(40, NTSC), 0, 25, [0, 1, 2, 3, 4, 5, 7, 8]),
        (line_of(40, NTSC), 11, 25, [11, 12, 13, 14, 15, 16, 18, 19]),
        (line_of(20, 10), 2, 25, [2, 2, 2, 3, 3, 4, 4, 4]),
        (line_of(20, 25), 0, 25, [0, 1, 2, 3, 4, 5, 6, 7]),
        (STANDSTILL, 0, 12.5, [0, 2, 3, 3, 3, 3, 3, 5]),
        (STANDSTILL, 4, 25, [4, 5, 6, 7]),
        (line_of(5, 25), 0, 12.5, [0, 2, 4]),
        (line_of(1, 25), 0, 12.5, [0]),
        (line_of(1, 25), 0, 50, [0, 0]),
    ],
)
def test_a_clip_by_time_shows_what_is_on_screen(line, start, fps, numbers):
    assert frames_at(line, start, frames=8, fps=fps).tolist() == numbers


@pytest.mark.parametrize("fps", [24, 25, NTSC, 30, 50, 60])
def test_stamps_in_milliseconds_give_the_same_frames(fps):
    exact = line_of(300, fps)
    rounded = timeline(np.round(exact.times_s, 3), fps, tick_s=0.001)
    for start in range(0, 200, 7):
        assert frames_at(rounded, start, frames=16, fps=fps).tolist() == list(range(start, start + 16))
        assert frames_at(rounded, start, frames=16, fps=fps / 2).tolist() == list(range(start, start + 32, 2))


@pytest.mark.parametrize(("n_frames", "fps", "stride"), [(20, 25, 1), (33, NTSC, 2), (7, 30, 3)])
def test_at_the_rate_of_the_file_time_and_number_agree(n_frames, fps, stride):
    line, of_number = line_of(n_frames, fps), {"n_frames": n_frames, "frames": 5, "stride": stride}
    of_time = {"line": line, "frames": 5, "fps": fps / stride}
    assert view_starts_at(**of_time, views=1) == view_starts(**of_number, views=1)
    assert view_starts_at(**of_time, views=100) == view_starts(**of_number, views=100)
    starts = [train_start_at(0, epoch, 0, **of_time) for epoch in range(2000)]
    counts = np.bincount(starts)
    assert len(counts) == max(0, n_frames - span(5, stride)) + 1
    assert counts.min() > 0.6 * 2000 / len(counts)
    assert len(frames_at(line, 0, frames=5, fps=fps / stride)) == clip_length(n_frames, 5, stride)


def test_starts_by_time_are_uniform_in_time_and_whole_clips_fit():
    options = {"line": STANDSTILL, "frames": 3, "fps": 25}
    starts = [train_start_at(0, epoch, 0, **options) for epoch in range(4000)]
    counts = np.bincount(starts, minlength=8) / 4000
    # Frames 0 to 5 can begin a clip; frame 3 is on screen for 0.4 of their 0.6 seconds.
    np.testing.assert_allclose(counts, np.array([40, 40, 40, 400, 40, 40, 0, 0]) / 600, atol=0.02)
    assert all(len(frames_at(STANDSTILL, start, frames=3, fps=25)) == 3 for start in set(starts))
    assert view_starts_at(**options, views=3) == [0, 3, 5]
    assert train_start_at(1, 2, 3, **options) == train_start_at(1, 2, 3, **options)


def test_a_range_of_a_longer_file():
    line = line_of(1000, 25)
    assert cut_range(line, 8.0, 18.0) == (200, 250)
    assert cut_range(line, None, 2.0) == (0, 50)
    assert cut_range(line, 39.0, None) == (975, 25)
    assert cut_range(line, 35.0, 45.0) == (875, 125)
    assert cut_range(line, 50.0, 60.0)[1] == 0


@pytest.mark.parametrize("seconds", [4.0, 10.0, 11.9])
def test_a_file_no_longer_than_the_range_was_cut_before(seconds):
    frames = round(seconds * 30)
    assert cut_range(line_of(frames, 30), 93.0, 103.0) == (0, frames)


@pytest.mark.parametrize("fps", [1.0, 5.0, 12.5, 24000 / 1001, 25.0, 29.97, 30.0, 60.0, 1e-3])
@pytest.mark.parametrize("rate", [10.0, 24000 / 1001, 25.0, 30000 / 1001, 50.0])
def test_the_number_of_frames_is_known_without_choosing_them(rate, fps):
    for frames in (1, 2, 14, 250):
        for tick_s in (0.0, 0.001):
            line = timeline(np.arange(frames) / rate, rate, tick_s)
            assert frames_in_all(line, fps) == len(frames_at(line, 0, frames=10_000, fps=fps))
