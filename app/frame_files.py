"""A predicted clip as files: arrays to compute with and films to look at.

    <folder>/<16 hex digits of the clip's name>/context.npz      `context` (T, C, H, W), `first`
                                                target.npz       `target` (N, K, C, H, W), `frames` (N,)
                                                prediction.npz   `prediction` (N, K, C, H, W), `frames` (N,)
                                                *.mp4            the same; horizons side by side
    <folder>/index.json                                          which clips, and their errors (null: not finite)

All frames are uint8. Film n of `target` and `prediction` is about newest frame `frames[n]`, counted from the clip's
first, 0. Films are H.264; where PyAV has no encoder for it they are left out, and `files` says what is there.

Shape legend: T frames of a clip, N predictions, K horizons, C channels, H and W height and width, F frames of a film.
"""

import errno
import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from lightning_modules.metrics.frame_scores import METRICS, scores_of
from lightning_modules.predicted_clips import PredictedClip

if TYPE_CHECKING:
    from av.video.stream import VideoStream

FPS = 25.0
FILM_HEIGHT = 128  # pixels at least: smaller frames are enlarged by a whole number
INDEX = "index.json"
_CLIP_FOLDER = re.compile("[0-9a-f]{16}")
_ENCODERS = ("libx264", "libopenh264")


@dataclass(frozen=True)
class ClipFrames:
    """What the files of one clip hold: bytes instead of floats, so that a sample of clips can be kept in memory.

    Args:
        clip_id: the clip's name.
        label: its class, or "".
        frames: newest frame of each prediction (N,).
        context: (T, C, H, W) uint8.
        target: (N, K, C, H, W) uint8.
        prediction: (N, K, C, H, W) uint8.
        mse: of each horizon, the mean over its predictions.
        psnr_db: likewise.
    """

    clip_id: str
    label: str
    frames: list[int]
    context: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    mse: list[float]
    psnr_db: list[float]

    @property
    def digest(self) -> str:
        """Sha256 of the clip's name: orders clips the same in every run, and names the folder."""
        return clip_digest(self.clip_id)

    @property
    def folder(self) -> str:
        """Name of the clip's folder, 16 hex digits: a clip's own name may hold anything."""
        return self.digest[:16]


def clip_digest(clip_id: str) -> str:
    """Return the sha256 of a clip's name, in hex."""
    return hashlib.sha256(clip_id.encode("utf-8", "surrogateescape")).hexdigest()


def clip_frames(clip: PredictedClip) -> ClipFrames:
    """Return a clip as bytes, with the errors of its predictions as they were before they became bytes."""
    means = dict(zip(METRICS, scores_of(clip.prediction_NKCHW, clip.target_NKCHW).mean(1).tolist(), strict=True))
    return ClipFrames(
        clip.clip_id,
        clip.label,
        clip.frames,
        _bytes(clip.context_TCHW),
        _bytes(clip.target_NKCHW),
        _bytes(clip.prediction_NKCHW),
        means["mse"],
        means["psnr_db"],
    )


def _bytes(x: Tensor) -> np.ndarray:
    """Return frames in [0, 1] as uint8; what is outside is clamped, NaN becomes 0."""
    if not x.dtype.is_floating_point:
        return x.cpu().numpy()
    return x.float().nan_to_num(0).clamp(0, 1).mul(255).round().byte().cpu().numpy()


@contextmanager
def written_to(place: Path | str) -> Iterator[None]:
    """Turn errors of writing into one sentence that names the place, a folder or a store.

    Raises:
        ValueError: the disk is full, or the folder can't be written.
    """
    try:
        yield
    except OSError as error:
        cause = "the disk is full" if error.errno == errno.ENOSPC else str(error).splitlines()[0]
        raise ValueError(
            f"predicted frames could not be written to {place}: {cause}; free space there, or use another place"
        ) from error


