"""The choice of single runs that the pages of one run or a few share: data set, comparison, runs. In the address.

data set -> comparison -> runs, each `row · fold 0 · seed 1`
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from dashboard import cached, empty, links, tables
from dashboard.names import clean
from dashboard.palette import family
from dashboard.runs import StoreMissing, StoreUnreachable
from dashboard.scores import scores_of

MOST_RUNS = 8
SIDEWAYS = "sideways"  # the row without skips
GOING = ("RUNNING", "SCHEDULED")
_RESETS = ("comparison", "runs", "rows", "control")  # the last two: of the pages that compare rows


def for_store(uri: str, title: str, body: Callable[[pd.DataFrame], None]) -> None:
    """Draw a page's title, then `body` with the store's runs, or what to type where there are none."""
    heading(title)
    try:
        runs = cached.runs(uri)
        if runs.empty:
            studies = len(cached.studies(uri))
            swept = f", but {studies:,} {'study' if studies == 1 else 'studies'}: see the page Sweep" if studies else ""
            empty.nothing_yet(f"The store has no training run (tag `kind` = `run`){swept}.", uri)
        else:
            body(runs.fillna({"dataset": "unknown"}))
    except StoreMissing as reason:
        empty.nothing_yet(str(reason), uri)
    except StoreUnreachable as reason:
        empty.no_answer(str(reason), uri)


def heading(title: str) -> None:
    """Draw a page's title and the button that reads the store again."""
    left, right = st.columns([8, 1], vertical_alignment="bottom")
    left.title(title, anchor=False)
    if right.button("Reload", icon=":material/refresh:", width="stretch", help="Read the store again"):
        cached.forget()


def choose_scope(runs: pd.DataFrame) -> pd.DataFrame:
    """Draw the choice of data set and comparison, the newest first; return its runs with `line` and `label`."""
    recent = runs.sort_values("started", ascending=False)
    left, right = st.columns(2)
    with left:
        dataset = links.choose("Data set", _titles(recent["dataset"]), "dataset", resets=_RESETS)
    of_dataset = recent[recent["dataset"] == dataset]
    comparisons = _titles(of_dataset["comparison"].fillna(tables.SINGLE_RUNS))
    with right:
        comparison = links.choose("Comparison", comparisons, "comparison", resets=_RESETS[1:])
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
    """Return the ids of the runs to open with: the newest of each row in one fold and seed, at most MOST_RUNS.

    Fold and seed: where most rows finished, of these the one that was run last. Where there are more rows: the control,
    sideways, the best of each family of the colours, then the best of the rest. Finished runs go before all others.
    """
    if runs.empty:
        return []
    ranked = runs.assign(finished=runs["status"] == "FINISHED").sort_values(["finished", "started"], kind="stable")
    cells = [group for _, group in ranked.groupby(["fold", "seed"], dropna=False)]
    same = max(cells, key=lambda group: (_finished_rows(group), group["started"].max()))
    newest = same.drop_duplicates("line", keep="last")
    return _by_interest(newest)["run_id"].tolist()[:MOST_RUNS]


def _finished_rows(runs: pd.DataFrame) -> int:
    return int(runs.loc[runs["status"] == "FINISHED", "line"].nunique())


def _by_interest(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one run a row, the ones first that a reader looks for first."""
    score = scores_of(str(runs["task"].iloc[0]), runs)[0]
    ranked = runs.assign(
        family=[family(run.rule, run.wiring, run.row) for run in runs.itertuples()],
        going=~runs["finished"],
        worse=runs[score.metric].astype(float) * (1 if score.lower else -1),
        other=runs["line"] != tables.default_control(runs),
        skips=runs["row"] != SIDEWAYS,
    ).sort_values(["going", "worse", "line"], kind="stable")
    ranked["again"] = ranked["family"].duplicated()
    return ranked.sort_values(["going", "other", "skips", "again", "worse", "line"], kind="stable")


def choose_runs(runs: pd.DataFrame, *, ended: bool = False) -> pd.DataFrame:
    """Draw the choice of runs of a scope (`with_labels`) and return the chosen with their `name`, by label.

    `ended`: the page opens without runs that are still going; they can be chosen.
    """
    listed = runs.sort_values("label", kind="stable")
    titles = dict(zip(listed["run_id"], listed["label"], strict=True))
    chosen = links.choose_many(
        f"Runs (at most {MOST_RUNS})",
        titles,
        "runs",
        default=default_runs(runs[~runs["status"].isin(GOING)] if ended else runs),
        max_selections=MOST_RUNS,
        placeholder="Choose runs",
    )
    shown = listed[listed["run_id"].isin(chosen[:MOST_RUNS])]
    rows, all_rows = shown["line"].nunique(), runs["line"].nunique()
    if rows < all_rows:
        st.caption(f"{rows} of {all_rows} rows are shown; choose others above.")
    return with_names(shown)


def with_names(chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the chosen runs with a `name`: the row alone where that tells them apart, else the label."""
    alone = ~chosen["line"].duplicated(keep=False)
    return chosen.assign(name=chosen["line"].where(alone, chosen["label"]))
