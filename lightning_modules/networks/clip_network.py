"""Networks that take a whole clip at once: the 3D CNN controls that a user would pick instead.

Shape legend: B clips, T frames, C channels, H and W height and width, K classes.
"""

import torch
from torch import Tensor, nn


class ClipNetwork(nn.Module):
    """A network over clips, trained by plain backprop: one unit whose input is the clip and whose output is one answer.

    Args:
        features: from (B, C, T, H, W) to (B, C', T', H', W').
        head: linear layer from C' to K.
        pool: over space, `avg` or `max`; the pool over time is the mean.

    Raises:
        ValueError: an unknown pool.
    """

    depth = 1

    def __init__(self, features: nn.Module, head: nn.Linear, pool: str = "avg") -> None:
        super().__init__()
        if pool not in ("avg", "max"):
            raise ValueError(f"head pool {pool!r} is unknown; expected 'avg' or 'max'")
        self.features = features
        self.head = head
        self.pool = pool

    def unit_parameters(self, number: int) -> dict[str, nn.Parameter]:
        """Return all parameters: a clip network is one unit."""
        if number != 1:
            raise ValueError(f"unit {number} of a clip network; it has one unit, number 1")
        return dict(self.named_parameters())

    def forward(self, video_BTCHW: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return logits (B, K), each clip's as if it had no padding.

        Padding cannot be masked after the fact: it enters the convolutions over time and the statistics of the
        normalisation. So clips of one length go through together, cut to it. Where features hold BatchNorm (x3d), a
        training step then takes its statistics over the clips of one length.
        """
        if lengths_B is None:
            return self._logits(video_BTCHW)
        parts, order = [], []
        for length in lengths_B.unique().tolist():
            clips = (lengths_B == length).nonzero().squeeze(1)
            parts.append(self._logits(video_BTCHW[clips, : max(length, 1)]))
            order.append(clips)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def _logits(self, video_BTCHW: Tensor) -> Tensor:
        x_BCTHW = self.features(video_BTCHW.transpose(1, 2))
        x_BCT = x_BCTHW.mean((-2, -1)) if self.pool == "avg" else x_BCTHW.amax((-2, -1))
        return self.head(x_BCT.mean(-1))
