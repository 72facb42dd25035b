"""Heads: the small networks that give a module its own loss in Decoupled Greedy Learning (arXiv 1901.08164).

Shape legend: N any number of frames, B clips, T frames of a clip, C channels, H and W height and width, K answers.

    message (N, C, H, W) --> module j --> output (N, C', H', W') --> module j + 1, detached
                                            |
                                            +--> head j --> (N, K), or (N, K, H', W') of a decoder --> loss j

A head's sizes are those of the authors' code [C] at width 1:

    mlp-sr  pool to a quarter of the side, 3 x (1x1 conv C -> C), pool to 2x2, 3 x linear of 4C, linear to K
    mlp     pool to a quarter of the side, then to 2x2, 3 x linear of 4C, linear to K
    cnn     2 x (3x3 conv C -> C), pool to 2x2, norm, linear to K

Every convolution and linear layer but the last is followed by normalisation and activation.
`width` multiplies the linear layers' 4C and the 3x3 convolutions' C [D]: at width 1 a head is larger than most units.
For a clip the head first takes the mean over time [D]; for frames it is a decoder of two convolutions [D].

Normalisation mixes nothing across frames, where the authors' code has BatchNorm: GroupNorm for maps, LayerNorm for
vectors [D]. A group has at least four channels, since a head's maps may be of one pixel: a group of one value is
normalised to 0 whatever it was.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from math import ceil, gcd, inf

from torch import Tensor, nn

from lightning_modules.layers.compact_pool import average_pool
from lightning_modules.networks.blocks import activation, scaled

HEADS = ("mlp-sr", "mlp", "cnn")
DECODER = "decoder"

_POOLED = 2  # side of the map that the linear layers read
_LAYERS = 3  # 1x1 convolutions, and hidden linear layers


class QuarterPool(nn.Module):
    """Average a map down to a quarter of its height and of its width, rounded up [C], but not below two pixels [D].

    The authors' maps are of eight pixels or more; those of small frames are not, and would lose where things are.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, C, ceil(H / 4), ceil(W / 4)), a side of 2 to 8 pixels as 2."""
        height, width = (max(ceil(side / 4), min(side, _POOLED)) for side in x_NCHW.shape[-2:])
        return average_pool(x_NCHW, (height, width))


class TimeMean(nn.Module):
    """Average a clip's features over time [D]."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        return x_BCTHW.mean(2)


def _map_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of at most 8 groups, each of at least four channels where there are as many."""
    return nn.GroupNorm(gcd(8, channels, max(1, channels // 4)), channels)


def _conv(in_channels: int, out_channels: int, size: int, act: str) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, _map_norm(out_channels), activation(act))


def _linear(in_features: int, out_features: int, act: str) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, out_features), nn.LayerNorm(out_features), activation(act))


Parts = OrderedDict[str, nn.Module]


def _mlp(channels: int, answers: int, width: float, act: str, convs: int = 0) -> Parts:
    hidden = scaled(4 * channels, width)
    sizes = [channels * _POOLED**2, *[hidden] * _LAYERS]
    linears = [_linear(before, after, act) for before, after in pairwise(sizes)]
    return Parts(
        shrink=QuarterPool(),
        convs=nn.Sequential(*[_conv(channels, channels, 1, act) for _ in range(convs)]),
        pool=nn.AdaptiveAvgPool2d(_POOLED),
        flatten=nn.Flatten(),
        linears=nn.Sequential(*linears),
        answer=nn.Linear(hidden, answers),
    )


def _mlp_sr(channels: int, answers: int, width: float, act: str) -> Parts:
    return _mlp(channels, answers, width, act, convs=_LAYERS)


def _cnn(channels: int, answers: int, width: float, act: str) -> Parts:
    inner = scaled(channels, width)
    return Parts(
        convs=nn.Sequential(_conv(channels, inner, 3, act), _conv(inner, inner, 3, act)),
        pool=nn.AdaptiveAvgPool2d(_POOLED),
        norm=_map_norm(inner),
        flatten=nn.Flatten(),
        answer=nn.Linear(inner * _POOLED**2, answers),
    )


def _decoder(channels: int, answers: int, width: float, act: str, zero: bool) -> Parts:
    inner = scaled(channels, width)
    answer = nn.Conv2d(inner, answers, 3, padding=1)
    if zero:
        nn.init.zeros_(answer.weight)
        assert answer.bias is not None
        nn.init.zeros_(answer.bias)
    return Parts(conv=_conv(channels, inner, 3, act), answer=answer)


_CLASSIFIERS: dict[str, Callable[[int, int, float, str], Parts]] = {"mlp-sr": _mlp_sr, "mlp": _mlp, "cnn": _cnn}
assert tuple(_CLASSIFIERS) == HEADS


def check_known(kind: str, expected: Sequence[str]) -> None:
    """Refuse a kind of head that does not exist.

    Args:
        kind: its name.
        expected: what may be typed instead.

    Raises:
        ValueError: with the nearest of them.
    """
    if kind not in (*HEADS, DECODER):
        near = get_close_matches(kind, expected, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"head {kind!r} is unknown; {hint}expected one of {', '.join(expected)}")


def make_head(
    kind: str,
    channels: int,
    answers: int,
    *,
    width: float = 0.25,
    act: str = "relu",
    clip: bool = False,
    zero: bool = False,
) -> nn.Module:
    """Return a module's auxiliary classifier, or its decoder.

    Args:
        kind: one of `HEADS`, from (N, C, H, W) of any size to (N, K); or `decoder`, to (N, K, H, W).
        channels: C, of the module's output.
        answers: K: classes, or channels of all predicted frames together.
        width: multiplies the sizes inside the head; 1 gives the paper's heads.
        act: `relu`, `silu`, `softplus` or `tanh`.
        clip: the input is (B, C, T, H, W), for a network of whole clips.
        zero: a decoder's last convolution starts at zero, so that it says 0 everywhere.

    Raises:
        ValueError: an unknown kind or activation, a width that is not positive, or options that the kind cannot take.
    """
    check_known(kind, (*HEADS, DECODER))
    if not 0 < width < inf:
        raise ValueError(f"head width is {width}; give a positive number, 1 for the paper's heads")
    if kind == DECODER:
        if clip:
            raise ValueError(f"head 'decoder' reads single frames; for clips give one of {', '.join(HEADS)}")
        return nn.Sequential(_decoder(channels, answers, width, act, zero))
    if zero:
        raise ValueError(f"a start at zero belongs to head 'decoder' only; leave zero out of head {kind!r}")
    over_time = Parts(over_time=TimeMean()) if clip else Parts()
    return nn.Sequential(Parts(**over_time, **_CLASSIFIERS[kind](channels, answers, width, act)))
