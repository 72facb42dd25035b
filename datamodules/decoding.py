"""Video files to frames, behind one function: PyAV by default, pytorchvideo as a second opinion.

    decode(path, frames=range(8, 24), size=32) -> video_TCHW uint8 in [0, 255]

Frames are counted by decoding them: headers lie. A file is read from its beginning and only the frames asked for are
converted, so that frame n is frame n in every container. Containers are closed before a function returns: one left
open in the parent process deadlocks forked loader workers.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import torch
from torch import Tensor

from datamodules import frame_times

FITS = ("crop", "squash")
# HMDB51's headers claim one frame more than decodes; a file cut short lacks many.
_HEADER_SLACK = 2
_HEADER_SLACK_SHARE = 0.02


class DecodingError(ValueError):
    """A video file that cannot be decoded; says which file, how far it got and why."""


@dataclass(frozen=True)
class VideoFacts:
    """What reading a whole file shows.

    Args:
        frames: that decode.
        fps: frames a second, on average; 0 where the file does not say.
        width: as shown, after rotation.
        height: as shown, after rotation.
        rotation: degrees that the stored picture is turned by to be shown upright: 0, 90, 180 or 270.
        duration_s: seconds.
        time_base: seconds a tick, as "1/12800"; "" where unknown.
        pts: presentation stamps of the frames as text (frame_times.py); "" where unknown or not increasing.
        checked: "decoded" (every frame) or "scanned" (packets only).
        problem: why it cannot be used, or "".
    """

    frames: int
    fps: float
    width: int
    height: int
    rotation: int = 0
    duration_s: float = 0.0
    time_base: str = ""
    pts: str = ""
    checked: str = "decoded"
    problem: str = ""

    def times_s(self) -> np.ndarray:
        """Return the seconds from the first frame to each, float64 (frames,); n / fps where the stamps are unknown."""
        if self.pts:
            return frame_times.seconds(frame_times.from_text(self.pts), self.time_base)
        if not self.fps:
            raise ValueError("the file states neither time stamps nor a frame rate: its frames have no times")
        return np.arange(self.frames) / self.fps

    @property
    def variable_rate(self) -> bool:
        """Whether the frames' distances in time differ."""
        return frame_times.varies(frame_times.from_text(self.pts))


class Decoder(Protocol):
    """A decoding backend."""

    def __call__(
        self,
        path: Path,
        *,
        frames: Sequence[int] | None = None,
        facts: VideoFacts | None = None,
        size: int | None = None,
        fit: str = "crop",
    ) -> Tensor:
        """Return video_TCHW uint8 RGB, upright; see `decode`."""
        ...


def scaled_size(height: int, width: int, size: int | None, fit: str) -> tuple[int, int]:
    """Return (height, width) after scaling: short side to `size` ("crop") or both sides ("squash")."""
    if fit not in FITS:
        raise ValueError(f"fit {fit!r}: expected one of {', '.join(FITS)}")
    if size is None:
        return height, width
    if fit == "squash":
        return size, size
    short = min(height, width)
    return max(size, round(height * size / short)), max(size, round(width * size / short))


def decode_pyav(
    path: Path,
    *,
    frames: Sequence[int] | None = None,
    facts: VideoFacts | None = None,
    size: int | None = None,
    fit: str = "crop",
) -> Tensor:
    """Decode with PyAV, scaling each frame as it is converted; see `decode`."""
    reformatter = av.video.reformatter.VideoReformatter()
    wanted = Counter(frames) if frames is not None else None
    last = frames[-1] if frames is not None else None
    images = []
    with _opened(path) as stream:
        for number, frame in enumerate(_frames(path, stream)):
            times = 1 if wanted is None else wanted[number]
            if times:
                height, width = scaled_size(frame.height, frame.width, size, fit)
                images.extend([_rgb(reformatter, frame, height, width)] * times)
            if number == last:
                break
    return _stacked(path, images, frames)


