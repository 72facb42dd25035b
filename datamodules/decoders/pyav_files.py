"""Opening files with PyAV, reading them frame by frame, and what to say where that does not go.

Containers are closed before the caller goes on: one left open in the parent process deadlocks forked loader workers.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from datamodules.video_facts import DecodingError


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file and yield its first video stream, decoding on one thread: the loader has its own processes."""
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (OSError, ValueError, av.FFmpegError) as error:
        raise DecodingError(f"{path}: {_why_not(Path(path), error)}") from error
    with container:
        stream = _video_stream(path, container)
        stream.thread_type = "NONE"
        yield stream


def all_frames(path: Path, stream: Any) -> Iterator[Any]:
    """Yield the frames of a stream from where it stands; DecodingError says after how many it broke."""
    number = 0
    try:
        for frame in stream.container.decode(stream):
            yield frame
            number += 1
    except (OSError, ValueError, av.FFmpegError) as error:
        raise DecodingError(f"{path}: broken after {number} frames: {_reason(error)}") from error


def _video_stream(path: Path, container: Any) -> Any:
    """Return the first stream of moving pictures: a song's cover is none."""
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise DecodingError(f"{path}: a picture ({container.format.name.removesuffix('_pipe')}), not a video")
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            return stream
    if container.streams.audio:
        raise DecodingError(f"{path}: holds sound only, no video stream")
    raise DecodingError(f"{path}: holds no video stream: cut short, or never finished by the program that wrote it")


def _why_not(path: Path, error: Exception) -> str:
    """Return in words why a file could not be opened."""
    if path.is_symlink() and not path.exists():
        return f"a dangling link: points to {os.readlink(path)}, which is not there"
    if not path.exists():
        return "there is no such file"
    if path.is_dir():
        return "a folder, not a file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if not path.stat().st_size:
        return "cannot be opened as a video: the file is empty"
    return f"cannot be opened as a video: cut short, or something else behind a video's name ({_reason(error)})"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)  # without the path, which stands before it
