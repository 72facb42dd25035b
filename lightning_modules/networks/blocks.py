"""Building blocks that the per-frame networks share.

Shape legend: N frames, C channels, H and W height and width, K classes.
"""

from math import gcd

from torch import Tensor, nn

from lightning_modules.networks.unit_network import UnitSpec

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def scaled(channels: int, width: float) -> int:
    """Return channels x width, at least 4 and a multiple of 4 so that GroupNorm has groups to work with."""
    return max(4, 4 * round(channels * width / 4))


def activation(name: str) -> nn.Module:
    """Return the named activation.

    Raises:
        ValueError: the name is not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown; expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of at most 8 groups: normalisation that mixes nothing across frames."""
    return nn.GroupNorm(gcd(8, channels), channels)


def conv_unit(out_channels: int, *, stride: int = 1, act: str = "relu", pool: bool = False) -> UnitSpec:
    """Return a unit of 3x3 convolution, GroupNorm and activation, halving the size by `stride` or a max pool."""

    def build(in_channels: int) -> nn.Module:
        layers = [
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            group_norm(out_channels),
            activation(act),
        ]
        return nn.Sequential(*layers, *([nn.MaxPool2d(2, ceil_mode=True)] if pool else []))

    return UnitSpec(out_channels, build)


class Head(nn.Module):
    """The last unit of a classifier: pool over space, then a linear layer to K logits.

    Args:
        in_channels: channels C of its input.
        num_classes: K.
        pool: `avg` or `max`.
    """

    def __init__(self, in_channels: int, num_classes: int, pool: str) -> None:
        super().__init__()
        if pool not in ("avg", "max"):
            raise ValueError(f"head pool {pool!r} is unknown; expected 'avg' or 'max'")
        self.pool = pool
        self.linear = nn.Linear(in_channels, num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits (N, K)."""
        return self.linear(x_NCHW.mean((-2, -1)) if self.pool == "avg" else x_NCHW.amax((-2, -1)))


def head_unit(num_classes: int, pool: str) -> UnitSpec:
    """Return the classifier's last unit."""
    return UnitSpec(num_classes, lambda in_channels: Head(in_channels, num_classes, pool))
