"""DigitSequences: images of digits read pixel by pixel, in a random order that never changes; the class at the end.

    step       0    1    2   ...  63  |  64  ...  T - 1        scikit-learn's 8 x 8 pixels, then `gap` steps of nothing
    pixel     .25   0   .94  ...  .5  |   0  ...    0
    question   0    0    0   ...   0  |   0  ...    1          always at the last step
    y          n    n    n   ...   n  |   n  ...    7          n: nothing is asked, a class of its own [D]

With MNIST's 784 pixels and no gap this is pMNIST (methods.md section 6 [P]).

Shape legend: B lanes, N any steps or images, P pixels of an image.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.digit_clips import digit_images, digit_split
from datamodules.idx_files import read_mnist
from datamodules.lanes import IGNORE, Lanes, StreamSource, same_length
from datamodules.loader import Key
from datamodules.long_streams import LongStreamData

NOTHING = 10
_ORDER_SEED = 784  # of the order of the pixels: a constant, the same in every run
_SKLEARN_BRIGHTEST, _MNIST_BRIGHTEST = 16, 255
_HELD_OUT = 12  # a twelfth of MNIST's training images, the last 5,000, is for validation

Digits = tuple[np.ndarray, np.ndarray]


class DigitLanes(Lanes):
    """Lanes of pixels.

    Args:
        ids: names of the streams.
        pixels_BP: uint8, in the order in which they are read.
        brightest: the value that becomes 1.
        labels_B: int64.
        steps: of each stream, at least P.
    """

    def __init__(self, ids: Sequence[str], pixels_BP: Tensor, brightest: int, labels_B: Tensor, *, steps: int) -> None:
        super().__init__(ids, same_length(steps, len(ids)), torch.full((len(ids), 1), steps - 1))
        self.pixels_BP, self.brightest, self.labels_B, self.steps = pixels_BP, brightest, labels_B, steps

    def read(self, steps_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixel and question, float32 (B, N, 2), and what is asked, int64 (B, N)."""
        pixels = self.pixels_BP.shape[1]
        shown_BN = (steps_BN >= 0) & (steps_BN < pixels)
        values_BN = self.pixels_BP.gather(1, steps_BN.clamp(0, pixels - 1)) * shown_BN / self.brightest
        asked_BN = steps_BN == self.steps - 1
        y_BN = torch.where(asked_BN, self.labels_B[:, None], NOTHING).masked_fill_(~self.inside(steps_BN), IGNORE)
        return torch.stack([values_BN, asked_BN.float()], dim=-1), y_BN

    def only(self, rows: Tensor) -> "DigitLanes":
        """Return some lanes of these."""
        ids = [self.ids[row] for row in rows.tolist()]
        return DigitLanes(ids, self.pixels_BP[rows], self.brightest, self.labels_B[rows], steps=self.steps)


class DigitSource(StreamSource):
    """The images of a split, each one stream.

    Args:
        split: `train`, `val` or `test`.
        pixels_NP: uint8, in the order in which they are read.
        brightest: the value that becomes 1.
        labels_N: int64.
        steps: of each stream.
    """

    endless = False

    def __init__(self, split: str, pixels_NP: np.ndarray, brightest: int, labels_N: np.ndarray, *, steps: int) -> None:
        super().__init__(np.full(len(labels_N), steps))
        self.split, self.pixels_NP, self.brightest, self.labels_N, self.steps = (
            split,
            pixels_NP,
            brightest,
            labels_N,
            steps,
        )

    def lanes(self, keys: Sequence[Key]) -> DigitLanes:
        """Return streams side by side."""
        index_B = np.array([index for _, index in keys])
        ids = [f"{self.split}-{index}" for index in index_B]
        pixels_BP, labels_B = torch.from_numpy(self.pixels_NP[index_B]), torch.from_numpy(self.labels_N[index_B])
        return DigitLanes(ids, pixels_BP, self.brightest, labels_B, steps=self.steps)


def pixel_order(pixels: int) -> np.ndarray:
    """Return the order in which permuted pixels are read, the same in every run."""
    return np.random.default_rng(_ORDER_SEED).permutation(pixels)


