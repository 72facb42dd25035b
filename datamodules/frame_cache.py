"""Decoded videos on the disk: whole videos, uint8 at the training size, one memory-mapped file each.

    CACHE_DIR/ucf101-1f09ab23/        one folder for a dataset and all that changes pixels
        3c/3c5d...e1.npy              one video: named by path, size and time of its source, and its range of frames
        3c/3c5d...e1.npy.x7f3.partial being written, under a lock; swept where its writer is dead

    writer      partial (locked) --write, sync--> rename --> complete      killed at any point: only `partial` is left
    reader                                                   complete --map--> touches the pages of its clip only

Any process that needs a video and does not find it decodes it and writes it. Two may do it at once: each has its own
partial file, and the second rename puts the same frames in the first one's place.
"""

import fcntl
import hashlib
import logging
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from datamodules.decoding import resolve_decoder, scaled_size

if TYPE_CHECKING:
    from datamodules.video_dataset import ClipOptions, Video

DEFAULT_FOLDER = Path(".skip-sideways") / "frames"
_PARTIAL = ".partial"
_HEADER_BYTES = 128  # of a .npy file of four dimensions
_FORMAT = 1  # counts up when the same options give other pixels
GIB = 2**30

log = logging.getLogger(__name__)


def pixels_name(dataset_name: str, options: "ClipOptions") -> str:
    """Return the folder's name: the dataset and a hash of all options that change the pixels of a stored frame."""
    o = options
    said = [_FORMAT, o.size + o.margin, o.fit, o.grayscale, o.background, resolve_decoder(o.decoder)]
    return f"{dataset_name}-{hashlib.sha256(repr(said).encode()).hexdigest()[:8]}"


def frame_bytes(video: "Video", options: "ClipOptions") -> int:
    """Return the bytes of one stored frame of a video."""
    assert video.facts is not None
    height, width = scaled_size(video.facts.height, video.facts.width, options.size + options.margin, options.fit)
    return height * width * options.channels


class FrameCache:
    """The cache of one dataset's videos for one choice of pixels.

    Args:
        folder: of all caches; the dataset's own folder is made in it.
        dataset_name: what the dataset is called.
        options: what clips look like.
    """

    def __init__(self, folder: Path, dataset_name: str, options: "ClipOptions") -> None:
        self.folder = folder / pixels_name(dataset_name, options)
        self.options = options
        self._files: dict[tuple[Path, int], tuple[tuple[int, int], Path]] = {}
        # Shared with loader workers: where nothing can be written, one process says so and none tries again.
        self._closed = torch.zeros(1, dtype=torch.uint8).share_memory_()

    def frames(self, video: "Video", decode: Callable[[], Tensor]) -> Tensor:
        """Return all frames of a video, mapped; `decode` gives them where the cache does not have them yet.

        OSError where the source is gone before this process has seen it.
        """
        file = self.file(video)
        mapped = _mapped(file)
        if mapped is not None:
            return mapped
        frames = decode()
        # What breaks off, or changed meanwhile, must not be found under the name of the whole file.
        if len(frames) == video.frames and self.file(video) == file and not self._closed.item():
            self._write(file, frames.numpy())
        return frames

    def file(self, video: "Video") -> Path:
        """Return where a video's frames are kept, of its source as it is now (as it was, if it is there no more)."""
        key = (video.path, video.first)
        known = self._files.get(key)
        try:
            stat = os.stat(video.path)
        except OSError:
            if known is None:
                raise
            return known[1]
        state = (stat.st_size, stat.st_mtime_ns)
        if known is None or known[0] != state:
            said = repr((os.path.abspath(video.path), state, video.first, video.frames))
            name = hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()[:32]
            known = self._files[key] = state, self.folder / name[:2] / f"{name}.npy"
        return known[1]

    def prepare(self, videos: Sequence["Video"]) -> str:
        """Make the folder, sweep what dead writers left, and return a line on the space that is needed and there.

        ValueError where it does not suffice, or nothing may be written there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"no frame cache in {self.folder}: {error.strerror}. Set --data.cache_dir") from error
        self._sweep()
        expected = sum(video.frames * frame_bytes(video, self.options) for video in videos)
        absent = [video for video in videos if not self._is_there(video)]
        needed = sum(video.frames * frame_bytes(video, self.options) for video in absent)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ValueError(
                f"the cache of {len(videos)} videos needs {needed} bytes ({needed / GIB:.1f} GiB) more in "
                f"{self.folder}, {free} bytes ({free / GIB:.1f} GiB) are free. Set --data.cache_dir to a larger disk, "
                "--data.cache none, or a smaller --data.size"
            )
        return (
            f"frame cache: {len(videos)} videos, {expected / GIB:.2f} GiB in {self.folder}; {needed / GIB:.2f} GiB of "
            f"them to be written at first use, {free / GIB:.1f} GiB free"
        )

    def _is_there(self, video: "Video") -> bool:
        try:
            return self.file(video).exists()
        except OSError:  # the source went away since the table was read; training will count it
            return True

    def _write(self, file: Path, frames: np.ndarray) -> None:
        try:
            write_whole(file, frames)
        except OSError as error:
            if self._closed.item():
                return
            self._closed.fill_(1)
            log.warning(
                "the frame cache %s takes no more (%s): videos that it lacks are decoded at each use. Make room, or "
                "set --data.cache_dir",
                self.folder,
                error.strerror,
            )

    def _sweep(self) -> None:
        """Delete the partial files whose writers are dead: nobody holds their locks."""
        for partial in self.folder.glob(f"*/*{_PARTIAL}"):
            with suppress(OSError), partial.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()


def write_whole(file: Path, frames: np.ndarray) -> None:
    """Write an array as .npy, whole or not at all, whatever happens to this process; OSError where it can't be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f"{file.name}.", suffix=_PARTIAL, delete=False) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
            np.lib.format.write_array(stream, np.ascontiguousarray(frames), version=(1, 0), allow_pickle=False)
            _sync(stream)
            os.replace(stream.name, file)
        except BaseException:  # not only errors: an interrupt as well
            with suppress(OSError):
                os.unlink(stream.name)
            raise


def _sync(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())  # a rename may reach the disk before the content does


def _mapped(file: Path) -> Tensor | None:
    """Return the frames of a complete file without reading them; None where there is no such file."""
    try:
        with file.open("rb") as stream:
            # Copy on write, so that torch may hold it; nothing is copied unless somebody writes.
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        shape, offset = _shape(content[:_HEADER_BYTES])
        return torch.frombuffer(content, dtype=torch.uint8, offset=offset, count=math.prod(shape)).view(shape)
    except FileNotFoundError:
        return None
    except ValueError:  # cut short by something that is not us, as a copy that broke off: made anew
        return None


@lru_cache
def _shape(head: bytes) -> tuple[tuple[int, ...], int]:
    """Return the shape that the head of a .npy file states, and where its values begin."""
    stream = BytesIO(head)
    np.lib.format.read_magic(stream)
    shape, _, _ = np.lib.format.read_array_header_1_0(stream)
    return shape, stream.tell()
