"""Clips of handwritten digits that move over a canvas, generated; the digits are the real 8 x 8 ones of scikit-learn.

    position(t) = start + t * stride * speed * direction          start uniform on both axes, fractional

The canvas wraps around. At any single t the position is then uniform whatever the direction, and every direction is
drawn with the same subpixel interpolation on both axes: neither blur nor place tells the label of one frame, two
frames do.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.loader import Key
from datamodules.motion import CELLS, direction_vectors, positions, render

LABEL_MODES = ("direction", "digit", "digit_and_direction")
SPLITS = ("train", "val", "test")


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


class MovingDigitsDataset(Dataset):
    """Map-style; item (epoch, index) is a clip, drawn from (seed, epoch, index) in training, else from index alone."""

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
