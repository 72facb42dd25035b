"""Draw what the runs of a comparison predicted, side by side, for the clips that every run keeps: PNG and looping GIF.

python benchmarks/future_frames/pictures.py runs/comparisons/future_weizmann --rows sideways backprop_shifted

                   m = 7 | k = 1  2  3  4 | error at k = 1  2  3  4      gray: right; bright: too bright; dark: too dark
    truth           x[m] | x[m+1] ...     |
    copy_last       x[m] | x[m]   ...     | x[m] - x[m+1] ...
    each row        x[m] | prediction     | prediction - truth

The still shows the middle scored frame m, the GIF all of them. The runs are found in the tracking store (variable
MLFLOW_TRACKING_URI, by default sqlite:///mlflow.db) by the ids of results.json. Where a row has no run of the fold and
seed it is left out, and said so.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from app.tracking import new_client, tracking_uri

TRUTH, COPY_LAST = "truth", "copy_last"
LABEL_PX, HEAD_PX, GAP_PX, LEAST_CELL_PX = 190, 22, 2, 64
PAPER, INK, MIDDLE = 255, 0, 128
MS_PER_FRAME = 400

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """One clip of one run. context (T, C, H, W) uint8; target, prediction (N, K, C, H, W) uint8; frames (N,) newest m.

    `mse` is the run's own figure for this clip, the mean over horizons.
    """

    clip_id: str
    label: str
    horizons: tuple[int, ...]
    context: Pixels
    frames: tuple[int, ...]
    target: Pixels
    prediction: Pixels
    mse: float

    def at(self, frame: int) -> tuple[Pixels, Pixels]:
        """Return target and prediction (K, C, H, W) of a newest frame."""
        index = self.frames.index(frame)
        return self.target[index], self.prediction[index]


def read_clips(folder: Path) -> list[Clip]:
    """Return the clips of a run's artifacts, where `folder` holds `predictions/`, or of a folder of `predict`."""
    place = folder / "predictions" if (folder / "predictions").is_dir() else folder
    index = json.loads((place / "index.json").read_text())
    return [_read_clip(folder, entry, tuple(index["horizons"])) for entry in index["clips"]]


def _read_clip(folder: Path, entry: Mapping[str, Any], horizons: tuple[int, ...]) -> Clip:
    def array(name: str) -> Pixels:
        with np.load(folder / entry["folder"] / f"{name}.npz", allow_pickle=False) as file:
            return np.asarray(file[name], dtype=np.uint8)

    return Clip(
        entry["clip_id"],
        entry["label"],
        horizons,
        array("context"),
        tuple(int(m) for m in entry["frames"]),
        array("target"),
        array("prediction"),
        float(np.mean(np.array(entry["mse"], dtype=float))),  # null, an error that is not finite, becomes NaN
    )


def matched(runs: Mapping[str, Sequence[Clip]]) -> list[dict[str, Clip]]:
    """Return for each clip what every row made of it, in the order of the first row's clips.

    Errors: ValueError where the rows kept other clips, or other pixels of them, and so can't be compared.
    """
    first, *others = runs
    clips = [{first: clip} for clip in runs[first]]
    for row in others:
        own = {clip.clip_id: clip for clip in runs[row]}
        for clip in clips:
            reference = clip[first]
            if reference.clip_id not in own:
                raise ValueError(
                    f"row {row} did not keep clip {reference.clip_id}, as {first} did; choose other --rows"
                )
            clip[row] = own[reference.clip_id]
            if not np.array_equal(clip[row].context, reference.context) or clip[row].horizons != reference.horizons:
                raise ValueError(f"rows {first} and {row} have other frames or horizons of clip {reference.clip_id}")
    return clips


def shared_frames(clips: Mapping[str, Clip]) -> list[int]:
    """Return the newest frames that every row answered, ascending.

    Errors: ValueError where there is none.
    """
    frames = sorted(set.intersection(*(set(clip.frames) for clip in clips.values())))
    if not frames:
        raise ValueError("the rows have no newest frame in common: compare rows of the same depth and horizon")
    return frames


