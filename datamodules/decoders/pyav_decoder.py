"""PyAV: seeks where the stamps are known, and takes exactly the frames with those stamps.

    frame numbers      . . . . . . . . . 9 . 11 .
    seek to the key frame at or before 9 ^
    K b b P b b P|K b b P b b P|...        b: no other frame needs it. Decoded only if it is asked for.

What comes out must agree with the table of stamps: all frames asked for, in order. If anything is amiss the file is
read from its beginning and the frames are counted, which is also what happens where no stamps are known.
"""

import math
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from torch import Tensor

from datamodules import frame_times
from datamodules.decoders.pictures import Pictures
from datamodules.decoders.pyav_files import all_frames, opened
from datamodules.video_facts import DECODED, DecodingError, VideoFacts

# A file reorders frames over less than this many; a seek may land that much too late.
_REORDERED_FRAMES = 16
# Containers that store a stamp for each frame. MPEG streams do not: after a seek their stamps are guesses.
_SEEKABLE = {"mov", "matroska", "avi", "asf", "flv"}
# A table made without decoding may count a last frame or two that do not decode.
_SCAN_SLACK = 2


def decode_pyav(
    path: Path,
    *,
    frames: Sequence[int] | None = None,
    facts: VideoFacts | None = None,
    size: int | None = None,
    fit: str = "crop",
) -> Tensor:
    """Decode with PyAV; see `decode`."""
    pictures = None
    if frames is not None and facts is not None and facts.pts:
        pictures = _sought(path, frames, frame_times.from_text(facts.pts), size, fit)
    if pictures is None:
        pictures = _counted(path, frames, size, fit)
        _expect_all(path, pictures, frames, facts)
    if not len(pictures):
        raise DecodingError(f"{path}: no frame decodes" + (f" from frame {frames[0]} on" if frames else ""))
    return pictures.tensor()


def _sought(path: Path, frames: Sequence[int], stamps: np.ndarray, size: int | None, fit: str) -> Pictures | None:
    """Return the frames found by their stamps, None where what comes out does not agree with the table."""
    inside = [number for number in frames if number < len(stamps)]
    if not inside:
        raise DecodingError(f"{path}: no frame decodes from frame {frames[0]} on")
    wanted = Counter(stamps[inside].tolist())
    for earlier in (0, _REORDERED_FRAMES):
        start = int(stamps[max(0, inside[0] - earlier)])
        with opened(path) as stream:
            if _SEEKABLE.isdisjoint(stream.container.format.name.split(",")):
                return None
            pictures = Pictures(stream.height, stream.width, len(inside), size, fit)
            try:
                stream.container.seek(start, stream=stream)
                if _collect(stream, wanted, pictures):
                    return pictures
            except (OSError, ValueError, av.FFmpegError):
                return None  # counting from the beginning says what is wrong and where
    return None


def _collect(stream: Any, wanted: Counter[int], pictures: Pictures) -> bool:
    """Add the frames with the wanted stamps; return whether all came, in order and whole."""
    due, before = deque(wanted), -math.inf
    for packet in stream.container.demux(stream):
        unneeded = packet.pts is not None and packet.pts not in wanted
        stream.codec_context.skip_frame = "NONREF" if unneeded else "DEFAULT"
        for frame in packet.decode():
            if frame.pts is None or frame.is_corrupt or not before < frame.pts <= due[0]:
                return False
            before = frame.pts
            if frame.pts == due[0]:
                pictures.add(frame, wanted[due.popleft()])
                if not due:
                    return True
    return False


def _counted(path: Path, frames: Sequence[int] | None, size: int | None, fit: str) -> Pictures:
    """Return the frames by decoding from the beginning and counting."""
    wanted = Counter(frames) if frames is not None else None
    with opened(path) as stream:
        count = len(frames) if frames is not None else max(1, stream.frames)
        pictures = Pictures(stream.height, stream.width, count, size, fit)
        for number, frame in enumerate(all_frames(path, stream)):
            times = 1 if wanted is None else wanted[number]
            if times:
                pictures.add(frame, times)
            if frames is not None and number == frames[-1]:
                break
    return pictures


def _expect_all(path: Path, pictures: Pictures, frames: Sequence[int] | None, facts: VideoFacts | None) -> None:
    """Raise where a file has fewer frames than when its table was made."""
    if facts is None:
        return
    slack = 0 if facts.checked == DECODED else _SCAN_SLACK
    there = facts.frames - slack
    expected = there if frames is None else sum(number < there for number in frames)
    if len(pictures) < expected:
        raise DecodingError(
            f"{path}: {expected} frames asked for, {len(pictures)} decode; the table says {facts.frames} are there. "
            "The file has changed: make the table anew (skip-sideways data index --root DIR)"
        )
