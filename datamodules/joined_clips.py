"""Long streams of real video: clips one after the other, and a question about the first of them.

    step      0 .. cue      |  gap                                  | question
    frame     a part of     |  whole clips, drawn at random         | checkerboard
              one clip      |  walk walk walk, bend bend, jump ...  |
    target    its class     |  the class that is seen               | the first clip's class

Frames are read from the videos when they are asked for; of a stream only its list of clips is made.

Legend: B lanes, N steps asked for, P clips of a stream, V videos, C channels, S side in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.counter_random import below, hashed
from datamodules.cued_frames import question_frame
from datamodules.frame_store import FrameStore
from datamodules.lanes import IGNORE, Lanes, StreamSource, names, roots, same_length
from datamodules.loader import Key
from datamodules.video_dataset import ClipOptions, Video, read_frames

_CUE, _START, _CLIP = range(3)  # of a stream
_VIDEO, _MIRROR = range(2)  # of a clip


@dataclass(frozen=True)
class Shelf:
    """Videos of a split and how their frames are kept; in another process it is the same videos, read anew.

    Args:
        videos: with facts.
        root: folder of the data.
        options: of the frames; `margin` 0 and `fit` squash, so that a frame is (C, S, S).
        cache: as in FrameStore.
        dataset_name: as in FrameStore.
        cache_dir: as in FrameStore.
    """

    videos: tuple[Video, ...]
    root: Path
    options: ClipOptions
    cache: str
    dataset_name: str
    cache_dir: str | None

    @property
    def store(self) -> FrameStore:
        """This process's store of these frames."""
        return shared_store(self.root, self.options, self.cache, self.dataset_name, self.cache_dir)


@lru_cache(maxsize=4)
def shared_store(root: Path, options: ClipOptions, cache: str, dataset_name: str, cache_dir: str | None) -> FrameStore:
    """Return the store that a process has of a folder's frames: lanes that come from workers must not carry them."""
    return FrameStore(options, cache, dataset_name=dataset_name, cache_dir=cache_dir)


@dataclass(frozen=True)
class JoinedOptions:
    """Lengths of a stream's parts in frames, and whether half of the training clips are mirrored."""

    cue_frames: int
    gap: int
    question_frames: int
    flip: bool

    def __post_init__(self) -> None:
        for name, least in (("cue_frames", 1), ("gap", 0), ("question_frames", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} {getattr(self, name)}: expected {least} or more frames. Give --data.{name} {least}."
                )

    @property
    def steps(self) -> int:
        """Frames of a stream."""
        return self.cue_frames + self.gap + self.question_frames


@dataclass(frozen=True)
class Playlist:
    """Which clips streams are made of, the cue first; arrays (B, P).

    Args:
        video: numbers of the videos.
        begin: step of the clip's first frame.
        first: number of that frame in its video.
        mirrored: whether it is mirrored.
    """

    video: np.ndarray
    begin: np.ndarray
    first: np.ndarray
    mirrored: np.ndarray

    def only(self, rows: np.ndarray) -> "Playlist":
        """Return some streams of it."""
        return Playlist(self.video[rows], self.begin[rows], self.first[rows], self.mirrored[rows])


