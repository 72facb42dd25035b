"""Memory: which steps of a long stream a run chose to remember for, and its score against the gap.

    data set, comparison, run -> stream -> uncertainty over the stream, its frames, its answers
    data set                            -> score against the gap, a line a row

Only runs with a tag `gap` are offered, and of these the streams of those that saved some (`memory/streams.json`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cached_artifacts, charts, chosen_runs, links, memory_chart, memory_gaps, memory_strip
from dashboard.artifacts import ArtifactError
from dashboard.memory_streams import STREAMS, Index, NoStreams, Stream, roles
from dashboard.names import clean, code
from dashboard.pages.run import of_asked_run
from dashboard.palette import Palette
from dashboard.plain import sentence

FIT = "skip-sideways fit --data CuedVideo --model LongMemory"
TEST = "skip-sideways test --ckpt_path runs/NAME/last.ckpt"
CHOOSING = "memup"  # the rule that chooses steps
MOST_RUNS = 500  # of a comparison are asked for their streams, the newest first
MOST_ANSWERS = 500  # in the table
_LISTED = 20


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    chosen_runs.for_store(uri, "Memory", lambda runs: draw_runs(uri, runs))


def draw_runs(uri: str, runs: pd.DataFrame) -> None:
    """Draw the page for a store with runs."""
    remembering = memory_gaps.with_gap(runs)
    if remembering.empty:
        st.info("No run here has learnt from long streams (tag `gap`). Train one and test it:")
        st.code(f"{FIT}\n{TEST}", language="bash")
        return
    scope = chosen_runs.choose_scope(of_asked_run(remembering))
    draw_run(uri, scope)
    of_dataset = remembering[remembering["dataset"] == scope["dataset"].iloc[0]]
    draw_gaps(memory_gaps.joined(of_dataset))


def draw_run(uri: str, scope: pd.DataFrame) -> None:
    """Draw the choice of run and stream and that stream, or why there is none."""
    stored = with_streams(uri, scope)
    if stored.empty:
        links.absent("run")
        links.absent("stream")
        st.info("No run here has saved a stream; a test stores some:")
        st.code(TEST, language="bash")
        return
    left, right = st.columns(2)
    with left:
        titles = dict(zip(stored["run_id"], stored["label"], strict=True))
        run_id = links.choose("Run", titles, "run", default=opened_with(stored))
    run = stored[stored["run_id"] == run_id].iloc[0]
    index = None
    try:
        index = cached_artifacts.streams(uri, run_id, run["ended"])
        if not index.streams:
            raise NoStreams(f"{STREAMS} of this run lists no stream.")
        with right:
            stream_id = links.choose("Stream", {name: clean(name) for name in index.streams}, "stream")
        draw_stream(index, cached_artifacts.stream(uri, run_id, stream_id, run["ended"]))
    except (ArtifactError, NoStreams) as reason:
        if index is None or not index.streams:
            links.absent("stream")
        st.warning(sentence(str(reason)))


def with_streams(uri: str, scope: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of a scope that saved streams, by label."""
    newest = scope.sort_values("started", ascending=False, kind="stable").head(MOST_RUNS)
    saved = [cached_artifacts.has(uri, str(run.run_id), STREAMS, run.ended) for run in newest.itertuples()]
    return newest[saved].sort_values("label", kind="stable")


def opened_with(stored: pd.DataFrame) -> str:
    """Return the id of the run that the page opens with: the newest row `memup`, else of its rule, else of any."""
    ranked = stored.assign(
        named=stored["row"].map(memory_gaps.base_of) == CHOOSING, choosing=stored["rule"] == CHOOSING
    ).sort_values(["named", "choosing", "started"], kind="stable")
    return str(ranked["run_id"].iloc[-1])


