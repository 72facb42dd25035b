"""What a step of `FutureFrames` hands on: a batch of clips with every predicted frame beside the true one.

    test_step, predict_step ----PredictedClips----> callbacks: files, tables, the dashboard's sample

Shape legend: B clips, T frames, N outputs, K horizons, C channels, H and W height and width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass  # not frozen: Lightning moves what a step returns to the CPU, field by field
class PredictedClips:
    """Clips, and what was said of their frames.

    Args:
        clip_ids: of each clip.
        labels: class names, "" where a clip has none.
        context_BTCHW: all frames of the clips, in [0, 1] or uint8.
        lengths_B: real frames of each clip.
        newest_N: newest frame that can have reached each output, from 0.
        target_BNKCHW: the true frames, in [0, 1].
        prediction_BNKCHW: the predicted frames, not clamped.
        scored_BN: outputs that count; the rest of a clip is there to be looked at, or is padding.
    """

    clip_ids: Sequence[str]
    labels: Sequence[str]
    context_BTCHW: Tensor
    lengths_B: Tensor
    newest_N: Tensor
    target_BNKCHW: Tensor
    prediction_BNKCHW: Tensor
    scored_BN: Tensor

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __iter__(self) -> Iterator["PredictedClip"]:
        """Yield each clip alone, without its padding and with its scored outputs only."""
        for b, (clip_id, label) in enumerate(zip(self.clip_ids, self.labels, strict=True)):
            scored_N = self.scored_BN[b]
            yield PredictedClip(
                clip_id,
                label,
                self.context_BTCHW[b, : int(self.lengths_B[b])],
                self.newest_N[scored_N.to(self.newest_N.device)].tolist(),
                self.target_BNKCHW[b, scored_N],
                self.prediction_BNKCHW[b, scored_N],
            )


@dataclass(frozen=True)
class PredictedClip:
    """One clip: its frames (T, C, H, W), and target and prediction (N, K, C, H, W) for the newest frames `frames`."""

    clip_id: str
    label: str
    context_TCHW: Tensor
    frames: list[int]
    target_NKCHW: Tensor
    prediction_NKCHW: Tensor
