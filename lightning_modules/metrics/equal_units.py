"""A network of units that cost the same, for measuring how well several devices are used.

    unit 1      stem 3 -> C, then `blocks` convolutions C -> C      (the stem takes no gradient to the frame)
    unit i                        `blocks` convolutions C -> C
    unit D                        `blocks` convolutions C -> C, pool and linear head

Every message is a tensor (B, C, H, W) of the same size. The other networks' units differ by what they are for.
"""

from functools import partial

from torch import nn

from lightning_modules.networks.blocks import conv_unit, head_unit
from lightning_modules.networks.unit_network import UnitNetwork, UnitSpec
from lightning_modules.networks.wiring import make_wiring

COLOURS = 3


def _unit(in_channels: int, *, channels: int, blocks: int, stem: bool, classes: int | None) -> nn.Module:
    layers = [conv_unit(channels).build(in_channels)] if stem else []
    for block in range(blocks):
        layers.append(conv_unit(channels).build(in_channels if block == 0 and not stem else channels))
    return nn.Sequential(*layers, *([] if classes is None else [head_unit(classes, "avg").build(channels)]))


def equal_units(depth: int, *, channels: int, blocks: int, classes: int = 10, wiring: str = "chain") -> UnitNetwork:
    """Return the network.

    Args:
        depth: units, D.
        channels: of every message, C.
        blocks: convolutions (3x3, GroupNorm, ReLU) of each unit.
        classes: logits of the last unit.
        wiring: a name; what a wiring with `concat` reads is wider, so that its units cost more.

    Raises:
        ValueError: fewer than one unit or block.
    """
    if depth < 1 or blocks < 1:
        raise ValueError(f"{depth} units of {blocks} convolutions; expected at least one of each")
    specs = []
    for number in range(1, depth + 1):
        last = number == depth
        build = partial(_unit, channels=channels, blocks=blocks, stem=number == 1, classes=classes if last else None)
        specs.append(UnitSpec(classes if last else channels, build))
    return UnitNetwork(specs, make_wiring(wiring, depth), COLOURS)
