"""Clips of video files as a map-style dataset.

file -> decode at the training size -> grey -> background -> (cache) | -> clip -> cut, mirror, augment -> uint8
        whole video, uint8, once where it is kept                     | per item (epoch, index)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.background import BACKGROUNDS
from datamodules.clips import (
    Timeline,
    clip_length,
    clip_rng,
    frames_at,
    frames_in_all,
    timeline,
    train_start,
    train_start_at,
    view_starts,
    view_starts_at,
)
from datamodules.decoding import DECODERS, FITS, DecodingError, VideoFacts
from datamodules.faults import Fault
from datamodules.frame_store import FrameSource, FrameStore
from datamodules.loader import Key
from datamodules.transforms import Augmentations, apply_choice, crop_choice, padded, random_choice

__all__ = ["ClipOptions", "EvalClips", "FrameStore", "TrainClips", "Video"]


@dataclass(frozen=True, slots=True)
class Video:
    """One video: a file, or a range of a longer one.

    Args:
        path: the file.
        video_id: name in the dataset.
        label: class index.
        frames: that the video has.
        first: number of its first frame in the file.
        facts: what the table says of the file.
    """

    path: Path
    video_id: str
    label: int
    frames: int
    first: int = 0
    facts: VideoFacts | None = None

    @property
    def timeline(self) -> Timeline:
        """When its frames are on screen, from its first frame on."""
        assert self.facts is not None
        tick_s = float(Fraction(self.facts.time_base)) if self.facts.pts else 0.0
        return timeline(self.facts.times_s()[self.first : self.first + self.frames], self.facts.fps, tick_s)


@dataclass(frozen=True)
class ClipOptions:
    """What a clip of a video looks like. `margin`: pixels decoded beyond `size`, room for the random cut.

    `fps`: the clip's frame rate; None: every `stride`-th frame of the file.
    """

    frames: int
    size: int
    stride: int
    fit: str
    margin: int
    flip: bool
    grayscale: bool
    background: str
    decoder: str
    fps: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("fit", FITS), ("background", BACKGROUNDS), ("decoder", ("auto", *DECODERS))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        if min(self.frames, self.size, self.stride) < 1 or self.margin < 0:
            raise ValueError(f"frames, size and stride must be >= 1, margin >= 0; given {self}")
        if self.fps is not None and (self.fps <= 0 or self.stride > 1):
            raise ValueError(
                f"fps {self.fps:g} with stride {self.stride}: expected fps > 0, and with it stride 1: frames are "
                "chosen by time or by number. Halve fps instead of taking every second frame."
            )

    @property
    def channels(self) -> int:
        """1 with `grayscale`, else 3."""
        return 1 if self.grayscale else 3

    @property
    def rate(self) -> str:
        """How frames are chosen, as "at 12.5 fps" or "at stride 2"; "" where every frame is taken."""
        if self.fps is not None:
            return f"at {self.fps:g} fps"
        return f"at stride {self.stride}" if self.stride > 1 else ""

    def nothing(self) -> Tensor:
        """Return a clip of no frames, (0, C, size, size) uint8."""
        return torch.empty(0, self.channels, self.size, self.size, dtype=torch.uint8)

    def length(self, video: Video) -> int:
        """Return how many real frames the first clip of a video has, at most `frames`."""
        return min(self.frames, self.frames_in_all(video))

    def frames_in_all(self, video: Video) -> int:
        """Return how many frames a clip as long as the video has."""
        if self.fps is not None:
            return frames_in_all(video.timeline, self.fps)
        return -(-video.frames // self.stride)

    def numbers(self, video: Video, start: int) -> np.ndarray:
        """Return the frames of the video that the clip from frame `start` takes, int64, at most `frames`."""
        if self.fps is not None:
            return frames_at(video.timeline, start, frames=self.frames, fps=self.fps)
        length = clip_length(video.frames - start, self.frames, self.stride)
        return start + self.stride * np.arange(length)

    def train_start(self, video: Video, key: tuple[int, int, int]) -> int:
        """Return the first frame of the training clip of (seed, epoch, index)."""
        if self.fps is not None:
            return train_start_at(*key, line=video.timeline, frames=self.frames, fps=self.fps)
        return train_start(*key, n_frames=video.frames, frames=self.frames, stride=self.stride)

    def view_starts(self, video: Video, views: int) -> list[int]:
        """Return the first frames of the test views, evenly spaced; fewer where the video is short."""
        if self.fps is not None:
            return view_starts_at(line=video.timeline, frames=self.frames, fps=self.fps, views=views)
        return view_starts(n_frames=video.frames, frames=self.frames, stride=self.stride, views=views)


class TrainClips(Dataset):
    """`clips_per_video` random clips of each video an epoch; every choice is a function of (seed, epoch, index).

    An item that cannot be decoded now is a Fault, which the loader leaves out and counts.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        store: FrameStore,
        *,
        seed: int,
        clips_per_video: int,
        augmentations: Augmentations | None = None,
    ) -> None:
        self.videos, self.store, self.seed = list(videos), store, seed
        self.clips = len(self.videos) * clips_per_video
        self.augmentations = augmentations or Augmentations(store.options.size, None, [])

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, key: Key) -> dict[str, Any] | Fault:
        epoch, index = key
        o, number = self.store.options, index % len(self.videos)
        video = self.videos[number]
        start = o.train_start(video, (self.seed, epoch, index))
        try:
            frames = _read(self.store, video, start)
        except (DecodingError, OSError) as error:
            return Fault(video.video_id, str(error), _item(video, number, "", o.nothing(), o.frames))
        rng = clip_rng(self.seed, epoch, index, "transform")
        choice = random_choice(rng, *frames.shape[-2:], size=o.size, flip=o.flip)
        clip = self.augmentations(frames, choice, (self.seed, epoch, index))
        return _item(video, number, f"@{start}", clip, o.frames)


