"""Stamps as text: short, exact, and back."""

import numpy as np
import pytest

from datamodules.decoding import VideoFacts
from datamodules.frame_times import from_text, to_text, varies

MATROSKA = [round(1000 * n / 29.97) for n in range(300)]


@pytest.mark.parametrize(
    ("stamps", "text"),
    [
        ([0, 512, 1024, 1536, 2048, 3072], "0 512*4 1024"),
        ([1, 2, 3, 4], "1 1*3"),  # AVI with B-frames begins at 1
        ([-1024, 0, 1024], "-1024 1024*2"),  # an edit list
        ([0, 33, 67, 100, 133, 167], "0 33 34 33*2 34"),  # Matroska rounds to milliseconds
        ([7], "7"),
        ([], ""),
        ([None, None], ""),  # AVI without stamps
        ([0, 1, None], ""),
        ([1, 4, 3, 5], ""),  # packed B-frames
        ([1, 1], ""),
    ],
)
def test_stamps_as_text(stamps, text):
    assert to_text(stamps) == text
    assert from_text(text).tolist() == (stamps if text else [])


def test_any_increasing_stamps_come_back():
    rng = np.random.default_rng(0)
    for _ in range(50):
        stamps = (rng.integers(-5, 5) + np.cumsum(rng.integers(1, 4, rng.integers(1, 80)))).tolist()
        assert from_text(to_text(stamps)).tolist() == stamps


@pytest.mark.parametrize("text", ["a", "0 x*2", "0 5*", "0 5*x", "0  5", "0 1.5"])
def test_a_foreign_text_is_refused(text):
    with pytest.raises(ValueError, match=r"step\*count"):
        from_text(text)


@pytest.mark.parametrize(
    ("stamps", "variable"),
    [
        (range(10), False),
        (MATROSKA, False),  # 33 or 34 ms: rounding
        ([round(1000 * n / 240) for n in range(50)], False),
        ([0, 1, 2, 4, 5], True),  # a dropped frame where a tick is a frame
        ([0, 40, 80, 200, 240], True),
        ([0, 40], False),
        ([0], False),
    ],
)
def test_variable_rate_is_more_than_rounding(stamps, variable):
    assert varies(np.asarray(stamps)) is variable
    assert VideoFacts(len(stamps), pts=to_text(stamps), time_base="1/1000").variable_rate is variable


def test_times_are_exact_seconds_from_the_first_frame():
    facts = VideoFacts(4, fps=29.97, pts="1001 1001*2 2002", time_base="1/30000")
    assert facts.times_s().tolist() == [0, 1001 / 30000, 2002 / 30000, 4004 / 30000]
    assert VideoFacts(3, fps=25.0).times_s().tolist() == [0, 0.04, 0.08]
    with pytest.raises(ValueError, match="neither time stamps nor a frame rate"):
        VideoFacts(3).times_s()
