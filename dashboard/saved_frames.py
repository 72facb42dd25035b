"""Predicted frames that runs saved, checked and put beside each other. No Streamlit, no MLflow.

    predictions/index.json               which clips, which horizons
    predictions/<folder>/context.npz     the whole clip, uint8 (T, C, H, W)
    predictions/<folder>/prediction.npz  uint8 (N, K, C, H, W), and `frames` (N,): the newest frame m of each

The prediction in column k of row m shows frame m + k. Frames count from 0 within the clip.
Shapes: T frames of the clip, N predictions, K horizons, C channels (1 or 3), H W.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

INDEX = "predictions/index.json"
BASELINE_FRAMES = 4  # of `mean_last`, as in the runs' own metric
MAX_CLIPS = 1000
LEAST_SCALE = 0.02  # of difference maps: below it noise would look like an error


class Unreadable(ValueError):  # noqa: N818 - reads as a sentence
    """Saved predictions that do not follow the layout; the message says what is wrong."""


@dataclass(frozen=True)
class Clip:
    """One clip of a run's index: its name, label and folder, and the run's scores on it by horizon."""

    clip_id: str
    label: str
    folder: str
    psnr_db: tuple[float, ...] = ()


@dataclass(frozen=True)
class Index:
    """What a run saved: the horizons, the clips, frames a second."""

    horizons: tuple[int, ...]
    clips: Mapping[str, Clip] = field(default_factory=dict)
    fps: float = 25.0


@dataclass(frozen=True)
class Predicted:
    """A run's predictions of one clip, on the frames of that clip."""

    horizons: tuple[int, ...]
    clip_TCHW: np.ndarray
    prediction_NKCHW: np.ndarray
    newest_N: tuple[int, ...]

    def frame(self, shown: int, horizon: int) -> np.ndarray | None:
        """Return the prediction (C, H, W) of frame `shown`, made `horizon` frames before it, or None."""
        newest = shown - horizon
        if horizon not in self.horizons or newest not in self.newest_N:
            return None
        return self.prediction_NKCHW[self.newest_N.index(newest), self.horizons.index(horizon)]


def parse_index(content: Mapping[str, Any]) -> Index:
    """Return the index; Unreadable where it has no horizons or clips. A clip without a name or folder is left out."""
    try:
        horizons = tuple(int(k) for k in content["horizons"])
        entries = list(content["clips"])[:MAX_CLIPS]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Unreadable(f"{INDEX} lists no horizons and clips ({type(error).__name__}).") from error
    if not horizons or min(horizons) < 0 or len(set(horizons)) != len(horizons):
        raise Unreadable(f"{INDEX} has horizons {list(horizons)[:8]}; expected different numbers from 0.")
    clips = [_clip(entry) for entry in entries if isinstance(entry, dict)]
    return Index(horizons, {clip.clip_id: clip for clip in clips if clip}, _fps(content.get("fps")))


def _clip(entry: Mapping[str, Any]) -> Clip | None:
    name, folder = entry.get("clip_id"), entry.get("folder")
    if not isinstance(name, str) or not isinstance(folder, str):
        return None
    scores = entry.get("psnr_db")
    numbers = scores if isinstance(scores, list) else []
    return Clip(name, str(entry.get("label") or ""), folder, tuple(_number(value) for value in numbers))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _fps(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0.1 <= value <= 240 else 25.0


def predicted(index: Index, clip_TCHW: np.ndarray, prediction_NKCHW: np.ndarray, newest_N: np.ndarray) -> Predicted:
    """Return the predictions of one clip; Unreadable where shapes or frame numbers do not fit each other."""
    clip_TCHW, prediction_NKCHW = _grey_or_colour(clip_TCHW, 4), _grey_or_colour(prediction_NKCHW, 5)
    newest = tuple(int(m) for m in np.asarray(newest_N).ravel())
    n, horizons, *frame = prediction_NKCHW.shape
    if frame != list(clip_TCHW.shape[1:]):
        raise Unreadable(f"The frames predicted are {frame}, those of the clip {list(clip_TCHW.shape[1:])} (C, H, W).")
    if n != len(newest) or horizons != len(index.horizons):
        raise Unreadable(
            f"{n} x {horizons} predictions stand for {len(newest)} frames and {len(index.horizons)} horizons."
        )
    last = max(newest, default=0) + max(index.horizons)
    if newest and (min(newest) < 0 or last >= len(clip_TCHW)):
        raise Unreadable(f"Frame {last} is predicted of a clip of {len(clip_TCHW)} frames.")
    return Predicted(index.horizons, clip_TCHW, prediction_NKCHW, newest)


def _grey_or_colour(frames: np.ndarray, dimensions: int) -> np.ndarray:
    if (
        frames.ndim != dimensions
        or frames.dtype != np.uint8
        or frames.shape[-3] not in (1, 3)
        or 0 in frames.shape[-2:]
    ):
        raise Unreadable(
            f"Saved frames are {frames.dtype} {frames.shape}; expected uint8, {dimensions} dimensions, 1 or 3 channels."
        )
    return frames


def shown_frames(runs: Mapping[str, Predicted], horizon: int) -> list[int]:
    """Return the frames that some run predicts at this horizon, in order."""
    return sorted({newest + horizon for run in runs.values() if horizon in run.horizons for newest in run.newest_N})


def copy_last(clip_TCHW: np.ndarray, shown: int, horizon: int) -> np.ndarray | None:
    """Return the baseline's prediction of frame `shown`: the newest frame itself."""
    return clip_TCHW[shown - horizon] if shown >= horizon else None


def mean_last(clip_TCHW: np.ndarray, shown: int, horizon: int) -> np.ndarray | None:
    """Return the other baseline's prediction: the mean of the last BASELINE_FRAMES up to and with the newest."""
    newest = shown - horizon
    if newest < 0:
        return None
    return clip_TCHW[max(newest - BASELINE_FRAMES + 1, 0) : newest + 1].mean(axis=0).round().astype(np.uint8)


def psnr_db(prediction_CHW: np.ndarray, truth_CHW: np.ndarray) -> float:
    """Return 10 log10(1 / mse) of one frame, data range 1; 100 dB where the frames are equal."""
    mse = float(np.mean((prediction_CHW / 255.0 - truth_CHW / 255.0) ** 2))
    return 100.0 if mse < 1e-10 else float(-10 * np.log10(mse))


def gap(prediction_CHW: np.ndarray, truth_CHW: np.ndarray) -> np.ndarray:
    """Return |prediction - truth| (1, H, W), mean over channels, as a part of the range."""
    return np.abs(prediction_CHW.astype(np.float32) - truth_CHW).mean(axis=0, keepdims=True) / 255.0


def common_scale(gaps: Iterable[np.ndarray]) -> float:
    """Return the difference that is black in all maps: their 99.5th percentile, at least LEAST_SCALE."""
    every = [each.ravel() for each in gaps]
    return max(float(np.percentile(np.concatenate(every), 99.5)), LEAST_SCALE) if every else LEAST_SCALE


def difference(prediction_CHW: np.ndarray, truth_CHW: np.ndarray, full: float) -> np.ndarray:
    """Return the map (1, H, W) of `gap`: white where equal, black from `full` on."""
    return (255 * (1 - np.clip(gap(prediction_CHW, truth_CHW) / full, 0, 1))).astype(np.uint8)
