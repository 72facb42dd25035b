"""A network's activations, pools and norms exchanged for ones that keep less for the gradient.

A sketched convolution no longer keeps its input; but the ReLU, pool or norm before it keeps the same tensor, or one as
large, for its own gradient, and nothing would be saved. Hence two steps, of what each layer keeps (bytes of a float32
element of a unit convolution -> norm -> ReLU -> 2 x 2 max pool):

    level   norm   ReLU   pool   gradients
    none    4      4      2      torch's
    relu    4      1/8    1/16   torch's, bit for bit: a ReLU needs signs, a pool the winners' places or a shape
    norm    1      1/8    1/16   a norm's from its input in 8 bits (compact_norm.py)
"""

from torch import nn

from lightning_modules.layers.compact_norm import (
    CompactBatchNorm1d,
    CompactBatchNorm2d,
    CompactBatchNorm3d,
    CompactGroupNorm,
    CompactLayerNorm,
)
from lightning_modules.layers.compact_pool import (
    CompactAdaptiveAvgPool2d,
    CompactAdaptiveAvgPool3d,
    CompactAdaptiveMaxPool2d,
    CompactAvgPool2d,
    CompactAvgPool3d,
    CompactMaxPool2d,
    CompactMaxPool3d,
)
from lightning_modules.layers.mask_relu import MaskReLU

LEVELS = ("none", "relu", "norm")

_EXACT: dict[type[nn.Module], type[nn.Module]] = {
    nn.ReLU: MaskReLU,
    nn.MaxPool2d: CompactMaxPool2d,
    nn.MaxPool3d: CompactMaxPool3d,
    nn.AdaptiveMaxPool2d: CompactAdaptiveMaxPool2d,
    nn.AvgPool2d: CompactAvgPool2d,
    nn.AvgPool3d: CompactAvgPool3d,
    nn.AdaptiveAvgPool2d: CompactAdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d: CompactAdaptiveAvgPool3d,
}
_ROUNDED: dict[type[nn.Module], type[nn.Module]] = {
    nn.GroupNorm: CompactGroupNorm,
    nn.LayerNorm: CompactLayerNorm,
    nn.BatchNorm1d: CompactBatchNorm1d,
    nn.BatchNorm2d: CompactBatchNorm2d,
    nn.BatchNorm3d: CompactBatchNorm3d,
}


def to_compact(network: nn.Module, what: str) -> dict[str, str]:
    """Change, in place, the classes of a network's layers to those that keep less; see the file's head [D].

    Parameters, hooks, names and state_dict keys stay, and each layer is still an instance of torch's class. Layers of
    exactly torch's types are changed; subclasses of them compute what we can't know, and stay.

    Args:
        network: any module, one layer included.
        what: one of `LEVELS`.

    Returns:
        The new class's name of each layer changed by this call.

    Raises:
        ValueError: `what` is unknown.
    """
    if what not in LEVELS:
        raise ValueError(f"compact level {what!r} is unknown; expected one of {', '.join(LEVELS)}")
    classes = {"none": {}, "relu": _EXACT, "norm": _EXACT | _ROUNDED}[what]
    changed = {}
    for name, layer in network.named_modules():
        if type(layer) in classes:
            layer.__class__ = classes[type(layer)]
            changed[name] = type(layer).__name__
    return changed
