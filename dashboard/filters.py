"""The page's filters. Each is bound to the query parameter of its key, so that the address in the browser is a link.

A value that equals the default is not in the address; one that no longer exists is dropped by Streamlit.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from dashboard.tables import SINGLE_RUNS, default_control, in_scope

CURVES = {
    "val/top1": "Validation top-1",
    "val/loss": "Validation loss",
    "train/top1": "Training top-1",
    "train/loss": "Training loss",
}
AXES = {"frames_seen": "Frames seen", "step": "Updates"}
COSTS = {
    "latency/tick_ms": "Inference per frame",
    "latency/step_p50_ms": "Training step",
    "train/frames_per_second": "Training speed",
    "memory/saved_tensors_mib": "Saved tensors",
    "memory/peak_mib": "Peak memory",
}


@dataclass(frozen=True)
class Selection:
    """What the filters leave: all runs of one data set and comparison, the chosen rows of them, and the control."""

    dataset: str
    comparison: str
    scope: pd.DataFrame
    chosen: pd.DataFrame
    control: str | None

    @property
    def with_control(self) -> pd.DataFrame:
        """Return the chosen rows and the control's, which the differences need even where it is filtered away."""
        return self.scope[self.scope["line"].isin({*self.chosen["line"], self.control})]


def select_runs(runs: pd.DataFrame) -> Selection:
    """Draw the filters of the whole page and return what they select. `runs` has at least one line."""
    first, second, third, fourth = st.columns([1, 1, 1, 2])
    # Newest first, so that the page opens on what was run last.
    recent = runs.sort_values("started", ascending=False)
    _follow_comparison(recent)
    with first:
        dataset = st.selectbox("Data set", _names(recent["dataset"]), key="dataset", bind="query-params")
    comparisons = _names(recent.loc[recent["dataset"] == dataset, "comparison"].fillna(SINGLE_RUNS))
    with second:
        comparison = st.selectbox("Comparison", comparisons, key="comparison", bind="query-params")
    scope = in_scope(runs, dataset, comparison)
    lines = sorted(scope["line"].unique())
    default = default_control(scope)
    with third:
        index = lines.index(default) if default in lines else 0
        control = st.selectbox("Control", lines, index=index, key="control", bind="query-params", help=_CONTROL_HELP)
    with fourth:
        rows = st.multiselect("Rows", lines, key="rows", placeholder="All rows", bind="query-params")
    chosen = scope[scope["line"].isin(rows or lines)]
    return Selection(dataset, comparison, scope, chosen, control)


def _follow_comparison(recent: pd.DataFrame) -> None:
    """Choose the data set of the comparison in the address, where that is all that the address names."""
    asked = st.query_params.get("comparison")
    if asked and "dataset" not in st.query_params and "dataset" not in st.session_state:
        datasets = _names(recent.loc[recent["comparison"].fillna(SINGLE_RUNS) == asked, "dataset"])
        if datasets:
            # In the state for the widget, in the address for whoever copies it: Streamlit writes only clicks there.
            st.session_state["dataset"] = st.query_params["dataset"] = datasets[0]


_CONTROL_HELP = (
    "Differences are to this row: same fold, seed and data. Exact backpropagation unless you choose another."
)


def choose(label: str, options: dict[str, str], key: str) -> str:
    """Draw a choice among `options` (value: title) bound to the address, and return the value."""
    chosen = st.selectbox(label, list(options), format_func=options.__getitem__, key=key, bind="query-params")
    return chosen or next(iter(options))


def _names(column: pd.Series) -> list[str]:
    return list(dict.fromkeys(column))
