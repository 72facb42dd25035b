"""Learning curves: metric histories on a common axis, then mean and spread over the runs of a line. Pure functions."""

from __future__ import annotations

import numpy as np
import pandas as pd

GRID_POINTS = 80


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


def mean_curve(runs: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean over runs of curves (x, value): columns `x`, `mean`, `low`, `high` (one std), `runs`.

    Runs logged at the same x are averaged there; otherwise each is interpolated on GRID_POINTS common points inside its
    own range, so that a shorter run ends where it ended. Values that are not finite are left out.
    """
    finite = [run[np.isfinite(run["value"])] for run in runs]
    curves = [run for run in finite if not run.empty]
    if not curves:
        return pd.DataFrame(columns=["x", "mean", "low", "high", "runs"], dtype=float)
    x = _common_axis(curves)
    values_RX = np.stack([np.interp(x, run["x"], run["value"], left=np.nan, right=np.nan) for run in curves])
    count = np.isfinite(values_RX).sum(axis=0)
    x, values_RX, count = x[count > 0], values_RX[:, count > 0], count[count > 0]
    mean = np.nanmean(values_RX, axis=0)
    squares = np.nansum((values_RX - mean) ** 2, axis=0)
    std = np.sqrt(squares / np.maximum(count - 1, 1))
    return pd.DataFrame({"x": x, "mean": mean, "low": mean - std, "high": mean + std, "runs": count})


def _common_axis(curves: list[pd.DataFrame]) -> np.ndarray:
    longest = max(curves, key=len)["x"].to_numpy(float)
    if all(np.isin(run["x"], longest).all() for run in curves):
        return longest
    low, high = min(run["x"].min() for run in curves), max(run["x"].max() for run in curves)
    return np.linspace(low, high, GRID_POINTS)


def not_finite(runs: list[pd.DataFrame]) -> int:
    """Return how many of the curves hold a value that is NaN or infinite: runs that diverged."""
    return sum(not np.isfinite(run["value"]).all() for run in runs)