def draw_stream(index: Index, stream: Stream) -> None:
    """Draw the uncertainty over one stream, its frames and its answers."""
    st.markdown(told(stream))
    settings = {
        "detector": code(index.detector) if index.detector else "–",
        "selector": code(index.selector) if index.selector else "–",
        "K": f"{index.k:,}",
        "rollout": f"{index.rollout:,} steps" if index.rollout else "the whole stream",
        "gap": f"{index.gap:,} steps",
        "stream": f"{stream.steps:,} steps",
    }
    st.caption(" · ".join(f"{name} {value}" for name, value in settings.items()))
    first = draw_part(stream)
    st.altair_chart(
        memory_chart.chart(stream, index.rollout, first),
        key="uncertainty_chart",
        alt=f"Uncertainty over {stream.steps} steps. Chosen: {listed(stream.chosen)}. "
        f"Answers: {listed(stream.answers)}.",
    )
    each = -(-(stream.steps - first) // memory_chart.MOST_POINTS)
    thinned = f" Of every {each:,} steps the most uncertain is drawn." if each > 1 else ""
    shaded = (
        " Shaded: the first rollout, whose steps alone keep a graph." if first < index.rollout < stream.steps else ""
    )
    st.caption(
        "Chosen: the steps that the first moment predicts, the most uncertain of the rest of the stream."
        f"{shaded}{thinned}"
    )
    if stream.frames_nCHW is not None and stream.shown:
        caption = f"{len(stream.shown)} of {stream.steps} frames of the stream"
        st.html(memory_strip.strip(stream.shown, stream.frames_nCHW, roles(stream), caption))
    draw_answers(index, stream)


def draw_part(stream: Stream) -> int:
    """Draw the choice of the part shown, where a stream is long; return the first step of it."""
    near = memory_chart.before_answers(stream)
    if not near:
        links.absent("part")
        return 0
    with st.columns(3)[0]:
        part = links.choose("Steps shown", {"all": "The whole stream", "answers": f"From step {near:,} on"}, "part")
    return near if part == "answers" else 0


def told(stream: Stream) -> str:
    """Return how many of the chosen steps are answers, and how many answers are chosen and right."""
    chosen, answers, both = len(stream.chosen), len(stream.answers), stream.chosen_answers
    said = [f"{share(both, chosen)} chosen steps are answers" if chosen else "No step was chosen"]
    if answers and chosen:
        said.append(f"{share(both, answers)} answers are chosen")
    if answers and stream.numeric:
        said.append(f"mean squared error **{np.mean((stream.target_A - stream.prediction_A) ** 2):.3g}**")
    elif answers:
        said.append(f"{share(stream.right, answers)} answers are right")
    return "; ".join(said) + "."


def share(part: int, whole: int) -> str:
    """Return `**3 of 4**`."""
    return f"**{part:,} of {whole:,}**"


def listed(steps: tuple[int, ...]) -> str:
    """Return steps as words for who does not see the chart."""
    shown = ", ".join(str(step) for step in sorted(steps)[:_LISTED])
    return f"{shown} and {len(steps) - _LISTED} more" if len(steps) > _LISTED else shown or "none"


def draw_answers(index: Index, stream: Stream) -> None:
    """Draw what was asked and what was answered."""
    if not stream.answers:
        return
    chosen = {*stream.chosen}
    table = pd.DataFrame(
        {
            "step": stream.answers,
            "target": [clean(index.name(value)) for value in stream.target_A],
            "prediction": [clean(index.name(value)) for value in stream.prediction_A],
            "probability": stream.probability_A,
            "chosen": ["yes" if step in chosen else "–" for step in stream.answers],
        }
    )
    titles: dict[str, Any] = {
        **{name: name.capitalize() for name in table},
        "probability": st.column_config.NumberColumn("Probability of the target", format="%.3f"),
    }
    shown = table.head(MOST_ANSWERS).dropna(axis="columns", how="all")
    st.dataframe(shown, hide_index=True, column_config=titles, key="answers_table", placeholder="–")
    if len(table) > MOST_ANSWERS:
        st.caption(f"The first {MOST_ANSWERS} of {len(table):,} answers.")


def draw_gaps(runs: pd.DataFrame) -> None:
    """Draw a score against the gap over the runs of a data set, with its table and file."""
    st.subheader("Against the gap", anchor=False)
    every = memory_gaps.metrics_of(runs)
    offered = {name: title for name, title in every.items() if len(memory_gaps.points(runs, name))}
    if not offered:
        links.absent("gap_score")
        st.info("No finished run of this data set has a test score yet: `skip-sideways test`.")
        return
    with st.columns(3)[0]:
        metric = links.choose("Score by gap", offered, "gap_score")
    points = memory_gaps.points(runs, metric)
    chance = memory_gaps.chance_of(runs, metric)
    in_unit = metric in memory_gaps.SHARES
    st.altair_chart(
        charts.score_against_gap(points, Palette(runs), offered[metric], share=in_unit, chance=chance),
        key="gap_chart",
    )
    st.caption(
        "All finished runs of this data set: means over folds and seeds; upright lines reach from the lowest run to "
        "the highest. Gap: steps between what must be remembered and the question. Rows `NAME@…` are one line; where a "
        "row has other data at the same gap, each data is a line of its own."
    )
    titles: dict[str, Any] = {
        **{name: name.capitalize() for name in ("gap", "runs")},
        **{name: st.column_config.NumberColumn(title, format="%.4g") for name, title in charts.SPREAD.items()},
        "line": "Row",
    }
    st.dataframe(points, hide_index=True, column_config=titles, key="gap_table", placeholder="–")
    st.download_button("Download csv", memory_gaps.csv(points, metric), "gap.csv", key="download_gaps")
