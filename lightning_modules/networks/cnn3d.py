"""A 3D CNN of the small CNN's channels: every 3x3 convolution becomes 3x3x3 (C3D's recipe)."""

from torch import nn

from lightning_modules.networks.blocks import activation as make_activation
from lightning_modules.networks.blocks import group_norm, scaled
from lightning_modules.networks.clip_network import ClipNetwork

_CHANNELS = (16, 32, 64, 64, 64)


def cnn3d(
    in_channels: int, num_classes: int, *, width: float = 1.0, pool: str = "avg", activation: str = "relu"
) -> ClipNetwork:
    """Return the 3D CNN: five units that halve space three times and keep time, pool, linear."""
    layers: list[nn.Module] = []
    blocks = []
    channels = in_channels
    for i, c in enumerate(_CHANNELS):
        out = scaled(c, width)
        stride = (1, 2, 2) if i < 3 else 1
        layers += [nn.Conv3d(channels, out, 3, stride=stride, padding=1, bias=False), group_norm(out)]
        layers.append(make_activation(activation))
        channels = out
        blocks.append((3, out))
    return ClipNetwork(nn.Sequential(*layers), nn.Linear(channels, num_classes), pool, blocks)
