"""Predicted frames: what each run predicts of the same clip, beside the truth, at the same distance in time.

    data set, comparison, runs -> clip, frames ahead (k) -> table of frames | looping video | metric against k

The clips are those that the runs saved (`predictions/index.json`). Truth is the clip's own frame. A run whose saved
clip is not the same, pixel by pixel, is named and left out: its frames are of something else.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cached_artifacts, chosen_runs, composed_video, frame_strip, horizon_chart, links, saved_frames
from dashboard.artifacts import ArtifactError
from dashboard.names import clean, code
from dashboard.palette import COLOURS, Palette
from dashboard.plain import sentence
from dashboard.saved_frames import Index, Predicted, Unreadable

TASK = "future_frames"
COLUMNS = 6
FIT = "skip-sideways fit --data MovingDigits --model FutureFrames"
TEST = "skip-sideways test --ckpt_path runs/NAME/last.ckpt"
SHOWN = {"frames": "Frames", "difference": "Differences to the truth", "both": "Frames and differences"}
_BASELINE = "copy last frame"
VIDEO_PX = 680


def draw(uri: str) -> None:
    """Draw the page for the store at `uri`."""
    chosen_runs.for_store(uri, "Predicted frames", lambda runs: draw_runs(uri, runs))


def draw_runs(uri: str, runs: pd.DataFrame) -> None:
    """Draw the page for a store with runs."""
    predicting = runs[runs["task"] == TASK]
    if predicting.empty:
        st.info("No run here predicts frames. Train one and test it; the test stores its predictions:")
        st.code(f"{FIT}\n{TEST}", language="bash")
        return
    scope = chosen_runs.choose_scope(predicting)
    chosen = chosen_runs.choose_runs(scope)
    palette = Palette(scope)
    if chosen.empty:
        st.info("Choose a run to see its frames.")
        return
    indexes = read_indexes(uri, chosen)
    video = draw_clip(uri, chosen, indexes, palette) if indexes else None
    left, right = st.columns([5, 4], gap="large")
    with left:
        if video:
            draw_video(*video)
    with right:
        draw_metrics(uri, chosen, palette)


def ahead(horizon: int) -> str:
    """Return `3 frames ahead`; a horizon of 0 is the frame itself."""
    return f"{horizon} {'frame' if horizon == 1 else 'frames'} ahead"


def read_indexes(uri: str, chosen: pd.DataFrame) -> dict[str, Index]:
    """Return each run's index by run id; say which run has none, and why."""
    found, missing = {}, []
    for run in chosen.itertuples():
        try:
            found[str(run.run_id)] = cached_artifacts.index(uri, str(run.run_id), run.ended)
        except (ArtifactError, Unreadable) as reason:
            missing.append(f"{code(run.name)}: {sentence(str(reason))}")
    if missing:
        st.warning("  \n".join(["These runs show no frames (`skip-sideways test` stores them):", *missing]))
    return found


def draw_clip(uri: str, chosen: pd.DataFrame, indexes: dict[str, Index], palette: Palette) -> tuple | None:
    """Draw the choice of clip and horizon and the table of frames; return what `draw_video` takes."""
    clips = {clip_id: clean(f"{clip_id} ({clip.label})" if clip.label else clip_id)
             for index in indexes.values() for clip_id, clip in index.clips.items()}  # fmt: skip
    if not clips:
        st.info("The chosen runs saved no clip.")
        return None
    first, second, third = st.columns([2, 1, 1])
    with first:
        clip_id = links.choose("Clip", clips, "clip")
    with second:
        horizons = sorted({k for index in indexes.values() for k in index.horizons})
        horizon = links.slide("Frames ahead (k)", horizons, "k") if len(horizons) > 1 else horizons[0]
    with third:
        shown = links.choose("Show", SHOWN, "show", default="both")
    predicted = read_clip(uri, chosen, indexes, clip_id)
    frames = saved_frames.shown_frames(predicted, horizon)
    if not frames:
        st.info(f"No chosen run predicts this clip {ahead(horizon)}.")
        return None
    names = dict(zip(chosen["run_id"], chosen["name"], strict=True))
    colours = {run.run_id: palette.colour(run.line) for run in chosen.itertuples()}
    draw_strip(predicted, names, colours, frames, horizon, shown)
    return uri, predicted, names, frames, clip_id, horizon, indexes


