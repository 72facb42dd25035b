"""Parallel coordinates of a study: an axis a parameter, a line a trial, coloured by an objective. No Streamlit.

    lr          0.0001 ---- 0.001 ---- 0.01 ---- 0.1
                       \\    |  /
    wiring        chain \\  residual                      a parameter that a trial does not have: at `–`
                        | /
    val/top1    0.4 ---- 0.6 ---- 0.8                    the objective itself is the last axis

Axes lie flat, so that their names and numbers are readable on a telephone too.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dashboard.sweep_names import short_names, tooltip_title
from dashboard.sweep_space import Parameter, exact, read_parameter, short
from dashboard.sweep_study import Study, Trial

MOST_LINES = 300
MOST_AXES = 12  # of parameters
ABSENT = -0.1  # where a parameter that a trial does not have stands
ROW_PX = 80
NONE = "–"
_CLAMPED = 0.1  # of the trials, the worst: they share one end of the colours
_INK = "#262730"
EDGE: dict[str, Any] = {"stroke": "white", "strokeWidth": 4, "strokeOpacity": 0.9, "strokeJoin": "round"}


def drawn(study: Study, objective: int) -> list[Trial]:
    """Return the trials that have a line: the best MOST_LINES, the best last, so that it lies on top."""
    return study.ranked(objective)[:MOST_LINES][::-1]


def axes(study: Study, objective: int, *, log: bool) -> list[Parameter]:
    """Return the axes from the top: parameters in the order of the space, the most important where there are many.

    The last axis is the objective; `log`: a logarithmic one.
    """
    metric = study.objectives[objective].metric
    keys = _keys(study)
    if len(keys) > MOST_AXES:
        shares = study.importances.get(metric, {})
        chosen = sorted(keys, key=lambda key: -shares.get(key, 0.0))[:MOST_AXES]
        keys = [key for key in keys if key in chosen]
    values = [trial.values[objective] for trial in drawn(study, objective)]
    last = read_parameter(metric, {"low": min(values), "high": max(values), "log": log}, values)
    return [*(study.parameters[key] for key in keys), last]


def _keys(study: Study) -> list[str]:
    """Return the parameters that some complete trial has."""
    seen = {key for trial in study.complete() for key in trial.params}
    return [key for key in study.parameters if key in seen]


def left_out(study: Study, objective: int) -> str:
    """Return a sentence on the parameters that have no axis; nothing where all have one."""
    count = len(_keys(study))
    if count <= MOST_AXES:
        return ""
    known = study.importances.get(study.objectives[objective].metric)
    return f" The {f'{MOST_AXES} most important' if known else f'first {MOST_AXES}'} of {count:,} parameters."


def places(study: Study, objective: int, shown: list[Parameter]) -> pd.DataFrame:
    """Return `trial`, `axis` (0 at the top), `x`, `value`, `name`, `at`: where each line meets each axis."""
    names = _names(shown)
    rows = []
    for trial in drawn(study, objective):
        for place, axis in enumerate(shown):
            result = place == len(shown) - 1
            value = trial.values[objective] if result else trial.params.get(axis.key)
            at = axis.position(value)
            rows.append(
                (trial.number, place, ABSENT if at is None else at, trial.values[objective], names[place], short(value))
            )
    return pd.DataFrame(rows, columns=["trial", "axis", "x", "value", "name", "at"])


def _names(shown: list[Parameter]) -> list[str]:
    """Return the name of each axis: the end of its key that tells it, the objective's in full."""
    of_keys = short_names([axis.key for axis in shown[:-1]])
    return [*(of_keys[axis.key] for axis in shown[:-1]), shown[-1].key]


def ticks(shown: list[Parameter], *, absent: set[int]) -> pd.DataFrame:
    """Return `axis`, `x`, `text`, `align`, `share` (of the width that a text may take). `absent`: axes with `–`."""
    rows = []
    for place, axis in enumerate(shown):
        found = axis.ticks()
        share = 0.95 / max(len(found), 1)
        rows += [(place, at, text, _align(at), share) for at, text in found]
        rows += [(place, ABSENT, NONE, "center", share)] if place in absent else []
    return pd.DataFrame(rows, columns=["axis", "x", "text", "align", "share"])


def _align(at: float) -> str:
    """Keep the texts at the ends inside."""
    return "left" if at == 0 else "right" if at == 1 else "center"


