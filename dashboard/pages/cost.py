"""Accuracy against cost: what a point of accuracy or a dB costs in time and memory, and what nothing beats."""

from __future__ import annotations

import re

import pandas as pd
import streamlit as st

from dashboard import cached, charts, chosen_runs, display, links, pareto, tables
from dashboard.filters import COSTS, Selection, select_runs
from dashboard.names import code
from dashboard.palette import Palette
from dashboard.scores import BASELINES, Score

MORE_IS_BETTER = ("train/frames_per_second",)
STAGES = {"saved_tensors_mib": "Saved tensors (MiB)", "peak_mib": "Peak memory (MiB)"}


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    chosen_runs.for_store(uri, "Accuracy against cost", draw_costs)


def draw_costs(runs: pd.DataFrame) -> None:
    """Draw the page for a store with at least one run."""
    selection = select_runs(runs, control=False)
    palette = Palette(selection.scope)
    with st.columns(3)[0]:
        cost = links.choose("Cost", COSTS, "cost")
    table = cached.comparison_table(
        selection.chosen, None, selection.score, lines=selection.lines, common=selection.common
    )
    draw_front(selection.score, table, palette, cost)
    draw_stages(selection, palette)


def draw_front(score: Score, table: pd.DataFrame, palette: Palette, cost: str) -> None:
    """Draw the score against the cost, and as a table which rows are on the Pareto front."""
    scored = table.dropna(subset=[score.metric]).reset_index(drop=True)
    untrained = scored["rule"].isin(list(BASELINES))
    levels, without = scored[untrained], scored[~untrained & scored[cost].isna()]
    known = scored.dropna(subset=[cost]).reset_index(drop=True)
    if known.empty:
        st.info(f"No finished run here has both a test score and {code(cost)}.")
        return
    lower_cost = cost not in MORE_IS_BETTER
    known["front"] = pareto.front(known, score.metric, cost, lower_score=score.lower, lower_cost=lower_cost)
    st.altair_chart(charts.score_against_cost(known, palette, score, cost, levels), key="cost_chart")
    best = (
        f"{'less' if lower_cost else 'more'} {COSTS[cost].lower()}, {'less' if score.lower else 'more'} {score.short}"
    )
    st.caption(
        f"Means and one standard deviation. Better: {best}. Dotted line and filled markers: the Pareto front, the rows "
        "that no other row beats in one without losing in the other, by their means. Times of a shared machine compare "
        f"only within one comparison.{_left_out(levels, without)}"
    )
    known, score = display.scaled(known, score)
    columns = ["line", score.metric, cost]
    texts = display.texts(known, columns, score)
    listed = pd.DataFrame(
        {
            "Row": known["line"],
            "Pareto front": known["front"].map({True: "yes", False: "–"}),
            score.short: texts[score.metric],
            charts.TITLES[cost]: texts[cost],
        }
    )
    best_first = known["front"].sort_values(ascending=False, kind="stable").index
    st.dataframe(listed.loc[best_first], hide_index=True, key="cost_table")


def _left_out(levels: pd.DataFrame, without: pd.DataFrame) -> str:
    """Return what the chart says of the rows that have no point in it."""
    said = " Lines across: predictions that no run trains, which cost nothing." if len(levels) else ""
    if len(without):
        said += " Without this cost, so left out: " + ", ".join(code(line) for line in without["line"]) + "."
    return said


def draw_stages(selection: Selection, palette: Palette) -> None:
    """Draw what each stage of a depth-parallel run keeps in memory, where runs have stages."""
    st.subheader("By stage", anchor=False)
    counted = tables.newest(tables.counting(selection.chosen, selection.score))
    if selection.common:
        counted = tables.on_common_cells(counted, selection.lines)
    found = {name: title for name, title in STAGES.items() if not by_stage(counted, name).empty}
    if not found:
        st.caption("No run here was trained in stages (`--trainer.strategy depth_parallel`).")
        return
    with st.columns(3)[0]:
        kind = links.choose("Of each stage", found, "stage_cost")
    st.altair_chart(charts.cost_by_stage(by_stage(counted, kind), palette, found[kind]), key="stage_chart")


def by_stage(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return mean and std over the runs of a line of `memory/stage_I/NAME`: columns `line`, `stage` (1, ...), both."""
    found = {column: re.fullmatch(rf"memory/stage_([0-9]+)/{name}", str(column)) for column in runs}
    stages = {column: int(match[1]) + 1 for column, match in found.items() if match}
    long = runs.melt(["line"], list(stages), "stage", "value").dropna(subset=["value"])
    long["stage"] = long["stage"].map(stages)
    return long.groupby(["line", "stage"])["value"].agg(["mean", "std"]).reset_index()
