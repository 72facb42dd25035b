"""Video files to frames, behind one function: PyAV by default, pytorchvideo as a second opinion.

    decode(path, start=8, count=16, size=32) -> video_TCHW uint8 in [0, 255]

Frames are counted by decoding them: headers lie. A file is read from its beginning and only the frames asked for are
converted, so that frame n is frame n in every container. Containers are closed before a function returns: one left
open in the parent process deadlocks forked loader workers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import torch
from torch import Tensor

FITS = ("crop", "squash")
# HMDB51's headers claim one frame more than decodes; a file cut short lacks many.
_HEADER_SLACK = 2
_HEADER_SLACK_SHARE = 0.02


class DecodingError(ValueError):
    """A video file that cannot be decoded; says which file, how far it got and why."""


@dataclass(frozen=True)
class VideoFacts:
    """What decoding a whole file shows: frames that decode, their rate and size, seconds, and what is wrong (or "")."""

    frames: int
    fps: float
    width: int
    height: int
    duration_s: float
    problem: str


class Decoder(Protocol):
    """A decoding backend."""

    def __call__(
        self, path: Path, *, start: int = 0, count: int | None = None, size: int | None = None, fit: str = "crop"
    ) -> Tensor:
        """Return video_TCHW uint8 RGB: frames start to start + count (all that there are, where fewer decode).

        `size` None keeps the file's size; fit "crop" scales the short side to `size`, "squash" both sides.
        DecodingError where the file is broken or holds no frame in that range.
        """
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
    path: Path, *, start: int = 0, count: int | None = None, size: int | None = None, fit: str = "crop"
) -> Tensor:
    """Decode with PyAV, scaling each frame as it is converted; see Decoder."""
    reformatter = av.video.reformatter.VideoReformatter()
    frames = []
    with _opened(path) as stream:
        for number, frame in enumerate(_frames(path, stream)):
            if count is not None and number >= start + count:
                break
            if number >= start:
                height, width = scaled_size(frame.height, frame.width, size, fit)
                frames.append(_rgb(reformatter, frame, height, width))
    return _stacked(path, frames, start)


def decode_pytorchvideo(
    path: Path, *, start: int = 0, count: int | None = None, size: int | None = None, fit: str = "crop"
) -> Tensor:
    """Decode with pytorchvideo's EncodedVideo (whole file, then the frames asked for); see Decoder.

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
    images = clip_CTHW[:, start : None if count is None else start + count].permute(1, 2, 3, 0).byte().numpy()
    height, width = scaled_size(images.shape[1], images.shape[2], size, fit)
    reformatter = av.video.reformatter.VideoReformatter()
    originals = [av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24") for image in images]
    return _stacked(path, [_rgb(reformatter, frame, height, width) for frame in originals], start)


DECODERS: dict[str, Decoder] = {"pyav": decode_pyav, "pytorchvideo": decode_pytorchvideo}


def decode(path: Path, *, decoder: str = "pyav", **options: Any) -> Tensor:
    """Decode with the named backend; see Decoder for the options."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder {decoder!r}: expected one of {', '.join(DECODERS)}")
    return DECODERS[decoder](path, **options)


def probe(path: Path) -> VideoFacts:
    """Decode a whole file without converting it and return what it holds; never raises for a broken file."""
    frames, fps, width, height, claimed = 0, 0.0, 0, 0, 0
    try:
        with _opened(path) as stream:
            fps, claimed = float(stream.average_rate or 0), stream.frames
            width, height = stream.codec_context.width, stream.codec_context.height
            for _ in _frames(path, stream):
                frames += 1
    except DecodingError as error:
        return VideoFacts(frames, fps, width, height, _seconds(frames, fps), str(error).removeprefix(f"{path}: "))
    return VideoFacts(frames, fps, width, height, _seconds(frames, fps), _count_problem(frames, claimed))


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


def _stacked(path: Path, images: list[np.ndarray], start: int) -> Tensor:
    if not images:
        raise DecodingError(f"{path}: no frame decodes from frame {start} on")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
