"""Which frames of a video a clip takes: pure functions, no files, no state.

    video   0 1 2 3 4 5 6 7 8 9        frames=3 stride=2 start=4:  4 . 6 . 8
    short   0 1 2                      frames=3 stride=2:          0 . 2 . -      length 2, the rest is zeros

A video shorter than a clip is used whole: never looped, never padded with copies.
"""

import numpy as np


def span(frames: int, stride: int) -> int:
    """Return how many frames of a video a clip reaches over."""
    return (frames - 1) * stride + 1


def clip_length(n_frames: int, frames: int, stride: int) -> int:
    """Return how many real frames a clip of a video of `n_frames` has, at most `frames`."""
    return min(frames, -(-n_frames // stride))


def train_start(seed: int, epoch: int, index: int, *, n_frames: int, frames: int, stride: int) -> int:
    """Return the first frame of a training clip, uniform over all that fit: a function of (seed, epoch, index)."""
    room = max(0, n_frames - span(frames, stride))
    return int(clip_rng(seed, epoch, index, "start").integers(room + 1))


def clip_rng(seed: int, epoch: int, index: int, purpose: str) -> np.random.Generator:
    """Return the generator of one training clip's choices of a purpose, `start` or `transform`."""
    return np.random.default_rng([seed, epoch, index, ("start", "transform").index(purpose)])


def view_starts(*, n_frames: int, frames: int, stride: int, views: int) -> list[int]:
    """Return the first frames of the test views, evenly spaced from first to last fit; one view is the middle.

    Fewer than `views` where the video has fewer places: no view comes twice.
    """
    room = max(0, n_frames - span(frames, stride))
    if views == 1:
        return [room // 2]
    return sorted({round(start) for start in np.linspace(0, room, views)})
