"""AddSequences: the adding problem (Hochreiter and Schmidhuber 1997), two marked numbers to be added at the end.

    value     .31  .90  .07  .52  .66  .48   0        in [0, 1)
    marked     0    1    0    0    0    1    0        one in each half of the steps before the question
    question   0    0    0    0    0    0    1
    y          0    0    0    0    0    0  1.38       [D] 0, not "nothing", before the question: so a detector learns
                                                     that those steps are certain

Shape legend: B lanes, N any steps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.counter_random import below, uniform
from datamodules.lanes import Lanes, StreamSource, names, roots, same_length
from datamodules.loader import Key
from datamodules.long_streams import LongStreamData

_VALUES, _MARKS = 0, 1


class AddLanes(Lanes):
    """Lanes of numbers of which two are marked.

    Args:
        ids: names of the streams.
        roots_B: what each stream is drawn from, uint64.
        steps: of each stream.
    """

    def __init__(self, ids: Sequence[str], roots_B: np.ndarray, *, steps: int) -> None:
        super().__init__(ids, same_length(steps, len(ids)), torch.full((len(ids), 1), steps - 1))
        self.roots_B, self.steps = roots_B, steps
        half = (steps - 1) // 2
        first_B = below(half, roots_B, _MARKS, 0)
        second_B = half + below(steps - 1 - half, roots_B, _MARKS, 1)
        self.marks_B2 = torch.from_numpy(np.stack([first_B, second_B], axis=1))
        self.sum_B = self._values(self.marks_B2).sum(1)

    def _values(self, steps_BN: Tensor) -> Tensor:
        return torch.from_numpy(uniform(self.roots_B[:, None], _VALUES, steps_BN.numpy()).astype(np.float32))

    def read(self, steps_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return value, mark and question (B, N, 3), and what is asked (B, N), both float32."""
        inside_BN = self.inside(steps_BN)
        asked_BN = steps_BN == self.steps - 1
        marked_BN = (steps_BN == self.marks_B2[:, :1]) | (steps_BN == self.marks_B2[:, 1:])
        values_BN = self._values(steps_BN) * (inside_BN & ~asked_BN)
        y_BN = (asked_BN * self.sum_B[:, None]).masked_fill_(~inside_BN, torch.nan)
        return torch.stack([values_BN, marked_BN.float(), asked_BN.float()], dim=-1), y_BN

    def only(self, rows: Tensor) -> "AddLanes":
        """Return some lanes of these."""
        return AddLanes([self.ids[row] for row in rows.tolist()], self.roots_B[rows.numpy()], steps=self.steps)


class AddSource(StreamSource):
    """Streams to add in, drawn from (seed, epoch, index) in training, else from the index alone.

    Args:
        split: `train`, `val` or `test`.
        streams: of an epoch.
        seed: of training.
        steps: of each stream.
    """

    def __init__(self, split: str, streams: int, seed: int, *, steps: int) -> None:
        super().__init__(np.full(streams, steps))
        self.split, self.seed, self.steps = split, seed, steps

    def lanes(self, keys: Sequence[Key]) -> AddLanes:
        """Return streams side by side."""
        return AddLanes(names(self.split, keys), roots(self.split, self.seed, keys), steps=self.steps)


class AddSequences(LongStreamData):
    """The adding problem: the sum of two marked numbers, a regression (methods.md section 6 [P]: Add).

    Scored at the last step by the mean squared error; who answers 1 always has 1 / 6.

    Args:
        gap: steps before the question, one of each half marked; a stream has gap + 1 steps.
        options: of all long streams; see LongStreamData.
    """

    dataset_name = "add_sequences"
    split_name = "generated"
    input_kind = "vectors"
    channels = 3
    regression = True

    def __init__(self, gap: int = 400, **options: Any) -> None:
        if gap < 2:
            raise ValueError(f"gap {gap}: expected 2 or more, one step for each marked number, as --data.gap 400")
        super().__init__(gap + 1, gap, 1, **options)
        self.class_names = ["sum"]

    def settings(self) -> dict[str, Any]:
        """Return what the streams are made from."""
        return {"task": self.dataset_name, "gap": self.gap}

    def source(self, split: str) -> AddSource:
        """Return the streams of a split."""
        return AddSource(split, self.streams[split], self.seed, steps=self.steps)
