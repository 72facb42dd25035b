"""What the page has read, kept between reruns: the client once, the list of runs for seconds, histories for good."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard import curves
from dashboard.runs import Store, open_store, read_history, read_store, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

FRESH_S = 10  # a list of runs, and the history of a run that is still going, may be this old


@st.cache_resource(show_spinner=False)
def client(uri: str) -> MlflowClient:
    """Return the client of the store, made once."""
    return open_store(uri)


@st.cache_resource(show_spinner=False)
def _reading(uri: str) -> dict[str, Any]:
    """Return when the store was read last (`at`, s) and its `stamp` then; empty before the first time."""
    return {}


def _stamp(uri: str) -> object:
    """Return what changes whenever a SQLite store is written; None for a server, which only reading tells."""
    if not uri.startswith("sqlite:"):
        return None
    files = [Path(f"{sqlite_path(uri)}{ending}") for ending in ("", "-wal")]
    return [(file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists()]


@st.cache_data(show_spinner="Reading the runs …", max_entries=4)
def _read(uri: str, at: float) -> Store:
    """Return what the store holds. `at` only keys the cache."""
    return read_store(client(uri), uri)


def _store(uri: str) -> Store:
    """Return the store, read again only after FRESH_S and where its file has changed since."""
    open_store(uri)  # the store may have gone since the client was made
    reading, stamp, now = _reading(uri), _stamp(uri), time.monotonic()
    old = now - reading.get("at", -math.inf) >= FRESH_S
    if old and (stamp is None or stamp != reading.get("stamp")):
        reading.update(at=now, stamp=stamp)
    return _read(uri, reading["at"])


def runs(uri: str) -> pd.DataFrame:
    """Return `read_runs` of the store, at most FRESH_S seconds behind it. Raises StoreMissing, StoreUnreachable."""
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
    _reading.clear()
