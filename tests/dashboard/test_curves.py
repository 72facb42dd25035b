"""Learning curves: the axis of frames."""

from __future__ import annotations

import pandas as pd

from dashboard import curves


def history(steps, values):
    return pd.DataFrame({"step": steps, "value": [float(value) for value in values]})


def test_frames_are_interpolated_between_steps_and_go_on_at_the_mean_rate():
    on_frames = curves.on_frames(history([5, 20, 40], [1, 2, 3]), history([10, 30], [100, 300]))
    assert on_frames["x"].tolist() == [50.0, 200.0, 400.0]


def test_without_frames_there_is_no_curve():
    assert curves.on_frames(history([1], [1]), history([], [])).empty