def read_clip(uri: str, chosen: pd.DataFrame, indexes: dict[str, Index], clip_id: str) -> dict[str, Predicted]:
    """Return each run's predictions of one clip; say which run has none or saved other frames under its name."""
    found: dict[str, Predicted] = {}
    said: list[str] = []
    for run in chosen[chosen["run_id"].isin(indexes)].itertuples():
        run_id, name = str(run.run_id), code(run.name)
        if clip_id not in indexes[run_id].clips:
            said.append(f"{name}: has not saved this clip.")
            continue
        try:
            predicted = cached_artifacts.predicted(uri, run_id, clip_id, run.ended)
        except (ArtifactError, Unreadable) as reason:
            said.append(f"{name}: {sentence(str(reason))}")
            continue
        first = next(iter(found.values()), predicted)
        if np.array_equal(first.clip_TCHW, predicted.clip_TCHW):
            found[run_id] = predicted
        else:
            said.append(f"{name}: saved other frames under this clip's name than the first run; not compared.")
    if said:
        st.warning("  \n".join(said))
    return found


@st.fragment
def draw_strip(
    runs: dict[str, Predicted], names: dict[str, str], colours: dict[str, str], frames: list[int], horizon: int,
    shown: str,
) -> None:  # fmt: skip
    """Draw the slider over time and the table of COLUMNS frames from there. Moving it redraws nothing else."""
    starts = frames[: max(len(frames) - COLUMNS + 1, 1)]
    start = links.slide("First frame shown", starts, "frame") if len(starts) > 1 else starts[0]
    columns = frames[frames.index(start) :][:COLUMNS]
    rows = table_rows(runs, names, colours, columns, horizon, shown)
    caption = f"Frames {columns[0]} to {columns[-1]}: the truth, and what each run predicted {ahead(horizon)}"
    st.html(frame_strip.strip(columns, rows, caption))
    st.caption(
        f"Each prediction was made {ahead(horizon)}, counted from the newest frame that can have reached the output. "
        "Below it: PSNR of that frame. Differences: white is equal, black 0.5 or more of the range, mean over colours."
    )


def table_rows(
    runs: dict[str, Predicted], names: dict[str, str], colours: dict[str, str], columns: list[int], horizon: int,
    shown: str,
) -> list[frame_strip.Row]:  # fmt: skip
    """Return the table's rows: truth, copy-last, each run; each with its difference below where `shown` says so."""
    clip_TCHW = next(iter(runs.values())).clip_TCHW
    truth = [clip_TCHW[number] for number in columns]
    rows = [frame_strip.Row("truth", truth)]
    copied = [saved_frames.copy_last(clip_TCHW, number, horizon) for number in columns]
    rows += _predicted_rows(_BASELINE, copied, truth, shown, COLOURS["copy_last"])
    for run_id, run in runs.items():
        made = [run.frame(number, horizon) for number in columns]
        rows += _predicted_rows(names[run_id], made, truth, shown, colours[run_id])
    return rows


def _predicted_rows(
    name: str, made: list[np.ndarray | None], truth: list[np.ndarray], shown: str, colour: str
) -> list[frame_strip.Row]:
    pairs = list(zip(made, truth, strict=True))
    notes = ["" if frame is None else f"{saved_frames.psnr_db(frame, true):.1f} dB" for frame, true in pairs]
    gaps = [None if frame is None else saved_frames.difference(frame, true) for frame, true in pairs]
    rows = []
    if shown != "difference":
        rows.append(frame_strip.Row(name, made, notes, colour))
    if shown != "frames":
        alone = shown == "difference"
        title = f"{name}: difference" if alone else "difference"
        rows.append(
            frame_strip.Row(title, gaps, notes if alone else (), colour if alone else "", f"difference of {name}")
        )
    return rows


