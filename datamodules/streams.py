"""Videos as streams: each is read from its first frame to its last, as consecutive clips ("pieces") of T frames.

Lanes of a batch start videos together, and the group goes on until the longest is over. T = 4, a group of three:

    piece     0      1      2     | 0      1           next group
    lane 0    aaaa   aaaa   aa..  | dddd   ....
    lane 1    bbbb   bbb.   ....  | eeee   ee..        `.`: the lane's video has ended; its `length` says where
    lane 2    cccc   cccc   c...  | ffff   fff.

A model keeps its state between the pieces of a group: `piece` counts from 0, which starts new videos. Videos of as many
pieces go together, so that few lanes are empty: they are sorted by their number of pieces, equal ones in the epoch's
random order, and then the groups are shuffled. So every epoch has the same number of batches, and all is a function of
(seed, epoch).

Shape legend: B lanes, T frames of a piece, C channels, S side in pixels, V videos.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.clips import clip_rng
from datamodules.decoding import DecodingError
from datamodules.faults import Collated
from datamodules.frame_store import FrameSource
from datamodules.loader import EpochSampler, EvalLoader, Key, OnFault, ResumableLoader, epoch_order
from datamodules.transforms import Augmentations, apply_choice, crop_choice, random_choice
from datamodules.video_dataset import ClipOptions, Video, read_frames


def whole_video(options: ClipOptions, video: Video) -> np.ndarray:
    """Return the frames that a stream takes of a video, int64: all of them, every `stride`-th, or at `fps`."""
    return replace(options, frames=options.frames_in_all(video)).numbers(video, 0)


def stream_groups(pieces_V: np.ndarray, lanes: int, order_V: np.ndarray) -> list[np.ndarray]:
    """Return groups of at most `lanes` videos with nearly as many pieces, those with most pieces first.

    Args:
        pieces_V: pieces of each video.
        lanes: videos of a group; the last one has what is left.
        order_V: the videos in the order in which equal ones are taken.
    """
    by_pieces = order_V[np.argsort(-pieces_V[order_V], kind="stable")]
    return [by_pieces[start : start + lanes] for start in range(0, len(by_pieces), lanes)]


def epoch_groups(seed: int, epoch: int, pieces_V: np.ndarray, lanes: int) -> list[np.ndarray]:
    """Return the groups of a training epoch: a pure function of (seed, epoch)."""
    groups = stream_groups(pieces_V, lanes, epoch_order(seed, epoch, len(pieces_V)))
    return [groups[i] for i in epoch_order(seed, epoch, len(groups))]


class Streams(Dataset):
    """Item (epoch, n) is the n-th batch of an epoch: one piece of a group of videos.

    A batch has `video` (B, T, C, S, S) uint8; `label`, `length` (0 where a lane's video is over), `video_index` and
    `last` (the lane's video ends here), all (B,); `clip_id`, B names of videos; and numbers for all lanes: `piece`,
    from 0, and `start`, the frames before it.

    Args:
        videos: of a split.
        store: gives their frames.
        lanes: videos read side by side, B.
        seed: of the order and the augmentation.
        training: shuffled and augmented, one choice a video and epoch; a piece that cannot be decoded now is reported
            and counts no frames. Otherwise in a fixed order, cut from the middle, and such a piece is an error.
        augmentations: of training videos.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        store: FrameSource,
        *,
        lanes: int,
        seed: int = 0,
        training: bool = False,
        augmentations: Augmentations | None = None,
    ) -> None:
        self.videos, self.store, self.lanes, self.seed, self.training = list(videos), store, lanes, seed, training
        self.augmentations = augmentations or Augmentations(store.options.size, None, [])
        self.frames_V = np.array([store.options.frames_in_all(video) for video in self.videos], dtype=np.int64)
        self.pieces_V = -(-self.frames_V // store.options.frames)
        self._epoch: int | None = None
        self._groups: list[np.ndarray] = []

    def __len__(self) -> int:
        groups = stream_groups(self.pieces_V, self.lanes, np.arange(len(self.videos)))
        return int(sum(self.pieces_V[group[0]] for group in groups))

    def place(self, key: Key) -> tuple[np.ndarray, int]:
        """Return the group of videos and the piece that an item is."""
        epoch, number = key
        if self._epoch != epoch:
            self._epoch, self._groups = epoch, self._epoch_groups(epoch)
        ends = np.cumsum([self.pieces_V[group[0]] for group in self._groups])
        at = int(np.searchsorted(ends, number, side="right"))
        return self._groups[at], number - int(ends[at - 1] if at else 0)

    def _epoch_groups(self, epoch: int) -> list[np.ndarray]:
        if self.training:
            return epoch_groups(self.seed, epoch, self.pieces_V, self.lanes)
        return stream_groups(self.pieces_V, self.lanes, np.arange(len(self.videos)))

    def __getitem__(self, key: Key) -> dict[str, Any] | Collated:
        group, piece = self.place(key)
        start = piece * self.store.options.frames
        lanes, faults = [], []
        for number in group.tolist():
            try:
                lanes.append(self._lane(key[0], number, start))
            except (DecodingError, OSError) as error:
                if not self.training:
                    raise
                lanes.append(self.store.options.nothing())
                faults.append((self.videos[number].video_id, str(error)))
        batch = {
            "video": _side_by_side(lanes),
            "label": torch.tensor([self.videos[number].label for number in group]),
            "length": torch.tensor([len(frames) for frames in lanes]),
            "video_index": torch.from_numpy(group.copy()),
            "clip_id": [self.videos[number].video_id for number in group],
            "last": torch.from_numpy(self.pieces_V[group] == piece + 1),
            "piece": piece,
            "start": start,
        }
        return Collated(batch, faults) if faults else batch

    def _lane(self, epoch: int, number: int, start: int) -> Tensor:
        """Return the frames of one video's piece (n, C, S, S), none where it is over."""
        o, video = self.store.options, self.videos[number]
        numbers = whole_video(o, video)[start : start + o.frames]
        if not len(numbers):
            return self.store.options.nothing()
        frames = read_frames(self.store, video, numbers)
        height, width = frames.shape[-2:]
        if not self.training:
            return apply_choice(frames, crop_choice(height, width, size=o.size, crop=0, crops=1), o.size)
        rng = clip_rng(self.seed, epoch, number, "transform")  # of the video, not of the piece
        choice = random_choice(rng, height, width, size=o.size, flip=o.flip)
        return self.augmentations(frames, choice, (self.seed, epoch, number))


def _side_by_side(lanes: Sequence[Tensor]) -> Tensor:
    """Return the lanes' frames as one tensor (B, T, C, S, S), T the longest lane's, zeros where a lane has none."""
    longest = max(1, *(len(frames) for frames in lanes))
    out = torch.zeros(len(lanes), longest, *lanes[0].shape[1:], dtype=torch.uint8)
    for lane, frames in zip(out, lanes, strict=True):
        lane[: len(frames)] = frames
    return out


def train_stream_loader(
    streams: Dataset, *, num_workers: int, seed: int, on_fault: OnFault | None = None
) -> ResumableLoader:
    """Return the resumable loader of a training split's streams, a sized dataset whose items are batches."""
    sampler = EpochSampler(len(streams), seed=seed, shuffle=False, numbered=True)  # type: ignore[arg-type]
    return ResumableLoader(
        streams,
        sampler=sampler,
        on_fault=on_fault,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def eval_stream_loader(streams: Dataset, *, num_workers: int) -> DataLoader:
    """Return the loader of streams for validation, test and prediction: every video once, in a fixed order."""
    sampler = EpochSampler(len(streams), seed=0, shuffle=False)  # type: ignore[arg-type]
    return EvalLoader(streams, sampler=sampler, batch_size=None, collate_fn=_as_it_is, num_workers=num_workers)


def check_one_view(views: int, crops: int, clips_per_video: int) -> None:
    """Refuse views, crops and clips of a video where the whole of it is one stream.

    Raises:
        ValueError: with what to type instead.
    """
    given = {"views": views, "crops": crops, "clips_per_video": clips_per_video}
    if more := {name: value for name, value in given.items() if value != 1}:
        said = ", ".join(f"{name} {value}" for name, value in more.items())
        raise ValueError(f"stream with {said}: a stream is the whole video, once; leave {', '.join(more)} at 1")


def _as_it_is(batch: Any) -> Any:
    return batch
