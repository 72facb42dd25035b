"""Clips of video files as a map-style dataset.

file -> decode at the training size -> grey -> background -> (cache) | -> clip -> cut, mirror -> float in [0, 1]
        whole video, uint8, once where it is kept in memory           | per item (epoch, index)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from datamodules.background import BACKGROUNDS, subtract
from datamodules.clips import clip_rng, span, train_start, view_starts
from datamodules.decoding import DECODERS, FITS, decode
from datamodules.loader import Key
from datamodules.transforms import apply_choice, centre_choice, grey, random_choice, to_float

CACHES = ("memory", "none")


@dataclass(frozen=True)
class Video:
    """One video file: where it is, its name in the dataset, its class, and how many frames decode."""

    path: Path
    video_id: str
    label: int
    frames: int


@dataclass(frozen=True)
class ClipOptions:
    """What a clip of a video looks like. `margin`: pixels decoded beyond `size`, room for the random cut."""

    frames: int
    size: int
    stride: int
    fit: str
    margin: int
    flip: bool
    grayscale: bool
    background: str
    decoder: str

    def __post_init__(self) -> None:
        for name, allowed in (("fit", FITS), ("background", BACKGROUNDS), ("decoder", ("auto", *DECODERS))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        if min(self.frames, self.size, self.stride) < 1 or self.margin < 0:
            raise ValueError(f"frames, size and stride must be >= 1, margin >= 0; given {self}")


class FrameStore:
    """Gives videos' frames at the training size, uint8, after background subtraction, and may keep them in memory."""

    def __init__(self, options: ClipOptions, cache: str) -> None:
        if cache not in CACHES:
            raise ValueError(f"cache {cache!r}: expected one of {', '.join(CACHES)}")
        self.options, self.cache = options, cache
        self._kept: dict[Path, Tensor] = {}

    def frames(self, path: Path, start: int, count: int) -> Tensor:
        """Return frames start to start + count, x_TCHW uint8."""
        if self.cache == "memory":
            return self.whole(path)[start : start + count]
        if self.options.background == "none":
            return self._read(path, start, count)
        return self._read(path, 0, start + count)[start:]  # the background is made of all frames before

    def whole(self, path: Path) -> Tensor:
        """Return all frames of a video, kept in memory from the first call on."""
        if path not in self._kept:
            self._kept[path] = self._read(path, 0, None)
        return self._kept[path]

    def _read(self, path: Path, start: int, count: int | None) -> Tensor:
        o = self.options
        frames = range(start, start + count) if count is not None else None
        video = decode(path, decoder=o.decoder, frames=frames, size=o.size + o.margin, fit=o.fit)
        return subtract(grey(video) if o.grayscale else video, o.background)


class TrainClips(Dataset):
    """`clips_per_video` random clips of each video an epoch; every choice is a function of (seed, epoch, index)."""

    def __init__(self, videos: Sequence[Video], store: FrameStore, *, seed: int, clips_per_video: int) -> None:
        self.videos, self.store, self.seed = list(videos), store, seed
        self.clips = len(self.videos) * clips_per_video

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        o, number = self.store.options, index % len(self.videos)
        video = self.videos[number]
        start = train_start(self.seed, epoch, index, n_frames=video.frames, frames=o.frames, stride=o.stride)
        frames = self.store.frames(video.path, start, span(o.frames, o.stride))
        rng = clip_rng(self.seed, epoch, index, "transform")
        choice = random_choice(rng, *frames.shape[-2:], size=o.size, flip=o.flip)
        return _item(video, number, start, apply_choice(frames[:: o.stride], choice, o.size), o.frames)


class EvalClips(Dataset):
    """The test views of each video, evenly spaced, cut from the middle; item (0, index), the same every time."""

    def __init__(self, videos: Sequence[Video], store: FrameStore, *, views: int) -> None:
        self.videos, self.store = list(videos), store
        o = store.options
        self.clips = [
            (number, start)
            for number, video in enumerate(self.videos)
            for start in view_starts(n_frames=video.frames, frames=o.frames, stride=o.stride, views=views)
        ]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        number, start = self.clips[key[1]]
        video, o = self.videos[number], self.store.options
        frames = self.store.frames(video.path, start, span(o.frames, o.stride))
        choice = centre_choice(*frames.shape[-2:], size=o.size)
        return _item(video, number, start, apply_choice(frames[:: o.stride], choice, o.size), o.frames)


def _item(video: Video, number: int, start: int, frames_TCHW: Tensor, frames: int) -> dict[str, Any]:
    return {
        "video": to_float(frames_TCHW, frames),
        "label": video.label,
        "length": len(frames_TCHW),
        "video_index": number,
        "clip_id": f"{video.video_id}@{start}",
    }
