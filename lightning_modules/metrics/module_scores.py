"""Scores of every module that answers for itself, and of all of them together.

    module   1    2    3    4         each module's own accuracy: how much better the next one is
    weight   2    4    8   16         ensemble: the weighted mean of the modules' scores

The weights 2^j are those of the authors' code of greedy layer-wise learning (arXiv 1812.11446), from which Decoupled
Greedy Learning comes [C].

Shape legend: B clips, V videos, K classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_modules.metrics.video_scores import VideoScores


class ModuleScores:
    """Adds up the scores of videos, by module."""

    def __init__(self) -> None:
        self._of: dict[int, VideoScores] = {}

    def update(self, scores: Mapping[int, Tensor], labels_B: Tensor, video_index_B: Tensor) -> None:
        """Add a batch of clips' scores: of each module (B, K), labels (B,) and the videos' indices (B,)."""
        for module, scores_BK in scores.items():
            self._of.setdefault(module, VideoScores()).update(scores_BK, labels_B, video_index_B)

    def merge(self, other: "ModuleScores") -> None:
        """Add what another process has counted: other modules, or other clips."""
        for module, scores in other._of.items():
            self._of.setdefault(module, VideoScores()).merge(scores)

    def __bool__(self) -> bool:
        return bool(self._of)

    def top1(self) -> dict[str, float]:
        """Return the accuracy of each module, `module_j`, and of the `ensemble`; nothing where no module answered."""
        if not self._of:
            return {}
        found = {module: scores.compute() for module, scores in sorted(self._of.items())}
        labels_V = next(iter(found.values()))[1]
        figures = {f"module_{module}": _top1(scores_VK, labels_V) for module, (scores_VK, _) in found.items()}
        together_VK = torch.stack([2.0**module * scores_VK for module, (scores_VK, _) in found.items()]).sum(0)
        return figures | {"ensemble": _top1(together_VK, labels_V)}


def _top1(scores_VK: Tensor, labels_V: Tensor) -> float:
    return (scores_VK.argmax(-1) == labels_V).double().mean().item()
