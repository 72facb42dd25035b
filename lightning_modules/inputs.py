"""What a network reads of a batch, and what it should answer: a task makes it, its rule learns from it.

Shape legend: B clips, T frames, C channels, H and W height and width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """Clips and what they should be answered with.

    Args:
        video_BTCHW: clips, floats.
        targets: labels (B,), or one target for each nominal frame (B, T, ...).
        lengths_B: real frames of each clip.
    """

    video_BTCHW: Tensor
    targets: Tensor
    lengths_B: Tensor

    def halves(self) -> "list[Inputs]":
        """Return the first and the second half of the clips; none of a single clip."""
        parts = [slice(len(self.lengths_B) // 2), slice(len(self.lengths_B) // 2, None)]
        found = [Inputs(self.video_BTCHW[part], self.targets[part], self.lengths_B[part]) for part in parts]
        return found if len(self.lengths_B) > 1 else []


def no_inputs(device: torch.device) -> Inputs:
    """Return what is read of a batch where minibatches come from other stages: no clips, of one frame each."""
    none = torch.zeros(0, dtype=torch.long, device=device)
    return Inputs(torch.zeros(0, 1, 1, 1, 1, device=device), none, none)