def sklearn_digits() -> dict[str, Digits]:
    """Return scikit-learn's digits by split: pixels (N, 64) uint8, 0 to 16, and classes (N,)."""
    images, classes = digit_images()
    pixels = np.round(images.reshape(len(images), -1) * _SKLEARN_BRIGHTEST).astype(np.uint8)
    chosen = {split: np.sort(np.concatenate(digit_split(split))) for split in ("train", "val", "test")}
    return {split: (pixels[at], classes[at]) for split, at in chosen.items()}


def mnist_digits(root: Path) -> dict[str, Digits]:
    """Return MNIST's digits by split, the end of its training images for validation: pixels (N, P) and classes (N,)."""
    found = {split: (images.reshape(len(images), -1), classes) for split, (images, classes) in read_mnist(root).items()}
    images, classes = found["train"]
    middle = len(images) - len(images) // _HELD_OUT
    return {
        "train": (images[:middle], classes[:middle]),
        "val": (images[middle:], classes[middle:]),
        "test": found["test"],
    }


class DigitSequences(LongStreamData):
    """Digits pixel by pixel, scikit-learn's 8 x 8 ones or MNIST's (methods.md section 6 [P]: pMNIST).

    Scored at the last step.

    Args:
        gap: steps of nothing after the last pixel.
        root: folder of MNIST's four idx files, packed or not; scikit-learn's digits, 64 steps, if unset.
        permute: read the pixels in a random order, the same in every run, which leaves nothing local to learn from;
            otherwise row by row.
        train_streams: the first so many of the training images; all if unset.
        val_streams: the first so many of the images held out: scikit-learn's 298, the last twelfth of MNIST's.
        test_streams: the first so many of the test images; all if unset.
        options: of all long streams; see LongStreamData.
    """

    input_kind = "vectors"
    channels = 2

    def __init__(
        self,
        gap: int = 0,
        root: str | None = None,
        permute: bool = True,
        train_streams: int | None = None,
        val_streams: int | None = None,
        test_streams: int | None = None,
        **options: Any,
    ) -> None:
        if gap < 0:
            raise ValueError(f"gap {gap}: expected 0 or more steps after the last pixel, as --data.gap 100")
        self.digits = mnist_digits(Path(root)) if root else sklearn_digits()
        self.brightest = _MNIST_BRIGHTEST if root else _SKLEARN_BRIGHTEST
        self.pixels = self.digits["train"][0].shape[1]
        super().__init__(
            self.pixels + gap,
            gap,
            1,
            train_streams=self._checked("train", train_streams),
            val_streams=self._checked("val", val_streams),
            test_streams=self._checked("test", test_streams),
            **options,
        )
        self.permute = permute
        self.dataset_name = f"{'permuted' if permute else 'sequential'}_{'mnist' if root else 'digits'}"
        self.split_name = "official" if root else "digits-disjoint"
        self.class_names = [*map(str, range(10)), "nothing"]

    def _checked(self, split: str, wanted: int | None) -> int:
        """Return how many images of a split are taken."""
        there = len(self.digits[split][1])
        if wanted is not None and wanted > there:
            raise ValueError(
                f"{split}_streams {wanted}: there are {there} such images. Give --data.{split}_streams {there}, or "
                "leave it out for all."
            )
        return there if wanted is None else wanted

    def settings(self) -> dict[str, Any]:
        """Return what the streams are made from."""
        return {"task": self.dataset_name, "gap": self.gap, "images": self._images_hash}

    @cached_property
    def _images_hash(self) -> str:
        digest = hashlib.sha256()
        for split in ("train", "val", "test"):
            for part in self.digits[split]:
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()[:16]

    def source(self, split: str) -> DigitSource:
        """Return the streams of a split."""
        pixels_NP, labels_N = (part[: self.streams[split]] for part in self.digits[split])
        if self.permute:
            pixels_NP = pixels_NP[:, pixel_order(self.pixels)]
        return DigitSource(split, pixels_NP, self.brightest, labels_N, steps=self.steps)