def write_clip(folder: Path, clip: ClipFrames, fps: float = FPS, *, below: str = "") -> dict[str, Any]:
    """Write a clip's files below `folder` and return its entry of the index.

    Args:
        folder: place of the clip's own folder.
        clip: what is written.
        fps: of its films.
        below: what stands before the clip's folder in its entry: of a run's artifacts predictions/, since those
            paths count from the run; nothing where they count from the index.

    Raises:
        ValueError: they could not be written.
    """
    contents = {
        "context.npz": _npz(context=clip.context, first=np.int64(0)),
        "target.npz": _npz(target=clip.target, frames=np.array(clip.frames, np.int64)),
        "prediction.npz": _npz(prediction=clip.prediction, frames=np.array(clip.frames, np.int64)),
    }
    if encoder := h264_encoder():
        contents["context.mp4"] = film(clip.context[:, None], fps, encoder)
        for name, frames in (("target", clip.target), ("prediction", clip.prediction)):
            contents[f"{name}.mp4"] = film(frames, fps, encoder)
    with written_to(folder):
        (folder / clip.folder).mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / clip.folder / name).write_bytes(content)
    return {
        "clip_id": clip.clip_id,
        "folder": f"{below}{clip.folder}",
        "label": clip.label,
        "frames": clip.frames,
        "mse": clip.mse,
        "psnr_db": clip.psnr_db,
        "files": list(contents),
    }


def write_index(folder: Path, entries: list[dict[str, Any]], about: Mapping[str, Any], fps: float = FPS) -> None:
    """Write `index.json`. `about`: what all clips share, `horizons` and `lmin`.

    Raises:
        ValueError: it could not be written.
    """
    # JSON has no NaN: an error that is none is null.
    clips = [{**entry, **{name: _finite(entry[name]) for name in ("mse", "psnr_db")}} for entry in entries]
    content = {"schema": 1, "fps": fps, **about, "clips": clips}
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).write_text(json.dumps(content, indent=2, allow_nan=False), encoding="utf-8")


def _finite(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def clear_folder(folder: Path) -> None:
    """Remove what an earlier prediction wrote to a folder, so that nothing stands there that its index does not name.

    Raises:
        ValueError: something else stands there, which is left alone; or it could not be removed.
    """
    with written_to(folder):
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        others = [path.name for path in inside if not _is_ours(path)]
        if inside and not others and not _is_our_index(folder / INDEX):
            others = [inside[0].name]
    if others:
        raise ValueError(
            f"--output {folder} holds {others[0]!r}, which no prediction wrote there; give an empty or a new folder"
        )
    with written_to(folder):
        for path in inside:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _is_our_index(path: Path) -> bool:
    """Whether `predict` wrote an index: its paths count from it, those of a run's artifacts from the run."""
    try:
        clips = json.loads(path.read_text(encoding="utf-8"))["clips"]
        return all(_CLIP_FOLDER.fullmatch(clip["folder"]) for clip in clips)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _is_ours(path: Path) -> bool:
    if path.is_symlink():
        return False
    return path.is_file() if path.name == INDEX else bool(_CLIP_FOLDER.fullmatch(path.name)) and path.is_dir()


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@cache
def h264_encoder() -> str | None:
    """Return the name of an H.264 encoder of this PyAV, None where it has none."""
    import av

    return next((name for name in _ENCODERS if name in av.codecs_available), None)


def film(frames_FKCHW: np.ndarray, fps: float, encoder: str) -> bytes:
    """Return an mp4 of F frames (at least one), the K pictures of each side by side, enlarged to be seen."""
    import av

    pictures = _pictures(frames_FKCHW)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = cast("VideoStream", container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1000)))
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _pictures(frames_FKCHW: np.ndarray) -> np.ndarray:
    """Return RGB pictures (F, H', W', 3) of even height and width, as H.264's usual colours need."""
    frames, horizons, channels, height, width = frames_FKCHW.shape
    if channels == 3:
        rgb = frames_FKCHW
    else:  # one channel is grey; of any other number the mean is shown
        rgb = np.repeat(frames_FKCHW.mean(2, keepdims=True).round().astype(np.uint8), 3, axis=2)
    beside = rgb.transpose(0, 3, 1, 4, 2).reshape(frames, height, horizons * width, 3)
    times = -(-FILM_HEIGHT // height)
    if (height * times) % 2 or (horizons * width * times) % 2:
        times += 1
    return np.ascontiguousarray(beside.repeat(times, axis=1).repeat(times, axis=2))
