"""Learning: any logged metric of single runs over training, and what each unit's gradients were like.

data set, comparison, runs -> metric, axis -> curves | heat map unit x time, one a run
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard import cached_artifacts, chosen_runs, heatmap, histories, links, run_curves
from dashboard.names import code
from dashboard.palette import Palette
from dashboard.plain import sentence


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    chosen_runs.for_store(uri, "Learning", lambda runs: draw_runs(uri, runs))


def draw_runs(uri: str, runs: pd.DataFrame) -> None:
    """Draw the choices, then the charts."""
    scope = chosen_runs.choose_scope(runs)
    chosen = chosen_runs.choose_runs(scope)
    if chosen.empty:
        st.info("Choose a run to see how it learnt.")
        return
    logged = run_curves.metrics_to_choose(_metrics(uri, chosen))
    if not logged:
        st.info("The chosen runs have logged nothing yet.")
        return
    left, right = st.columns(2)
    with left:
        metric = links.choose("Metric", logged, "metric", default=next(iter(logged)))
    with right:
        axis = links.choose("Against", histories.AXES, "axis")
    figures = [name for name in heatmap.UNIT_METRICS if any(heatmap.units_of(logged, name))]
    draw_curves(uri, chosen, metric, axis, Palette(scope))
    if figures:
        draw_heatmaps(uri, chosen, axis, figures)
    else:
        st.info("No chosen run has logged figures of its units: train with `--model.log_gradients_every 50`.")


def _metrics(uri: str, chosen: pd.DataFrame) -> list[dict[str, float]]:
    return [cached_artifacts.facts(uri, str(run.run_id), run.ended).metrics for run in chosen.itertuples()]


def curve(uri: str, run: pd.Series, metric: str, axis: str) -> pd.DataFrame:
    """Return a run's history of a metric with `x` on the axis."""
    frames = pd.DataFrame()
    if axis == "frames_seen":
        frames = cached_artifacts.history(uri, run["run_id"], "frames_seen", run["ended"])
    values = cached_artifacts.history(uri, run["run_id"], metric, run["ended"])
    return histories.on_axis(values, axis, frames, run["started"])


def draw_curves(uri: str, chosen: pd.DataFrame, metric: str, axis: str, palette: Palette) -> None:
    """Draw the metric of each run; say which have none and which were not finite."""
    curves = {run["name"]: curve(uri, run, metric, axis) for _, run in chosen.iterrows()}
    points = run_curves.drawn(curves)
    if points.empty:
        without = "" if axis != "frames_seen" else " with `frames_seen`"
        st.info(f"No chosen run has values of {code(metric)}{without}.")
        return
    lines = dict(zip(chosen["name"], chosen["line"], strict=True))
    summary = run_curves.summary(points)
    st.altair_chart(
        run_curves.chart(points, lines, palette, metric, axis),
        key="run_curves",
        alt=f"{sentence(metric)} against {histories.AXES[axis].lower()} for {len(summary)} runs; values in the table.",
    )
    missing = [label for label, each in curves.items() if each.empty]
    if missing:
        st.caption(f"Without values of {code(metric)}: " + ", ".join(code(label) for label in missing))
    diverged = [label for label, each in curves.items() if len(each) and not run_curves.all_finite(each)]
    if diverged:
        st.warning("Logged values that are not finite, left out here: " + ", ".join(code(each) for each in diverged))
    with st.expander("As a table"):
        st.dataframe(summary, hide_index=True, key="curves_table")


def draw_heatmaps(uri: str, chosen: pd.DataFrame, axis: str, figures: list[str]) -> None:
    """Draw the chosen figure of every unit, a heat map a run, two side by side."""
    st.subheader("Units over training", anchor=False)
    titles = {name: heatmap.UNIT_METRICS[name] for name in figures}
    figure = links.choose("Figure of each unit", titles, "figure")
    tables = []
    for place, (_, run) in enumerate(chosen.iterrows()):
        metrics = cached_artifacts.facts(uri, run["run_id"], run["ended"]).metrics
        units = heatmap.units_of(metrics, figure)
        table = heatmap.cells({unit: curve(uri, run, f"{figure}/unit_{unit}", axis) for unit in units})
        if place % 2 == 0:  # two in a line, and in their order where a narrow screen stacks them
            columns = st.columns(2, gap="large")
        with columns[place % 2]:
            st.markdown(code(run["name"]))
            if table.empty:
                st.caption(f"This run has not logged `{figure}/unit_1` and its like.")
                continue
            st.altair_chart(
                heatmap.chart(table, figure, histories.AXES[axis]),
                key=f"heatmap_{place}",
                alt=f"{titles[figure]} of {len(units)} units over training; first and last values in the table.",
            )
            tables.append(heatmap.at_start_and_end(table).assign(run=run["name"]))
    if tables:
        st.caption("A cell reaches from one logged step to the next. Dark grey: nothing logged, or no finite number.")
        with st.expander("As a table"):
            st.dataframe(pd.concat(tables), hide_index=True, key="heatmap_table")
