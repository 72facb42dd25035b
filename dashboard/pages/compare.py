"""Compare: one tidy table, rule x wiring x data set; which row is better, by how much."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import cached, chosen_runs, display, downloads, tables
from dashboard.filters import Selection, select_runs
from dashboard.names import code
from dashboard.palette import Palette
from dashboard.scores import PSNR, Score


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    chosen_runs.for_store(uri, "Compare runs", draw_comparison)
    draw_left_out(uri)


def draw_comparison(runs: pd.DataFrame) -> None:
    """Draw the page for a store with at least one run."""
    selection = select_runs(runs)
    palette = Palette(selection.scope)
    table = cached.comparison_table(
        selection.with_control, selection.control, selection.score, lines=selection.lines, common=selection.common
    )
    draw_table(selection, table, palette)
    with st.container(key="below"):
        draw_runs(selection)


def draw_table(selection: Selection, table: pd.DataFrame, palette: Palette) -> None:
    """Draw the comparison table, what its lines share, which runs it leaves out, and its files."""
    shared = tables.constant_settings(table)
    st.caption(" · ".join(f"{display.header(key, selection.score)[0]} {code(value)}" for key, value in shared.items()))
    shown, score = display.scaled(table, selection.score)
    columns = display.shown_columns(shown, score)
    st.dataframe(
        display.styled(shown, palette, score),
        hide_index=True,
        column_config={column: _column(column, score) for column in columns},
        key="comparison_table",
        placeholder="–",
    )
    st.caption(
        "Mean ± standard deviation over folds, seeds averaged within each fold (over seeds where there is one fold). "
        f"Δ: difference to {_named(selection)} over the folds and seeds that both have, with its 95 % interval "
        f"(from three folds, or three seeds of one fold).{_said(selection.score)}"
    )
    remarks = tables.remarks(
        selection.with_control, selection.control, selection.score, lines=selection.lines, common=selection.common
    )
    if remarks:
        st.warning("  \n".join(remarks))
    draw_downloads(selection, table)


def _named(selection: Selection) -> str:
    return code(selection.control_name) if isinstance(selection.control, str) else selection.control_name


def _said(score: Score) -> str:
    if not score.metric.startswith(PSNR.metric):
        return ""
    return " PSNR: the mean of each frame's dB, so nearly still frames weigh most; MSE weighs every pixel alike."


def _column(column: str, score: Score) -> Any:
    title, explanation = display.header(column, score)
    text = column in ("swatch", "line", "lmin", "videos", "id_hash", *tables.LINE)
    kind = st.column_config.TextColumn if text else st.column_config.NumberColumn
    return kind(title, help=explanation, width=display.WIDTHS_PX.get(column))


def draw_downloads(selection: Selection, table: pd.DataFrame) -> None:
    """Draw the buttons that save the table as csv and LaTeX."""
    with st.container(horizontal=True):
        for kind, text in (("csv", downloads.csv), ("LaTeX", downloads.latex_table)):
            name = f"comparison.{'tex' if kind == 'LaTeX' else kind}"
            given = (table, selection.score) if kind == "csv" else display.scaled(table, selection.score)
            st.download_button(f"Download {kind}", text(*given), name, key=f"download_{kind}")


def draw_runs(selection: Selection) -> None:
    """Draw the list of single runs, open where one of them did not finish."""
    metric = selection.score.metric
    runs = selection.chosen[~selection.chosen["baseline"].astype(bool)]
    columns = ["status", "line", "fold", "seed", metric, *_stated(runs), "started", "ended", "git_sha", "run_id"]
    listed = runs.sort_values(["status", "line", "fold", "seed"])[columns]
    # pyarrow reads times with a zone in a way that pandas deprecates; the headers name the zone.
    listed = listed.assign(**{name: listed[name].dt.tz_localize(None) for name in ("started", "ended")})
    titles = {**_RUN_COLUMNS, metric: st.column_config.NumberColumn(selection.score.short, format="%.4g")}
    with st.expander(f"All runs ({len(runs)})", expanded=bool((runs["status"] != "FINISHED").any())):
        st.dataframe(listed, hide_index=True, column_config=titles, key="runs_table", placeholder="–")


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
    "data_found": "Videos found",
    "data_expected": "Videos expected",
    "id_hash": "Id list",
    "views": "Views",
    "started": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm:ss"),
    "ended": st.column_config.DatetimeColumn("Ended (UTC)", format="YYYY-MM-DD HH:mm:ss"),
    "git_sha": "Commit",
    "run_id": "Run",
}


def draw_left_out(uri: str) -> None:
    """Say how many runs of the store are of other projects or other versions of the run layout."""
    try:
        left_out = cached.left_out(uri)
    except ValueError:  # the page above has said that there is no store
        return
    if left_out:
        counted = "; ".join(f"{number:,} {what}" for what, number in left_out.items())
        st.caption(f"This store holds other runs that are not shown: {counted}.")
