"""Handwritten digits that move over a canvas: a generated video dataset that needs no download.

The digits are the real 8 x 8 images that ship with scikit-learn. A clip draws one of them at

    position(t) = start + t * stride * speed * direction          start uniform on both axes, fractional

on a canvas that wraps around. At any single t the position is then uniform whatever the direction, and every direction is
drawn with the same subpixel interpolation on both axes: neither blur nor place tells the label of one frame, two frames do.

Legend: N objects, T frames, S canvas pixels, K = 8 cells of a digit image.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.loader import Key, eval_loader, train_loader

CELLS = 8
LABEL_MODES = ("direction", "digit", "digit_and_direction")
SPLITS = ("train", "val", "test")
_NAMES = {4: ("right", "down", "left", "up")}
_NAMES[8] = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")


@dataclass(frozen=True)
class MotionOptions:
    """What a clip of moving digits looks like; pixels are pixels of the canvas, speeds are pixels a frame."""

    size: int
    digit_size: int
    frames: int
    stride: int
    directions: int
    speed_min: float
    speed_max: float
    motion: str
    noise: float
    clutter: int
    clutter_speed: float
    label_mode: str

    def __post_init__(self) -> None:
        _check(self)


def _check(options: MotionOptions) -> None:
    o = options
    _one_of("label_mode", o.label_mode, LABEL_MODES)
    _one_of("motion", o.motion, ("wrap", "bounce"))
    _one_of("directions", o.directions, (4, 8))
    if o.motion == "bounce" and o.label_mode != "digit":
        raise ValueError(
            f"motion 'bounce' with label_mode {o.label_mode!r}: a digit that bounces has no one direction. "
            "Use --data.motion wrap, or --data.label_mode digit."
        )
    if not CELLS <= o.digit_size <= o.size:
        raise ValueError(f"digit_size {o.digit_size}: expected {CELLS} <= digit_size <= size ({o.size})")
    if not 0 < o.speed_min <= o.speed_max:
        raise ValueError(
            f"speeds {o.speed_min} to {o.speed_max}: expected 0 < speed_min <= speed_max, in pixels a frame"
        )
    if min(o.frames, o.stride) < 1 or min(o.noise, o.clutter, o.clutter_speed) < 0:
        raise ValueError(f"frames and stride must be >= 1, noise, clutter and clutter_speed >= 0; given {o}")


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} {value!r}: expected one of {', '.join(map(str, allowed))}")


@cache
def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits: images (1797, 8, 8) float32 in [0, 1] and their classes (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target.astype(np.int64)


@cache
def digit_split(split: str) -> tuple[np.ndarray, ...]:
    """Return, for each of the 10 classes, the image indices of a split: 2/3 train, 1/6 val, 1/6 test of the class.

    The split is fixed, not a function of the seed: no seed may train on what another is tested on.
    """
    _, classes = digit_images()
    rng = np.random.default_rng(1797)
    part = SPLITS.index(split)
    shuffled = [rng.permutation(np.flatnonzero(classes == c)) for c in range(10)]
    return tuple(np.split(s, [len(s) * 2 // 3, len(s) * 5 // 6])[part] for s in shuffled)


def direction_vectors(directions: int) -> np.ndarray:
    """Return unit vectors (directions, 2) as (y, x), clockwise from right; y points down."""
    angle = 2 * np.pi * np.arange(directions) / directions
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def positions(start_N2: np.ndarray, step_N2: np.ndarray, frames: int, room: float, motion: str) -> np.ndarray:
    """Return positions (N, T, 2) of the upper left corners; `room` is the canvas (wrap) or what is free of it (bounce)."""
    free = start_N2[:, None] + np.arange(frames)[:, None] * step_N2[:, None]
    if motion == "wrap":
        return free % room
    return room - np.abs(free % (2 * room) - room) if room > 0 else np.zeros_like(free)


def render(images_NKK: np.ndarray, positions_NT2: np.ndarray, size: int, cell: float, *, wrap: bool) -> np.ndarray:
    """Return frames (T, S, S) in [0, 1]: the images, linearly interpolated with `cell` pixels a cell, added and clipped.

    Interpolation is separable, rows @ image @ columns. The canvas samples one continuous image, so that a fractional
    position on one axis looks as sharp as on the other.
    """
    weights_NTSAK = _weights(positions_NT2.astype(np.float32), size, np.float32(cell), wrap=wrap)
    rows, columns = weights_NTSAK[..., 0, :, :], weights_NTSAK[..., 1, :, :]
    frames = (rows @ images_NKK[:, None]) @ columns.swapaxes(-1, -2)
    return np.minimum(frames.sum(0) if len(frames) > 1 else frames[0], 1)


def _weights(positions_NT2: np.ndarray, size: int, cell: np.float32, *, wrap: bool) -> np.ndarray:
    """Return the share (N, T, 2, S, K) of each cell in each pixel row (axis 0) or column (axis 1): a tent."""
    knots = cell * (np.arange(CELLS, dtype=np.float32) + np.float32(0.5))
    grid_SK = np.arange(size, dtype=np.float32)[:, None] + np.float32(0.5) - knots
    distance = grid_SK - positions_NT2[..., None, None]
    if wrap:
        distance -= size * np.rint(distance / size)
    np.abs(distance, out=distance)
    return np.maximum(1 - distance / cell, 0)


class MovingDigitsDataset(Dataset):
    """Map-style; item (epoch, index) is a clip. Training draws from (seed, epoch, index), evaluation from index alone."""

    def __init__(self, split: str, clips: int, options: MotionOptions, seed: int) -> None:
        self.split, self.clips, self.options, self.seed = split, clips, options, seed
        self.pools = digit_split(split)

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        rng = self._rng(epoch, index)
        digit, direction = self._classes(index, rng)
        o = self.options
        label = {"direction": direction, "digit": digit, "digit_and_direction": digit * o.directions + direction}
        return {
            "video": torch.from_numpy(self._clip(digit, direction, rng)[:, None]),
            "label": label[o.label_mode],
            "length": o.frames,
            "video_index": index,
            "clip_id": f"{self.split}-{epoch}-{index}@0",
        }

    def _rng(self, epoch: int, index: int) -> np.random.Generator:
        if self.split == "train":
            return np.random.default_rng([self.seed, epoch, index])
        return np.random.default_rng([SPLITS.index(self.split), 0, index, 1797])

    def _classes(self, index: int, rng: np.random.Generator) -> tuple[int, int]:
        """Return digit and direction; in evaluation all combinations come equally often."""
        drawn = int(rng.integers(10 * self.options.directions)) if self.split == "train" else index
        direction = drawn % self.options.directions
        return drawn // self.options.directions % 10, direction

    def _clip(self, digit: int, direction: int, rng: np.random.Generator) -> np.ndarray:
        o = self.options
        cell = o.digit_size / CELLS
        room = float(o.size if o.motion == "wrap" else o.size - o.digit_size)
        images = np.concatenate([self._digit(digit, rng)[None], self._clutter(rng)])
        steps = np.concatenate([self._step(direction, rng)[None], self._clutter_steps(rng)])
        start = rng.uniform(0, room, (len(images), 2))
        frames = render(
            images, positions(start, steps * o.stride, o.frames, room, o.motion), o.size, cell, wrap=o.motion == "wrap"
        )
        return self._with_noise(frames, rng)

    def _digit(self, digit: int, rng: np.random.Generator) -> np.ndarray:
        pool = self.pools[digit]
        return digit_images()[0][pool[rng.integers(len(pool))]]

    def _step(self, direction: int, rng: np.random.Generator) -> np.ndarray:
        return direction_vectors(self.options.directions)[direction] * rng.uniform(
            self.options.speed_min, self.options.speed_max
        )

    def _clutter(self, rng: np.random.Generator) -> np.ndarray:
        """Return (clutter, 8, 8): 4 x 4 pieces of other digits of the same split, the rest of each image empty."""
        patches = np.zeros((self.options.clutter, CELLS, CELLS), dtype=np.float32)
        for patch in patches:
            y, x = rng.integers(0, CELLS // 2 + 1, 2)
            patch[:4, :4] = self._digit(int(rng.integers(10)), rng)[y : y + 4, x : x + 4]
        return patches

    def _clutter_steps(self, rng: np.random.Generator) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi, self.options.clutter)
        return self.options.clutter_speed * np.stack([np.sin(angle), np.cos(angle)], axis=1)

    def _with_noise(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.options.noise == 0:
            return frames
        noise = rng.standard_normal(frames.shape, dtype=np.float32)
        return np.clip(frames + np.float32(self.options.noise) * noise, 0, 1)


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
        names = _NAMES[self.options.directions]
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
