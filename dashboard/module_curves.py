"""Figures of the modules of a network that learns by local losses: curves of one run, and a table of last values.

    val/top1/module_1     ─┐
    val/top1/module_2      ├─ one chart: how much better each module answers than the one below it
    val/top1/ensemble     ─┘

Any figure that is logged as `NAME/module_j` is one of them; so are those of codebooks, `perplexity/unit_i`, which have
no place in the table. No Streamlit, no MLflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import altair as alt
import pandas as pd

from dashboard.charts import TITLES
from dashboard.histories import AXES
from dashboard.names import clean
from dashboard.palette import DASHES, SHAPES

MOST_MODULES = 64
MOST_FIGURES = 100
ENSEMBLE = "ensemble"
HEIGHT_PX = 300
_MODULE = re.compile(r"([\w/.-]{1,80})/(module)_([1-9]\d{0,3})|(perplexity)/(unit)_([1-9]\d{0,3})", re.ASCII)
_FIRST = ("val/top1", "test/top1", "train/loss", "val/loss")
_AFTER_TRAINING = ("test/", "cost/")  # figures with one value: no curves
_ENSEMBLE_COLOUR = "#000000"
_LEGEND_COLUMNS = alt.ExprRef("max(1, floor(width / 100))")  # as many as the chart has room for
_LEGEND_ROW_PX = 20
# Light to dark from the lowest module to the highest; each has a contrast of at least 3 to 1 on white.
_LOW, _HIGH = (0x4A, 0x93, 0xC9), (0x08, 0x30, 0x6B)


def _part(key: str) -> tuple[str, str, int] | None:
    """Return figure, what it is of, and its number: `val/top1`, `module`, 2; None for other keys."""
    match = _MODULE.fullmatch(key)
    if match is None:
        return None
    figure, kind, number = (part for part in match.groups() if part is not None)
    return figure, kind, int(number)


def figures(keys: Iterable[str]) -> dict[str, str]:
    """Return {figure: title} of what is logged for modules, such as `val/top1`: accuracy first, then losses."""
    found = {part[0] for part in map(_part, keys) if part}
    ordered = sorted(found, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    return {name: TITLES.get(name, clean(name)) for name in ordered[:MOST_FIGURES]}


def with_curves(named: Mapping[str, str]) -> dict[str, str]:
    """Return the figures that are logged while training goes on."""
    return {name: title for name, title in named.items() if not name.startswith(_AFTER_TRAINING)}


def keys_of(keys: Iterable[str], figure: str) -> dict[str, str]:
    """Return {`module 1`: metric key, ...} of a figure, the lowest first, the ensemble last."""
    keys = list(keys)
    parts = sorted({part for part in map(_part, keys) if part and part[0] == figure}, key=lambda part: part[1:])
    found = {f"{kind} {number}": f"{figure}/{kind}_{number}" for _, kind, number in parts[:MOST_MODULES]}
    return found | ({ENSEMBLE: f"{figure}/{ENSEMBLE}"} if f"{figure}/{ENSEMBLE}" in keys else {})


def chart(points: pd.DataFrame, figure: str, axis: str) -> alt.LayerChart:
    """Return a line a module, darker the higher it is, and the ensemble's in black.

    `points`: columns `run` (which is a module here), `x`, `value`, as `run_curves.drawn` gives them.
    """
    points = points.rename(columns={"run": "module"})
    domain = list(dict.fromkeys(points["module"]))
    looks = {
        "color": alt.Scale(domain=domain, range=colours(domain)),
        "strokeDash": alt.Scale(domain=domain, range=[_dash(name, place) for place, name in enumerate(domain)]),
        "shape": alt.Scale(domain=domain, range=[SHAPES[place % len(SHAPES)] for place in range(len(domain))]),
    }
    legend = alt.Legend(
        title=None,
        orient="bottom",
        columns=_LEGEND_COLUMNS,
        labelLimit=120,
        symbolSize=90,
        symbolOpacity=1,
        symbolStrokeWidth=0,
    )
    title = TITLES.get(figure, clean(figure))
    base = alt.Chart(points).encode(
        x=alt.X("x:Q", title=AXES[axis], axis=alt.Axis(format="~s", tickCount=6)),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False, nice=True)),
        color=alt.Color("module:N", scale=looks["color"], legend=legend),
        tooltip=[
            alt.Tooltip("module:N"),
            alt.Tooltip("x:Q", title=AXES[axis].lower(), format=",.0f"),
            alt.Tooltip("value:Q", format=".4~g"),
        ],
    )
    dash = alt.StrokeDash("module:N", scale=looks["strokeDash"], legend=None)
    few = points.groupby("module").size().max() <= 60
    marks = base.mark_point(filled=True, size=40 if few else 4, opacity=1 if few else 0.3)
    marks = marks.encode(shape=alt.Shape("module:N", scale=looks["shape"], legend=None))
    line = base.mark_line(strokeWidth=2).encode(strokeDash=dash)
    return (line + marks).properties(width="container", height=HEIGHT_PX + _LEGEND_ROW_PX * -(-len(domain) // 3))


def colours(modules: list[str]) -> list[str]:
    """Return a colour for each module, from light to dark, and black for the ensemble."""
    count = sum(name != ENSEMBLE for name in modules)
    shades = iter(_shade(place / max(count - 1, 1)) for place in range(count))
    return [_ENSEMBLE_COLOUR if name == ENSEMBLE else next(shades) for name in modules]


def _shade(share: float) -> str:
    mixed = (round(low + share * (high - low)) for low, high in zip(_LOW, _HIGH, strict=True))
    return "#" + "".join(f"{part:02X}" for part in mixed)


def _dash(name: str, place: int) -> list[int]:
    return DASHES[2] if name == ENSEMBLE else DASHES[(place // len(SHAPES)) % len(DASHES)]


def table(metrics: Mapping[str, float]) -> pd.DataFrame:
    """Return a line a module, and one of the ensemble, with the last value of each figure; NaN where it has none."""
    columns: dict[str, dict[str, float]] = {}
    for figure in figures(metrics):
        found = {label: metrics[key] for label, key in keys_of(metrics, figure).items() if not label.startswith("unit")}
        columns |= {figure: found} if found else {}
    labels = {label for values in columns.values() for label in values}
    ordered = sorted(labels - {ENSEMBLE}, key=lambda label: int(label.rpartition(" ")[2]))
    ordered += [ENSEMBLE] if ENSEMBLE in labels else []
    return pd.DataFrame(columns, index=pd.Index(ordered, name="module"), dtype=float).reset_index()
