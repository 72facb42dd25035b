"""The choice of single runs that the pages of one run or a few share: data set, comparison, runs. In the address.

data set -> comparison -> runs, each `row · fold 0 · seed 1`
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from dashboard import cached, empty, links, tables
from dashboard.names import clean
from dashboard.runs import StoreMissing, StoreUnreachable

MOST_RUNS = 8


def for_store(uri: str, title: str, body: Callable[[pd.DataFrame], None]) -> None:
    """Draw a page's title, then `body` with the store's runs, or what to type where there are none."""
    left, right = st.columns([8, 1], vertical_alignment="bottom")
    left.title(title, anchor=False)
    if right.button("Reload", icon=":material/refresh:", width="stretch", help="Read the store again"):
        cached.forget()
    try:
        runs = cached.runs(uri)
        if runs.empty:
            empty.nothing_yet("The store has no training run (tag `kind` = `run`).", uri)
        else:
            body(runs.fillna({"dataset": "unknown"}))
    except StoreMissing as reason:
        empty.nothing_yet(str(reason), uri)
    except StoreUnreachable as reason:
        empty.no_answer(str(reason), uri)


def choose_scope(runs: pd.DataFrame) -> pd.DataFrame:
    """Draw the choice of data set and comparison, the newest first; return its runs with `line` and `label`."""
    recent = runs.sort_values("started", ascending=False)
    left, right = st.columns(2)
    with left:
        dataset = links.choose("Data set", _titles(recent["dataset"]), "dataset", resets=("comparison", "runs"))
    of_dataset = recent[recent["dataset"] == dataset]
    comparisons = _titles(of_dataset["comparison"].fillna(tables.SINGLE_RUNS))
    with right:
        comparison = links.choose("Comparison", comparisons, "comparison", resets=("runs",))
    return with_labels(tables.in_scope(runs, dataset, comparison))


def _titles(column: pd.Series) -> dict[str, str]:
    return {name: clean(name) for name in column}


def with_labels(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with a `label` each: row, fold, seed, and where these repeat the run's id."""
    number = {name: runs[name].astype("string").fillna("–") for name in ("fold", "seed")}
    label = runs["line"].map(clean) + " · fold " + number["fold"] + " · seed " + number["seed"]
    twice = label.duplicated(keep=False)
    return runs.assign(label=label.where(~twice, label + " · " + runs["run_id"].str[:8]))


def default_runs(runs: pd.DataFrame) -> list[str]:
    """Return the ids of the runs to open with: the newest of each row in the fold and seed that was run last.

    Runs that finished go before those that did not; at most MOST_RUNS.
    """
    if runs.empty:
        return []
    ranked = runs.assign(finished=runs["status"] == "FINISHED").sort_values(["finished", "started"], kind="stable")
    fold, seed = (ranked[name].fillna(-1) for name in ("fold", "seed"))
    same = ranked[(fold == fold.iloc[-1]) & (seed == seed.iloc[-1])]
    newest = same.drop_duplicates("line", keep="last").sort_values("line")
    return newest["run_id"].tolist()[:MOST_RUNS]


def choose_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Draw the choice of runs of a scope (`with_labels`) and return the chosen with their `name`, by label."""
    listed = runs.sort_values("label", kind="stable")
    titles = dict(zip(listed["run_id"], listed["label"], strict=True))
    chosen = links.choose_many(
        f"Runs (at most {MOST_RUNS})",
        titles,
        "runs",
        default=default_runs(runs),
        max_selections=MOST_RUNS,
        placeholder="Choose runs",
    )
    return with_names(listed[listed["run_id"].isin(chosen[:MOST_RUNS])])


def with_names(chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the chosen runs with a `name`: the row alone where that tells them apart, else the label."""
    alone = ~chosen["line"].duplicated(keep=False)
    return chosen.assign(name=chosen["line"].where(alone, chosen["label"]))
