"""Pages that follow the store: while a run is going, or nothing is there yet, a page looks again every FRESH_S seconds.

Only the look is repeated; the page is drawn again when it found something new.
"""

from __future__ import annotations

import streamlit as st
from pandas.util import hash_pandas_object

from dashboard import cached
from dashboard.runs import METRICS, StoreMissing, StoreUnreachable

_WATCHED = ["run_id", "status", "ended", *METRICS]


def follow(uri: str) -> None:
    """Draw the page again whenever the store at `uri` has changed, while it can be expected to change."""
    seen, going = _state(uri)
    if going:
        _look(uri, seen)


@st.fragment(run_every=cached.FRESH_S)
def _look(uri: str, seen: str) -> None:
    if _state(uri)[0] != seen:
        st.rerun()


def _state(uri: str) -> tuple[str, bool]:
    """Return what tells a changed store from the same, and whether it can be expected to change."""
    try:
        runs, studies = cached.runs(uri), cached.studies(uri)
    except (StoreMissing, StoreUnreachable) as reason:
        return type(reason).__name__, True
    digests = [
        hash_pandas_object(table.astype(str), index=False).sum()
        for table in (runs[_WATCHED], studies[["run_id", "status", "ended"]])
    ]
    going = any(table["status"].isin(["RUNNING", "SCHEDULED"]).any() for table in (runs, studies))
    return str(digests), runs.empty or going
