"""What happens to a clip of uint8 frames: cut, mirror, augment. One random choice per CLIP, never per frame.

frames (T, C, H, W) -> margin cut or random resized crop -> mirror -> augmentations -> (T, C, size, size)
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.clips import clip_rng

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Choice:
    """One clip's choice: the upper left corner of its cut, in pixels, and whether it is mirrored."""

    top: int
    left: int
    mirrored: bool


def random_choice(rng: np.random.Generator, height: int, width: int, *, size: int, flip: bool) -> Choice:
    """Draw a training clip's choice: a uniform place, mirrored half of the time where `flip`."""
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    return Choice(int(top), int(left), flip and bool(rng.integers(2)))


def crop_choice(height: int, width: int, *, size: int, crop: int, crops: int) -> Choice:
    """Return the choice of evaluation, not mirrored: the middle, or the `crop`-th of `crops` along the longer side."""
    top, left = (height - size) // 2, (width - size) // 2
    if crops > 1 and width >= height:
        left = (width - size) * crop // (crops - 1)
    elif crops > 1:
        top = (height - size) * crop // (crops - 1)
    return Choice(top, left, False)


def apply_choice(video_TCHW: Tensor, choice: Choice, size: int) -> Tensor:
    """Return a copy of the cut (T, C, size, size), every frame alike."""
    cut = video_TCHW[..., choice.top : choice.top + size, choice.left : choice.left + size]
    return cut.flip(-1) if choice.mirrored else cut.clone(memory_format=torch.contiguous_format)


class Augmentations:
    """Transforms of whole clips, seeded with (seed, epoch, index): the same clip in any process, at any repeat.

    Args:
        size: side of the clip in pixels.
        crop_scale: smallest and largest share of the picture's area that a random resized crop keeps; None: no such
            crop.
        transforms: modules that take and return a clip (T, C, size, size) uint8, one random choice a call.
    """

    def __init__(self, size: int, crop_scale: Sequence[float] | None, transforms: Sequence[nn.Module]) -> None:
        self.size, self.transforms = size, list(transforms)
        self.resized_crop = _resized_crop(size, crop_scale) if crop_scale else None

    def __call__(self, video_TCHW: Tensor, choice: Choice, key: tuple[int, int, int]) -> Tensor:
        """Return the training clip of `key`, (T, C, size, size) uint8."""
        if self.resized_crop is None and not self.transforms:
            return apply_choice(video_TCHW, choice, self.size)
        with seeded(int(clip_rng(*key, "augmentation").integers(2**63))):
            if self.resized_crop is None:
                clip = apply_choice(video_TCHW, choice, self.size)
            else:
                clip = self.resized_crop(video_TCHW)
                clip = clip.flip(-1) if choice.mirrored else clip
            for transform in self.transforms:
                clip = transform(clip)
        return self._checked(clip, (len(video_TCHW), video_TCHW.shape[1], self.size, self.size))

    def _checked(self, clip: Tensor, shape: tuple[int, ...]) -> Tensor:
        if clip.shape != shape or clip.dtype != torch.uint8:
            names = ", ".join(type(transform).__name__ for transform in self.transforms)
            raise ValueError(
                f"augmentations {names} made {tuple(clip.shape)} {clip.dtype} of a clip; expected {shape} torch.uint8. "
                "Take transforms that keep size, channels and type (float and normalisation come later)."
            )
        return clip


def _resized_crop(size: int, scale: Sequence[float]) -> nn.Module:
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"crop_scale {list(scale)}: expected two shares of the area, 0 < smallest <= largest <= 1")
    from lightning_modules.compat import ensure_torchvision

    ensure_torchvision()
    from torchvision.transforms import v2

    return v2.RandomResizedCrop(size, scale=tuple(scale))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's generators of torch, NumPy and Python inside, and leave all of them as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that one seeds the GPU's generators as well, which are not restored.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def padded(video_TCHW: Tensor, frames: int) -> Tensor:
    """Return the frames with zeros behind them up to `frames`; the same tensor where there are so many."""
    if len(video_TCHW) == frames:
        return video_TCHW
    out = torch.empty(frames, *video_TCHW.shape[1:], dtype=video_TCHW.dtype)
    out[: len(video_TCHW)] = video_TCHW
    out[len(video_TCHW) :] = 0
    return out


def grey(video_TCHW: Tensor) -> Tensor:
    """Return RGB uint8 (T, 3, H, W) as luma uint8 (T, 1, H, W), ITU-R BT.601."""
    weights = torch.tensor(_LUMA).view(3, 1, 1)
    return (video_TCHW * weights).sum(1, keepdim=True).round().byte()