def decode_pytorchvideo(
    path: Path,
    *,
    frames: Sequence[int] | None = None,
    facts: VideoFacts | None = None,
    size: int | None = None,
    fit: str = "crop",
) -> Tensor:
    """Decode with pytorchvideo's EncodedVideo (whole file, then the frames asked for); see `decode`.

    It cannot open files whose metadata is not UTF-8.
    """
    from lightning_modules.compat import ensure_pytorchvideo

    ensure_pytorchvideo()
    from pytorchvideo.data.encoded_video import EncodedVideo

    try:
        video = EncodedVideo.from_path(str(path), decode_audio=False, decoder="pyav")
    except (OSError, RuntimeError, UnicodeDecodeError, av.FFmpegError) as error:
        raise DecodingError(f"pytorchvideo cannot open {path}: {error}") from error
    try:
        clip_CTHW = video.get_clip(0, video.duration + 1)["video"]
    finally:
        video.close()
    if clip_CTHW is None:
        raise DecodingError(f"{path}: pytorchvideo decoded no frame")
    there = [number for number in frames if number < clip_CTHW.shape[1]] if frames is not None else slice(None)
    images = clip_CTHW[:, there].permute(1, 2, 3, 0).byte().numpy()
    height, width = scaled_size(images.shape[1], images.shape[2], size, fit)
    reformatter = av.video.reformatter.VideoReformatter()
    originals = [av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24") for image in images]
    return _stacked(path, [_rgb(reformatter, frame, height, width) for frame in originals], frames)


DECODERS: dict[str, Decoder] = {"pyav": decode_pyav, "pytorchvideo": decode_pytorchvideo}


def resolve_decoder(name: str) -> str:
    """Return the backend that `name` means on this machine: itself, or the one that "auto" takes."""
    if name == "auto":
        return "pyav"
    if name not in DECODERS:
        raise ValueError(f"decoder {name!r}: expected auto or one of {', '.join(DECODERS)}")
    return name


def decode(
    path: Path,
    *,
    frames: Sequence[int] | None = None,
    facts: VideoFacts | None = None,
    size: int | None = None,
    fit: str = "crop",
    decoder: str = "auto",
) -> Tensor:
    """Return frames of a video, video_TCHW uint8 RGB, upright.

    Args:
        path: the file.
        frames: ascending frame numbers, repeats allowed; None: all. Numbers at or beyond the end are left out.
        facts: what the index knows of the file; with it the decoder seeks. The frames are the same without it.
        size: None keeps the file's size; fit "crop" scales the short side to it, "squash" both sides.
        fit: "crop" or "squash".
        decoder: "auto", "pyav", "torchcodec" or "pytorchvideo".

    Raises:
        DecodingError: the file is broken before the last frame asked for, or holds none of them.
        ValueError: an unknown decoder or fit, or frame numbers that are negative, none, or not ascending.
    """
    backend = DECODERS[resolve_decoder(decoder)]
    if frames is not None and (not len(frames) or frames[0] < 0 or any(a > b for a, b in pairwise(frames))):
        raise ValueError(f"frames {list(frames)[:8]}: expected one or more frame numbers >= 0 in ascending order")
    return backend(path, frames=frames, facts=facts, size=size, fit=fit)


def probe(path: Path) -> VideoFacts:
    """Decode a whole file without converting it and return what it holds; never raises for a broken file."""
    facts, claimed, stamps = VideoFacts(0, 0.0, 0, 0), 0, []
    try:
        with _opened(path) as stream:
            claimed = stream.frames
            context, base = stream.codec_context, stream.time_base
            facts = VideoFacts(0, float(stream.average_rate or 0), context.width, context.height, time_base=str(base))
            for frame in _frames(path, stream):
                stamps.append(frame.pts)
        problem = _count_problem(len(stamps), claimed)
    except DecodingError as error:
        problem = str(error).removeprefix(f"{path}: ")
    duration_s, pts = _seconds(len(stamps), facts.fps), frame_times.to_text(stamps)
    return replace(facts, frames=len(stamps), duration_s=duration_s, pts=pts, problem=problem)


def _count_problem(frames: int, claimed: int) -> str:
    if frames == 0:
        return "no frame decodes"
    if claimed - frames > max(_HEADER_SLACK, _HEADER_SLACK_SHARE * claimed):
        return f"ends early: the header says {claimed} frames, {frames} decode"
    return ""


def _seconds(frames: int, fps: float) -> float:
    return round(frames / fps, 3) if fps else 0.0


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)  # without the path, which stands before it


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file and yield its first video stream, decoding on one thread: the loader has its own processes."""
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (OSError, av.FFmpegError) as error:
        raise DecodingError(f"{path}: cannot be opened as a video: {_reason(error)}") from error
    with container:
        if not container.streams.video:
            raise DecodingError(f"{path}: holds no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        yield stream


def _frames(path: Path, stream: Any) -> Iterator[Any]:
    number = 0
    try:
        for frame in stream.container.decode(stream):
            yield frame
            number += 1
    except (OSError, ValueError, av.FFmpegError) as error:
        raise DecodingError(f"{path}: broken after {number} frames: {_reason(error)}") from error


def _rgb(reformatter: Any, frame: Any, height: int, width: int) -> np.ndarray:
    return reformatter.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()


def _stacked(path: Path, images: list[np.ndarray], frames: Sequence[int] | None) -> Tensor:
    if not images:
        raise DecodingError(f"{path}: no frame decodes" + (f" from frame {frames[0]} on" if frames else ""))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
