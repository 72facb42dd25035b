"""Rollouts: which steps of which streams a training batch has, r steps of B lanes.

Streams of equal length follow each other in each lane; staggered, lanes are at different places of theirs, so that
every batch has beginnings, middles and ends. P = 4 rollouts a stream, B = 4 lanes, a letter a stream:

    batch     0    1    2    3    4    5          batch     0    1    2    3    4    5
    lane 0    a0   a1   a2   a3   e0   e1         lane 0    a0   a1   a2   a3   e0   e1
    lane 1    b1   b2   b3   f0   f1   f2         lane 1    b0   b1   b2   b3   f0   f1
    lane 2    c2   c3   g0   g1   g2   g3         lane 2    c0   c1   c2   c3   g0   g1
    lane 3    d3   h0   h1   h2   h3   l0         lane 3    d0   d1   d2   d3   h0   h1
              staggered [D]                                 together

What stands before a lane's first batch (b0, c0, c1, ...) is left out: a memory starts empty where its lane starts.
Streams of different lengths go in groups, which last until their longest is over (streams.py).
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.lanes import StreamSource
from datamodules.loader import Key, epoch_order
from datamodules.streams import epoch_groups, stream_groups

_order = lru_cache(maxsize=4)(epoch_order)


class TrainRollouts(Dataset):
    """Item (epoch, n) is the n-th batch of an epoch: r steps of B streams, a pure function of (seed, epoch, n).

    A batch has `lanes` (Lanes), and of each lane (B,): `start`, its first step; `length`, its steps, at most r, 0 where
    its stream is over; `new`, whether a stream begins here, so that memory starts empty; `label`, zeros.

    Args:
        source: the streams.
        lanes: B.
        rollout: steps of a batch, r; 0: whole streams.
        seed: of the order of a finite number of streams.
        stagger: lanes stand at different places of their streams.

    Raises:
        ValueError: streams of different lengths, staggered.
    """

    def __init__(self, source: StreamSource, *, lanes: int, rollout: int, seed: int, stagger: bool = True) -> None:
        lengths_N = source.lengths_N
        self.source, self.lanes, self.seed, self.stagger = source, lanes, seed, stagger
        self.rollout = rollout or int(lengths_N.max())
        self.rollouts_N = -(-lengths_N // self.rollout)
        self.equal = bool((lengths_N == lengths_N[0]).all())
        if stagger and not self.equal:
            raise ValueError(
                f"stagger with streams of {lengths_N.min():,} to {lengths_N.max():,} steps: lanes that stand at "
                "different places need streams of one length. Give --data.stagger false; lanes then begin together."
            )
        groups = stream_groups(self.rollouts_N, lanes, np.arange(len(lengths_N)))
        self._batches = int(sum(self.rollouts_N[group[0]] for group in groups))
        self._groups_of: tuple[int, list[np.ndarray]] | None = None

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, key: Key) -> dict[str, Any]:
        keys, rollout_B, new_B, there_B = self._in_turn(key) if self.equal else self._in_groups(key)
        lanes = self.source.lanes(keys)
        start_B = torch.from_numpy(rollout_B) * self.rollout
        length_B = (lanes.lengths_B - start_B).clamp(0, self.rollout) * torch.from_numpy(there_B)
        label_B = torch.zeros(self.lanes, dtype=torch.int64)
        return {"lanes": lanes, "start": start_B, "new": torch.from_numpy(new_B), "length": length_B, "label": label_B}

    def _in_turn(self, key: Key) -> tuple[list[Key], np.ndarray, np.ndarray, np.ndarray]:
        """Return keys, number of the rollout in its stream, whether memory starts empty, whether a lane is used."""
        epoch, number = key
        batch = epoch * len(self) + number
        lane_B, rollouts = np.arange(self.lanes), int(self.rollouts_N[0])
        at_B = batch + (lane_B * rollouts // self.lanes if self.stagger else 0 * lane_B)
        rollout_B = at_B % rollouts
        keys = [self._key(stream) for stream in (at_B // rollouts * self.lanes + lane_B).tolist()]
        return keys, rollout_B, (rollout_B == 0) | (batch == 0), np.ones(self.lanes, dtype=bool)

    def _key(self, stream: int) -> Key:
        """Return the key of a stream, counted from the beginning of the training."""
        epoch, at = divmod(stream, len(self.source))
        return epoch, at if self.source.endless else int(_order(self.seed, epoch, len(self.source))[at])

    def _in_groups(self, key: Key) -> tuple[list[Key], np.ndarray, np.ndarray, np.ndarray]:
        """Return the same where lanes go together; lanes that the last group lacks hold one of its streams, unused."""
        epoch, number = key
        if self._groups_of is None or self._groups_of[0] != epoch:
            self._groups_of = epoch, epoch_groups(self.seed, epoch, self.rollouts_N, self.lanes)
        groups = self._groups_of[1]
        ends = np.cumsum([self.rollouts_N[group[0]] for group in groups])
        at = int(np.searchsorted(ends, number, side="right"))
        rollout = number - int(ends[at - 1] if at else 0)
        group_B = np.resize(groups[at], self.lanes)
        keys = [(epoch, index) for index in group_B.tolist()]
        rollout_B = np.full(self.lanes, rollout)
        return keys, rollout_B, rollout_B == 0, np.arange(self.lanes) < len(groups[at])


class EvalStreams(Dataset):
    """Item (epoch, n) is the n-th batch of whole streams, `lanes` at most: every stream once, long ones first.

    A batch has `lanes` (Lanes), and `length` and `label`, zeros, both (B,).
    """

    def __init__(self, source: StreamSource, *, lanes: int) -> None:
        lengths_N = source.lengths_N
        self.source, self.lanes = source, lanes
        self.groups = stream_groups(lengths_N, lanes, np.arange(len(lengths_N)))

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        lanes = self.source.lanes([(0, index) for index in self.groups[key[1]].tolist()])
        return {"lanes": lanes, "length": lanes.lengths_B, "label": torch.zeros_like(lanes.lengths_B)}
