"""What happens to a decoded clip: cut, mirror, scale to [0, 1]. One random choice per CLIP, never per frame."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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


def centre_choice(height: int, width: int, *, size: int) -> Choice:
    """Return the choice of evaluation: the middle, not mirrored."""
    return Choice((height - size) // 2, (width - size) // 2, False)


def apply_choice(video_TCHW: Tensor, choice: Choice, size: int) -> Tensor:
    """Return the cut (T, C, size, size), every frame alike."""
    cut = video_TCHW[..., choice.top : choice.top + size, choice.left : choice.left + size]
    return cut.flip(-1) if choice.mirrored else cut


def to_float(video_TCHW: Tensor, frames: int) -> Tensor:
    """Return uint8 frames as float32 in [0, 1], zeros beyond them up to `frames`."""
    out = torch.empty(frames, *video_TCHW.shape[1:])
    out[: len(video_TCHW)].copy_(video_TCHW).div_(255)
    out[len(video_TCHW) :] = 0
    return out


def grey(video_TCHW: Tensor) -> Tensor:
    """Return RGB uint8 (T, 3, H, W) as luma uint8 (T, 1, H, W), ITU-R BT.601."""
    weights = torch.tensor(_LUMA).view(3, 1, 1)
    return (video_TCHW * weights).sum(1, keepdim=True).round().byte()
