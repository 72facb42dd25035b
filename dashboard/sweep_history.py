"""A study over its trials: the value of each, the best so far, and where trials were pruned or failed. No Streamlit.

o            complete     --- best so far     v pruned, at the last value it reported
    o---     running      x   failed, and every trial without a value, on a strip of its own below the values
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import altair as alt
import pandas as pd

from dashboard.palette import SHAPES
from dashboard.sweep_names import short_names, tooltip_title
from dashboard.sweep_space import round_numbers, short
from dashboard.sweep_study import Study, Trial

HEIGHT_PX = 400  # with the room of the legend
MOST_TOLD = 15  # parameters in a tooltip
BEST = "best so far"
_CROSS = SHAPES[9]
_LINE = "M-1.4,-.18L1.4,-.18L1.4,.18L-1.4,.18Z"
LOOKS = {  # state: colour, marker
    "complete": ("#0072B2", "circle"),
    "pruned": ("#B35C00", "triangle-down"),
    "failed": ("#B3261E", _CROSS),
    "running": ("#008060", "diamond"),
    "retried": ("#6B6B6B", "triangle-left"),
    BEST: ("#262730", _LINE),
}
_LOG_FROM = 30.0  # the largest value to the smallest
_STRIP_PX = 34  # below the values, of trials that have none
NO_VALUE = "no value"


def spans_decades(study: Study, objective: int) -> bool:
    """Return whether complete trials are so far apart that even steps hide the small values, and all are positive."""
    every = [value for trial in study.trials if (value := trial.last(objective)) is not None]
    values = [trial.values[objective] for trial in study.complete()]
    return bool(values) and min(every) > 0 and max(values) / min(values) >= _LOG_FROM


def table(study: Study, objective: int) -> pd.DataFrame:
    """Return `number`, `what` (a state), `value` (NaN: none) of the trials that have begun, and what tooltips tell."""
    told = list(study.parameters)[:MOST_TOLD]
    begun = [trial for trial in study.trials if trial.state != "waiting"]
    rows = [{"number": trial.number, "what": trial.state, **_told(trial, objective, told)} for trial in begun]
    found = pd.DataFrame(rows, columns=["number", "what", "value", "said", *_fields(told)])
    return found.astype({"value": "float64"})


def _told(trial: Trial, objective: int, told: list[str]) -> dict[str, Any]:
    value = trial.last(objective)
    said = short(value) if trial.values or value is None else f"{short(value)} at validation {trial.steps[-1][0]}"
    params = {field: short(trial.params.get(key)) for key, field in zip(told, _fields(told), strict=True)}
    return {"value": value, "said": said, **params}


def _fields(told: list[str]) -> list[str]:
    """Return a column's name for each parameter: a key may hold anything that means something to Vega."""
    return [f"p{place}" for place in range(len(told))]


def best_so_far(study: Study, objective: int) -> pd.DataFrame:
    """Return `number`, `value`: the best value of an objective up to each complete trial, and at the last trial."""
    complete = study.complete()
    better = min if study.objectives[objective].lower else max
    best = list(accumulate((trial.values[objective] for trial in complete), better))
    points = list(zip((trial.number for trial in complete), best, strict=True))
    if points:
        points.append((study.trials[-1].number, best[-1]))
    return pd.DataFrame(points, columns=["number", "value"]).assign(what=BEST)


