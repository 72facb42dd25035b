"""A figure of every unit over training, as a heat map: rows are units, columns are time. No Streamlit, no MLflow.

unit 3   ■ ■ ■ ■        `alignment/unit_3` at each logged step; columns are averaged to COLUMNS
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
    """Return `unit`, `x`, `x2`, `value`, `points` from each unit's curve (x, value): means over COLUMNS equal spans.

    Values that are not finite are left out; a span without a value has no cell.
    """
    curves = [curve.assign(unit=unit) for unit, curve in histories.items()]
    table = pd.concat(curves) if curves else pd.DataFrame(columns=["unit", "x", "value"])
    table = table[np.isfinite(table["value"].astype(float)) & np.isfinite(table["x"].astype(float))]
    if table.empty:
        return pd.DataFrame(columns=["unit", "x", "x2", "value", "points"])
    low, high = float(table["x"].min()), float(table["x"].max())
    count = max(min(COLUMNS, table.groupby("unit")["x"].nunique().max()), 1)
    width = (high - low) / count or 1.0
    column = np.minimum(((table["x"] - low) / width).astype(int), count - 1)
    grouped = table.assign(column=column).groupby(["unit", "column"])["value"]
    means = grouped.agg(value="mean", points="size").reset_index()
    return means.assign(x=low + means["column"] * width, x2=low + (means["column"] + 1) * width).drop(columns="column")


def chart(table: pd.DataFrame, figure: str, x_title: str) -> alt.Chart:
    """Return the heat map of `cells`. A cosine has a fixed scale from -1 to 1; the others their own."""
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
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X(
                "x:Q", title=x_title, scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(format="~s", tickCount=6)
            ),
            x2="x2:Q",
            y=alt.Y("unit:O", title="Unit", sort=units, axis=alt.Axis(labelOverlap=False)),
            color=alt.Color("value:Q", title=title, scale=scale, legend=alt.Legend(orient="bottom", titleLimit=0)),
            tooltip=tooltip,
        )
        .properties(width="container", height=150 + 30 * len(units))
    )


def at_start_and_end(table: pd.DataFrame) -> pd.DataFrame:
    """Return a line a unit with its first, lowest and last cell: the same facts without colour."""
    ordered = table.sort_values(["unit", "x"]).groupby("unit")["value"]
    return ordered.agg(first="first", lowest="min", highest="max", last="last").reset_index()
