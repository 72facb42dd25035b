"""From outputs to one score a video: the mean softmax over a clip's ticks, then the mean over the video's views.

Shape legend: B clips, N ticks with an output, K classes, V videos.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def clip_scores(logits_BNK: Tensor, valid_BN: Tensor) -> Tensor:
    """Return each clip's score (B, K), the mean softmax over its valid ticks (methods.md section 2, "Test time" [D]).

    A clip without a valid tick, one that ended before the pipeline's first output, scores 0 for every class.
    """
    return summed_scores(logits_BNK, valid_BN) / valid_BN.sum(1, keepdim=True).clamp_min(1)


def summed_scores(logits_BNK: Tensor, valid_BN: Tensor) -> Tensor:
    """Return the sum (B, K) of the softmax over valid ticks, for videos whose ticks come in pieces."""
    return (logits_BNK.softmax(-1) * valid_BN[..., None].to(logits_BNK)).sum(1)


class VideoScores:
    """Adds up the scores of clips by the video that they are views of; a video's clips may come in several batches.

    Views count alike. Of a stream's pieces the sums over ticks are given instead, so that every tick counts alike.
    """

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._labels: dict[int, int] = {}

    def update(self, scores_BK: Tensor, labels_B: Tensor, video_index_B: Tensor) -> None:
        """Add a batch of clips' scores: probabilities (B, K), labels (B,) and the videos' indices (B,)."""
        rows = zip(scores_BK.cpu().double(), labels_B.tolist(), video_index_B.tolist(), strict=True)
        for score, label, video in rows:
            self._sums[video] = self._sums.get(video, 0) + score
            self._labels[video] = label

    def merge(self, other: "VideoScores") -> None:
        """Add what another process has counted on other clips, of the same videos or of others."""
        for video, score in other._sums.items():
            self._sums[video] = self._sums.get(video, 0) + score
            self._labels[video] = other._labels[video]

    def __len__(self) -> int:
        return len(self._sums)

    def take(self, videos: Sequence[int]) -> Tensor:
        """Return the scores (V, K) of videos that are over, float32, and forget them; 0 where one had no output."""
        sums = [self._sums.pop(video) for video in videos]
        return torch.stack([total / total.sum().clamp_min(1e-12) for total in sums]).float() if sums else torch.empty(0)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the score of each video, (V, K) float32 with rows that sum to 1, and the labels (V,); V at least 1.

        Raises:
            ValueError: a video no clip of which is long enough to have a score.
        """
        videos = sorted(self._sums)
        scores_VK = torch.stack([self._sums[v] for v in videos])
        total_V1 = scores_VK.sum(-1, keepdim=True)
        if without := [v for v, total in zip(videos, total_V1, strict=True) if total == 0]:
            raise ValueError(
                f"{len(without)} of {len(videos)} videos end before the network's first output, "
                f"first video {without[0]}; leave them out, or use a network of fewer units"
            )
        return (scores_VK / total_V1).float(), torch.tensor([self._labels[v] for v in videos])
