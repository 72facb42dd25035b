"""What the page has read, kept between reruns: the client once, the list of runs for seconds, tables while it lasts."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st
from pandas.util import hash_pandas_object

from dashboard import tables
from dashboard.runs import METRICS, Store, open_store, read_store, sqlite_path
from dashboard.scores import Score

if TYPE_CHECKING:
    from mlflow import MlflowClient

FRESH_S = 10  # a list of runs may be this old


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


def studies(uri: str) -> pd.DataFrame:
    """Return `Store.studies`, as old as `runs`. Raises StoreMissing, StoreUnreachable."""
    return _store(uri).studies


def comparison_table(runs: pd.DataFrame, control: tables.Control, score: Score, **choice: Any) -> pd.DataFrame:
    """Return `tables.comparison_table`, made again only where the runs or the choice are others."""
    read = [*tables.READ, *(name for name in (*METRICS, score.metric) if name in runs and name not in tables.READ)]
    digest = str(hash_pandas_object(runs[list(dict.fromkeys(read))].astype(str), index=False).sum())
    return _table(digest, control, score, choice, runs)


@st.cache_data(show_spinner=False, max_entries=64)
def _table(
    digest: str, control: tables.Control, score: Score, choice: dict[str, Any], _runs: pd.DataFrame
) -> pd.DataFrame:
    """Return the table. `digest` stands for the runs, which are not hashed again."""
    return tables.comparison_table(_runs, control, score, **choice)


def forget() -> None:
    """Drop the list of runs, so that the next rerun reads it again."""
    _reading.clear()
