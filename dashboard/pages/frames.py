"""Predicted frames: what each run predicts of the same clip, beside the truth, at the same distance in time.

    data set, comparison, runs -> clip, frames ahead (k) -> table of frames | looping video | metric against k

The clips are those that the runs saved (`predictions/index.json`). Truth is the clip's own frame. A run whose saved
clip is not the same, pixel by pixel, is named and left out: its frames are of something else.
"""

from __future__ import annotations

from dataclasses import dataclass
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
VIDEO_PX = 440  # a screen holds it
MOST_DIFFERENCES = 3  # runs whose differences the page opens with


@dataclass(frozen=True)
class View:
    """What of the predictions is shown: how far ahead, which of SHOWN, and the difference that is black."""

    horizon: int
    shown: str
    scale: float

    @property
    def frames(self) -> bool:
        """Return whether predicted frames are shown."""
        return self.shown != "difference"

    @property
    def differences(self) -> bool:
        """Return whether differences to the truth are shown."""
        return self.shown != "frames"

    @property
    def black(self) -> str:
        """Return what black means in the difference maps."""
        return f"black {self.scale:.2f} of the range or more"


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
    chosen = chosen_runs.choose_runs(scope, ended=True)
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
        horizon = slide_or_only("Frames ahead (k)", horizons, "horizon")
    with third:
        few = len(indexes) <= MOST_DIFFERENCES
        shown = links.choose("Show", SHOWN, "show", default="both" if few else "frames")
    predicted = read_clip(uri, chosen, indexes, clip_id)
    frames = saved_frames.shown_frames(predicted, horizon)
    if not frames:
        st.info(f"No chosen run predicts this clip {ahead(horizon)}.")
        return None
    names = dict(zip(chosen["run_id"], chosen["name"], strict=True))
    colours = {run.run_id: palette.colour(run.line) for run in chosen.itertuples()}
    sums = tuple((run_id, names[run_id], crc32(run.prediction_NKCHW.tobytes())) for run_id, run in predicted.items())
    key = (uri, clip_id, horizon, sums, tuple(frames))
    view = View(horizon, shown, scale_of(key, predicted))
    draw_strip(predicted, names, colours, frames, view)
    return key, predicted, view, next(iter(indexes.values())).fps


def slide_or_only(label: str, values: list[int], key: str) -> int:
    """Draw a slider, or nothing where there is one value only; return the value."""
    if len(values) > 1:
        return int(links.slide(label, values, key))
    links.absent(key)
    return values[0]


@st.cache_data(show_spinner=False, max_entries=64)
def scale_of(key: tuple, _runs: dict[str, Predicted]) -> float:
    """Return the scale of all difference maps of a view. `key` as in `composed`."""
    _, _, horizon, _, frames = key
    clip_TCHW = next(iter(_runs.values())).clip_TCHW
    made = [(saved_frames.copy_last(clip_TCHW, number, horizon), number) for number in frames]
    made += [(run.frame(number, horizon), number) for run in _runs.values() for number in frames]
    return saved_frames.common_scale(
        saved_frames.gap(frame, clip_TCHW[number]) for frame, number in made if frame is not None
    )


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
    runs: dict[str, Predicted], names: dict[str, str], colours: dict[str, str], frames: list[int], view: View
) -> None:
    """Draw the slider over time and the table of COLUMNS frames from there. Moving it redraws nothing else."""
    start = slide_or_only("First frame shown", frames[: max(len(frames) - COLUMNS + 1, 1)], "frame")
    columns = frames[frames.index(start) :][:COLUMNS]
    rows = table_rows(runs, names, colours, columns, view)
    made = ahead(view.horizon)
    caption = f"Frames {columns[0]} to {columns[-1]}: the truth, and what each run predicted {made}"
    st.html(frame_strip.strip(columns, rows, caption))
    scale = f" Differences, mean over colours: white is equal, {view.black}." if view.differences else ""
    st.caption(
        f"Each prediction was made {made}, counted from the newest frame that can have reached the output. "
        f"Below it: PSNR of that frame.{scale}"
    )


def table_rows(
    runs: dict[str, Predicted], names: dict[str, str], colours: dict[str, str], columns: list[int], view: View
) -> list[frame_strip.Row]:
    """Return the table's rows: truth, copy-last, each run; each with its difference below where the view says so."""
    clip_TCHW = next(iter(runs.values())).clip_TCHW
    truth = [clip_TCHW[number] for number in columns]
    rows = [frame_strip.Row("truth", truth)]
    copied = [saved_frames.copy_last(clip_TCHW, number, view.horizon) for number in columns]
    rows += _predicted_rows(_BASELINE, copied, truth, view, COLOURS["copy_last"])
    for run_id, run in runs.items():
        made = [run.frame(number, view.horizon) for number in columns]
        rows += _predicted_rows(names[run_id], made, truth, view, colours[run_id])
    return rows


