"""Background subtraction: exact, and without a look ahead."""

import numpy as np
import pytest
import torch

from datamodules.background import GAIN, RunningMean, RunningMedian, Subtraction, subtract

X = np.random.default_rng(0).integers(0, 256, (40, 60)).astype(np.uint8)


def test_running_median_equals_sorting():
    found = RunningMedian()(X)
    assert all((found[t] == np.sort(X[: t + 1], axis=0)[t // 2]).all() for t in range(len(X)))


@pytest.mark.parametrize("values", [[0, 0, 255, 255, 255], [255, 0, 0, 0, 128], [7], [3, 3, 3]])
def test_running_median_of_extremes(values):
    column = np.array(values, np.uint8)[:, None]
    assert RunningMedian()(column)[:, 0].tolist() == [sorted(values[: t + 1])[t // 2] for t in range(len(values))]


def test_running_mean_equals_averaging():
    np.testing.assert_allclose(RunningMean()(X), [X[: t + 1].mean(0) for t in range(len(X))], rtol=1e-5)


@pytest.mark.parametrize("background", ["median", "mean"])
def test_no_frame_depends_on_a_later_one(background):
    video = torch.from_numpy(X.reshape(40, 3, 4, 5))
    changed = video.clone()
    changed[25:] = 255 - changed[25:]
    before, after = subtract(video, background), subtract(changed, background)
    assert torch.equal(before[:25], after[:25])
    assert not torch.equal(before[25], after[25])
    assert torch.equal(subtract(video[:17], background), before[:17])


@pytest.mark.parametrize("background", ["none", "median", "mean"])
def test_a_video_in_stretches_is_the_video(background):
    video, goes_on = torch.from_numpy(X.reshape(40, 3, 4, 5)), Subtraction(background)
    parts = [goes_on(video[start:stop]) for start, stop in ((0, 1), (1, 17), (17, 40))]
    assert torch.equal(torch.cat(parts), subtract(video, background))


@pytest.mark.parametrize("background", ["median", "mean"])
def test_what_moves_stays_and_what_stands_goes(background):
    video = torch.full((30, 1, 8, 30), 90, dtype=torch.uint8)
    for t in range(30):
        video[t, :, 2:6, t] = 150
    difference = subtract(video, background)
    assert difference.dtype == torch.uint8
    assert (difference[1:].amax((1, 2, 3)) >= 60 * GAIN * 0.45).all()
    assert (difference[29, :, 2:6, 29] >= 60 * GAIN * 0.9).all()
    assert difference[:, :, :2].max() == 0
    assert difference[0].max() == 0


def test_none_changes_nothing_and_other_names_are_refused():
    video = torch.from_numpy(X.reshape(40, 3, 4, 5))
    assert subtract(video, "none") is video
    with pytest.raises(ValueError, match="none, median, mean"):
        subtract(video, "mode")
