"""A metric's history against updates, frames seen or time. The reading, and a pure function for each axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dashboard import curves
from dashboard.runs import translated

if TYPE_CHECKING:
    from mlflow import MlflowClient

AXES = {"step": "Updates", "frames_seen": "Frames seen", "seconds": "Time (s)"}
COLUMNS = ["step", "value", "seconds"]
LARGEST = 1e300  # MLflow keeps infinity as the largest double


def read_timed_history(client: MlflowClient, uri: str, run_id: str, metric: str) -> pd.DataFrame:
    """Return the logged values of one metric by step: `step` (int), `value` (float), `seconds` since the epoch.

    A step logged twice (a resumed run) keeps the later value. Empty where the run has no such metric.
    """
    with translated(uri):
        history = client.get_metric_history(run_id, metric)
    entries = sorted((entry.step, entry.timestamp, entry.value) for entry in history)
    table = pd.DataFrame(entries, columns=["step", "milliseconds", "value"])
    table = table.astype({"step": "int64", "milliseconds": "int64", "value": "float64"})
    stored_infinity = table["value"].abs() > LARGEST
    table["value"] = table["value"].where(~stored_infinity, np.copysign(np.inf, table["value"]))
    table = table.drop_duplicates("step", keep="last").assign(seconds=table["milliseconds"] / 1000)
    return table[COLUMNS].reset_index(drop=True)


def on_axis(history: pd.DataFrame, axis: str, frames_seen: pd.DataFrame, started: pd.Timestamp) -> pd.DataFrame:
    """Return `history` with `x` on an axis of AXES; `seconds` count from the start of the run."""
    if axis == "step":
        return curves.on_steps(history)
    if axis == "frames_seen":
        return curves.on_frames(history, frames_seen)
    start = started.timestamp() if not pd.isna(started) else history["seconds"].min()
    return history.assign(x=(history["seconds"] - start).clip(lower=0.0))
