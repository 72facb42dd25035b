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
    if background == "none":
        return video_TCHW
    if background not in BACKGROUNDS:
        raise ValueError(f"background {background!r}: expected one of {', '.join(BACKGROUNDS)}")
    running = running_median if background == "median" else running_mean
    video = video_TCHW.numpy()
    flat = video.reshape(len(video), -1)
    difference = np.abs(flat - running(flat)) * GAIN
    return torch.from_numpy(np.minimum(np.rint(difference), 255).astype(np.uint8).reshape(video.shape))


def running_mean(x_TN: np.ndarray) -> np.ndarray:
    """Return the mean of rows 0..t for each t, (T, N) float32."""
    count = np.arange(1, len(x_TN) + 1, dtype=np.float32)[:, None]
    return np.cumsum(x_TN, axis=0, dtype=np.float32) / count


def running_median(x_TN: np.ndarray) -> np.ndarray:
    """Return the lower median of rows 0..t of uint8 values for each t, (T, N) int16, exactly.

    One histogram per pixel; the median moves by a few grey levels a frame, so a frame costs O(N), not O(t N).
    """
    pixels = np.arange(x_TN.shape[1])
    histogram_NV = np.zeros((x_TN.shape[1], 256), dtype=np.int32)
    median = x_TN[0].astype(np.int16)
    below = np.zeros(len(pixels), dtype=np.int32)  # how many values are less than the median so far
    medians = np.empty(x_TN.shape, dtype=np.int16)
    for t, x in enumerate(x_TN):
        histogram_NV[pixels, x] += 1
        below += x < median
        _settle(histogram_NV, median, below, rank=t // 2)
        medians[t] = median
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
