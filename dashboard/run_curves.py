"""Curves of single runs, for any metric that was logged, against updates, frames or time. No Streamlit, no MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import altair as alt
import numpy as np
import pandas as pd

from dashboard.charts import TITLES
from dashboard.histories import AXES
from dashboard.names import clean
from dashboard.palette import Palette

MOST_POINTS = 1000  # drawn of a run; beyond, every n-th
MOST_METRICS = 2000
HEIGHT_PX = 340
_FIRST = ("val/", "train/", "test/")


def metrics_to_choose(runs: Iterable[Mapping[str, float]]) -> dict[str, str]:
    """Return {key: title} of every metric that some run logged: validation, training, test, the rest; losses first."""
    keys = sorted({key for metrics in runs for key in metrics}, key=_order)[:MOST_METRICS]
    return {key: clean(key) for key in keys}


def _order(key: str) -> tuple[int, bool, str]:
    places = [place for place, prefix in enumerate(_FIRST) if key.startswith(prefix)]
    return (places[0] if places else len(_FIRST), not key.endswith("/loss"), key)


def drawn(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return `run`, `x`, `value` of curves ({label: (x, value)}): finite values, at most MOST_POINTS a run."""
    parts = []
    for label, curve in curves.items():
        finite = curve[np.isfinite(curve["value"]) & np.isfinite(curve["x"])]
        every = -(-len(finite) // MOST_POINTS) or 1
        parts.append(finite.iloc[::every][["x", "value"]].assign(run=label))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["x", "value", "run"])


def chart(points: pd.DataFrame, lines: Mapping[str, str], palette: Palette, metric: str, axis: str) -> alt.LayerChart:
    """Return a line a run. `lines`: the row of each run's label, whose colour, dash and marker it has."""
    domain = list(dict.fromkeys(points["run"]))
    look = {
        aspect: alt.Scale(domain=domain, range=[getattr(palette, aspect)(lines[label]) for label in domain])
        for aspect in ("colour", "dash", "shape")
    }
    title = TITLES.get(metric, clean(metric))
    legend = alt.Legend(
        title=None, orient="bottom", columns=1, labelLimit=330, symbolSize=90, symbolOpacity=1, symbolStrokeWidth=0
    )
    base = alt.Chart(points).encode(
        x=alt.X("x:Q", title=AXES[axis], axis=alt.Axis(format="~s", tickCount=6)),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False, nice=True)),
        color=alt.Color("run:N", scale=look["colour"], legend=legend),
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("x:Q", title=AXES[axis].lower(), format=",.0f"),
            alt.Tooltip("value:Q", format=".4~g"),
        ],
    )
    line = base.mark_line(strokeWidth=2).encode(strokeDash=alt.StrokeDash("run:N", scale=look["dash"], legend=None))
    few = points.groupby("run").size().max() <= 60
    marks = base.mark_point(filled=True, size=36 if few else 4, opacity=1 if few else 0.3)
    marks = marks.encode(shape=alt.Shape("run:N", scale=look["shape"], legend=None))
    return (line + marks).properties(width="container", height=HEIGHT_PX + 20 * len(domain))


def summary(points: pd.DataFrame) -> pd.DataFrame:
    """Return a line a run with its first, lowest, highest and last value: the chart's facts as text."""
    ordered = points.sort_values("x").groupby("run", sort=False)["value"]
    return ordered.agg(values="size", first="first", lowest="min", highest="max", last="last").reset_index()


def all_finite(curve: pd.DataFrame) -> bool:
    """Return whether every value is a finite number."""
    return bool(np.isfinite(curve["value"]).all())
