"""VideoFolder: any video files, one folder per class."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.faults import fault, refuse, skip
from datamodules.index import IndexRow, find_videos, load_index
from datamodules.loader import eval_loader, train_loader
from datamodules.splits import Split, groups_of, split_by_csv, split_by_group, split_by_seed
from datamodules.video_dataset import ClipOptions, EvalClips, FrameStore, TrainClips, Video

_STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
_SCORED = {"validate": "val", "test": "test", "predict": "test"}
_OPTIONS = {
    "val": "--data.val_fraction, --data.val_group, Weizmann: --data.val_person",
    "test": "--data.test_fraction, --data.group_pattern, --data.split_csv",
}

log = logging.getLogger(__name__)


class VideoFolder(LightningDataModule):
    """Clips of the video files under `root/CLASS/`, (T, C, size, size) float32 in [0, 1].

    The split is by group where `group_pattern` is given, by a file where `split_csv` is, else by `split_seed`.
    The first setup decodes every file once and keeps a table (see index.py). Training leaves out broken videos and
    those shorter than `min_frames`, and logs how many; validation and test refuse them with the list.

    Args:
        root: folder with one folder of video files per class.
        frames: frames of a clip, T. A shorter video is used whole, with its `length`; the rest is zeros.
        size: side of the square clip in pixels.
        batch_size: clips a batch.
        num_workers: loader processes.
        seed: of the training clips and their order; the split does not depend on it.
        stride: take every stride-th frame.
        views: test clips per video, evenly spaced; fewer where the video is too short for so many.
        clips_per_video: random training clips of each video an epoch.
        group_pattern: regular expression whose first (...) finds a video's group in its name; leaves one group out.
        fold: which group, in alphabetical order, is the test, from 0.
        val_group: a group held out of training for validation, or `next` (after the test group); none if unset.
        split_csv: file with the columns path,split (train, val or test); paths relative to root.
        split_seed: of the random split.
        val_fraction: share of each class's videos for validation, random split.
        test_fraction: share of each class's videos for the test, random split.
        background: subtract the running `median` or `mean` of the video so far, or `none`.
        grayscale: one channel instead of three.
        fit: `crop` scales the short side and cuts a square, `squash` scales both sides and loses nothing.
        margin: decode this many pixels more than `size` and cut: at random for training, in the middle for the test.
        flip: mirror half of the training clips, whole clips at a time. Not where left and right matter.
        cache: `memory` keeps all videos, uint8 at training size; `none` decodes each clip anew.
        decoder: `pyav` or `pytorchvideo`.
        jobs: threads that make the table; 0 is one a core.
    """

    dataset_name = "video_folder"
    min_frames = 1

    def __init__(
        self,
        root: str,
        frames: int = 16,
        size: int = 64,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        stride: int = 1,
        views: int = 1,
        clips_per_video: int = 1,
        group_pattern: str | None = None,
        fold: int = 0,
        val_group: str | None = None,
        split_csv: str | None = None,
        split_seed: int = 0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        background: str = "none",
        grayscale: bool = False,
        fit: str = "crop",
        margin: int = 0,
        flip: bool = True,
        cache: str = "memory",
        decoder: str = "pyav",
        jobs: int = 0,
    ) -> None:
        super().__init__()
        self.root, self.seed, self.fold, self.views, self.jobs = Path(root), seed, fold, views, jobs
        self.frames, self.size, self.batch_size, self.num_workers = frames, size, batch_size, num_workers
        self.clips_per_video = clips_per_video
        self.clip_options = ClipOptions(frames, size, stride, fit, margin, flip, grayscale, background, decoder)
        self.store = FrameStore(self.clip_options, cache)
        self.paths = find_videos(self.root)
        self.class_names = _class_names(self.root, self.paths)
        self.groups = groups_of(self.paths, group_pattern) if group_pattern else {}
        self.split_name = _split_name(group_pattern, split_csv)
        self.split = self._split(val_group, split_csv, split_seed, (val_fraction, test_fraction))
        self.videos: dict[str, list[Video]] = {}

    def _split(
        self, val_group: str | None, split_csv: str | None, split_seed: int, fractions: tuple[float, float]
    ) -> Split:
        if self.groups:
            return split_by_group(self.groups, self.fold, val_group)
        if self.fold or val_group:
            raise ValueError(f"fold {self.fold} and val_group {val_group!r} need groups: give --data.group_pattern")
        if split_csv:
            return split_by_csv(self.paths, Path(split_csv))
        return split_by_seed({path: self._label(path) for path in self.paths}, split_seed, *fractions)

    def _label(self, path: str) -> int:
        return self.class_names.index(path.split("/")[0])

    @property
    def num_classes(self) -> int:
        """Number of class folders."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """1 with `grayscale`, else 3."""
        return 1 if self.clip_options.grayscale else 3

    @property
    def data_hash(self) -> str:
        """16 hex digits of each split's paths and file sizes."""
        lines = [f"{s} {p} {(self.root / p).stat().st_size}" for s, paths in self.split.items() for p in paths]
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]

    def folds(self) -> int:
        """Return the number of groups, 1 where there are none."""
        return len(set(self.groups.values())) or 1

    def prepare_data(self) -> None:
        """Make the table of videos once; Lightning calls this in one process of each machine, before `setup`."""
        load_index(self.root, jobs=self.jobs)

    def setup(self, stage: str | None = None) -> None:
        """Read or make the table, choose the videos of the stage's splits, and decode them where they are kept."""
        rows = load_index(self.root, jobs=self.jobs)
        for split in _STAGES.get(stage or "", ("train", "val", "test")):
            videos, faults = self._sorted_out([rows[path] for path in self.split[split]])
            if split == "train":
                skip(faults, kept=len(videos))
            else:
                refuse(faults, split)
            self.videos[split] = videos
            self._keep(videos)
        if stage in _SCORED and not self.videos[_SCORED[stage]]:
            raise ValueError(
                f"{self.root} has {len(self.paths)} videos, none of them in the {_SCORED[stage]} split "
                f"({self.split_name}): there is nothing to score. Add videos, or choose another split "
                f"({_OPTIONS[_SCORED[stage]]})."
            )
        if self.videos.get("val") == [] and (self.trainer is None or self.trainer.is_global_zero):
            log.warning(
                "no video is held out of training for validation; val_group (Weizmann: val_person) `next` does that"
            )

    def _sorted_out(self, rows: Sequence[IndexRow]) -> tuple[list[Video], list[str]]:
        """Return the videos that can be used, and a line for each that cannot."""
        o = self.clip_options
        said = [fault(row, frames=o.frames, stride=o.stride, min_frames=self.min_frames) for row in rows]
        good = [
            Video(self.root / row.path, row.path, self._label(row.path), row.facts.frames)
            for row, problem in zip(rows, said, strict=True)
            if not problem
        ]
        return good, [problem for problem in said if problem]

    def _keep(self, videos: Sequence[Video]) -> None:
        # Worker processes then share what the parent decoded instead of decoding it once each. Where units are on
        # several devices, only the processes that feed frames to them decode any.
        feeds = getattr(getattr(self.trainer, "strategy", None), "feeds_frames", True)
        if self.store.cache == "memory" and self.num_workers and feeds:
            for video in videos:
                self.store.whole(video.path)

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled, resumable loader."""
        dataset = TrainClips(self.videos["train"], self.store, seed=self.seed, clips_per_video=self.clips_per_video)
        return train_loader(
            dataset,
            len(dataset),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            trainer=self.trainer,
        )

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
        dataset = EvalClips(self.videos[split], self.store, views=self.views)
        return eval_loader(
            dataset, len(dataset), batch_size=self.batch_size, num_workers=self.num_workers, trainer=self.trainer
        )


def _class_names(root: Path, paths: Sequence[str]) -> list[str]:
    loose = [path for path in paths if "/" not in path]
    if loose or not paths:
        seen = f"video files outside of any folder, first {loose[0]}" if loose else "no video file"
        raise ValueError(f"{root} holds {seen}: expected one folder per class with its videos, as {root}/walk/1.mp4")
    return sorted({path.split("/")[0] for path in paths})


def _split_name(group_pattern: str | None, split_csv: str | None) -> str:
    if group_pattern and split_csv:
        raise ValueError(f"group_pattern {group_pattern!r} and split_csv {split_csv!r}: give one of them")
    return "leave-one-group-out" if group_pattern else Path(split_csv).stem if split_csv else "random"
