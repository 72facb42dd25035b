"""MovingDigits: a video dataset that needs no download and no waiting."""

import hashlib
import json
from dataclasses import asdict

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.digit_clips import MotionOptions, MovingDigitsDataset
from datamodules.loader import eval_loader, train_loader

_DIRECTION_NAMES: dict[int, tuple[str, ...]] = {
    4: ("right", "down", "left", "up"),
    8: ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right"),
}


class MovingDigits(LightningDataModule):
    """Clips of real handwritten digits moving over a canvas; grey, (T, 1, size, size) float32 in [0, 1].

    Args:
        frames: frames of a clip, T.
        size: canvas side in pixels.
        batch_size: clips a batch.
        num_workers: loader processes; 0 is right here, rendering costs less than handing a clip over.
        seed: of the training clips and their order. Digit split and evaluation clips are the same for every seed.
        label_mode: `direction`, `digit`, or `digit_and_direction` (class digit * directions + direction).
        directions: 4 or 8.
        digit_size: side of a digit in pixels, 8 to `size`.
        speed_min: slowest speed, pixels a frame along the direction.
        speed_max: fastest speed.
        motion: `wrap`, or `bounce` (only with label_mode `digit`).
        noise: standard deviation of the pixels' noise, drawn anew for each frame.
        clutter: number of distractors, quarter pieces of other digits.
        clutter_speed: pixels a frame, each distractor in its own random direction; 0 leaves them in place.
        stride: show every stride-th frame of the motion.
        train_clips: clips of a training epoch; every epoch has new ones.
        val_clips: clips of the validation, always the same.
        test_clips: clips of the test, always the same.
    """

    dataset_name = "moving_digits"
    split_name = "digits-disjoint"
    channels = 1
    views = 1
    fold = 0
    min_frames = 1

    def __init__(
        self,
        frames: int = 20,
        size: int = 32,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        label_mode: str = "direction",
        directions: int = 4,
        digit_size: int = 16,
        speed_min: float = 0.5,
        speed_max: float = 0.8,
        motion: str = "wrap",
        noise: float = 0.0,
        clutter: int = 0,
        clutter_speed: float = 0.0,
        stride: int = 1,
        train_clips: int = 2048,
        val_clips: int = 400,
        test_clips: int = 800,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(f"batch_size {batch_size}, num_workers {num_workers}: expected 1 or more, and 0 or more")
        self.frames, self.size, self.batch_size, self.num_workers, self.seed = (
            frames,
            size,
            batch_size,
            num_workers,
            seed,
        )
        self.options = MotionOptions(
            size=size,
            digit_size=digit_size,
            frames=frames,
            stride=stride,
            directions=directions,
            speed_min=speed_min,
            speed_max=speed_max,
            motion=motion,
            noise=noise,
            clutter=clutter,
            clutter_speed=clutter_speed,
            label_mode=label_mode,
        )
        self.clips = {"train": train_clips, "val": val_clips, "test": test_clips}

    @property
    def class_names(self) -> list[str]:
        """Names by class index."""
        names = _DIRECTION_NAMES[self.options.directions]
        if self.options.label_mode == "direction":
            return list(names)
        digits = [str(digit) for digit in range(10)]
        return digits if self.options.label_mode == "digit" else [f"{d} {name}" for d in digits for name in names]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def data_hash(self) -> str:
        """16 hex digits of the generator's parameters; the seed is a run's own and is not in it."""
        said = json.dumps({**asdict(self.options), **self.clips}, sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def folds(self) -> int:
        """Return 1: there is one split."""
        return 1

    def dataset(self, split: str) -> MovingDigitsDataset:
        """Return the dataset of `train`, `val` or `test`."""
        return MovingDigitsDataset(split, self.clips[split], self.options, self.seed)

    def setup(self, stage: str | None = None) -> None:
        """Check that a clip is long enough for the network that was chosen."""
        if self.frames < self.min_frames:
            raise ValueError(
                f"clips of {self.frames} frames: this network needs at least {self.min_frames} (2D-1 for D units). "
                f"Use --data.frames {self.min_frames} or more."
            )

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled, resumable loader."""
        return train_loader(
            self.dataset("train"),
            self.clips["train"],
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            trainer=self.trainer,
        )

    def val_dataloader(self) -> DataLoader:
        """Return the loader of the validation clips."""
        return self._eval("val")

    def test_dataloader(self) -> DataLoader:
        """Return the loader of the test clips."""
        return self._eval("test")

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of the test clips."""
        return self._eval("test")

    def _eval(self, split: str) -> DataLoader:
        return eval_loader(
            self.dataset(split),
            self.clips[split],
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            trainer=self.trainer,
        )
