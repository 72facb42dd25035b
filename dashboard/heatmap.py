"""A figure of every unit over training, as a heat map: rows are units, columns are time. No Streamlit, no MLflow.

unit 3   ■ ■ ■ ■        `alignment/unit_3` from each logged step to the next; averaged to COLUMNS
unit 2   ■ ■ □ □
unit 1   ■ □ □ □
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import altair as alt
import numpy as np
import pandas as pd

COLUMNS = 40
UNLOGGED = "#8A8A8A"
UNIT_METRICS = {
    "alignment": "Alignment with the exact gradient (cosine)",
    "grad_norm": "Gradient norm",
    "weight_change": "Relative change of weights",
}
_UNIT = re.compile(r"(\w+)/unit_(\d{1,4})", re.ASCII)


def units_of(keys: Iterable[str], figure: str) -> list[int]:
    """Return the units of which `figure` is logged, among metric keys such as `alignment/unit_3`."""
    found = [_UNIT.fullmatch(key) for key in keys]
    return sorted(int(match[2]) for match in found if match and match[1] == figure)


def cells(histories: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Return `unit`, `x`, `x2`, `value`, `points` from each unit's curve (x, value): at most COLUMNS cells a unit.

    A cell reaches from its first logged step to the first of the next cell, the last one as far as steps usually do.
    A step whose value is not finite has no part in the mean; where there is no other, the unit has no cell there.
    """
    parts = [_cells_of(unit, curve) for unit, curve in histories.items()]
    found = [part for part in parts if len(part)]
    return (
        pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["unit", "x", "x2", "value", "points"])
    )


def _cells_of(unit: int, curve: pd.DataFrame) -> pd.DataFrame:
    steps = curve[np.isfinite(curve["x"].astype(float))].sort_values("x").drop_duplicates("x", keep="last")
    x, value = (steps[name].to_numpy(float) for name in ("x", "value"))
    ends = np.append(x[1:], x[-1:] + (np.median(np.diff(x)) if len(x) > 1 else 1.0))
    column = np.arange(len(x)) * min(COLUMNS, len(x)) // max(len(x), 1)
    table = pd.DataFrame({"column": column, "x": x, "x2": ends, "value": np.where(np.isfinite(value), value, np.nan)})
    grouped = table.groupby("column").agg(
        x=("x", "first"), x2=("x2", "last"), value=("value", "mean"), points=("value", "count")
    )
    return grouped.dropna(subset=["value"]).assign(unit=unit)[["unit", "x", "x2", "value", "points"]]


def chart(table: pd.DataFrame, figure: str, x_title: str) -> alt.LayerChart:
    """Return the heat map of `cells`. A cosine has a fixed scale from -1 to 1; the others their own.

    What a unit did not log is dark grey (UNLOGGED), which no scale has.
    """
    signed = figure == "alignment"
    scale = alt.Scale(scheme="blueorange", domain=[1, -1]) if signed else alt.Scale(scheme="blues")
    units = sorted(table["unit"].unique(), reverse=True)
    title = UNIT_METRICS.get(figure, figure)
    tooltip = [
        alt.Tooltip("unit:O"),
        alt.Tooltip("x:Q", title=x_title.lower(), format=",.0f"),
        alt.Tooltip("value:Q", title=title, format=".3f"),
        alt.Tooltip("points:Q", title="values"),
    ]
    spans = pd.DataFrame({"unit": units, "x": table["x"].min(), "x2": table["x2"].max()})
    x = alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(format="~s", tickCount=6))
    y = alt.Y("unit:O", title="Unit", sort=units, axis=alt.Axis(labelOverlap=False))
    missing = alt.Chart(spans).mark_rect(color=UNLOGGED).encode(x=x, x2="x2:Q", y=y)
    logged = (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=x,
            x2="x2:Q",
            y=y,
            color=alt.Color("value:Q", title=title, scale=scale, legend=alt.Legend(orient="bottom", titleLimit=0)),
            tooltip=tooltip,
        )
    )
    return (missing + logged).properties(width="container", height=150 + 30 * len(units))


def at_start_and_end(table: pd.DataFrame) -> pd.DataFrame:
    """Return a line a unit with its first, lowest and last cell: the same facts without colour."""
    ordered = table.sort_values(["unit", "x"]).groupby("unit")["value"]
    return ordered.agg(first="first", lowest="min", highest="max", last="last").reset_index()
