"""How uncertain a local model is of each step of a stream, and which steps were chosen. No Streamlit, no MLflow.

uncertainty   |      ◆ chosen, answer
              |  ▲ chosen, no answer      ✚ answer, not chosen
              +--[rollout]-------------------------------------- step
"""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from dashboard.memory_streams import Stream

BEFORE = 60  # steps shown before the first answer, where not the whole stream is
MOST_POINTS = 600  # drawn of a stream; of more steps the largest of each few
HEIGHT_PX = 320
LINE_COLOUR, ROLLOUT_COLOUR = "#5B6770", "#DDE6EE"
BOTH, CHOSEN, ANSWER = "answer, chosen", "chosen, no answer", "answer, not chosen"
KINDS = {BOTH: ("#006D4E", "diamond"), CHOSEN: ("#AA3377", "triangle-up"), ANSWER: ("#C44E00", "cross")}


def thinned(uncertainty_T: np.ndarray, first: int = 0, most: int = MOST_POINTS) -> pd.DataFrame:
    """Return `step` and `value` from `first` on where there is one; of more than `most` steps each part's largest."""
    step = first + np.flatnonzero(np.isfinite(uncertainty_T[first:]))
    parts = np.array_split(step, most) if len(step) > most else [step]
    kept = np.array([part[np.argmax(uncertainty_T[part])] for part in parts]) if len(step) > most else step
    return pd.DataFrame({"step": kept.astype(int), "value": uncertainty_T[kept]})


def marked(found: Stream, first: int = 0, most: int = MOST_POINTS) -> pd.DataFrame:
    """Return `step`, `value`, `kind` of chosen steps and answers from `first` on; one without an uncertainty is at 0.

    Of more than `most` answers that were not chosen every n-th is kept.
    """
    chosen, answers = {*found.chosen}, {*found.answers}
    missed = sorted(answers - chosen)
    every = -(-len(missed) // most) or 1
    kinds = dict.fromkeys(missed[::every], ANSWER)
    kinds |= {step: BOTH if step in answers else CHOSEN for step in found.chosen}
    steps = sorted(step for step in kinds if step >= first)
    values = np.nan_to_num(found.uncertainty_T[steps]) if steps else np.array([])
    return pd.DataFrame({"step": steps, "value": values, "kind": [kinds[step] for step in steps]})


def before_answers(found: Stream) -> int:
    """Return a step a little before the first answer, from which a long stream can be shown; 0 of a short one."""
    return max(min(found.answers, default=0) - BEFORE, 0) if found.steps > MOST_POINTS else 0


def chart(found: Stream, rollout: int, first: int = 0) -> alt.LayerChart:
    """Return the uncertainty over the stream, its chosen steps and answers marked, the first rollout shaded.

    Args:
        found: the stream.
        rollout: steps that have a graph at a time; 0 for the whole stream.
        first: the step to begin with.
    """
    last = found.steps - 1
    scale = alt.Scale(domain=[first, max(last, first + 1)], nice=False, padding=6)
    x = alt.X("step:Q", title="Step", scale=scale, axis=alt.Axis(tickCount=10, tickMinStep=1))
    y = alt.Y("value:Q", title="Uncertainty", axis=alt.Axis(tickCount=5))
    tooltip = [alt.Tooltip("step:Q", format=",.0f"), alt.Tooltip("value:Q", title="uncertainty", format=".4~g")]
    curve = thinned(found.uncertainty_T, first)
    line = (
        alt.Chart(curve)
        .mark_line(color=LINE_COLOUR, strokeWidth=1.5, interpolate="linear")
        .encode(x=x, y=y, tooltip=tooltip)
    )
    points = marked(found, first)
    kinds = [kind for kind in KINDS if kind in {*points["kind"]}]
    scales = [alt.Scale(domain=kinds, range=[KINDS[kind][place] for kind in kinds]) for place in (0, 1)]
    columns = alt.ExprRef("max(1, floor(width / 150))")
    legend = alt.Legend(title=None, orient="bottom", symbolSize=90, columns=columns, symbolOpacity=1)
    marks = (
        alt.Chart(points)
        .mark_point(filled=True, size=110, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color("kind:N", scale=scales[0], legend=legend),
            shape=alt.Shape("kind:N", scale=scales[1], legend=legend),
            tooltip=[*tooltip, alt.Tooltip("kind:N")],
        )
    )
    layers = line + marks
    if first < rollout < found.steps:
        span = pd.DataFrame({"step": [first], "end": [rollout - 1]})
        layers = alt.Chart(span).mark_rect(color=ROLLOUT_COLOUR).encode(x=x, x2="end:Q") + layers
    return layers.properties(width="container", height=HEIGHT_PX)
