"""ResNet-18 with GroupNorm: a stem, eight basic blocks and a head; 10 units.

The block's own addition stays inside its unit and has no temporal effect; only the wiring's skips carry time.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.networks.blocks import activation as make_activation
from lightning_modules.networks.blocks import group_norm, head_unit, scaled
from lightning_modules.networks.unit_network import UnitSpec

_BLOCKS = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016), GroupNorm in place of BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, act: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels)
        self.act = make_activation(act)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, group_norm(out_channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output (N, C', H', W')."""
        hidden = self.act(self.norm1(self.conv1(x_NCHW)))
        return self.act(self.norm2(self.conv2(hidden)) + self.shortcut(x_NCHW))


def _stem(channels: int, act: str) -> UnitSpec:
    def build(in_channels: int) -> nn.Module:
        conv = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
        return nn.Sequential(conv, group_norm(channels), make_activation(act), nn.MaxPool2d(3, stride=2, padding=1))

    return UnitSpec(channels, build)


def _block(channels: int, stride: int, act: str) -> UnitSpec:
    return UnitSpec(channels, lambda in_channels: BasicBlock(in_channels, channels, stride, act))


def resnet18(
    num_classes: int, *, width: float = 1.0, depth: int | None = None, pool: str = "avg", activation: str = "relu"
) -> Sequence[UnitSpec]:
    """Return the ten units of ResNet-18.

    Raises:
        ValueError: a depth other than 10.
    """
    if depth not in (None, 10):
        raise ValueError(f"resnet18 has 10 units, given depth={depth}; leave depth out, or use network 'small_cnn'")
    blocks = [_block(scaled(c, width), stride, activation) for c, stride in _BLOCKS]
    return [_stem(scaled(64, width), activation), *blocks, head_unit(num_classes, pool)]