def draw_video(
    uri: str, runs: dict[str, Predicted], names: dict[str, str], frames: list[int], clip_id: str, horizon: int,
    indexes: dict[str, Index],
) -> None:  # fmt: skip
    """Draw the composed video of all frames shown, in a loop."""
    st.subheader("As a video", anchor=False)
    fps = next(iter(indexes.values())).fps
    slow = links.switch("Slow motion (5 frames a second)", "slow", default=True)
    sums = tuple((run_id, names[run_id], crc32(run.prediction_NKCHW.tobytes())) for run_id, run in runs.items())
    key = (uri, clip_id, horizon, sums, tuple(frames), 5.0 if slow else fps)
    content, kind = composed(key, runs)
    alt = f"Truth, copy-last and {len(runs)} runs side by side, {ahead(horizon)}; differences below."
    if kind == "video/mp4":
        st.video(content, format=kind, loop=True, autoplay=True, muted=True, alt=alt, width=VIDEO_PX)
    else:
        st.image(content, alt=alt, width=VIDEO_PX)
    st.download_button("Download the video", content, f"frames.{kind.rpartition('/')[2]}", kind, on_click="ignore")


@st.cache_data(show_spinner="Composing the video …", max_entries=8)
def composed(key: tuple, _runs: dict[str, Predicted]) -> tuple[bytes, str]:
    """Return the encoded video and its kind.

    `key`: store, clip, horizon, (run id, name, sum of the content) of each run, frames, frames a second.
    """
    _, clip_id, horizon, names, frames, fps = key
    clip_TCHW = next(iter(_runs.values())).clip_TCHW
    pictures = []
    for number in frames[: composed_video.MAX_FRAMES]:
        truth = clip_TCHW[number]
        made = [(_BASELINE, saved_frames.copy_last(clip_TCHW, number, horizon))]
        made += [(name, _runs[run_id].frame(number, horizon)) for run_id, name, _ in names]
        tiles = [composed_video.Tile("truth", truth)]
        tiles += [
            composed_video.Tile(name, frame, None if frame is None else saved_frames.difference(frame, truth))
            for name, frame in made
        ]
        title = f"{clean(clip_id)[:40]}   frame {number}   {ahead(horizon)}"
        pictures.append(composed_video.compose(tiles, title))
    return composed_video.encode(pictures, fps)


def draw_metrics(uri: str, chosen: pd.DataFrame, palette: Palette) -> None:
    """Draw the chosen test metric against the horizon."""
    runs = {
        str(run.name): (str(run.line), cached_artifacts.facts(uri, str(run.run_id), run.ended).metrics)
        for run in chosen.itertuples()
    }
    logged = {
        name: title
        for name, title in horizon_chart.METRICS.items()
        if any(horizon_chart.by_horizon(metrics, name) for _, metrics in runs.values())
    }
    if not logged:
        if runs:
            st.info("No chosen run has test metrics by horizon yet (`test/psnr_db_1`, ...): `skip-sideways test`.")
        return
    st.subheader("Metric against horizon", anchor=False)
    metric = links.choose("Metric by horizon", logged, "score")
    points = horizon_chart.table(runs, metric)
    st.altair_chart(
        horizon_chart.chart(points, palette, metric),
        key="horizon_chart",
        alt=f"{logged[metric]} against the horizon, {len(runs)} runs and the baselines; the values stand in the table.",
    )
    st.caption("Means over the runs' whole test sets, and of the baselines on the same frames.")
    with st.expander("As a table"):
        wide = points.pivot_table(index="label", columns="k", values="value", sort=False)
        st.dataframe(wide.rename(columns=lambda k: f"k = {k}"), key="horizon_table")
