"""Altair charts from plain tables: learning curves, score against cost. No Streamlit, no MLflow."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import pandas as pd

from dashboard.palette import Palette

HEIGHT_PX = 330
_LEGEND_PX = 500
_LEGEND_ROW_PX = 24
_STROKE = {"symbolType": "stroke", "symbolSize": 300, "symbolStrokeWidth": 3}
_MARKER = {"symbolSize": 90}
TITLES = {
    "test/top1": "Top-1 accuracy (test)",
    "val/top1": "Top-1 accuracy (validation)",
    "train/top1": "Top-1 accuracy (training)",
    "val/loss": "Cross-entropy (validation)",
    "train/loss": "Cross-entropy (training)",
    "frames_seen": "Frames seen",
    "step": "Updates",
    "latency/tick_ms": "Inference latency per frame (ms)",
    "latency/step_p50_ms": "Training step, median (ms)",
    "train/frames_per_second": "Training speed (frames/s)",
    "memory/saved_tensors_mib": "Saved tensors (MiB)",
    "memory/peak_mib": "Peak memory (MiB)",
}


def learning_curves(curves: pd.DataFrame, palette: Palette, metric: str, axis: str) -> alt.LayerChart:
    """Return mean lines with a band of one standard deviation.

    `curves`: columns `line`, `x`, `mean`, `low`, `high`, `runs`; `metric` and `axis` are keys of TITLES.
    """
    base = alt.Chart(curves).encode(
        x=alt.X("x:Q", title=TITLES[axis], axis=alt.Axis(format="~s", tickCount=6, labelFlush=False)),
        color=_colour(palette, curves["line"], _STROKE),
    )
    y = alt.Y("mean:Q", title=TITLES[metric], scale=alt.Scale(zero=False, nice=True))
    dash = alt.StrokeDash("line:N", scale=_scale(palette, curves["line"], "dash"), legend=None)
    tooltip = [
        alt.Tooltip("line:N", title="row"),
        alt.Tooltip("x:Q", title=TITLES[axis].lower(), format=",.0f"),
        alt.Tooltip("mean:Q", format=".3f"),
        alt.Tooltip("low:Q", title="mean − std", format=".3f"),
        alt.Tooltip("high:Q", title="mean + std", format=".3f"),
        alt.Tooltip("runs:Q", title="runs", format=".0f"),
    ]
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=TITLES[metric]), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash)
    points = base.mark_point(filled=True, size=28, opacity=0.9).encode(y=y, tooltip=tooltip)
    return _finished(band + line + points, curves["line"])


def score_against_cost(table: pd.DataFrame, palette: Palette, score: str, cost: str) -> alt.LayerChart:
    """Return a point a line of the comparison table with one standard deviation either way.

    `table`: columns `line`, M and `M std` for M in (score, cost). Lines without either mean are left out.
    """
    wanted = {"line": "line", "runs": "runs", score: "y", f"{score} std": "dy", cost: "x", f"{cost} std": "dx"}
    points = table[list(wanted)].rename(columns=wanted).dropna(subset=["x", "y"]).fillna({"dx": 0.0, "dy": 0.0})
    points = points.assign(x_low=points.x - points.dx, x_high=points.x + points.dx)
    points = points.assign(y_low=points.y - points.dy, y_high=points.y + points.dy)
    base = alt.Chart(points).encode(color=_colour(palette, points["line"], _MARKER))
    x, y = (alt.Scale(zero=False, nice=True, padding=14) for _ in "xy")
    x_title, y_title = TITLES[cost], TITLES[score]
    across = base.mark_rule(strokeWidth=1.5).encode(
        x=alt.X("x_low:Q", scale=x, title=x_title, axis=alt.Axis(tickCount=6)), x2="x_high:Q", y="y:Q"
    )
    upright = base.mark_rule(strokeWidth=1.5).encode(x="x:Q", y=alt.Y("y_low:Q", scale=y, title=y_title), y2="y_high:Q")
    marks = base.mark_point(filled=True, size=130, opacity=1).encode(
        x=alt.X("x:Q", title=x_title),
        y=alt.Y("y:Q", title=y_title),
        shape=alt.Shape("line:N", scale=_scale(palette, points["line"], "shape"), legend=None),
        tooltip=_point_tooltip(score, cost),
    )
    return _finished(across + upright + marks, points["line"])


def _point_tooltip(score: str, cost: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("line:N", title="row"),
        alt.Tooltip("y:Q", title=TITLES[score], format=".3f"),
        alt.Tooltip("dy:Q", title="± (std)", format=".3f"),
        alt.Tooltip("x:Q", title=TITLES[cost], format=",.4~g"),
        alt.Tooltip("dx:Q", title="± (std)", format=",.2~g"),
        alt.Tooltip("runs:Q", title="runs", format=".0f"),
    ]


def _colour(palette: Palette, lines: pd.Series, symbol: dict[str, Any]) -> alt.Color:
    columns, _ = _legend_grid(lines)
    legend = alt.Legend(title=None, orient="bottom", columns=columns, labelLimit=0, symbolOpacity=1, **symbol)
    return alt.Color("line:N", scale=_scale(palette, lines, "colour"), legend=legend)


def _legend_grid(lines: pd.Series) -> tuple[int, int]:
    """Return columns and rows of a legend that fits half a page without cutting a name."""
    widest_px = 34 + 6 * max((len(line) for line in lines.unique()), default=1)
    columns = min(max(_LEGEND_PX // widest_px, 1), 4)
    return columns, math.ceil(lines.nunique() / columns)


def _scale(palette: Palette, lines: pd.Series, aspect: str) -> alt.Scale:
    domain = sorted(lines.unique())
    return alt.Scale(domain=domain, range=[getattr(palette, aspect)(line) for line in domain])


def _finished(chart: alt.LayerChart, lines: pd.Series) -> alt.LayerChart:
    height = HEIGHT_PX + _LEGEND_ROW_PX * _legend_grid(lines)[1]  # the legend's room is taken from the height
    return chart.properties(height=height, width="container").configure_axis(labelFontSize=12, titleFontSize=13)
