"""Pools that keep for their gradient what it needs: a winner's place in its window, or a shape.

torch's max pools keep their input and an int64 index of each output, its average pools their input for its shape
alone. A place in a window of k values is ceil(log2 k) bits: 2 bits of an output for a 2 x 2 window, where torch keeps
8 bytes and the input. Outputs are torch's, bit for bit; so are gradients, which torch's own operators compute.

The flat index of a winner is the sum of two terms, so no division finds its place (here 2 x 2 windows, W wide):

    corner of the window    2 W y + 2 x           of each output
    offset in the window    0   1   W   W + 1     of places 0 to 3; a table of the offsets tells the places
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.layers.bit_packing import MAX_BITS, index_bits, pack, unpack

_aten = torch.ops.aten


class _Pool(NamedTuple):
    forward: Callable[..., Any]
    backward: Callable[..., Tensor]


_MAX = {
    "max 2d": _Pool(F.max_pool2d, _aten.max_pool2d_with_indices_backward),
    "max 3d": _Pool(F.max_pool3d, _aten.max_pool3d_with_indices_backward),
    "adaptive max 2d": _Pool(F.adaptive_max_pool2d, _aten.adaptive_max_pool2d_backward),
}
_AVERAGE = {
    "average 2d": _Pool(F.avg_pool2d, _aten.avg_pool2d_backward),
    "average 3d": _Pool(F.avg_pool3d, _aten.avg_pool3d_backward),
    "adaptive average 2d": _Pool(F.adaptive_avg_pool2d, _aten._adaptive_avg_pool2d_backward),
    "adaptive average 3d": _Pool(F.adaptive_avg_pool3d, _aten._adaptive_avg_pool3d_backward),
}


def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value) * (axes if len(value) == 1 else 1)


def _memory_format(x: Tensor) -> torch.memory_format:
    for dim, channels_last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.dim() == dim and x.is_contiguous(memory_format=channels_last) and not x.is_contiguous():
            return channels_last
    return torch.contiguous_format


def _flat(axes: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Return the flat index in a map of these sizes for each combination of places along its axes."""
    index = axes[0]
    for axis, size in zip(axes[1:], sizes[1:], strict=True):
        index = index[..., None] * size + axis
    return index


class _Windows(NamedTuple):
    """The windows along one axis of a map: where they begin, and their places. Adaptive ones have a stride of 0."""

    outputs: int
    stride: int
    padding: int
    places: int
    dilation: int
    size: int

    def firsts(self, device: torch.device) -> Tensor:
        i = torch.arange(self.outputs, device=device)
        return i * self.stride - self.padding if self.stride else i * self.size // self.outputs

    def offsets(self, device: torch.device) -> Tensor:
        return torch.arange(self.places, device=device) * self.dilation


def _adaptive(size: int, outputs: int) -> _Windows:
    widest = max([1] + [-(-(i + 1) * size // outputs) - i * size // outputs for i in range(outputs)])
    return _Windows(outputs, 0, 0, widest, 1, size)


def _windows(arguments: tuple[Any, ...], sizes: Sequence[int], outputs: Sequence[int]) -> list[_Windows]:
    if not arguments:
        return [_adaptive(size, out) for size, out in zip(sizes, outputs, strict=True)]
    kernel, stride, padding, dilation = (_per_axis(value, len(sizes)) for value in arguments[:4])
    return [_Windows(*axis) for axis in zip(outputs, stride, padding, kernel, dilation, sizes, strict=True)]


def _corners_and_offsets(windows: Sequence[_Windows], device: torch.device) -> tuple[Tensor, Tensor]:
    sizes = [axis.size for axis in windows]
    corners = _flat([axis.firsts(device) for axis in windows], sizes)
    return corners, _flat([axis.offsets(device) for axis in windows], sizes).reshape(-1)


def _places(indices: Tensor, windows: Sequence[_Windows]) -> Tensor:
    """Return the place of each index in its window. Places of one offset, of which all but one lie outside, are one."""
    corners, offsets = _corners_and_offsets(windows, indices.device)
    longest = 0
    for axis in windows:
        longest = longest * axis.size + (axis.places - 1) * axis.dilation
    dtype = torch.uint8 if len(offsets) <= 256 else torch.int32
    table = torch.zeros(longest + 1, dtype=dtype, device=indices.device)
    table[offsets] = torch.arange(len(offsets), device=indices.device).to(dtype)
    return table.index_select(0, (indices - corners).reshape(-1))


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str, size: tuple[int, ...], arguments: tuple[Any, ...]) -> Tensor:
        axes = 3 if kind == "max 3d" else 2
        out, indices = _MAX[kind].forward(x, *(arguments or (size,)), return_indices=True)
        windows = _windows(arguments, x.shape[-axes:], out.shape[-axes:])
        ctx.bits = _window_bits([axis.places for axis in windows])
        ctx.kind, ctx.arguments, ctx.windows, ctx.out_shape = kind, arguments, windows, out.shape
        ctx.shape, ctx.memory_format = x.shape, _memory_format(x)
        ctx.save_for_backward(pack(_places(indices, windows), ctx.bits))
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (packed,) = grad_outputs, ctx.saved_tensors
        corners, offsets = _corners_and_offsets(ctx.windows, grad.device)
        indices = offsets.index_select(0, unpack(packed, ctx.bits, ctx.out_shape.numel())).view(ctx.out_shape) + corners
        like = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.memory_format)
        return _MAX[ctx.kind].backward(grad, like, *ctx.arguments, indices), None, None, None


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str, arguments: tuple[Any, ...]) -> Tensor:
        ctx.kind, ctx.arguments, ctx.shape, ctx.memory_format = kind, arguments, x.shape, _memory_format(x)
        return _AVERAGE[kind].forward(x, *arguments)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        like = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.memory_format)
        arguments = () if ctx.kind.startswith("adaptive") else ctx.arguments
        return _AVERAGE[ctx.kind].backward(grad, like, *arguments), None, None