def sheet(clips: Mapping[str, Clip], frame: int) -> Image.Image:
    """Return the picture of one clip at one newest frame: a line for the truth, for copy_last and for each row."""
    reference = next(iter(clips.values()))
    newest, truth = reference.context[frame], reference.at(frame)[0]
    copied = np.broadcast_to(newest, truth.shape)
    lines = [(TRUTH, truth, None), (COPY_LAST, copied, mean_error(reference))]
    lines += [(row, clip.at(frame)[1], clip.mse) for row, clip in clips.items()]
    scale = max(1, -(-LEAST_CELL_PX // newest.shape[-2]))
    height, width = (scale * size + GAP_PX for size in newest.shape[-2:])
    columns = 1 + 2 * len(truth)
    picture = Image.new("RGB", (LABEL_PX + columns * width, HEAD_PX + len(lines) * height), (PAPER,) * 3)
    headings = [
        f"m = {frame}",
        *(f"k = {k}" for k in reference.horizons),
        *(f"error, k = {k}" for k in reference.horizons),
    ]
    draw = ImageDraw.Draw(picture)
    for column, text in enumerate(headings):
        _write(draw, (LABEL_PX + column * width, 4), text)
    for line, (row, frames, mse) in enumerate(lines):
        top = HEAD_PX + line * height
        _write(draw, (2, top + height // 2 - 14), row if mse is None else f"{row}\nMSE {mse:.5f}")
        cells = [newest, *frames, *([] if row == TRUTH else errors(frames, truth))]
        for column, cell in enumerate(cells):
            picture.paste(image_of(cell, scale), (LABEL_PX + column * width, top))
    return picture


def mean_error(clip: Clip) -> float:
    """Return the MSE of copying the newest frame, mean over the clip's frames and horizons."""
    copied = clip.context[list(clip.frames)][:, None] / 255.0
    return float(np.mean((copied - clip.target / 255.0) ** 2))


def errors(frames: Pixels, truth: Pixels) -> Pixels:
    """Return prediction - truth as pixels: gray where it is right, white and black from half the range on."""
    signed = MIDDLE + frames.astype(np.int16) - truth.astype(np.int16)
    return np.clip(signed, 0, 255).astype(np.uint8)


def image_of(cell_CHW: Pixels, scale: int) -> Image.Image:
    """Return a frame as an RGB picture, each pixel a square of `scale`."""
    colours = np.broadcast_to(cell_CHW, (3, *cell_CHW.shape[1:])) if len(cell_CHW) == 1 else cell_CHW[:3]
    picture = Image.fromarray(np.ascontiguousarray(colours.transpose(1, 2, 0)))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    draw.multiline_text(place, text, fill=(INK,) * 3, font=ImageFont.load_default(size=11), spacing=1)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures of equal width below each other."""
    whole = Image.new("RGB", (pictures[0].width, sum(picture.height for picture in pictures)), (PAPER,) * 3)
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def draw(clips: Sequence[Mapping[str, Clip]], stem: Path) -> list[Path]:
    """Write STEM.png, the middle scored frame of each clip, and STEM.gif, all frames that every clip has."""
    frames = [shared_frames(clip) for clip in clips]
    png, gif = stem.with_suffix(".png"), stem.with_suffix(".gif")
    stem.parent.mkdir(parents=True, exist_ok=True)
    still = stacked([sheet(clip, own[len(own) // 2]) for clip, own in zip(clips, frames, strict=True)])
    still.save(png, optimize=True)
    steps = range(min(len(own) for own in frames))
    moving = [stacked([sheet(clip, own[i]) for clip, own in zip(clips, frames, strict=True)]) for i in steps]
    few = [picture.quantize(64) for picture in moving]
    few[0].save(gif, save_all=True, append_images=few[1:], duration=MS_PER_FRAME, loop=0, optimize=True)
    return [png, gif]


def run_ids(results: Path, rows: Sequence[str] | None, fold: int, seed: int) -> dict[str, str]:
    """Return row to run id of a comparison's finished runs of one fold and seed; `rows` None: all that there are.

    Errors: ValueError where none is left, or where one of `rows` has no such run.
    """
    records = json.loads(results.read_text())["rows"]
    found = {
        record["row"]: record["run_id"]
        for record in records
        if (record["fold"], record["seed"], record["status"]) == (fold, seed, "ok") and record["run_id"]
    }
    without = [row for row in rows or [] if row not in found]
    if without or not found:
        raise ValueError(
            f"{results}: no finished run of fold {fold}, seed {seed} of {', '.join(without) or 'any row'}; "
            f"it has {', '.join(found) or 'none'}"
        )
    return {row: found[row] for row in rows or found}


def fetched(ids: Mapping[str, str], folder: Path) -> dict[str, list[Clip]]:
    """Return each row's clips, brought from the tracking store.

    Errors: ValueError where a run kept no predictions.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.exceptions import MlflowException

    client = new_client(tracking_uri())
    runs = {}
    for row, run_id in ids.items():
        own = folder / run_id
        own.mkdir(parents=True)
        try:
            client.download_artifacts(run_id, "predictions", str(own))
            runs[row] = read_clips(own)
        except (MlflowException, OSError) as error:
            raise ValueError(
                f"row {row}: run {run_id} has no predictions in {tracking_uri()} ({error}); set MLFLOW_TRACKING_URI to "
                "the store that the comparison ran with, or leave the row out of --rows"
            ) from error
    return runs


def of_folders(named: Sequence[str]) -> dict[str, list[Clip]]:
    """Return each row's clips from ROW=DIR. Errors: ValueError for one without a name or an index."""
    runs = {}
    for text in named:
        row, _, folder = text.partition("=")
        if not (row and (Path(folder) / "index.json").is_file()):
            raise ValueError(f"--folders {text!r}: expected ROW=DIR, DIR being what `skip-sideways predict` wrote")
        runs[row] = read_clips(Path(folder))
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the pictures; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("comparison", type=Path, nargs="?", help="folder with the comparison's results.json")
    parser.add_argument("--folders", nargs="+", metavar="ROW=DIR", help="instead: what `predict` wrote, row by row")
    parser.add_argument("--rows", nargs="+", help="rows to draw, in this order (default: all with a run)")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=2, help="how many of the kept clips (default: 2)")
    parser.add_argument("--output", type=Path, help="path without ending (default: here, the folder's name)")
    options = parser.parse_args(arguments)
    try:
        if bool(options.folders) == bool(options.comparison):
            raise ValueError("give either a comparison's folder or --folders ROW=DIR ...")
        if options.folders:
            clips = matched(of_folders(options.folders))[: options.clips]
        else:
            ids = run_ids(options.comparison / "results.json", options.rows, options.fold, options.seed)
            with tempfile.TemporaryDirectory() as folder:
                clips = matched(fetched(ids, Path(folder)))[: options.clips]
        name = options.comparison.resolve().name if options.comparison else "predictions"
        written = draw(clips, options.output or Path(__file__).parent / name)
    except (ValueError, OSError) as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 2
    names = ", ".join(next(iter(clip.values())).label or next(iter(clip)) for clip in clips)
    of = "" if options.folders else f"Fold {options.fold}, seed {options.seed}; "
    print(f"{of}clips: {names}; written: {', '.join(map(str, written))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
