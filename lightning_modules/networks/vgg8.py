"""VGG-8: six convolution units, one hidden fully connected unit and a head; 8 units.

The layout of local-learning studies (VGG8B: 128C3-256C3-MP-256C3-512C3-MP-512C3-MP-512C3-MP-1024FC-FC), with
GroupNorm, and a global pool before the hidden layer so that any input size from 32 works.
"""

from collections.abc import Sequence

from torch import nn

from lightning_modules.networks.blocks import activation as make_activation
from lightning_modules.networks.blocks import conv_unit, head_unit, scaled
from lightning_modules.networks.unit_network import UnitSpec

_CHANNELS = (128, 256, 256, 512, 512, 512)
_POOLED = (False, True, False, True, True, True)
_HIDDEN = 1024


def _hidden_unit(features: int, pool: str, act: str) -> UnitSpec:
    def build(in_channels: int) -> nn.Module:
        # 1x1 maps keep the message four-dimensional, so that skips treat this unit like any other.
        to_1x1 = nn.AdaptiveMaxPool2d(1) if pool == "max" else nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(to_1x1, nn.Conv2d(in_channels, features, 1), make_activation(act))

    return UnitSpec(features, build)


def vgg8(
    num_classes: int, *, width: float = 1.0, depth: int | None = None, pool: str = "avg", activation: str = "relu"
) -> Sequence[UnitSpec]:
    """Return the eight units of VGG-8.

    Raises:
        ValueError: a depth other than 8.
    """
    if depth not in (None, 8):
        raise ValueError(f"vgg8 has 8 units, given depth={depth}; leave depth out, or use network 'small_cnn'")
    convolutions = [
        conv_unit(scaled(c, width), pool=p, act=activation) for c, p in zip(_CHANNELS, _POOLED, strict=True)
    ]
    return [*convolutions, _hidden_unit(scaled(_HIDDEN, width), pool, activation), head_unit(num_classes, pool)]
