"""What the page has read, kept between reruns: the client once, the list of runs for seconds, histories for good."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from dashboard import curves
from dashboard.runs import Store, open_store, read_history, read_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

FRESH_S = 10  # a list of runs, and the history of a run that is still going, may be this old


@st.cache_resource(show_spinner=False)
def client(uri: str) -> MlflowClient:
    """Return the client of the store, made once."""
    return open_store(uri)


@st.cache_data(ttl=FRESH_S, show_spinner="Reading the runs …", max_entries=4)
def _store(uri: str) -> Store:
    open_store(uri)  # the store may have gone since the client was made
    return read_store(client(uri), uri)


def runs(uri: str) -> pd.DataFrame:
    """Return `read_runs` of the store, at most FRESH_S seconds old. Raises StoreMissing, StoreUnreachable."""
    return _store(uri).runs


def left_out(uri: str) -> dict[str, int]:
    """Return how many runs of the store are not read, by what they are; as old as `runs`."""
    return _store(uri).left_out


@st.cache_data(show_spinner=False, max_entries=20_000)
def _history(uri: str, run_id: str, metric: str, ended: object) -> pd.DataFrame:
    """Return one history. `ended` only keys the cache: the end time, or a clock for a run without one."""
    return read_history(client(uri), uri, run_id, metric)


def history(uri: str, run_id: str, metric: str, ended: pd.Timestamp) -> pd.DataFrame:
    """Return `read_history`, read again only while the run has not ended (`ended` is NaT)."""
    key = f"at {time.time() // FRESH_S}" if pd.isna(ended) else ended.isoformat()
    return _history(uri, run_id, metric, key)


def curve(uri: str, run_id: str, metric: str, axis: str, ended: pd.Timestamp) -> pd.DataFrame:
    """Return a metric's history with `x` on `axis`: "step" or "frames_seen"."""
    values = history(uri, run_id, metric, ended)
    if axis == "step":
        return curves.on_steps(values)
    return curves.on_frames(values, history(uri, run_id, "frames_seen", ended))


def forget() -> None:
    """Drop the list of runs, so that the next rerun reads it again."""
    _store.clear()