def chart(study: Study, objective: int, *, log: bool) -> alt.LayerChart:
    """Return the history of an objective. `log`: a logarithmic scale, for values that are all positive."""
    points, best = table(study, objective), best_so_far(study, objective)
    shown = [state for state in LOOKS if state in {*points["what"], *best["what"]}]
    title = study.objectives[objective].metric
    edge = points[points["value"].isna()]
    scale = alt.Scale(type="log" if log else "linear", zero=False, nice=True, padding=16,
                      range=[_above(_STRIP_PX if len(edge) else 0), 0])  # fmt: skip
    x = alt.X("number:Q", title="Trial", axis=alt.Axis(format="d", tickMinStep=1, tickCount=8), scale=_across(study))
    y = alt.Y("value:Q", title=title, scale=scale, axis=axis_of(points["value"], log=log))
    looks = {
        "color": alt.Color("what:N", scale=_scale(shown, 0), legend=_LEGEND),
        "shape": alt.Shape("what:N", scale=_scale(shown, 1), legend=_LEGEND),
    }
    line = alt.Chart(best).mark_line(interpolate="step-after", strokeWidth=2, color=LOOKS[BEST][0]).encode(x=x, y=y)
    marks = alt.Chart(points[points["value"].notna()]).mark_point(filled=True, size=75, opacity=0.85)
    chart = line + marks.encode(x=x, y=y, tooltip=_tooltip(study, title), **looks)
    if len(edge):
        middle, top = alt.YValue(_above(_STRIP_PX / 2)), alt.YValue(_above(_STRIP_PX))
        below = alt.Chart(edge).mark_point(filled=True, size=85, opacity=0.9)
        chart += below.encode(x=x, y=middle, tooltip=_tooltip(study, title), **looks)
        one = alt.Chart(pd.DataFrame({"said": [NO_VALUE]}))
        chart += one.mark_rule(color="#9AA0A6").encode(y=top)
        chart += one.mark_text(align="right", dx=-4, fontSize=11, color="#555B66").encode(
            x=alt.value(0), y=middle, text="said:N"
        )
    return chart.properties(width="container", height=HEIGHT_PX, description=_description(study, objective))


def _above(px: float) -> alt.ExprRef:
    """Return the place so many pixels above the lower edge."""
    return alt.ExprRef(f"height - {px:g}")


_LEGEND = alt.Legend(title=None, orient="bottom", columns=alt.ExprRef("max(1, floor(width / 110))"),
                     symbolOpacity=1, symbolSize=90, symbolStrokeWidth=0)  # fmt: skip


def _scale(shown: list[str], aspect: int) -> alt.Scale:
    return alt.Scale(domain=shown, range=[LOOKS[state][aspect] for state in shown])


def _across(study: Study) -> alt.Scale:
    numbers = [trial.number for trial in study.trials] or [0]
    return alt.Scale(domain=[min(numbers) - 0.5, max(numbers) + 0.5], nice=False)


def axis_of(values: pd.Series, *, log: bool) -> alt.Axis:
    """Return the axis of the values: Vega's own ticks of a logarithm are too many."""
    known = values.dropna()
    if not log or known.empty:
        return alt.Axis(tickCount=6)
    return alt.Axis(values=round_numbers(known.min() / 2, known.max() * 2, log=True), format="~g")


def _tooltip(study: Study, title: str) -> list[alt.Tooltip]:
    told = list(study.parameters)[:MOST_TOLD]
    names = short_names(told)
    of_params = [
        alt.Tooltip(f"{field}:N", title=tooltip_title(names[key]))
        for key, field in zip(told, _fields(told), strict=True)
    ]
    return [
        alt.Tooltip("number:Q", title="trial"),
        alt.Tooltip("what:N", title="state"),
        alt.Tooltip("said:N", title=tooltip_title(title)),
        *of_params,
    ]


def _description(study: Study, objective: int) -> str:
    """Return the chart in words, for who does not see it."""
    ranked, counts = study.ranked(objective), study.counts()
    said = f"{study.objectives[objective].title} of each trial, and the best so far. "
    said += ", ".join(f"{number} {state}" for state, number in counts.items()) + "."
    if ranked:
        first = study.complete()[0]
        said += (
            f" The first complete trial, {first.number}, has {short(first.values[objective])}; "
            f"the best, {ranked[0].number}, {short(ranked[0].values[objective])}."
        )
    return said


def caption(counts: Mapping[str, int], *, edge: bool) -> str:
    """Return how to read the chart; names only what it shows."""
    said = "A point is a trial; the line is the best so far."
    if counts.get("pruned"):
        said += " Pruned trials stand at the last value that they reported."
    if edge:
        said += f" Trials without a value stand apart, below at *{NO_VALUE}*."
    if counts.get("retried"):
        said += " Retried: the trial's worker died, and another trial ran its values."
    return said
