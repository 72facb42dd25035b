"""The studies of a store, read and kept between reruns; a page of a running study follows its artifact.

sweep.json is written again after every trial. While the study runs the page looks every FRESH_S seconds, and is drawn
again when the file says something else.
"""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st

from dashboard import artifacts
from dashboard.artifacts import ArtifactError, Missing
from dashboard.cached import FRESH_S, client
from dashboard.sweep_study import ARTIFACT, Study, Unreadable, read_study


class NotYet(str):
    """Why there is no study to show: it has not been written."""

    __slots__ = ()


def study_of(uri: str, run_id: str, ended: pd.Timestamp) -> Study | str:
    """Return the study that a run stored, or why there is none to show. `ended`: NaT while the run runs."""
    return _read(uri, run_id, f"at {time.time() // FRESH_S}" if pd.isna(ended) else ended.isoformat())


# A resource is not copied at every rerun; nobody writes into a study.
@st.cache_resource(show_spinner="Reading the study …", max_entries=8)
def _read(uri: str, run_id: str, age: str) -> Study | str:
    try:
        return read_study(artifacts.read_json(client(uri), run_id, ARTIFACT))
    except Missing as reason:
        return NotYet(reason)
    except (ArtifactError, Unreadable) as reason:
        return str(reason)


def forget() -> None:
    """Drop all studies, so that the next rerun reads theirs again."""
    _read.clear()


@st.fragment(run_every=FRESH_S)
def follow(uri: str, run_id: str, seen: Study | str) -> None:
    """Draw the page again when the artifact of a running study is another than was seen."""
    if study_of(uri, run_id, pd.NaT) != seen:  # type: ignore[arg-type]
        st.rerun()