class EvalClips(Dataset):
    """The test clips of each video, evenly spaced views times crops; item (0, index), the same every time.

    One crop is the middle; several are evenly spaced along the longer side.
    """

    def __init__(self, videos: Sequence[Video], store: FrameStore, *, views: int, crops: int = 1) -> None:
        self.videos, self.store, self.crops = list(videos), store, crops
        self.clips = [
            (number, start, crop)
            for number, video in enumerate(self.videos)
            for start in store.options.view_starts(video, views)
            for crop in range(crops)
        ]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        number, start, crop = self.clips[key[1]]
        video, o = self.videos[number], self.store.options
        frames = _read(self.store, video, start)
        choice = crop_choice(*frames.shape[-2:], size=o.size, crop=crop, crops=self.crops)
        place = f"@{start}" if self.crops == 1 else f"@{start}.{crop}"
        return _item(video, number, place, apply_choice(frames, choice, o.size), o.frames)


def _read(store: FrameStore, video: Video, start: int) -> Tensor:
    """Return the frames of a clip, x_TCHW uint8."""
    return read_frames(store, video, store.options.numbers(video, start))


def read_frames(store: FrameSource, video: Video, numbers: np.ndarray) -> Tensor:
    """Return frames of a video, x_TCHW uint8; DecodingError where the file gives fewer than the table promised."""
    frames = store.frames(video, numbers)
    if len(frames) < len(numbers):
        raise DecodingError(
            f"{video.path}: {len(frames)} of {len(numbers)} frames from {video.first + int(numbers[0])} on decode, "
            f"though the table says {video.first + video.frames}: did the file change?"
        )
    return frames


def _item(video: Video, number: int, place: str, frames_TCHW: Tensor, frames: int) -> dict[str, Any]:
    return {
        "video": padded(frames_TCHW, frames),
        "label": video.label,
        "length": len(frames_TCHW),
        "video_index": number,
        "clip_id": f"{video.video_id}{place}",
    }