def _predicted_rows(
    name: str, made: list[np.ndarray | None], truth: list[np.ndarray], view: View, colour: str
) -> list[frame_strip.Row]:
    pairs = list(zip(made, truth, strict=True))
    notes = ["" if frame is None else f"{saved_frames.psnr_db(frame, true):.1f} dB" for frame, true in pairs]
    rows = []
    if view.frames:
        rows.append(frame_strip.Row(name, made, notes, colour))
    if view.differences:
        alone = not view.frames
        title = f"{name}: difference" if alone else "difference"
        gaps = [None if frame is None else saved_frames.difference(frame, true, view.scale) for frame, true in pairs]
        rows.append(
            frame_strip.Row(title, gaps, notes if alone else (), colour if alone else "", f"difference of {name}")
        )
    return rows


def draw_video(key: tuple, runs: dict[str, Predicted], view: View, fps: float) -> None:
    """Draw the composed video of all frames shown, in a loop; differences below each where the page shows them."""
    st.subheader("As a video", anchor=False)
    slow = links.switch("Slow motion (5 frames a second)", "slow", default=True)
    content, kind = composed(key, view, 5.0 if slow else fps, runs)
    below = "; differences below" if view.differences else ""
    alt = f"Truth, copy-last and {len(runs)} runs side by side, {ahead(view.horizon)}{below}."
    if kind == "video/mp4":
        st.video(content, format=kind, loop=True, autoplay=True, muted=True, alt=alt, width=VIDEO_PX)
    else:
        st.image(content, alt=alt, width=VIDEO_PX)
    st.download_button("Download the video", content, f"frames.{kind.rpartition('/')[2]}", kind, on_click="ignore")


@st.cache_data(show_spinner="Composing the video …", max_entries=8)
def composed(key: tuple, view: View, fps: float, _runs: dict[str, Predicted]) -> tuple[bytes, str]:
    """Return the encoded video and its kind.

    `key`: store, clip, horizon, (run id, name, sum of the content) of each run, frames.
    """
    _, clip_id, horizon, names, frames = key
    clip_TCHW = next(iter(_runs.values())).clip_TCHW
    pictures = []
    for number in frames[: composed_video.MAX_FRAMES]:
        truth = clip_TCHW[number]
        made = [(_BASELINE, saved_frames.copy_last(clip_TCHW, number, horizon))]
        made += [(name, _runs[run_id].frame(number, horizon)) for run_id, name, _ in names]
        tiles = [composed_video.Tile("truth", truth)]
        for name, frame in made:
            gaps = None
            if view.differences and frame is not None:
                gaps = saved_frames.difference(frame, truth, view.scale)
            tiles.append(composed_video.Tile(name, frame, gaps))
        titles = [f"{clean(clip_id)[:32]}", f"frame {number}, {ahead(horizon)}"]
        titles += [f"differences: {view.black}"] if view.differences else []
        pictures.append(composed_video.compose(tiles, titles))
    return composed_video.encode(pictures, fps)


def draw_metrics(uri: str, chosen: pd.DataFrame, palette: Palette) -> None:
    """Draw the chosen test metric against the horizon."""
    runs = {
        str(run.name): (str(run.line), _fold(run.fold), cached_artifacts.facts(uri, str(run.run_id), run.ended).metrics)
        for run in chosen.itertuples()
    }
    logged = {
        f"test/{name}": title
        for name, title in horizon_chart.METRICS.items()
        if any(horizon_chart.by_horizon(metrics, name) for _, _, metrics in runs.values())
    }
    if not logged:
        if runs:
            st.info("No chosen run has test metrics by horizon yet (`test/psnr_db_1`, ...): `skip-sideways test`.")
        return
    st.subheader("Metric against horizon", anchor=False)
    metric = links.choose("Metric by horizon", logged, "score")
    name = metric.removeprefix("test/")
    points = horizon_chart.table(runs, name)
    st.altair_chart(
        horizon_chart.chart(points, palette, name),
        key="horizon_chart",
        alt=f"{logged[metric]} against the horizon, {len(runs)} runs and the baselines; the values stand in the table.",
    )
    st.caption("Means over the runs' whole test sets, and of the baselines on the same frames.")
    with st.expander("As a table"):
        wide = points.pivot_table(index="label", columns="k", values="value", sort=False)
        st.dataframe(wide.rename(columns=lambda k: f"k = {k}"), key="horizon_table")


def _fold(fold: object) -> str:
    return "–" if pd.isna(fold) else str(fold)