def playlist(roots_B: np.ndarray, cue_B: np.ndarray, frames_V: np.ndarray, options: JoinedOptions) -> Playlist:
    """Return the clips of streams: part of the cue's video, then whole ones at random until the gap is full.

    Args:
        roots_B: what streams are drawn from, uint64.
        cue_B: the videos of the cues.
        frames_V: frames of each video, at least `cue_frames`.
        options: lengths.
    """
    most = -(-options.gap // int(frames_V.min()))
    drawn_BP = hashed(roots_B[:, None], _CLIP, np.arange(1 + most))
    video_BP = below(len(frames_V), drawn_BP, _VIDEO)
    video_BP[:, 0] = cue_B
    end_BP = options.cue_frames + np.cumsum(frames_V[video_BP], axis=1) - frames_V[cue_B][:, None]
    begin_BP = np.concatenate([np.zeros_like(end_BP[:, :1]), end_BP[:, :-1]], axis=1)
    first_BP = np.zeros_like(begin_BP)
    first_BP[:, 0] = below(frames_V[cue_B] - options.cue_frames + 1, roots_B, _START)
    mirrored_BP = (below(2, drawn_BP, _MIRROR) == 1) & options.flip
    used = (begin_BP < options.cue_frames + options.gap).any(0)
    return Playlist(video_BP[:, used], begin_BP[:, used], first_BP[:, used], mirrored_BP[:, used])


class JoinedLanes(Lanes):
    """Streams side by side: x (B, N, C, S, S) uint8, y (B, N) the class that is seen, or asked for.

    Args:
        ids: names of the streams.
        clips: what they are made of.
        shelf: the videos.
        options: lengths.
    """

    def __init__(self, ids: Sequence[str], clips: Playlist, shelf: Shelf, options: JoinedOptions) -> None:
        answers_A = torch.arange(options.steps - options.question_frames, options.steps)
        super().__init__(ids, same_length(options.steps, len(ids)), answers_A.repeat(len(ids), 1))
        self.clips, self.shelf, self.options = clips, shelf, options

    def only(self, rows: Tensor) -> "JoinedLanes":
        """Return lanes `rows` of these."""
        chosen = rows.numpy()
        ids = [self.ids[row] for row in chosen.tolist()]
        return JoinedLanes(ids, self.clips.only(chosen), self.shelf, self.options)

    def read(self, steps_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames and classes; outside a stream black, and nothing asked. DecodingError where a file broke."""
        steps, inside = steps_BN.numpy(), self.inside(steps_BN).numpy()
        question = inside & (steps >= self.options.steps - self.options.question_frames)
        clip = np.maximum((steps[..., None] >= self.clips.begin[:, None]).sum(-1) - 1, 0)
        clip[question] = 0
        video, begin, first = (_of(part, clip) for part in (self.clips.video, self.clips.begin, self.clips.first))
        x = self._frames(video, first + steps - begin, inside & ~question)
        mirrored = torch.from_numpy(_of(self.clips.mirrored, clip))
        x[mirrored] = x[mirrored].flip(-1)
        x[torch.from_numpy(question)] = torch.from_numpy(255 * question_frame(x.shape[-1])).byte()
        labels = np.array([video.label for video in self.shelf.videos])
        return x, torch.from_numpy(np.where(inside, labels[video], IGNORE))

    def _frames(self, video_BN: np.ndarray, number_BN: np.ndarray, wanted_BN: np.ndarray) -> Tensor:
        """Return the frames of that number of the videos, black where none is wanted; each video is read once."""
        store, o = self.shelf.store, self.shelf.options
        x = torch.zeros(*video_BN.shape, o.channels, o.size, o.size, dtype=torch.uint8)
        for number in np.unique(video_BN[wanted_BN]).tolist():
            b, n = np.nonzero(wanted_BN & (video_BN == number))
            ascending = np.argsort(number_BN[b, n], kind="stable")
            b, n = b[ascending], n[ascending]
            x[torch.from_numpy(b), torch.from_numpy(n)] = read_frames(store, self.shelf.videos[number], number_BN[b, n])
        return x


class JoinedSource(StreamSource):
    """Streams of a split; in evaluation each video is the cue equally often, and nothing is mirrored.

    Args:
        split: `train`, `val` or `test`.
        streams: of an epoch.
        shelf: the split's videos.
        options: lengths.
        seed: of the training streams.
    """

    def __init__(self, split: str, streams: int, shelf: Shelf, options: JoinedOptions, seed: int) -> None:
        super().__init__(np.full(streams, options.steps))
        self.split, self.shelf, self.seed = split, shelf, seed
        self.options = replace(options, flip=options.flip and split == "train")
        self.frames_V = np.array([video.frames for video in shelf.videos])

    def lanes(self, keys: Sequence[Key]) -> JoinedLanes:
        """Return streams side by side."""
        roots_B, videos = roots(self.split, self.seed, keys), len(self.frames_V)
        if self.split == "train":
            cue_B = below(videos, roots_B, _CUE)
        else:
            cue_B = np.array([index for _, index in keys], dtype=np.int64) % videos
        clips = playlist(roots_B, cue_B, self.frames_V, self.options)
        return JoinedLanes(names(self.split, keys), clips, self.shelf, self.options)


def _of(part_BP: np.ndarray, clip_BN: np.ndarray) -> np.ndarray:
    return np.take_along_axis(part_BP, clip_BN, axis=1)
