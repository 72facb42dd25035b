"""Normalisation that keeps its input in few bits for the gradient [D].

torch's norms keep their input x whole (4 bytes of an element) and two statistics of each group: mean and 1/std. These
keep x as whole numbers of `bits` bits between the least and the largest value of its group, by even steps, rounded to
the nearest; the group's least value and its step; and the two statistics, exact. So

    forward    torch's own: results and running statistics are equal bit for bit
    backward   torch's own, of x~ in place of x: |x~ - x| <= step / 2 = (largest - least) / (2 (2^bits - 1))

A group is what shares statistics: the channels of a group of one frame (GroupNorm), one row (LayerNorm), or a channel
over the batch (BatchNorm). At 8 bits an element of normal noise is off by 0.9 % of its standard deviation. x enters
the input's gradient by its correlation with the gradient behind it alone: that gradient is off by 0.05 to 0.1 % where
there is none, and by up to 1.3 % where it is all (relative, L2); the weight's the other way round, by up to 0.8 %; the
bias's is exact.

In half precision x~ is rounded to the input's type. With 0 bits x is kept and gradients are torch's own; so too where
a group is so small that bits, least value and step would take no less than x.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_modules.layers.bit_packing import pack, packed_bytes, unpack

BITS = 8
PIECE_BYTES = 8 * 2**20  # of frames whose numbers are rounded, or got back, at a time
_NATIVE = 0  # torch's number of the batch norm that is no library's
_aten = torch.ops.aten


def _check(bits: int) -> None:
    if not 0 <= bits <= 8:
        raise ValueError(f"{bits} bits of a norm's input; expected 1 to 8, or 0 to keep the input itself")


def quantise(x: Tensor, dims: tuple[int, ...], bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x as whole numbers, and the least value and the step of each group; see `restore`.

    Args:
        x: of any shape.
        dims: its dimensions that a group spans.
        bits: 1 to 8. The numbers are x's shape in bytes for 8 bits, else packed.
    """
    exact = x.float() if x.itemsize < 4 else x
    low = exact.amin(dims, keepdim=True)
    step = (exact.amax(dims, keepdim=True) - low).div_(2**bits - 1).clamp_min_(torch.finfo(exact.dtype).tiny)
    codes = (exact - low).div_(step).round_().to(torch.uint8)
    return codes if bits == 8 else pack(codes, bits), low, step


def restore(codes: Tensor, low: Tensor, step: Tensor, shape: torch.Size, bits: int) -> Tensor:
    """Return what `quantise` was given, to half a step, in the type of its steps."""
    if bits < 8:
        codes = unpack(codes, bits, shape.numel()).to(torch.uint8).view(shape)
    return codes.to(step.dtype).mul_(step).add_(low)


def _quantised(norm: nn.Module, x: Tensor, group: int, bits: int) -> bool:
    """Return whether a graph is recorded, and a group's values take less in bits than they are."""
    _check(bits)
    graph = x.requires_grad or any(p.requires_grad for p in norm.parameters())
    beside = 2 * max(4, x.itemsize)
    pays = bits > 0 and x.numel() > 0 and packed_bytes(group, bits) + beside < group * x.itemsize
    return torch.is_grad_enabled() and graph and pays


def _memory_format(x: Tensor) -> torch.memory_format:
    """Return the format that torch's group_norm computes in."""
    if x.device.type == "cpu" and not x.is_contiguous():
        for dim, channels_last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if x.dim() == dim and x.is_contiguous(memory_format=channels_last):
                return channels_last
    return torch.contiguous_format


def _as_under_autocast(x: Tensor, sample: Sequence[int], operation: Callable[[Tensor], Tensor]) -> Tensor:
    """Return x in the type that the operation gives a small sample: autocast's lists differ by device and release."""
    if not torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(operation(x.new_zeros(sample)).dtype)