def _window_bits(places: Sequence[int]) -> int:
    count = 1
    for axis in places:
        count *= axis
    return max(1, index_bits(count))


def _needs_graph(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _adaptive_size(size: Any, x: Tensor, axes: int) -> tuple[int, ...]:
    """Return the outputs along each axis; None keeps the input's."""
    return tuple(
        own if given is None else given
        for given, own in zip((size,) * axes if size is None else _per_axis(size, axes), x.shape[-axes:], strict=True)
    )


def average_pool(x: Tensor, size: int | Sequence[int | None] | None) -> Tensor:
    """Return torch's adaptive_avg_pool2d, number for number, and keep the shape of x alone for the gradient [D].

    Args:
        x: (N, C, H, W) or (C, H, W).
        size: height and width of the result, or one for both; None keeps that of x.
    """
    return _average(x, "adaptive average 2d", (_adaptive_size(size, x, 2),))


def _average(x: Tensor, kind: str, arguments: tuple[Any, ...]) -> Tensor:
    # An adaptive pool to one value is a mean in torch, which keeps the shape alone.
    to_one = kind.startswith("adaptive") and set(arguments[0]) == {1}
    if to_one or not _needs_graph(x):
        return _AVERAGE[kind].forward(x, *arguments)
    return _AveragePool.apply(x, kind, arguments)


class CompactMaxPool2d(nn.MaxPool2d):
    """nn.MaxPool2d that keeps the winners' places, packed; with `return_indices`, torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the largest value of each window, as nn.MaxPool2d does."""
        return _max_pool(self, input, "max 2d")


class CompactMaxPool3d(nn.MaxPool3d):
    """nn.MaxPool3d that keeps the winners' places, packed; with `return_indices`, torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the largest value of each window, as nn.MaxPool3d does."""
        return _max_pool(self, input, "max 3d")


def _max_pool(layer: nn.MaxPool2d | nn.MaxPool3d, x: Tensor, kind: str) -> Tensor:
    own = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
    axes = 3 if kind == "max 3d" else 2
    kernel = _per_axis(layer.kernel_size, axes)
    if layer.return_indices or not _needs_graph(x) or _window_bits(kernel) > MAX_BITS:
        return _MAX[kind].forward(x, *own, return_indices=layer.return_indices)
    if torch.is_autocast_enabled(x.device.type):
        # Autocast knows torch's 3-D pool on some devices, but not the same pool with indices: ask it with a small map.
        reach = [1 + d * (k - 1) for k, d in zip(kernel, _per_axis(layer.dilation, axes), strict=True)]
        x = x.to(_MAX[kind].forward(x.new_zeros(1, *reach), *own).dtype)
    return _MaxPool.apply(x, kind, (), own)


class CompactAdaptiveMaxPool2d(nn.AdaptiveMaxPool2d):
    """nn.AdaptiveMaxPool2d that keeps the winners' places, packed; with `return_indices`, torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the largest value of each window, as nn.AdaptiveMaxPool2d does."""
        size = _adaptive_size(self.output_size, input, 2)
        places = [_adaptive(own, out).places for own, out in zip(input.shape[-2:], size, strict=True)]
        if self.return_indices or not _needs_graph(input) or _window_bits(places) > MAX_BITS:
            return super().forward(input)
        return _MaxPool.apply(input, "adaptive max 2d", size, ())


class CompactAvgPool2d(nn.AvgPool2d):
    """nn.AvgPool2d that keeps its input's shape alone."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the mean of each window, as nn.AvgPool2d does."""
        return _average(input, "average 2d", _average_arguments(self))


class CompactAvgPool3d(nn.AvgPool3d):
    """nn.AvgPool3d that keeps its input's shape alone."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the mean of each window, as nn.AvgPool3d does."""
        return _average(input, "average 3d", _average_arguments(self))


def _average_arguments(layer: nn.AvgPool2d | nn.AvgPool3d) -> tuple[Any, ...]:
    axes = 3 if isinstance(layer, nn.AvgPool3d) else 2
    kernel, stride, padding = (_per_axis(v, axes) for v in (layer.kernel_size, layer.stride, layer.padding))
    return kernel, stride, padding, layer.ceil_mode, layer.count_include_pad, layer.divisor_override


class CompactAdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """nn.AdaptiveAvgPool2d that keeps its input's shape alone."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the mean of each window, as nn.AdaptiveAvgPool2d does."""
        return average_pool(input, self.output_size)


class CompactAdaptiveAvgPool3d(nn.AdaptiveAvgPool3d):
    """nn.AdaptiveAvgPool3d that keeps its input's shape alone."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the mean of each window, as nn.AdaptiveAvgPool3d does."""
        return _average(input, "adaptive average 3d", (_adaptive_size(self.output_size, input, 3),))
