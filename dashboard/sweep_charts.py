"""Smaller charts of a study: importances, the Pareto front of two objectives, values over validations. No Streamlit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from dashboard import pareto
from dashboard.sweep_history import LOOKS, axis_of
from dashboard.sweep_names import short_names, tooltip_title
from dashboard.sweep_parallel import EDGE
from dashboard.sweep_space import short
from dashboard.sweep_study import Study, Trial

FRONT = "#AA3377"
HEIGHT_PX = 380
BAR_PX = 34
MOST_CURVES = 200
MOST_OTHERS = 60  # of them pruned, running or failed
_INK = "#262730"


def importances(shares: dict[str, float], metric: str) -> alt.LayerChart:
    """Return a bar a parameter, the most important at the top, its share beside it. `shares` is in that order."""
    names = short_names(shares)
    table = pd.DataFrame([{"name": names[key], "key": key, "share": share} for key, share in shares.items()])
    top = max(float(table["share"].max()), 1e-9)
    base = alt.Chart(table).encode(
        x=alt.X("share:Q", title=f"Importance for {metric}", axis=alt.Axis(tickCount=5, format=".0%"),
                scale=alt.Scale(domain=[0, 1.18 * top], nice=False)),
        y=alt.Y("name:N", sort=list(names.values()), title=None, axis=alt.Axis(labelLimit=150, labelOverlap=False)),
        tooltip=[alt.Tooltip("key:N", title="parameter"), alt.Tooltip("share:Q", title="importance", format=".3f")],
    )  # fmt: skip
    bars = base.mark_bar(color=LOOKS["complete"][0], height=18)
    texts = base.mark_text(align="left", dx=4, color=_INK).encode(text=alt.Text("share:Q", format=".1~%"))
    said = "; ".join(f"{key} {share:.1%}" for key, share in shares.items())
    return (bars + texts).properties(
        width="container", height=70 + BAR_PX * len(table), description=f"Importances for {metric}: {said}."
    )


def front_table(study: Study, x: int, y: int) -> pd.DataFrame:
    """Return `number`, `x`, `y` of the complete trials; `front`: nothing beats it in all objectives; `edge`: in x, y.

    With two objectives the one is the other, as far as the file says the truth.
    """
    complete = study.complete()
    found = pd.DataFrame(
        [(trial.number, trial.values[x], trial.values[y]) for trial in complete], columns=["number", "x", "y"]
    ).astype({"x": "float64", "y": "float64"})
    lower_x, lower_y = (study.objectives[place].lower for place in (x, y))
    found["edge"] = pareto.front(found, "y", "x", lower_score=lower_y, lower_cost=lower_x)
    return found.assign(front=found["number"].isin(study.front))


def front(study: Study, x: int, y: int, *, log: Sequence[bool] = (False, False)) -> alt.LayerChart:
    """Return two objectives against each other: a point a trial, filled on the front; its edge in x, y is dotted.

    `log`: of x and of y, whether its scale is logarithmic, for values that are all positive.
    """
    points = front_table(study, x, y)
    points["standing"] = points["front"].map({True: "on the front", False: "beaten by another trial"})
    titles = [study.objectives[place].metric for place in (x, y)]
    scales = [alt.Scale(type="log" if each else "linear", zero=False, padding=16) for each in log]
    axes = [axis_of(points[name], log=each) for name, each in zip("xy", log, strict=True)]
    across = alt.X("x:Q", title=study.objectives[x].title, scale=scales[0], axis=axes[0])
    upright = alt.Y("y:Q", title=study.objectives[y].title, scale=scales[1], axis=axes[1])
    tooltip = [
        alt.Tooltip("number:Q", title="trial"),
        alt.Tooltip("x:Q", title=tooltip_title(titles[0]), format=".4~g"),
        alt.Tooltip("y:Q", title=tooltip_title(titles[1]), format=".4~g"),
        alt.Tooltip("standing:N", title="Pareto"),
    ]
    line = alt.Chart(points[points["edge"]]).mark_line(color="#444444", strokeDash=[2, 4], strokeWidth=1.5)
    marks = alt.Chart(points).mark_point(size=85, opacity=1, strokeWidth=2).encode(
        x=across, y=upright, tooltip=tooltip,
        color=alt.condition("datum.front", alt.value(FRONT), alt.value(LOOKS["complete"][0])),
        fill=alt.condition("datum.front", alt.value(FRONT), alt.value("white")),
    )  # fmt: skip
    numbers = alt.Chart(points[points["front"]]).encode(x=across, y=upright, text="number:Q")
    beside: dict[str, Any] = {"align": "left", "dx": 9, "dy": -8, "color": _INK, "fontSize": 12}
    chart = line.encode(x=across, y=upright, order="x:Q") + marks + numbers.mark_text(**beside, **EDGE)
    chart += numbers.mark_text(**beside)
    said = "; ".join(f"trial {one.number}: {one.y:.4g} at {one.x:.4g}" for one in points[points["front"]].itertuples())
    return chart.properties(
        width="container", height=HEIGHT_PX,
        description=f"{study.objectives[y].title} against {study.objectives[x].title} of {len(points)} trials. "
                    f"On the Pareto front: {said or 'none'}.",
    )  # fmt: skip


def reporting(study: Study) -> list[Trial]:
    """Return at most MOST_CURVES trials that reported values: the best complete ones, then the newest of the others.

    Neither pushes the other out: MOST_OTHERS places are for trials that are not complete, where there are so many.
    """
    complete = [trial for trial in study.ranked(0) if trial.steps]
    others = [trial for trial in study.trials[::-1] if trial.steps and not trial.values]
    others.sort(key=lambda trial: trial.state != "running")
    kept = complete[: MOST_CURVES - min(len(others), MOST_OTHERS)]
    return kept + others[: MOST_CURVES - len(kept)]


def curves(study: Study) -> alt.LayerChart:
    """Return the reported values over the validations, a line a trial, its end marked by its state, the best bold."""
    trials = reporting(study)
    metric = study.objectives[0].metric
    rows = [(one.number, one.state, step, value) for one in trials for step, value in one.steps]
    points = pd.DataFrame(rows, columns=["number", "what", "step", "value"])
    shown = [state for state in LOOKS if state in set(points["what"])]
    ends = points.groupby("number", sort=False).tail(1)
    legend = alt.Legend(title=None, orient="bottom", symbolOpacity=1, symbolSize=90, symbolStrokeWidth=0)
    looks = [alt.Scale(domain=shown, range=[LOOKS[state][aspect] for state in shown]) for aspect in (0, 1)]
    base = alt.Chart(points).encode(
        x=alt.X("step:Q", title="Validation", axis=alt.Axis(format="d", tickCount=8, tickMinStep=1)),
        y=alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False, nice=True)),
        color=alt.Color("what:N", scale=looks[0], legend=legend),
        detail="number:N",
        tooltip=[
            alt.Tooltip("number:Q", title="trial"),
            alt.Tooltip("what:N", title="state"),
            alt.Tooltip("step:Q", title="validation"),
            alt.Tooltip("value:Q", title=tooltip_title(metric), format=".4~g"),
        ],
    )
    best = study.best.trial if study.best else -1
    lines = base.mark_line(opacity=0.6, strokeWidth=1.2)
    lines += base.transform_filter(f"datum.number == {best}").mark_line(opacity=1, strokeWidth=4)
    marks = base.mark_point(filled=True, size=60, opacity=0.9).encode(
        shape=alt.Shape("what:N", scale=looks[1], legend=legend)
    )
    marks.data = ends
    said = "; ".join(f"trial {one.number}, {one.state}: {short(one.steps[-1][1])} at validation {one.steps[-1][0]}"
                     for one in trials[:30])  # fmt: skip
    return (lines + marks).properties(
        width="container",
        height=HEIGHT_PX,
        description=f"{metric} over the validations of {len(trials)} trials. {said}.",
    )
