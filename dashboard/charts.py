"""Altair charts from plain tables: score against cost or gap, cost by stage. No Streamlit, no MLflow."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import pandas as pd

from dashboard.palette import Palette
from dashboard.scores import Score

HEIGHT_PX = 330
_LEGEND_PX = 300  # fits a phone
_LEGEND_ROW_PX = 24
_LEGEND_LETTERS = 60
_STROKE = {"symbolType": "stroke", "symbolSize": 300, "symbolStrokeWidth": 3}
_MARKER = {"symbolSize": 90}
SPREAD = {"mean": "Mean", "std": "± (std)", "low": "Lowest", "high": "Highest"}
_CHANCE_COLOUR = "#595959"
TITLES = {
    "test/top1": "Top-1 accuracy (test)",
    "val/top1": "Top-1 accuracy (validation)",
    "train/top1": "Top-1 accuracy (training)",
    "val/loss": "Loss (validation)",
    "train/loss": "Loss (training)",
    "frames_seen": "Frames seen",
    "step": "Updates",
    "latency/tick_ms": "Inference latency per frame (ms)",
    "latency/step_p50_ms": "Training step, median (ms)",
    "train/frames_per_second": "Training speed (frames/s)",
    "memory/saved_tensors_mib": "Saved tensors (MiB)",
    "memory/peak_mib": "Peak memory (MiB)",
}


def score_against_cost(
    table: pd.DataFrame, palette: Palette, score: Score, cost: str, baselines: pd.DataFrame | None = None
) -> alt.LayerChart:
    """Return a point a line of the comparison table with one standard deviation either way, and the Pareto front.

    `table`: columns `line`, `front` (bool), M and `M std` for M in (score.metric, cost). Lines without either mean are
    left out. The front is a dotted line through its points, which are filled; the others are hollow. `baselines`:
    lines of the same table that cost nothing, drawn across as labelled levels.
    """
    metric = score.metric
    wanted = {"line": "line", "runs": "runs", "front": "front"}
    wanted |= {metric: "y", f"{metric} std": "dy", cost: "x", f"{cost} std": "dx"}
    points = table[list(wanted)].rename(columns=wanted).dropna(subset=["x", "y"]).fillna({"dx": 0.0, "dy": 0.0})
    points = points.assign(x_low=points.x - points.dx, x_high=points.x + points.dx)
    points = points.assign(y_low=points.y - points.dy, y_high=points.y + points.dy)
    points = points.assign(standing=points["front"].map({True: "on the front", False: "beaten by another row"}))
    base = alt.Chart(points).encode(color=_colour(palette, points["line"], _MARKER))
    x, y = (alt.Scale(zero=False, nice=True, padding=14) for _ in "xy")
    dash = alt.StrokeDash("line:N", scale=_scale(palette, points["line"], "dash"), legend=None)
    across = base.mark_rule(strokeWidth=1.5).encode(
        strokeDash=dash,
        x=alt.X("x_low:Q", scale=x, title=TITLES[cost], axis=alt.Axis(tickCount=6)),
        x2="x_high:Q",
        y="y:Q",
    )
    upright = base.mark_rule(strokeWidth=1.5).encode(
        strokeDash=dash, x="x:Q", y=alt.Y("y_low:Q", scale=y, title=score.title), y2="y_high:Q"
    )
    front = alt.Chart(points[points["front"]]).mark_line(color="#444444", strokeDash=[2, 4], strokeWidth=1.5)
    shape = alt.Shape("line:N", scale=_scale(palette, points["line"], "shape"), legend=None)
    marks = base.mark_point(size=130, opacity=1, strokeWidth=2).encode(
        x=alt.X("x:Q", title=TITLES[cost]),
        y=alt.Y("y:Q", title=score.title),
        shape=shape,
        fill=alt.condition("datum.front", _colour(palette, points["line"], _MARKER), alt.value("white")),
        tooltip=_point_tooltip(score, cost),
    )
    chart = front.encode(x="x:Q", y="y:Q", order="x:Q") + across + upright + marks
    levels = pd.DataFrame(columns=["line", "y"]) if baselines is None else baselines.rename(columns={metric: "y"})
    for level in levels.to_dict("records"):
        chart += _level(level["line"], level["y"], palette)
    return _finished(chart, points["line"]).properties(description=_said(points, levels, score, cost))


def _level(line: str, value: float, palette: Palette) -> alt.LayerChart:
    """Return a line across the chart with its name above: what needs no training costs nothing."""
    base = alt.Chart(pd.DataFrame({"line": [line], "y": [value]})).encode(y="y:Q", tooltip=["line:N", "y:Q"])
    across = base.mark_rule(strokeWidth=1.5, color=palette.colour(line), strokeDash=palette.dash(line))
    name = base.mark_text(align="left", baseline="bottom", dx=4, dy=-2, color=palette.colour(line))
    return across + name.encode(text="line:N", x=alt.value(0))


def _said(points: pd.DataFrame, levels: pd.DataFrame, score: Score, cost: str) -> str:
    """Return the chart in words, for who does not see it."""
    listed = [f"{one.line}: {one.y:.4g} at {one.x:.4g}, {one.standing}" for one in points.itertuples()]
    listed += [f"{one.line}: {one.y:.4g} without training" for one in levels.itertuples()]
    return f"{score.title} against {TITLES[cost]}. " + "; ".join(listed) + "."


def _point_tooltip(score: Score, cost: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("line:N", title="row"),
        alt.Tooltip("y:Q", title=score.title, format=".4~g"),
        alt.Tooltip("dy:Q", title="± (std)", format=".2~g"),
        alt.Tooltip("x:Q", title=TITLES[cost], format=",.4~g"),
        alt.Tooltip("dx:Q", title="± (std)", format=",.2~g"),
        alt.Tooltip("standing:N", title="Pareto"),
        alt.Tooltip("runs:Q", title="runs", format=".0f"),
    ]


def cost_by_stage(stages: pd.DataFrame, palette: Palette, cost: str) -> alt.LayerChart:
    """Return a line a row over the stages. `stages`: columns `line`, `stage` (from 1), `mean`, `std`; `cost`: title."""
    base = alt.Chart(stages).encode(
        x=alt.X("stage:O", title="Stage", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("mean:Q", title=cost, scale=alt.Scale(zero=True)),
        color=_colour(palette, stages["line"], _STROKE),
    )
    dash = alt.StrokeDash("line:N", scale=_scale(palette, stages["line"], "dash"), legend=None)
    shape = alt.Shape("line:N", scale=_scale(palette, stages["line"], "shape"), legend=None)
    tooltip = [
        alt.Tooltip("line:N", title="row"),
        alt.Tooltip("stage:O", title="stage"),
        alt.Tooltip("mean:Q", title=cost, format=",.4~g"),
        alt.Tooltip("std:Q", title="± (std)", format=",.2~g"),
    ]
    chart = base.mark_line(strokeWidth=2).encode(strokeDash=dash) + base.mark_point(filled=True, size=90).encode(
        shape=shape, tooltip=tooltip
    )
    said = "; ".join(f"{one.line}, stage {one.stage}: {one.mean:.4g}" for one in stages.itertuples())
    return _finished(chart, stages["line"]).properties(description=f"{cost} by stage. {said}.")


def score_against_gap(
    points: pd.DataFrame, palette: Palette, title: str, *, share: bool = False, chance: float | None = None
) -> alt.LayerChart:
    """Return a line a row over the gap, on a logarithmic axis, with the lowest and highest run at each gap.

    Args:
        points: `memory_gaps.points`.
        palette: the looks of their lines.
        title: of the vertical axis.
        share: the score goes from 0 to 1, and so does the axis.
        chance: what a guess scores, drawn across.
    """
    gaps = sorted(points["gap"].unique().tolist())
    scale = alt.Scale(type="symlog" if gaps[0] < 1 else "log", nice=False, padding=24)
    axis = alt.Axis(values=gaps, format=",d", labelOverlap="greedy", grid=False)
    x = alt.X("gap:Q", title="Gap (steps)", scale=scale, axis=axis)
    up = alt.Scale(domain=[0, 1]) if share else alt.Scale(zero=False, nice=True)
    base = alt.Chart(points).encode(x=x, color=_colour(palette, points["line"], {**_MARKER, "symbolStrokeWidth": 0}))
    dash = alt.StrokeDash("line:N", scale=_scale(palette, points["line"], "dash"), legend=None)
    shape = alt.Shape("line:N", scale=_scale(palette, points["line"], "shape"), legend=None)
    tooltip = [
        alt.Tooltip("line:N", title="row"),
        alt.Tooltip("gap:Q", format=",d"),
        *(alt.Tooltip(f"{name}:Q", title=said.lower(), format=".4~g") for name, said in SPREAD.items()),
        alt.Tooltip("runs:Q", format="d"),
    ]
    y = alt.Y("mean:Q", title=title, scale=up)
    spread = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title=title, scale=up), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash)
    marks = base.mark_point(filled=True, size=90, opacity=1).encode(y=y, shape=shape, tooltip=tooltip)
    chart = spread + line + marks
    if chance is not None:
        level = alt.Chart(pd.DataFrame({"mean": [chance], "name": [f"chance {chance:.3g}"]})).encode(y="mean:Q")
        chart += level.mark_rule(color=_CHANCE_COLOUR, strokeDash=[3, 3], strokeWidth=1.5)
        text = level.mark_text(align="left", baseline="bottom", dx=4, dy=-2, color=_CHANCE_COLOUR)
        chart += text.encode(text="name:N", x=alt.value(0))
    said = "; ".join(f"{one.line}, gap {one.gap}: {one.mean:.4g}" for one in points.itertuples())
    return _finished(chart, points["line"]).properties(description=f"{title} against the gap. {said}.")


def _colour(palette: Palette, lines: pd.Series, symbol: dict[str, Any]) -> alt.Color:
    columns = alt.ExprRef(f"max(1, floor(width / {_widest_px(lines)}))")  # as many as the chart has room for
    legend = alt.Legend(title=None, orient="bottom", columns=columns, labelLimit=_LEGEND_PX, symbolOpacity=1, **symbol)
    return alt.Color("line:N", scale=_scale(palette, lines, "colour"), legend=legend)


def _widest_px(lines: pd.Series) -> int:
    """Return the room that a name takes in a legend without being cut."""
    return 40 + 6 * min(max((len(line) for line in lines.unique()), default=1), _LEGEND_LETTERS)


def _legend_rows(lines: pd.Series) -> int:
    """Return the rows of the legend on a phone, the most there can be."""
    return math.ceil(lines.nunique() / max(_LEGEND_PX // _widest_px(lines), 1))


def _scale(palette: Palette, lines: pd.Series, aspect: str) -> alt.Scale:
    domain = sorted(lines.unique())
    return alt.Scale(domain=domain, range=[getattr(palette, aspect)(line) for line in domain])


def _finished(chart: alt.LayerChart, lines: pd.Series) -> alt.LayerChart:
    height = HEIGHT_PX + _LEGEND_ROW_PX * _legend_rows(lines)  # the legend's room is taken from the height
    return chart.properties(height=height, width="container").configure_axis(labelFontSize=12, titleFontSize=13)