def chart(study: Study, objective: int, *, log: bool) -> alt.LayerChart:
    """Return the chart of a study with at least one complete trial."""
    shown = axes(study, objective, log=log)
    lines = places(study, objective, shown)
    absent = set(lines.loc[lines["x"] == ABSENT, "axis"])
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[ABSENT - 0.03 if absent else -0.01, 1.01], nice=False))
    y = alt.Y("axis:Q", axis=None, scale=alt.Scale(domain=[len(shown) - 0.45, -0.45], nice=False))
    best = int(lines["trial"].iloc[-1])
    hover = alt.selection_point(on="pointerover", clear="pointerout", fields=["trial"], empty=False)
    colour = alt.Color("value:Q", scale=_colours(study, objective, log=log), legend=None)  # the last axis is one
    base = alt.Chart(lines).encode(x=x, y=y, detail="trial:N", order="axis:Q", color=colour)
    thick = {"condition": {"param": hover.name, "value": 5, "empty": False}, "value": 1.4}
    every = (
        base.transform_filter(f"datum.trial != {best}").mark_line(opacity=0.75, aria=False).encode(strokeWidth=thick)
    )
    bold = base.transform_filter(f"datum.trial == {best}").mark_line(strokeWidth=5, opacity=1, aria=False)
    points = base.mark_point(filled=True, size=42, opacity=1, aria=False).encode(tooltip=_tooltip(shown[-1].key))
    # In one step: each `+` would copy and check all layers before it.
    layers = alt.layer(*_axis_lines(shown, x, y), every.add_params(hover), bold, points, *_texts(shown, absent, x, y))
    return layers.properties(
        width="container", height=ROW_PX * len(shown) + 50, description=_description(study, objective, shown, lines)
    ).configure_view(stroke=None)


def _colours(study: Study, objective: int, *, log: bool) -> alt.Scale:
    """Return dark for the best, light for the worst; the worst tenth alike, so that one bad trial hides no order."""
    ranked = [trial.values[objective] for trial in drawn(study, objective)[::-1]]
    worst = ranked[min(int(len(ranked) * (1 - _CLAMPED)), len(ranked) - 1)]
    domain = [ranked[0], worst] if ranked[0] != worst else [ranked[0], ranked[-1]]
    # Without its lightest yellow, which is hardly seen on white.
    return alt.Scale(
        scheme=alt.SchemeParams(name="viridis", extent=[0, 0.8]),
        domain=domain,
        clamp=True,
        type="log" if log else "linear",
    )


def _tooltip(title: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("trial:Q", title="trial"),
        alt.Tooltip("value:Q", title=tooltip_title(title), format=".4~g"),
        alt.Tooltip("name:N", title="axis"),
        alt.Tooltip("at:N", title="value there"),
    ]


def _axis_lines(shown: list[Parameter], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    spans = pd.DataFrame([{"axis": place, "x": 0.0, "x2": 1.0} for place in range(len(shown))])
    across = alt.Chart(spans).mark_rule(color="#9AA0A6", strokeWidth=1.2).encode(x=x, x2="x2:Q", y=y)
    at = ticks(shown, absent=set())
    marks = alt.Chart(at).mark_tick(color="#9AA0A6", size=9, thickness=1.2, orient="vertical").encode(x=x, y=y)
    return [across, marks]


def _texts(shown: list[Parameter], absent: set[int], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Return names above the axes and numbers below, each with a white edge: lines pass behind them."""
    names = pd.DataFrame([{"axis": place, "x": 0.0, "text": name} for place, name in enumerate(_names(shown))])
    above = {"align": "left", "baseline": "bottom", "dy": -8, "fontSize": 13, "fontWeight": "bold", "limit": 340}
    below = {"align": alt.ExprRef("datum.align"), "baseline": "top", "dy": 8, "fontSize": 12,
             "limit": alt.ExprRef("width * datum.share")}  # fmt: skip
    return [*_edged(names, above, x, y), *_edged(ticks(shown, absent=absent), below, x, y)]


def _edged(texts: pd.DataFrame, look: dict[str, Any], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    base = alt.Chart(texts).encode(x=x, y=y, text="text:N")
    return [base.mark_text(color=_INK, **look, **EDGE), base.mark_text(color=_INK, **look)]


def _description(study: Study, objective: int, shown: list[Parameter], lines: pd.DataFrame) -> str:
    """Return the chart in words, for who does not see it."""
    best = study.ranked(objective)[0]
    params = "; ".join(f"{axis.key} {exact(best.params[axis.key])}" for axis in shown[:-1] if axis.key in best.params)
    return (
        f"Parallel coordinates of {lines['trial'].nunique()} trials over {len(shown) - 1} parameters, coloured by "
        f"{study.objectives[objective].title}. The best, trial {best.number}, has "
        f"{short(best.values[objective])}: {params}."
    )
