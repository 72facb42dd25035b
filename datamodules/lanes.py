"""Lanes: long streams side by side, of which any step can be read at any time, in any order.

    steps of three lanes    12 13 14 15 | 907            the next four, and one far ahead that is worth predicting
                             3  4  5  6 | 911            -> x of these steps, y of these steps; nothing in between is
                            40 41 42 43 |  55               made, decoded or kept

Shape legend: B lanes, N any steps, A answers (steps that are scored), F features, C channels, S side in pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.counter_random import hashed
from datamodules.listing import SPLITS
from datamodules.loader import Key

IGNORE = -100  # the class of a step at which nothing is asked; NaN where numbers are asked for


class Lanes(ABC):
    """B streams side by side, read anywhere. Small enough to hand to another process; holds no frames of a stream.

    Args:
        ids: names of the streams, such as test-0-12.
        lengths_B: steps of each stream.
        answers_BA: the steps that are scored, ascending; -1 where a stream has fewer.
    """

    def __init__(self, ids: Sequence[str], lengths_B: Tensor, answers_BA: Tensor) -> None:
        self.ids, self.lengths_B, self.answers_BA = list(ids), lengths_B, answers_BA

    @abstractmethod
    def read(self, steps_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is seen and what is asked at any steps, in any order; outside a stream zeros and nothing.

        Args:
            steps_BN: int64.

        Returns:
            x: int64 symbols (B, N), float32 vectors (B, N, F) or uint8 frames (B, N, C, S, S).
            y (B, N): int64 classes, IGNORE where nothing is asked; or float32 numbers, NaN there.
        """

    @abstractmethod
    def only(self, rows: Tensor) -> "Lanes":
        """Return lanes `rows` (int64) of these."""

    def inside(self, steps_BN: Tensor) -> Tensor:
        """Return whether the steps are steps of their streams, bool."""
        return (steps_BN >= 0) & (steps_BN < self.lengths_B[:, None])


class StreamSource(ABC):
    """The streams of one split; a key (epoch, index) names one.

    Args:
        lengths_N: steps of each of the streams of an epoch, int64.

    Attributes:
        endless: another epoch has other streams; otherwise there are len() of them, and the epoch tells at most how one
            is augmented.
    """

    endless = True

    def __init__(self, lengths_N: np.ndarray) -> None:
        self.lengths_N = lengths_N

    @abstractmethod
    def lanes(self, keys: Sequence[Key]) -> Lanes:
        """Return streams side by side."""

    def __len__(self) -> int:
        return len(self.lengths_N)


def names(split: str, keys: Sequence[Key]) -> list[str]:
    """Return the names of generated streams.

    >>> names("train", [(2, 17)])
    ['train-2-17']
    """
    return [f"{split}-{epoch}-{index}" for epoch, index in keys]


def roots(split: str, seed: int, keys: Sequence[Key]) -> np.ndarray:
    """Return a number for each stream, uint64, from which all that is random in it is drawn (see counter_random.py).

    In training it comes from (seed, epoch, index), in evaluation from the index alone: every seed scores the same.
    """
    epoch_B, index_B = np.array(keys, dtype=np.int64).reshape(-1, 2).T
    if split == "train":
        return hashed(0, seed, epoch_B, index_B)
    return hashed(SPLITS.index(split), 0, 0, index_B)


def same_length(steps: int, lanes: int) -> Tensor:
    """Return the lengths of streams of as many steps each, (lanes,) int64."""
    return torch.full((lanes,), steps)
