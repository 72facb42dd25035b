"""Weizmann human actions: 10 classes, 9 persons, a camera that stands still; leave one person out.

"Actions as Space-Time Shapes", Blank, Gorelick, Shechtman, Irani, Basri, ICCV 2005. Files are `class/person_class.avi`.
"""

import os
from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.video_folder import VideoFolder

PERSONS = ("daria", "denis", "eli", "ido", "ira", "lena", "lyova", "moshe", "shahar")
CLASSES = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")
# lena's second run, skip and walk, which the original set has, end in a digit.
_PERSON = r"^([a-z]+)_"


def default_root() -> Path:
    """Return `weizmann` in the folder that SKIP_SIDEWAYS_DATA names, else in ../shared/data beside the repository."""
    named = os.environ.get("SKIP_SIDEWAYS_DATA")
    beside = Path(__file__).parents[1] / ".." / "shared" / "data"
    return (Path(named) if named else Path(os.path.relpath(beside))) / "weizmann"


class Weizmann(LightningDataModule):
    """Weizmann's clips, (T, C, size, size) float32 in [0, 1]; fold k tests the k-th person in alphabetical order.

    The eight other persons are for training, as in the usual protocol, so by default nothing is validated on: choosing
    anything by the test person's accuracy would spoil it. `val_person` holds out a second person instead.

    Args:
        frames: frames of a clip, T. A shorter video is used whole, with its `length`; the rest is zeros.
        size: side of the clip in pixels; the 180 x 144 frames are squashed, so that nobody walks out of the picture.
        batch_size: clips a batch.
        num_workers: loader processes; with the cache in memory 0 is fastest.
        seed: of the training clips and their order.
        fold: 0 to 8, the test person.
        val_person: a person held out of training for validation, or `next` (the one after the test person).
        stride: take every stride-th frame.
        views: test clips per video, evenly spaced.
        clips_per_video: random training clips of each video an epoch.
        background: subtract the running `median` or `mean` of the video so far, or `none`.
        grayscale: one channel instead of three.
        margin: decode this many pixels more than `size` and cut: at random for training, in the middle for the test.
        flip: mirror half of the training clips.
        cache: `memory` keeps all videos, uint8 at training size (18 MiB for 32 x 32 in colour), or `none`.
        root: folder with the ten class folders; default: see default_root.
    """

    dataset_name = "weizmann"
    split_name = "leave-one-person-out"
    min_frames = 1

    def __init__(
        self,
        frames: int = 32,
        size: int = 32,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        fold: int = 0,
        val_person: str | None = None,
        stride: int = 1,
        views: int = 1,
        clips_per_video: int = 1,
        background: str = "none",
        grayscale: bool = False,
        margin: int = 0,
        flip: bool = True,
        cache: str = "memory",
        root: str | None = None,
    ) -> None:
        super().__init__()
        self.frames, self.size, self.batch_size, self.seed = frames, size, batch_size, seed
        self.folder = VideoFolder(
            root=str(_checked(Path(root) if root else default_root())),
            frames=frames,
            size=size,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            stride=stride,
            views=views,
            clips_per_video=clips_per_video,
            group_pattern=_PERSON,
            fold=fold,
            val_group=val_person,
            background=background,
            grayscale=grayscale,
            fit="squash",
            margin=margin,
            flip=flip,
            cache=cache,
        )
        self.fold, self.views = fold, views
        self.class_names, self.num_classes = self.folder.class_names, self.folder.num_classes
        self.channels, self.data_hash = self.folder.channels, self.folder.data_hash
        self.clip_options = self.folder.clip_options

    @property
    def persons(self) -> list[str]:
        """The persons in the order of the folds."""
        return sorted(set(self.folder.groups.values()))

    def folds(self) -> int:
        """Return the number of persons, 9."""
        return self.folder.folds()

    def prepare_data(self) -> None:
        """Make the table of videos once, in one process of each machine."""
        self.folder.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read or make the table of videos; broken or short ones are skipped in training and refused in the test."""
        self.folder.min_frames, self.folder.trainer = self.min_frames, self.trainer
        self.folder.setup(stage)

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled, resumable loader."""
        return self.folder.train_dataloader()

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the loader of the validation person's videos; an empty list where no person is held out."""
        return self.folder.val_dataloader()

    def test_dataloader(self) -> DataLoader:
        """Return the loader of the test person's videos."""
        return self.folder.test_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of the test person's videos."""
        return self.folder.predict_dataloader()


def _checked(root: Path) -> Path:
    """Return `root` where it has the ten class folders, else a ValueError that says what is there."""
    found = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else None
    if found is not None and set(CLASSES) <= set(found):
        return root
    seen = "there is no such folder" if found is None else f"it holds the folders {', '.join(found) or 'none'}"
    raise ValueError(
        f"Weizmann: looked for the folders {', '.join(CLASSES)} in {root}; {seen}. Set SKIP_SIDEWAYS_DATA to the "
        "folder that contains weizmann/, or give --data.root DIR. Without any data: --data MovingDigits."
    )
