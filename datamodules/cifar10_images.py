"""Images as clips of one frame, and their usual augmentation: a random cut of the image with 4 pixels of black around
it, and mirrored half of the time [C: the code of DGL, as of nearly all work on CIFAR-10].

    choices(seed, epoch)      image 0   1   2  ...        drawn for the whole epoch at once: a pure function, so that
                      top     3   8   0                   item (epoch, index) is the same in any process
                      left    4   1   7
                      mirror  0   1   0
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.cifar10_files import Batch
from datamodules.loader import Key

PADDING = 4
SIDE = 32
AUGMENTATIONS = ("none", "standard")


@lru_cache(maxsize=2)
def choices(seed: int, epoch: int, images: int) -> np.ndarray:
    """Return every image's choices of an epoch, (images, 3) int64: top and left of the cut, 0 to 8; mirrored, 0 or 1.

    In the middle of the padded image, top = left = 4, the cut is the image itself.
    """
    rng = np.random.default_rng([seed, epoch, images, 10])
    return rng.integers(0, [2 * PADDING + 1, 2 * PADDING + 1, 2], size=(images, 3))


def augmented(image_CHW: np.ndarray, top: int, left: int, mirrored: bool) -> np.ndarray:
    """Return a copy of the cut of the image with PADDING zeros around it, mirrored where so chosen; same shape."""
    out = np.zeros_like(image_CHW)
    side, down, right = image_CHW.shape[-1], top - PADDING, left - PADDING
    rows, columns = slice(max(0, down), side + min(0, down)), slice(max(0, right), side + min(0, right))
    cut = image_CHW[:, rows, columns]
    y, x = max(0, -down), max(0, -right)
    out[:, y : y + cut.shape[1], x : x + cut.shape[2]] = cut
    return out[:, :, ::-1].copy() if mirrored else out


class CIFAR10Clips(Dataset):
    """Images as clips, item (epoch, index): `video` (1, 3, 32, 32) uint8 and what belongs to it.

    Args:
        images: of one split, (N, 3, 32, 32) uint8, and their labels.
        name: beginning of the clips' names: `train` or `test`.
        first: number of the first image in its files.
        seed: of the augmentation; None: none.
    """

    def __init__(self, images: Batch, name: str, *, first: int = 0, seed: int | None = None) -> None:
        self.images, self.labels = images
        self.name, self.first, self.seed = name, first, seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        return {
            "video": torch.from_numpy(self._image(epoch, index)[None]),
            "label": int(self.labels[index]),
            "length": 1,
            "video_index": index,
            "clip_id": f"{self.name}-{self.first + index:05d}@0",
        }

    def _image(self, epoch: int, index: int) -> np.ndarray:
        if self.seed is None:
            return self.images[index].copy()
        top, left, mirrored = choices(self.seed, epoch, len(self))[index].tolist()
        return augmented(self.images[index], top, left, bool(mirrored))
