"""Which frames of a video a clip takes: pure functions, no files, no state.

By number: every `stride`-th frame.

    video   0 1 2 3 4 5 6 7 8 9        frames=3 stride=2 start=4:  4 . 6 . 8
    short   0 1 2                      frames=3 stride=2:          0 . 2 . -      length 2, the rest is zeros

By time: the clip has a frame rate of its own; its frame k is what is on screen k / fps after its start.

    seconds 0    0.04  0.08  0.12  0.16     a file of 25 frames a second
    video   0     1     2     3     4
    12.5    0           2           4       frames 0 2 4
    50      0  0  1  1  2  2  3  3  4  4    a slow file shows its frames twice

A video shorter than a clip is used whole: never looped, never padded with copies.
"""

from dataclasses import dataclass

import numpy as np

# Seconds that floating point may be wrong by.
_EPSILON_S = 1e-6
# Stamps are rounded to ticks, a Matroska file's to milliseconds: a frame counts as on screen a tick before its stamp.
# A tick that is more than this share of a frame is no rounding: an AVI file counts frames.
_ROUNDING_SHARE = 0.25
# A file that was cut to a range at key frames may be longer than the range, by this much, or this share of a short one.
CUT_SLACK_S = 2.0
_CUT_SLACK_SHARE = 0.2
PURPOSES = ("start", "transform", "augmentation")


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are on screen.

    Args:
        times_s: seconds from the first frame to each, float64 (frames,), increasing.
        end_s: when the last one leaves.
        slack_s: how far off the stamps may be.
    """

    times_s: np.ndarray
    end_s: float
    slack_s: float


def timeline(times_s: np.ndarray, fps: float, tick_s: float = 0.0) -> Timeline:
    """Return the timeline of stamps that are rounded to ticks.

    The last frame stays for a frame of `fps` (0: for the mean of the others).
    """
    times_s = times_s - times_s[0]
    if not fps and len(times_s) < 2:
        raise ValueError("one frame and no frame rate: nothing says how long it is on screen")
    end_s = float(times_s[-1]) + (1 / fps if fps else float(times_s[-1]) / (len(times_s) - 1))
    rounds = tick_s <= _ROUNDING_SHARE * end_s / len(times_s)
    return Timeline(times_s, end_s, _EPSILON_S + (tick_s if rounds else 0.0))


def cut_range(line: Timeline, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """Return (first frame, frames) of a time range of a file; (n, 0) where the file has nothing of it.

    A file that is no longer than the range was cut to it before: it is used whole.
    """
    frames = len(line.times_s)
    start, end = start_s or 0.0, np.inf if end_s is None else end_s
    if end_s is not None and line.end_s <= end - start + min(CUT_SLACK_S, _CUT_SLACK_SHARE * (end - start)):
        return 0, frames
    first, stop = np.searchsorted(line.times_s, [start - line.slack_s, end - line.slack_s])
    return int(first), int(stop - first)


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
    """Return the generator of one training clip's choices of a purpose, one of PURPOSES."""
    return np.random.default_rng([seed, epoch, index, PURPOSES.index(purpose)])


def view_starts(*, n_frames: int, frames: int, stride: int, views: int) -> list[int]:
    """Return the first frames of the test views, evenly spaced from first to last fit; one view is the middle.

    Fewer than `views` where the video has fewer places: no view comes twice.
    """
    room = max(0, n_frames - span(frames, stride))
    if views == 1:
        return [room // 2]
    return sorted({round(start) for start in np.linspace(0, room, views)})


def frames_at(line: Timeline, start: int, *, frames: int, fps: float) -> np.ndarray:
    """Return the frame numbers of the clip that begins with frame `start`, int64, at most `frames` of them.

    Frame k of it is on screen k / fps seconds after `start` came; what would come after the video's end is left out.
    """
    at_s = line.times_s[start] + np.arange(frames) / fps
    at_s = at_s[: max(1, int(np.searchsorted(at_s, line.end_s - line.slack_s)))]
    return np.searchsorted(line.times_s, at_s + line.slack_s, side="right") - 1


def frames_in_all(line: Timeline, fps: float) -> int:
    """Return how many frames `frames_at` takes of a whole video, at least 1."""
    over_s = line.end_s - line.slack_s
    count = int(over_s * fps)
    while count / fps < over_s:  # as `frames_at` compares, whatever the product was rounded to
        count += 1
    while count > 1 and (count - 1) / fps >= over_s:
        count -= 1
    return max(1, count)


def train_start_at(seed: int, epoch: int, index: int, *, line: Timeline, frames: int, fps: float) -> int:
    """Return the first frame of a training clip, uniform in time over all that fit; of (seed, epoch, index)."""
    fits = _fitting(line, frames, fps)
    end_s = line.times_s[fits] if fits < len(line.times_s) else line.end_s
    at_s = clip_rng(seed, epoch, index, "start").random() * end_s
    return int(np.searchsorted(line.times_s, at_s, side="right")) - 1


def view_starts_at(*, line: Timeline, frames: int, fps: float, views: int) -> list[int]:
    """Return the first frames of the test views, evenly spaced in time; see view_starts."""
    last_s = line.times_s[_fitting(line, frames, fps) - 1]
    at_s = np.array([last_s / 2]) if views == 1 else np.linspace(0, last_s, views)
    starts = np.searchsorted(line.times_s, at_s + line.slack_s, side="right") - 1
    return sorted({int(start) for start in starts})


def _fitting(line: Timeline, frames: int, fps: float) -> int:
    """Return how many frames, from the first on, a whole clip can begin with; 1 where none fits."""
    room_s = line.end_s - line.slack_s - (frames - 1) / fps
    return max(1, int(np.searchsorted(line.times_s, room_s)))
