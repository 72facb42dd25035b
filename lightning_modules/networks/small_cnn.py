"""A small per-frame CNN: convolution units and a head, the network of the demo and of quick studies."""

from collections.abc import Sequence

from lightning_modules.networks.blocks import conv_unit, head_unit, scaled
from lightning_modules.networks.unit_network import UnitSpec

_CHANNELS = (16, 32, 64)
_STRIDED_UNITS = 3


def small_cnn(
    num_classes: int, *, width: float = 1.0, depth: int | None = None, pool: str = "avg", activation: str = "relu"
) -> Sequence[UnitSpec]:
    """Return the units of the small CNN: `depth - 1` convolution units (default 5) and a head.

    The first three units halve the frame's size, so that a 32x32 frame ends at 4x4.

    Raises:
        ValueError: a depth below 2.
    """
    depth = 6 if depth is None else depth
    if depth < 2:
        raise ValueError(f"small_cnn has depth {depth}; it needs at least 2 units, one convolution and the head")
    convolutions = [
        conv_unit(
            scaled(_CHANNELS[min(i, len(_CHANNELS) - 1)], width),
            stride=2 if i < _STRIDED_UNITS else 1,
            act=activation,
        )
        for i in range(depth - 1)
    ]
    return [*convolutions, head_unit(num_classes, pool)]
