"""VideoData: clips of video files, whatever list they come from.

    leaf (UCF101, VideoFolder, ...)  --Listing-->  VideoData  --table of videos-->  clips  -->  loaders

A leaf finds out which videos there are and how they are split; everything else is here, and the same for all of them.
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.clips import cut_range
from datamodules.decoding import VideoFacts, resolve_decoder
from datamodules.faults import fault, refuse, skip
from datamodules.index import IndexRow, load_index
from datamodules.listing import SPLITS, Entry, Listing
from datamodules.loader import eval_loader, train_loader
from datamodules.streams import Streams, check_one_view, eval_stream_loader, train_stream_loader
from datamodules.transforms import Augmentations
from datamodules.video_dataset import ClipOptions, EvalClips, FrameStore, TrainClips, Video

_STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
_SCORED = {"validate": "val", "test": "test", "predict": "test"}

log = logging.getLogger(__name__)


class VideoData(LightningDataModule, ABC):
    """Clips of video files, (T, C, size, size) uint8 in [0, 255].

    The first setup reads every file once and keeps a table (see index.py). `fit` leaves out broken videos and those
    too short (`min_frames` to learn from, `min_scored_frames` to validate on), and says how many; `validate` and `test`
    refuse them with the list.

    Args:
        listing: the videos, by split.
        frames: frames of a clip, T. A shorter video is used whole, with its `length`; the rest is zeros.
        size: side of the square clip in pixels.
        batch_size: clips a batch.
        num_workers: loader processes.
        seed: of the training clips and their order; the split does not depend on it.
        fps: frame rate of the clips: frames are chosen by their time stamps, a slower file shows frames twice; none if
            unset: the files' own frames.
        stride: take every stride-th frame of the file; not together with fps.
        views: test clips per video, evenly spaced in time; fewer where the video is too short for so many.
        crops: test cuts per view: 1 is the middle, 3 are spread along the longer side; a video's score is the mean.
        clips_per_video: random training clips of each video an epoch.
        background: subtract the running `median` or `mean` of the video so far, or `none`.
        grayscale: one channel instead of three.
        fit: `crop` scales the short side and cuts a square, `squash` scales both sides and loses nothing.
        margin: decode this many pixels more than `size` and cut: at random for training, in the middle for the test.
        flip: mirror half of the training clips, whole clips at a time. Not where left and right matter.
        crop_scale: smallest and largest share of the area that a random resized crop of a training clip keeps, as
            [0.5, 1.0]; none if unset.
        augmentations: transforms of uint8 training clips (T, C, size, size), one random choice a clip, as
            torchvision.transforms.v2.ColorJitter.
        cache: `memory` keeps all videos, uint8 at training size; `disk` keeps them in files, for later runs as well;
            `none` decodes each clip anew.
        cache_dir: folder of the cache on the disk; `.skip-sideways/frames` if unset.
        decoder: `pyav`, `torchcodec` or `pytorchvideo`, or `auto`: the fastest that works everywhere.
        jobs: threads that make the table; 0 is one a core.
        stream: read whole videos, batch_size of them side by side, as consecutive clips between which the pipeline's
            state is kept; for rule sideways with executor pipelined, and for backprop_frame.
    """

    dataset_name: str
    min_frames = 1  # for training
    min_scored_frames: int | None = None  # for an answer; None: as for training
    index_check = "decode"
    # What to type for other videos in the validation and the test split: for warnings and errors.
    val_options = ""
    test_options = ""

    def __init__(
        self,
        listing: Listing,
        *,
        frames: int = 16,
        size: int = 64,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        fps: float | None = None,
        stride: int = 1,
        views: int = 1,
        crops: int = 1,
        clips_per_video: int = 1,
        background: str = "none",
        grayscale: bool = False,
        fit: str = "crop",
        margin: int = 0,
        flip: bool = True,
        crop_scale: list[float] | None = None,
        augmentations: list[torch.nn.Module] | None = None,
        cache: str = "memory",
        cache_dir: str | None = None,
        decoder: str = "auto",
        jobs: int = 0,
        stream: bool = False,
    ) -> None:
        super().__init__()
        if min(batch_size, clips_per_video) < 1 or num_workers < 0:
            raise ValueError(
                f"batch_size {batch_size}, clips_per_video {clips_per_video}, num_workers {num_workers}: expected 1 or "
                "more, 1 or more, and 0 or more"
            )
        if stream:
            check_one_view(views, crops, clips_per_video)
        self.stream = stream
        self.listing, self.seed, self.jobs = listing, seed, jobs
        self.views, self.crops = views, _checked_crops(crops, views, fit)
        self.frames, self.size, self.batch_size, self.num_workers = frames, size, batch_size, num_workers
        self.clips_per_video = clips_per_video
        self.clip_options = ClipOptions(
            frames, size, stride, fit, margin, flip, grayscale, background, resolve_decoder(decoder), fps
        )
        self.augmentations = Augmentations(size, crop_scale, augmentations or [])
        self.store = FrameStore(self.clip_options, cache, dataset_name=self.dataset_name, cache_dir=cache_dir)
        self.root, self.fold, self.split_name = listing.root, listing.fold, listing.split_name
        self.class_names, self.found, self.id_hash = listing.class_names, listing.found, listing.id_hash
        self.expected, self.missing = listing.expected, listing.missing
        self.videos: dict[str, list[Video]] = {}
        self.skipped: dict[str, str] = {}

    @abstractmethod
    def folds(self) -> int:
        """Return the number of splits into training and test videos that the set has."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """1 with `grayscale`, else 3."""
        return self.clip_options.channels

    @property
    def protocol(self) -> str:
        """What a video's score is the mean of, as "10 views x 3 crops of 32 frames at 12.5 fps"."""
        o = self.clip_options
        if self.stream:
            return f"whole videos in pieces of {_counted(o.frames, 'frame')} {o.rate}".rstrip()
        clips = f"{_counted(self.views, 'view')} x {_counted(self.crops, 'crop')} of {_counted(o.frames, 'frame')}"
        return f"{clips} {o.rate}".rstrip()

    @property
    def data_hash(self) -> str:
        """16 hex digits: of the official list and the ids that are there; without such a list of paths and sizes."""
        splits = self.listing.splits
        if self.expected is None:
            lines = [f"{split} {e.path} {_bytes(self.root / e.path)}" for split in SPLITS for e in splits[split]]
        else:
            lines = [self.id_hash, *(f"{split} {e.video_id}" for split in SPLITS for e in splits.get(split, []))]
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]

    def prepare_data(self) -> None:
        """Make the table of videos once; Lightning calls this in one process of each machine, before `setup`."""
        stage = getattr(getattr(self.trainer, "state", None), "fn", None)
        self._rows(_STAGES.get(stage or "", SPLITS))

    def _rows(self, splits: Sequence[str]) -> dict[str, IndexRow]:
        """Return the rows of the splits' videos by path."""
        paths = sorted({entry.path for split in splits for entry in self.listing.splits.get(split, [])})
        return load_index(self.root, paths, check=self.index_check, jobs=self.jobs, progress=self._speaks())

    def setup(self, stage: str | None = None) -> None:
        """Read or make the table, choose the videos of the stage's splits, and decode them where they are kept."""
        splits = _STAGES.get(stage or "", SPLITS)
        rows = self._rows(splits)
        for split in splits:
            videos, faults = self._sorted_out(split, rows)
            if stage == "fit" or split == "train":
                self.skipped |= faults
                skip(list(faults.values()), split, kept=len(videos))
            else:
                refuse(list(faults.values()), split, self._check_command())
            self.videos[split] = videos
        if stage in _SCORED and not self.videos[_SCORED[stage]]:
            self._refuse_to_score_nothing(_SCORED[stage])
        if self.videos.get("val") == [] and self._speaks():
            log.warning("no video is held out of training for validation%s", self._hint("val"))
        # Where units are on several devices, only the processes that feed frames to them decode any.
        if getattr(getattr(self.trainer, "strategy", None), "feeds_frames", True):
            self._keep([video for split in splits for video in self.videos[split]])

    def _check_command(self) -> str:
        official = f"{self.dataset_name} " if self.expected is not None else ""
        return f"skip-sideways data verify {official}--root {self.root}"

    def _speaks(self) -> bool:
        return self.trainer is None or self.trainer.is_global_zero

    def _refuse_to_score_nothing(self, split: str) -> None:
        raise ValueError(
            f"{self.root} has {sum(self.found.values())} videos, none of them in the {split} split "
            f"({self.split_name}): there is nothing to score. Add videos, or choose another split{self._hint(split)}."
        )

    def _hint(self, split: str) -> str:
        options = {"val": self.val_options, "test": self.test_options}[split]
        return f" ({options})" if options else ""

    def _sorted_out(self, split: str, rows: Mapping[str, IndexRow]) -> tuple[list[Video], dict[str, str]]:
        """Return the videos of a split that can be used, and by id a line for each that cannot."""
        scored = self.min_frames if self.min_scored_frames is None else self.min_scored_frames
        needed = self.min_frames if split == "train" else scored
        found = {e.video_id: self._video(e, rows[e.path].facts, needed) for e in self.listing.splits.get(split, [])}
        good = [video for video in found.values() if isinstance(video, Video)]
        return good, {name: said for name, said in found.items() if isinstance(said, str)}

    def _video(self, entry: Entry, facts: VideoFacts, min_frames: int) -> Video | str:
        """Return the video of an entry, or why it cannot be used."""
        o = self.clip_options
        video = Video(self.root / entry.path, entry.video_id, entry.label, facts.frames, 0, facts)
        try:
            if not facts.problem and (entry.start_s, entry.end_s) != (None, None):
                first, frames = cut_range(video.timeline, entry.start_s, entry.end_s)
                video = replace(video, first=first, frames=frames)
            usable = video.frames and not facts.problem
            length = (o.frames_in_all(video) if self.stream else o.length(video)) if usable else 0
        except ValueError as error:  # no time stamps where they are needed
            return f"broken: {entry.path}: {error}"
        said = fault(entry.path, facts, frames=video.frames, length=length, rate=o.rate, min_frames=min_frames)
        return said or video

    def _keep(self, videos: Sequence[Video]) -> None:
        """Fill the memory, which worker processes then share, or look whether the disk holds what will be kept."""
        if self.store.cache == "memory" and self.num_workers:
            for video in videos:
                self.store.whole(video)
        if self.store.disk is not None:
            space = self.store.disk.prepare(videos)
            if self._speaks():
                print(space)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the videos that were left out so far."""
        return {"skipped": dict(self.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.skipped = {**state_dict["skipped"], **self.skipped}

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled, resumable loader."""
        if self.stream:
            streams = self._streams("train", seed=self.seed, training=True, augmentations=self.augmentations)
            return train_stream_loader(streams, num_workers=self.num_workers, seed=self.seed, on_fault=self._leave_out)
        dataset = TrainClips(
            self.videos["train"],
            self.store,
            seed=self.seed,
            clips_per_video=self.clips_per_video,
            augmentations=self.augmentations,
        )
        return train_loader(
            dataset,
            len(dataset),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            trainer=self.trainer,
            on_fault=self._leave_out,
        )

    def _leave_out(self, video_id: str, reason: str) -> None:
        """Count a training video of which a clip could not be had, and say so once."""
        if video_id not in self.skipped:
            self.skipped[video_id] = reason
            log.warning("training leaves out a clip of %s: %s. %d left out so far", video_id, reason, len(self.skipped))

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the loader of the validation videos; an empty list, so no validation, where none are held out."""
        return self._eval("val") if self.videos["val"] else []

    def test_dataloader(self) -> DataLoader:
        """Return the loader of the test videos."""
        return self._eval("test")

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of the test videos."""
        return self._eval("test")

    def _eval(self, split: str) -> DataLoader:
        if self.stream:
            return eval_stream_loader(self._streams(split), num_workers=self.num_workers)
        dataset = EvalClips(self.videos[split], self.store, views=self.views, crops=self.crops)
        return eval_loader(
            dataset, len(dataset), batch_size=self.batch_size, num_workers=self.num_workers, trainer=self.trainer
        )

    def _streams(self, split: str, **options: Any) -> Streams:
        return Streams(self.videos[split], self.store, lanes=self.batch_size, **options)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _bytes(path: Path) -> int:
    """Return the size of a file, -1 where a link leads nowhere."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _checked_crops(crops: int, views: int, fit: str) -> int:
    if min(crops, views) < 1 or crops not in (1, 3):
        raise ValueError(f"views {views} and crops {crops}: expected 1 view or more, and 1 or 3 crops")
    if crops == 3 and fit == "squash":
        raise ValueError("crops 3 with fit 'squash': a squashed frame is square and has no longer side; use fit 'crop'")
    return crops
