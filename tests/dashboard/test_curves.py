"""Learning curves: the axis of frames, and mean and spread over runs."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from dashboard import curves


def history(steps, values):
    return pd.DataFrame({"step": steps, "value": [float(value) for value in values]})


def curve(x, values):
    return pd.DataFrame({"x": [float(at) for at in x], "value": [float(value) for value in values]})


def test_frames_are_interpolated_between_steps_and_go_on_at_the_mean_rate():
    on_frames = curves.on_frames(history([5, 20, 40], [1, 2, 3]), history([10, 30], [100, 300]))
    assert on_frames["x"].tolist() == [50.0, 200.0, 400.0]


def test_without_frames_there_is_no_curve():
    assert curves.on_frames(history([1], [1]), history([], [])).empty


def test_mean_and_spread_at_shared_points():
    mean = curves.mean_curve([curve([0, 1], [1, 2]), curve([0, 1], [3, 4])])
    assert mean["mean"].tolist() == [2.0, 3.0]
    assert (mean["high"] - mean["mean"]).tolist() == pytest.approx([math.sqrt(2)] * 2)
    assert (mean["mean"] - mean["low"]).tolist() == pytest.approx([math.sqrt(2)] * 2)


def test_one_run_has_a_band_of_no_width():
    mean = curves.mean_curve([curve([0, 1], [1, 2])])
    assert mean["low"].tolist() == mean["high"].tolist() == [1.0, 2.0]


def test_a_shorter_run_counts_as_far_as_it_went():
    mean = curves.mean_curve([curve([0, 1, 2], [1, 1, 1]), curve([0, 1], [3, 3])])
    assert mean["runs"].tolist() == [2, 2, 1]
    assert mean["mean"].tolist() == [2.0, 2.0, 1.0]


def test_runs_logged_at_other_points_are_interpolated():
    mean = curves.mean_curve([curve([0, 10], [0, 10]), curve([0, 5, 8], [0, 5, 8])])
    assert len(mean) == curves.GRID_POINTS
    assert mean["mean"].tolist() == pytest.approx(mean["x"].tolist())
    assert mean["runs"].iloc[-1] == 1


def test_values_that_are_not_finite_are_left_out_and_counted():
    runs = [curve([0, 1], [1, math.nan]), curve([0, 1], [3, 3])]
    assert curves.mean_curve(runs)["mean"].tolist() == [2.0, 3.0]
    assert curves.not_finite(runs) == 1


def test_nothing_to_draw():
    assert curves.mean_curve([]).empty
    assert curves.mean_curve([curve([], [])]).empty
