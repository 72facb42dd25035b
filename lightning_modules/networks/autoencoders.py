"""Encoder-decoder networks cut into units: a frame in, K frames out, for future frames and for auto-encoding [D].

The decoder mirrors the encoder: with E units down (and some at the bottom), decoder unit D - j + 1 reads a map of the
size that encoder unit j gives, so that under wiring `unet` the two meet without resizing:

    small_autoencoder, D = 6                    size    channels
    unit 1  conv ------------------> unit 6     1       16 | K*C       unit 6 reads 5, and 1 under `unet`
      unit 2  conv, /2 ----------> unit 5       1/2     32 | 16        unit 5 reads 4, and 2
        unit 3  conv, /2 ------> unit 4         1/4     64 | 32        unit 4 reads 3

Every unit takes one tick here as in a classifier. So a U-Net's skip does not bring the encoder's map of the frame that
is being decoded, as it does on paper: it brings that of a newer one. At tick t unit 6 reads unit 5's message about
frame t - 5 (and t - 3, by the skip below it), and unit 1's of frame t - 1; see `schedule.frames_read`.

Upsampling stands at the end of a unit (nearest neighbour), so that a unit's message has the size that its reader works
at. The last unit is one convolution, without normalisation or activation: frames, or changes of frames, have any sign.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from lightning_modules.networks.blocks import activation as make_activation
from lightning_modules.networks.blocks import conv_unit, group_norm, scaled
from lightning_modules.networks.resnet18 import BasicBlock
from lightning_modules.networks.unit_network import UnitSpec

_SMALL = ((16, 1), (32, 2), (64, 2))  # channels, stride
_VGG8 = ((128, 1), (256, 2), (256, 1), (512, 2), (512, 2), (512, 2))
_RESNET18 = ((64, 4), (64, 1), (128, 2), (256, 2), (512, 2))


@dataclass(frozen=True)
class Autoencoder:
    """The units of an encoder-decoder, and what the frame's height and width must be a multiple of."""

    specs: Sequence[UnitSpec]
    frame_multiple: int


UnitOf = Callable[[int, int, str], UnitSpec]  # of output channels, factor, activation


def _followed_by_upsampling(spec: UnitSpec, factor: int) -> UnitSpec:
    """Return a unit whose output is `factor` times as high and as wide."""
    if factor == 1:
        return spec
    return UnitSpec(
        spec.out_channels,
        lambda in_channels: nn.Sequential(spec.build(in_channels), nn.Upsample(scale_factor=factor, mode="nearest")),
    )


def _output_unit(out_channels: int, factor: int, zero: bool) -> UnitSpec:
    """Return the last unit: a 3x3 convolution to `out_channels`, and pixels in place of channels where it must grow."""

    def build(in_channels: int) -> nn.Module:
        conv = nn.Conv2d(in_channels, out_channels * factor**2, 3, padding=1)
        if zero:
            nn.init.zeros_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        return conv if factor == 1 else nn.Sequential(conv, nn.PixelShuffle(factor))

    return UnitSpec(out_channels, build)


def _mirrored(
    encoder: Sequence[tuple[int, int]],
    down: UnitOf,
    up: UnitOf,
    *,
    out_channels: int,
    width: float,
    activation: str,
    zero_output: bool,
    bottom: int = 0,
) -> Autoencoder:
    """Return an encoder, `bottom` further units of its last channels, and the mirror image of the encoder.

    Args:
        encoder: (channels, stride) of each unit.
        down: builds an encoder unit of given channels and stride.
        up: builds a decoder unit of given channels; what it is to grow by follows it.
        out_channels: channels of the network's output.
        width: multiplies the channels.
        activation: of every unit but the last.
        zero_output: start the last convolution at zero.
        bottom: number of units between encoder and decoder.
    """
    channels, strides = [scaled(c, width) for c, _ in encoder], [stride for _, stride in encoder]
    specs = [down(c, stride, activation) for c, stride in zip(channels, strides, strict=True)]
    specs += [up(channels[-1], 1, activation)] * bottom
    for j in reversed(range(1, len(encoder))):
        specs.append(_followed_by_upsampling(up(channels[j - 1], 1, activation), strides[j]))
    specs.append(_output_unit(out_channels, strides[0], zero_output))
    return Autoencoder(specs, prod(strides))


def _conv(channels: int, stride: int, act: str) -> UnitSpec:
    return conv_unit(channels, stride=stride, act=act)


def _vgg_conv(channels: int, stride: int, act: str) -> UnitSpec:
    return conv_unit(channels, pool=stride == 2, act=act)


def _resnet_stage(channels: int, stride: int, act: str) -> UnitSpec:
    """Return two basic blocks, or the stem where the stride is the stem's."""

    def build(in_channels: int) -> nn.Module:
        if stride == 4:
            conv = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
            return nn.Sequential(conv, group_norm(channels), make_activation(act), nn.MaxPool2d(3, 2, padding=1))
        return nn.Sequential(
            BasicBlock(in_channels, channels, stride, act),
            BasicBlock(channels, channels, 1, act),
        )

    return UnitSpec(channels, build)


def small_autoencoder(
    out_channels: int,
    *,
    width: float = 1.0,
    depth: int | None = None,
    activation: str = "relu",
    zero_output: bool = False,
) -> Autoencoder:
    """Return the small encoder-decoder: six units, or more with further ones at the bottom.

    Raises:
        ValueError: a depth below 6.
    """
    depth = 2 * len(_SMALL) if depth is None else depth
    if depth < 2 * len(_SMALL):
        raise ValueError(f"small_autoencoder has depth {depth}; it needs at least 6 units, three down and three up")
    return _mirrored(
        _SMALL,
        _conv,
        _conv,
        out_channels=out_channels,
        width=width,
        activation=activation,
        zero_output=zero_output,
        bottom=depth - 2 * len(_SMALL),
    )


def vgg8_autoencoder(
    out_channels: int,
    *,
    width: float = 1.0,
    depth: int | None = None,
    activation: str = "relu",
    zero_output: bool = False,
) -> Autoencoder:
    """Return VGG-8's six convolution units and their mirror image: 12 units.

    Raises:
        ValueError: a depth other than 12.
    """
    _check_depth("vgg8_autoencoder", depth, 12)
    return _mirrored(
        _VGG8,
        _vgg_conv,
        _conv,
        out_channels=out_channels,
        width=width,
        activation=activation,
        zero_output=zero_output,
    )


def resnet18_autoencoder(
    out_channels: int,
    *,
    width: float = 1.0,
    depth: int | None = None,
    activation: str = "relu",
    zero_output: bool = False,
) -> Autoencoder:
    """Return ResNet-18's stem and four stages of two blocks, a unit each, and their mirror image: 10 units.

    Raises:
        ValueError: a depth other than 10.
    """
    _check_depth("resnet18_autoencoder", depth, 10)
    return _mirrored(
        _RESNET18,
        _resnet_stage,
        _resnet_stage,
        out_channels=out_channels,
        width=width,
        activation=activation,
        zero_output=zero_output,
    )


def _check_depth(name: str, depth: int | None, units: int) -> None:
    if depth not in (None, units):
        raise ValueError(
            f"{name} has {units} units, given depth={depth}; leave depth out, or use network 'small_autoencoder'"
        )
