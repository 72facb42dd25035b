"""Learning curves: metric histories on the axis of updates or frames. Pure functions."""

from __future__ import annotations

import numpy as np
import pandas as pd


def on_frames(history: pd.DataFrame, frames_seen: pd.DataFrame) -> pd.DataFrame:
    """Return `history` (step, value) with `x` = frames seen at each step.

    Frames are logged at other steps than the metric: they are interpolated linearly between, and before the first and
    beyond the last logged step they grow at the run's mean rate. Empty where the run logged no frames.
    """
    if frames_seen.empty:
        return history.iloc[:0].assign(x=pd.Series(dtype=float))
    steps, frames = (frames_seen[name].to_numpy(float) for name in ("step", "value"))
    at = history["step"].to_numpy(float)
    rate = _rate(steps, frames)
    x = np.interp(at, steps, frames) + rate * (np.maximum(at - steps[-1], 0) - np.maximum(steps[0] - at, 0))
    return history.assign(x=np.maximum(x, 0.0))


def _rate(steps: np.ndarray, frames: np.ndarray) -> float:
    return float((frames[-1] - frames[0]) / (steps[-1] - steps[0])) if len(steps) > 1 else 0.0


def on_steps(history: pd.DataFrame) -> pd.DataFrame:
    """Return `history` (step, value) with `x` = the step."""
    return history.assign(x=history["step"].astype(float))
