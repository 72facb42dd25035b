"""Edges and masks over all ticks of a clip at once: the delay operators of the vectorised form.

Shape legend: S ticks that a tensor spans (a slice of 1..T), B clips; `_SB...` has ticks first, so that a shift in
ticks is a slice of contiguous memory.

An edge from unit j to unit i, read over all ticks (a_j and a_i: the first ticks of their outputs):

    forward   message[t]  = h_j[t - f]                f: the rule's forward shift
    backward  grad h_j[t + b] += grad message[t]      b: the rule's backward shift; what falls outside the clip, or
                                                      before the source's first complete gradient, is lost

Delays in place of messages are the vectorised form of methods.md section 3 [D].
"""

from typing import Any

import torch
from torch import Tensor


class _Edge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source_SB: Tensor, start: int, length: int, back: int, used: int) -> Tensor:
        ctx.source_ticks, ctx.back, ctx.used = source_SB.shape[0], back, used
        return source_SB[start : start + length]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_SB,) = grad_outputs
        ticks = ctx.source_ticks
        first = min(max(ctx.back, ctx.used), ticks)
        last = max(first, min(ctx.back + grad_SB.shape[0], ticks))
        if last - first == ticks == grad_SB.shape[0]:
            return grad_SB, None, None, None, None
        # Only the ticks that get no message are filled with zeros: this tensor is as large as the unit's output.
        out = grad_SB.new_empty(ticks, *grad_SB.shape[1:])
        out[:first] = 0
        out[first:last] = grad_SB[first - ctx.back : last - ctx.back]
        out[last:] = 0
        return out, None, None, None, None


def edge(
    source_SB: Tensor,
    *,
    source_first: int,
    reader_first: int,
    last: int,
    forward: int,
    backward: int,
    used_from: int,
) -> Tensor:
    """Return the messages that a reader gets from a source at ticks `reader_first`..`last` (methods.md section 3 [D]).

    Args:
        source_SB: the source's outputs (S, B, ...) at ticks `source_first` and on; so are the messages returned.
        source_first: first tick of the source's outputs.
        reader_first: first tick at which the reader works.
        last: last tick, T.
        forward: ticks that the edge adds to an activation.
        backward: ticks that the edge adds to a gradient.
        used_from: first tick at which the source uses a gradient; what comes earlier is dropped.
    """
    start = reader_first - forward - source_first
    back = reader_first + backward - source_first
    return _Edge.apply(source_SB, start, last - reader_first + 1, back, used_from - source_first)


class _GradientMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_SB: Tensor, mask_SB: Tensor) -> Tensor:
        ctx.save_for_backward(mask_SB)
        return x_SB.view_as(x_SB)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad_SB,) = grad_outputs
        (mask_SB,) = ctx.saved_tensors
        return grad_SB * mask_SB.view(*mask_SB.shape, *[1] * (grad_SB.dim() - 2)), None


def mask_gradient(x_SB: Tensor, mask_SB: Tensor) -> Tensor:
    """Return `x_SB` (S, B, ...) unchanged; its gradient is kept only where the mask (S, B) is true.

    An ended clip gets no gradients: methods.md section 2, "skip the unit's update" [D].
    """
    return _GradientMask.apply(x_SB, mask_SB.to(x_SB.dtype))
