"""What the pages have read of artifacts and parameters, kept between reruns: bounded in number, again while a run runs.

`ended` is a run's end time (NaT while it runs): a run that ended is read once, one that runs every FRESH_S seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import artifacts, memory_streams, saved_frames
from dashboard.cached import FRESH_S, client
from dashboard.histories import read_timed_history
from dashboard.runs import translated


def _age(ended: pd.Timestamp) -> str:
    return f"at {time.time() // FRESH_S}" if pd.isna(ended) else ended.isoformat()


@dataclass(frozen=True)
class RunFacts:
    """One run as MLflow has it: tags, parameters and the last value of each metric."""

    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]


def facts(uri: str, run_id: str, ended: pd.Timestamp) -> RunFacts:
    """Return a run's tags, parameters and last metrics."""
    return _facts(uri, run_id, _age(ended))


@st.cache_data(show_spinner=False, max_entries=500)
def _facts(uri: str, run_id: str, age: str) -> RunFacts:
    with translated(uri):
        run = client(uri).get_run(run_id)
    return RunFacts(dict(run.data.tags), dict(run.data.params), dict(run.data.metrics))


def text(uri: str, run_id: str, path: str, ended: pd.Timestamp) -> str:
    """Return `artifacts.read_text`. Raises Missing, Refused."""
    return _text(uri, run_id, path, _age(ended))


@st.cache_data(show_spinner=False, max_entries=50)
def _text(uri: str, run_id: str, path: str, age: str) -> str:
    return artifacts.read_text(client(uri), run_id, path)


def json_object(uri: str, run_id: str, path: str, ended: pd.Timestamp) -> dict[str, Any]:
    """Return `artifacts.read_json`. Raises Missing, Refused."""
    return _json(uri, run_id, path, _age(ended))


@st.cache_data(show_spinner=False, max_entries=50)
def _json(uri: str, run_id: str, path: str, age: str) -> dict[str, Any]:
    return artifacts.read_json(client(uri), run_id, path)


def index(uri: str, run_id: str, ended: pd.Timestamp) -> saved_frames.Index:
    """Return which clips a run saved predictions of. Raises Missing, Refused, Unreadable."""
    return saved_frames.parse_index(json_object(uri, run_id, saved_frames.INDEX, ended))


def predicted(uri: str, run_id: str, clip_id: str, ended: pd.Timestamp) -> saved_frames.Predicted:
    """Return a run's predictions of one clip of its index. Raises Missing, Refused, Unreadable."""
    found = index(uri, run_id, ended)
    folder = found.clips[clip_id].folder
    clip = _arrays(uri, run_id, f"{folder}/context.npz", ("context",), _age(ended))
    made = _arrays(uri, run_id, f"{folder}/prediction.npz", ("prediction", "frames"), _age(ended))
    return saved_frames.predicted(found, clip["context"], made["prediction"], made["frames"])


def has(uri: str, run_id: str, path: str, ended: pd.Timestamp) -> bool:
    """Return whether a run has an artifact; False for a run that has gone."""
    return _has(uri, run_id, path, _age(ended))


@st.cache_data(show_spinner=False, max_entries=5_000)
def _has(uri: str, run_id: str, path: str, age: str) -> bool:
    try:
        return artifacts.exists(client(uri), run_id, path)
    except artifacts.ArtifactError:
        return False


def streams(uri: str, run_id: str, ended: pd.Timestamp) -> memory_streams.Index:
    """Return which long streams a run saved. Raises Missing, Refused, NoStreams."""
    return memory_streams.parse_index(json_object(uri, run_id, memory_streams.STREAMS, ended))


def stream(uri: str, run_id: str, stream_id: str, ended: pd.Timestamp) -> memory_streams.Stream:
    """Return one stream of a run's index, with its frames where it is a video. Raises Missing, Refused, NoStreams."""
    index = streams(uri, run_id, ended)
    entry = index.streams[stream_id]
    names = memory_streams.ARRAYS + (memory_streams.FRAME_ARRAYS if index.has_frames else ())
    return memory_streams.stream(entry, _arrays(uri, run_id, entry.file, names, _age(ended)))


# A resource is not copied at every rerun; nobody writes into these arrays.
@st.cache_resource(show_spinner="Reading the frames …", max_entries=32)
def _arrays(uri: str, run_id: str, path: str, names: tuple[str, ...], age: str) -> dict[str, np.ndarray]:
    return artifacts.read_arrays(client(uri), run_id, path, names)


def history(uri: str, run_id: str, metric: str, ended: pd.Timestamp) -> pd.DataFrame:
    """Return `read_timed_history`: `step`, `value` and `seconds` since the epoch."""
    return _history(uri, run_id, metric, _age(ended))


@st.cache_data(show_spinner=False, max_entries=2_000)
def _history(uri: str, run_id: str, metric: str, age: str) -> pd.DataFrame:
    return read_timed_history(client(uri), uri, run_id, metric)
