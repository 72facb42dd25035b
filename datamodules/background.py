"""Background subtraction for a camera that stands still, online: frame t is compared with frames 0 to t of its video.

    background(t) = median or mean of frames 0..t, per pixel and channel          |frame(t) - background(t)|

No frame looks ahead, so that what is learnt can run on a live camera. The price: who stands in the first frames belongs
to the background at first, and leaves a ghost there until the median has seen the place empty for as long.
"""

import numpy as np
import torch
from torch import Tensor

BACKGROUNDS = ("none", "median", "mean")
# A person differs from a plain wall by 50 to 100 of 255: twice the difference uses the range.
GAIN = 2


def subtract(video_TCHW: Tensor, background: str) -> Tensor:
    """Return GAIN times the absolute difference to the running background, uint8, clipped at 255; the first frame is 0.

    `video_TCHW`: uint8, from the first frame of the video on. "none" returns it as it is.
    """
    return Subtraction(background)(video_TCHW)


class Subtraction:
    """Background subtraction of a video that comes in stretches: each goes on where the one before ended.

    Args:
        background: one of BACKGROUNDS.
    """

    def __init__(self, background: str) -> None:
        if background not in BACKGROUNDS:
            raise ValueError(f"background {background!r}: expected one of {', '.join(BACKGROUNDS)}")
        self._running = {"none": None, "median": RunningMedian(), "mean": RunningMean()}[background]

    def __call__(self, video_TCHW: Tensor) -> Tensor:
        """Return the next stretch after subtraction, as `subtract` gives it for the whole video."""
        if self._running is None:
            return video_TCHW
        video = video_TCHW.numpy()
        flat = video.reshape(len(video), -1)
        difference = np.abs(flat - self._running(flat)) * GAIN
        return torch.from_numpy(np.minimum(np.rint(difference), 255).astype(np.uint8).reshape(video.shape))


class RunningMean:
    """The mean of all rows so far, for each row."""

    def __init__(self) -> None:
        self._rows = 0
        self._sum: np.ndarray | int = 0

    def __call__(self, x_TN: np.ndarray) -> np.ndarray:
        """Return the means at the next rows (T, N) of uint8 values, float32."""
        count = np.arange(self._rows + 1, self._rows + len(x_TN) + 1, dtype=np.float32)[:, None]
        sums_TN = np.cumsum(x_TN, axis=0, dtype=np.int64) + self._sum
        self._rows, self._sum = self._rows + len(x_TN), sums_TN[-1]
        return sums_TN.astype(np.float32) / count


class RunningMedian:
    """The lower median of all rows so far, for each row, exactly.

    One histogram per pixel; the median moves by a few grey levels a frame, so a frame costs O(N), not O(t N).
    """

    def __init__(self) -> None:
        self._rows = 0

    def __call__(self, x_TN: np.ndarray) -> np.ndarray:
        """Return the medians at the next rows (T, N) of uint8 values, int16."""
        pixels = np.arange(x_TN.shape[1])
        if not self._rows:
            self._histogram_NV = np.zeros((len(pixels), 256), dtype=np.int32)
            self._median = x_TN[0].astype(np.int16)
            self._below = np.zeros(len(pixels), dtype=np.int32)  # how many values are less than the median so far
        medians = np.empty(x_TN.shape, dtype=np.int16)
        for t, x in enumerate(x_TN):
            self._histogram_NV[pixels, x] += 1
            self._below += x < self._median
            _settle(self._histogram_NV, self._median, self._below, rank=(self._rows + t) // 2)
            medians[t] = self._median
        self._rows += len(x_TN)
        return medians


def _settle(histogram_NV: np.ndarray, median: np.ndarray, below: np.ndarray, rank: int) -> None:
    """Move each pixel's median, in place, to the value of `rank` (from 0) among those counted."""
    high = np.flatnonzero(below > rank)
    while len(high):
        median[high] -= 1
        below[high] -= histogram_NV[high, median[high]]
        high = high[below[high] > rank]
    low = np.flatnonzero(below + histogram_NV[np.arange(len(median)), median] <= rank)
    while len(low):
        below[low] += histogram_NV[low, median[low]]
        median[low] += 1
        low = low[below[low] + histogram_NV[low, median[low]] <= rank]
