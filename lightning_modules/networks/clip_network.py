"""Networks that take a whole clip at once: the 3D CNN controls that a user would pick instead.

Shape legend: B clips, T frames, C channels, H and W height and width, K classes.
"""

from torch import Tensor, nn


class ClipNetwork(nn.Module):
    """A network over clips, trained by plain backprop: one unit whose input is the clip and whose output is one answer.

    Args:
        features: from (B, C, T, H, W) to (B, C', T', H', W'), T' a whole fraction of T.
        head: linear layer from C' to K.
    """

    depth = 1

    def __init__(self, features: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def unit_parameters(self, number: int) -> dict[str, nn.Parameter]:
        """Return all parameters: a clip network is one unit."""
        if number != 1:
            raise ValueError(f"unit {number} of a clip network; it has one unit, number 1")
        return dict(self.named_parameters())

    def forward(self, video_BTCHW: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return logits (B, K); padding beyond each clip's length is left out of the pool over time."""
        x_BCTHW = self.features(video_BTCHW.transpose(1, 2))
        x_BCT = x_BCTHW.mean((-2, -1))
        if lengths_B is None:
            return self.head(x_BCT.mean(-1))
        steps = x_BCT.new_tensor(range(x_BCT.shape[-1])) * (video_BTCHW.shape[1] / x_BCT.shape[-1])
        weight_BT = (steps < lengths_B[:, None].to(steps)).to(x_BCT)
        return self.head((x_BCT * weight_BT[:, None]).sum(-1) / weight_BT.sum(-1, keepdim=True))
