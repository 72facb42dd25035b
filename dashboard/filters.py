"""The filters that pages share: task, data set, comparison, control, rows, score. All are in the address (links.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from dashboard import links
from dashboard.baselines import with_baselines
from dashboard.scores import TASKS, Score, horizons_of, scores_of
from dashboard.tables import (
    ALL,
    SINGLE_RUNS,
    Control,
    cells_differ,
    control_by_row,
    default_control,
    label_lines,
    of_scope,
    own_controls,
)

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

COSTS = {
    "train/frames_per_second": "Training speed",
    "latency/tick_ms": "Inference per frame",
    "latency/step_p50_ms": "Training step",
    "memory/saved_tensors_mib": "Saved tensors",
    "memory/peak_mib": "Peak memory",
}
OWN = "own"
MEAN = "mean"
_CONTROL_HELP = (
    "Differences are to this row: same fold, seed and data. Exact backpropagation unless you choose another."
)
_COMMON_HELP = (
    "On: every figure is over the folds and seeds that all rows have, so that means and order compare. Off: over all "
    "runs of each row."
)


@dataclass(frozen=True)
class Selection:
    """What the filters leave: all lines of the scope, the chosen ones, what they are compared by and with."""

    task: str
    scope: pd.DataFrame
    chosen: pd.DataFrame
    score: Score
    control: Control
    control_name: str
    common: bool

    @property
    def lines(self) -> list[str]:
        """Return the names of the chosen rows."""
        return sorted(self.chosen["line"].unique())

    @property
    def with_control(self) -> pd.DataFrame:
        """Return the chosen rows and the control's, which the differences need even where it is filtered away."""
        controls = {self.control} if isinstance(self.control, str) else set((self.control or {}).values())
        return self.scope[self.scope["line"].isin({*self.chosen["line"], *controls})]


def select_runs(runs: pd.DataFrame, *, control: bool = True) -> Selection:
    """Draw the filters and return what they select. `runs` has at least one line; `control`: draw the choice of it."""
    with st.container(key="filters"):  # a narrow screen has it below the table (shell/Home.py)
        return _select_runs(runs, control=control)


def _select_runs(runs: pd.DataFrame, *, control: bool) -> Selection:
    # Newest first, so that the page opens on what was run last.
    recent = runs.sort_values("started", ascending=False, kind="stable").fillna(
        {"task": "unknown", "dataset": "unknown", "comparison": SINGLE_RUNS}
    )
    task, dataset, comparison = _select_scope(recent)
    scope = label_lines(with_baselines(of_scope(runs, dataset, comparison, task)))
    lines = sorted(scope["line"].unique())
    *first, second, third, fourth = st.columns([2, 3, 1, 1] if control else [4, 1, 1])
    against: tuple[Control, str] = (None, "")
    if first:
        with first[0]:
            against = _select_control(scope, lines)
    with second:
        rows = links.choose_many("Rows", lines, "rows", placeholder="All rows")
    score = _select_score(task, scope, third, fourth)
    chosen = scope[scope["line"].isin(rows or lines)]
    common = cells_differ(scope, rows or lines, score) and links.switch(
        "Common folds only", "common", default=True, help=_COMMON_HELP
    )
    return Selection(task, scope, chosen, score, *against, common=common)


def _select_scope(recent: pd.DataFrame) -> tuple[str, str, str]:
    """Draw task, data set and comparison; each offers what the ones before it leave, the newest first."""
    opened = _opened_by(recent)
    first, second, third = st.columns(3)
    with first:
        tasks = _names(recent["task"])
        titles = {name: TASKS.get(name, name) for name in tasks}
        resets = ["dataset", "comparison", "control", "rows", "score", "horizon"]
        task = links.choose("Task", titles, "task", default=opened.get("task"), resets=resets)
        recent = recent[recent["task"] == task]
    with second:
        datasets = _with_all(_names(recent["dataset"]), "All data sets")
        default = opened.get("dataset") or next(name for name in datasets if name != ALL)
        resets = ["comparison", "control", "rows"]
        dataset = links.choose("Data set", datasets, "dataset", default=default, resets=resets)
        recent = recent[recent["dataset"] == dataset] if dataset != ALL else recent
    with third:
        comparisons = _with_all(_names(recent["comparison"]), "All comparisons")
        newest = next(name for name in comparisons if name != ALL)
        default = ALL if dataset == ALL and ALL in comparisons else newest
        resets = ["control", "rows"]
        comparison = links.choose("Comparison", comparisons, "comparison", default=default, resets=resets)
    return task, dataset, comparison


def _opened_by(recent: pd.DataFrame) -> dict[str, str]:
    """Return task and data set of the comparison or data set in the address, where the address does not name them."""
    found = recent
    for name in ("dataset", "comparison"):
        if links.asked(name) and links.asked(name) != [ALL]:
            found = found[found[name] == links.asked(name)[0]]
    if found.empty or len(found) == len(recent):
        return {}
    return {name: str(found.iloc[0][name]) for name in ("task", "dataset")}


def _select_control(scope: pd.DataFrame, lines: list[str]) -> tuple[Control, str]:
    groups = scope[["task", "dataset", "comparison"]].drop_duplicates()
    if len(groups) < 2:
        control = links.choose("Control", lines, "control", default=default_control(scope), help=_CONTROL_HELP)
        return control, control
    options = {OWN: "Each comparison's own", **{row: row for row in sorted(scope["row"].unique())}}
    chosen = links.choose("Control", options, "control", default=OWN, help=_CONTROL_HELP)
    if chosen == OWN:
        return own_controls(scope), "each comparison's own control"
    return control_by_row(scope, chosen), chosen


def _select_score(task: str, scope: pd.DataFrame, first: DeltaGenerator, second: DeltaGenerator) -> Score:
    scores = {score.metric: score for score in scores_of(task, scope)}
    with first:
        titles = {metric: score.short for metric, score in scores.items()}
        score = scores[links.choose("Score", titles, "score")]
    horizons = horizons_of(score, scope)
    if not horizons:
        return score
    with second:
        titles = {MEAN: "Mean over all", **{str(k): f"{k} ahead" for k in horizons}}
        chosen = links.choose("Horizon", titles, "horizon", help="Frames ahead of the newest frame that was seen")
    return score if chosen == MEAN else score.at(int(chosen))


def _with_all(names: list[str], title: str) -> dict[str, str]:
    each = {name: name for name in names}
    return {**each, ALL: title} if len(names) > 1 else each


def _names(column: pd.Series) -> list[str]:
    return list(dict.fromkeys(column))