def _pieces(x: Tensor, bits: int) -> list[slice]:
    """Return frames, as many at a time as make `PIECE_BYTES`: their groups have statistics of their own.

    All at once where bits are packed without gaps between frames.
    """
    each = max(1, PIECE_BYTES // max(1, x[:1].numel() * x.element_size())) if bits == BITS else max(1, len(x))
    return [slice(first, first + each) for first in range(0, max(1, len(x)), each)]


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float, bits: int
    ) -> Tensor:
        ctx.format, ctx.bits, ctx.dtype = _memory_format(x), bits, x.dtype
        x = x.contiguous(memory_format=ctx.format)
        ctx.sizes = (x.shape[0], x.shape[1], x.shape[2:].numel(), groups)
        grouped = x.unflatten(1, (groups, -1))
        dims = tuple(range(2, grouped.dim()))
        parts = [quantise(grouped[some], dims, bits) for some in _pieces(x, bits)]
        kept = [torch.cat(part) for part in zip(*parts, strict=True)]
        del parts
        out, mean, rstd = _aten.native_group_norm(x, weight, bias, *ctx.sizes, eps)
        ctx.save_for_backward(*kept, mean, rstd, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        codes, low, step, mean, rstd, weight = ctx.saved_tensors
        (grad,) = (g.contiguous(memory_format=ctx.format) for g in grad_outputs)
        of_x = torch.empty_like(grad) if ctx.needs_input_grad[0] else None
        of_weight, of_bias = (torch.zeros_like(weight) if needed else None for needed in ctx.needs_input_grad[1:3])
        groups = ctx.sizes[-1]
        for some in _pieces(grad, ctx.bits):
            part = grad[some]
            grouped = (len(part), groups, part.shape[1] // groups, *part.shape[2:])
            x = restore(codes[some], low[some], step[some], torch.Size(grouped), ctx.bits).to(ctx.dtype)
            gradients = _aten.native_group_norm_backward(
                part,
                x.view(part.shape).contiguous(memory_format=ctx.format),
                mean[some],
                rstd[some],
                weight,
                len(part),
                *ctx.sizes[1:],
                list(ctx.needs_input_grad[:3]),
            )
            if of_x is not None:
                of_x[some] = gradients[0]
            for total, found in ((of_weight, gradients[1]), (of_bias, gradients[2])):
                if total is not None:
                    total += found
        return of_x, of_weight, of_bias, None, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, rows: tuple[int, ...], eps: float, bits: int
    ) -> Tensor:
        x = x.contiguous()
        ctx.bits, ctx.dtype, ctx.shape, ctx.rows = bits, x.dtype, x.shape, rows
        out, mean, rstd = _aten.native_layer_norm(x, rows, weight, bias, eps)
        kept = quantise(x, tuple(range(-len(rows), 0)), bits)
        ctx.save_for_backward(*kept, mean, rstd, weight, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        codes, low, step, mean, rstd, weight, bias = ctx.saved_tensors
        x = restore(codes, low, step, ctx.shape, ctx.bits).to(ctx.dtype)
        gradients = _aten.native_layer_norm_backward(
            grad_outputs[0].contiguous(), x, ctx.rows, mean, rstd, weight, bias, list(ctx.needs_input_grad[:3])
        )
        return *gradients, None, None, None


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        training: bool,
        momentum: float,
        eps: float,
        bits: int,
    ) -> Tensor:
        ctx.bits, ctx.dtype, ctx.shape, ctx.training, ctx.eps = bits, x.dtype, x.shape, training, eps
        out, mean, rstd, reserve, ctx.implementation = _aten._batch_norm_impl_index(
            x, weight, bias, *running, training, momentum, eps, torch.backends.cudnn.enabled
        )
        kept = quantise(x, tuple(d for d in range(x.dim()) if d != 1), bits)
        # The next forward changes the running statistics; training's gradient doesn't read them.
        ctx.save_for_backward(*kept, mean, rstd, reserve, weight, *((None, None) if training else running))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        codes, low, step, mean, rstd, reserve, weight, *running = ctx.saved_tensors
        x = restore(codes, low, step, ctx.shape, ctx.bits).to(ctx.dtype)
        needed = list(ctx.needs_input_grad[:3])
        given = (weight, *running, mean, rstd, ctx.training, ctx.eps)
        if ctx.implementation == _NATIVE:  # which torch.compile can trace for sizes that change
            gradients = _aten.native_batch_norm_backward(grad_outputs[0], x, *given, needed)
        else:
            gradients = _aten._batch_norm_impl_index_backward(
                ctx.implementation, x, grad_outputs[0], *given, needed, reserve
            )
        return *gradients, None, None, None, None, None


class _FewBits(nn.Module):
    """A norm with one argument more: bits of an element of the input that it keeps; 0 keeps the input."""

    bits: int = BITS

    def __init__(self, *args: Any, bits: int = BITS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check(bits)
        self.bits = bits


class CompactGroupNorm(_FewBits, nn.GroupNorm):
    """nn.GroupNorm that keeps its input in few bits; see the file's head.

    Args:
        args: as nn.GroupNorm's, and so are the keyword arguments.
        bits: of an element of the input; 0 keeps the input.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the input (N, C, ...) with each group of channels of each frame normalised."""
        group = input.shape[1:].numel() // self.num_groups
        if input.dim() < 2 or input.shape[1] != self.num_channels or not _quantised(self, input, group, self.bits):
            return super().forward(input)
        x = _as_under_autocast(input, (1, self.num_groups, 2), lambda small: F.group_norm(small, self.num_groups))
        return _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps, self.bits)


class CompactLayerNorm(_FewBits, nn.LayerNorm):
    """nn.LayerNorm that keeps its input in few bits; see the file's head.

    Args:
        args: as nn.LayerNorm's, and so are the keyword arguments.
        bits: of an element of the input; 0 keeps the input.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the input, normalised over its last dimensions."""
        rows = tuple(self.normalized_shape)
        fits = tuple(input.shape[-len(rows) :]) == rows
        if not fits or not _quantised(self, input, torch.Size(rows).numel(), self.bits):
            return super().forward(input)
        x = _as_under_autocast(input, (1, 2), lambda small: F.layer_norm(small, (2,)))
        return _LayerNorm.apply(x, self.weight, self.bias, rows, self.eps, self.bits)


class _CompactBatchNorm(_FewBits, nn.modules.batchnorm._BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        """Return the input (N, C, ...) with each channel normalised over the batch, or by the running statistics."""
        self._check_input_dim(input)
        fits = input.dim() > 1 and input.shape[1] == self.num_features
        if not fits or not _quantised(self, input, input.numel() // max(1, self.num_features), self.bits):
            return super().forward(input)
        # What follows is nn.BatchNorm's own choice of statistics.
        momentum = self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / float(self.num_batches_tracked)
        own = self.training or (self.running_mean is None and self.running_var is None)
        kept = not self.training or self.track_running_stats
        running = (self.running_mean, self.running_var) if kept else (None, None)
        return _BatchNorm.apply(input, self.weight, self.bias, running, own, momentum or 0.0, self.eps, self.bits)


class CompactBatchNorm1d(_CompactBatchNorm, nn.BatchNorm1d):
    """nn.BatchNorm1d that keeps its input in few bits (keyword `bits`; 0 keeps the input); see the file's head."""


class CompactBatchNorm2d(_CompactBatchNorm, nn.BatchNorm2d):
    """nn.BatchNorm2d that keeps its input in few bits (keyword `bits`; 0 keeps the input); see the file's head."""


class CompactBatchNorm3d(_CompactBatchNorm, nn.BatchNorm3d):
    """nn.BatchNorm3d that keeps its input in few bits (keyword `bits`; 0 keeps the input); see the file's head."""
