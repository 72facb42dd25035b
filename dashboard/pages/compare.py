"""Compare: which row is better, by how much."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import cached, charts, curves, display, empty, tables
from dashboard.filters import AXES, COSTS, CURVES, Selection, choose, select_runs
from dashboard.palette import Palette
from dashboard.runs import StoreMissing, StoreUnreachable


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    draw_head(uri)
    try:
        runs = cached.runs(uri)
        if runs.empty:
            empty.nothing_yet("The store has no training run (tag `kind` = `run`).", uri)
        else:
            draw_comparison(uri, runs.fillna({"dataset": "unknown"}))
    except StoreMissing as reason:
        empty.nothing_yet(str(reason), uri)
    except StoreUnreachable as reason:
        empty.no_answer(str(reason), uri)


def draw_head(uri: str) -> None:
    """Draw the title, the store's address and the reload button."""
    title, button = st.columns([8, 1], vertical_alignment="bottom")
    title.title("Compare runs", anchor=False)
    if button.button("Reload", icon=":material/refresh:", width="stretch", help=f"Read {uri} again"):
        cached.forget()


def draw_comparison(uri: str, runs: pd.DataFrame) -> None:
    """Draw everything below the head for a store with at least one run."""
    selection = select_runs(runs)
    palette = Palette(selection.scope["line"])
    table = tables.comparison_table(selection.with_control, selection.control)
    draw_table(selection, table[table["line"].isin(selection.chosen["line"])], palette)
    left, right = st.columns(2, gap="large")
    with left:
        draw_curves(uri, selection.chosen, palette)
    with right:
        draw_cost(table[table["line"].isin(selection.chosen["line"])], palette)
    draw_runs(selection.chosen)


def draw_table(selection: Selection, table: pd.DataFrame, palette: Palette) -> None:
    """Draw the comparison table, what its lines share, and which runs it leaves out."""
    shared = tables.constant_settings(table)
    st.caption(" · ".join(f"{key} **{value}**" for key, value in shared.items()))
    table = table.reset_index(drop=True)
    st.dataframe(
        display.styled(table, palette, selection.control),
        hide_index=True,
        column_config={column: _column(column) for column in display.shown_columns(table)},
        key="comparison_table",
    )
    st.caption(
        "Mean ± standard deviation over folds, seeds averaged within each fold (over seeds where there is one fold). "
        f"Δ: difference to **{selection.control}** over the folds and seeds that both have, with its 95 % interval "
        "(from three folds, or three seeds of one fold)."
    )
    remarks = tables.remarks(selection.with_control, selection.control)
    if remarks:
        st.warning("  \n".join(remarks), icon=":material/info:")


def _column(column: str) -> Any:
    title, explanation = display.header(column)
    text = column in ("swatch", "line", "videos", "id_hash", *tables.LINE)
    kind = st.column_config.TextColumn if text else st.column_config.NumberColumn
    return kind(title, help=explanation, width=display.WIDTHS_PX.get(column))


def draw_curves(uri: str, runs: pd.DataFrame, palette: Palette) -> None:
    """Draw the chosen metric of the reporting runs that finished or still run: mean and one deviation a line."""
    st.subheader("Learning curves", anchor=False)
    first, second = st.columns(2)
    with first:
        logged = {name: title for name, title in CURVES.items() if runs[name].notna().any()}
        metric = choose("Metric", logged or CURVES, "metric")
    with second:
        axis = choose("Against", AXES, "axis")
    drawn = tables.reporting(runs)
    histories = {
        line: [cached.curve(uri, run.run_id, metric, axis, run.ended) for run in group.itertuples()]
        for line, group in drawn[drawn["status"].isin(["FINISHED", "RUNNING"])].groupby("line")
    }
    means = [curves.mean_curve(each).assign(line=line) for line, each in histories.items()]
    shown = pd.concat(means) if means else pd.DataFrame()
    if shown.empty:
        st.info(f"No run here has logged `{metric}`{'' if axis == 'step' else ' and `frames_seen`'} yet.")
        return
    st.altair_chart(charts.learning_curves(shown, palette, metric, axis), key="curves")
    st.caption("Mean and one standard deviation over the runs of a row that finished or still run.")
    diverged = sum(curves.not_finite(each) for each in histories.values())
    if diverged:
        st.warning(f"{diverged} runs logged values that are not finite; these points are left out.")


def draw_cost(table: pd.DataFrame, palette: Palette) -> None:
    """Draw test accuracy against the chosen cost."""
    st.subheader("Accuracy against cost", anchor=False)
    cost = choose("Cost", COSTS, "cost")
    if table[[tables.SCORE, cost]].dropna().empty:
        st.info(f"No finished run here has both a test accuracy and `{cost}`.")
        return
    st.altair_chart(charts.score_against_cost(table, palette, tables.SCORE, cost), key="cost_chart")
    st.caption("Means and standard deviations of the table.")


def draw_runs(runs: pd.DataFrame) -> None:
    """Draw the list of single runs, open where one of them did not finish."""
    columns = ["status", "line", "fold", "seed", tables.SCORE, *_stated(runs), "started", "ended", "git_sha", "run_id"]
    listed = runs.sort_values(["status", "line", "fold", "seed"])[columns]
    # pyarrow reads times with a zone in a way that pandas deprecates; the headers name the zone.
    listed = listed.assign(**{name: listed[name].dt.tz_localize(None) for name in ("started", "ended")})
    with st.expander(f"All runs ({len(runs)})", expanded=bool((runs["status"] != "FINISHED").any())):
        st.dataframe(listed, hide_index=True, column_config=_RUN_COLUMNS, key="runs_table", placeholder="–")


def _stated(runs: pd.DataFrame) -> list[str]:
    """Return the tags of the data that some run has: older runs have none."""
    return [
        name
        for name in ("data_found", "data_expected", "id_hash", "views")
        if runs[name].replace("", None).notna().any()
    ]


_RUN_COLUMNS: dict[str, Any] = {
    "status": "Status",
    "line": "Row",
    "fold": "Fold",
    "seed": "Seed",
    tables.SCORE: st.column_config.NumberColumn("Top-1", format="%.3f"),
    "data_found": "Videos found",
    "data_expected": "Videos expected",
    "id_hash": "Id list",
    "views": "Views",
    "started": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm:ss"),
    "ended": st.column_config.DatetimeColumn("Ended (UTC)", format="YYYY-MM-DD HH:mm:ss"),
    "git_sha": "Commit",
    "run_id": "Run",
}
