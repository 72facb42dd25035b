"""ReLU that keeps one bit of each element for its gradient, where torch's keeps its result.

Where the layer behind it keeps its input whole (a plain convolution), the result is kept in any case and the bits come
on top: 1/32 of it in float32. Where it does not (a sketched convolution, a pool of compact_pool.py), they are all.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.layers.bit_packing import pack, unpack_flags


class _MaskReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        result = torch.relu_(x) if inplace else torch.relu(x)
        if inplace:
            ctx.mark_dirty(x)
        # ReLU's result is 0 where the gradient is; NaN counts as more, as in torch. The mask is a new tensor without
        # gaps, so that its memory can be read in order whatever its strides are.
        mask = result.bool()
        ctx.shape, ctx.strides = mask.shape, mask.stride()
        ctx.save_for_backward(pack(mask.as_strided((mask.numel(),), (1,)).view(torch.uint8), 1))
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,), (packed,) = grad_outputs, ctx.saved_tensors
        mask = unpack_flags(packed, ctx.shape.numel()).as_strided(ctx.shape, ctx.strides)
        result = torch.empty_like(grad).copy_(mask)
        if torch.is_grad_enabled():  # create_graph=True: what follows is differentiated in its turn
            return torch.ops.aten.threshold_backward(grad, result, 0), None
        return torch.ops.aten.threshold_backward.grad_input(grad, result, 0, grad_input=result), None


def mask_relu(x: Tensor, *, inplace: bool = False) -> Tensor:
    """Return ReLU of x, of any shape, with torch's own gradient; one bit of an element is kept for it [D].

    Args:
        x: of any shape and memory format, which the result has too.
        inplace: write the result over x, as torch's does.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _MaskReLU.apply(x, inplace)
    return torch.relu_(x) if inplace else torch.relu(x)


class MaskReLU(nn.ReLU):
    """nn.ReLU that keeps one bit of each element, always packed: result and gradient are torch's, bit for bit [D]."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ReLU of the input."""
        return mask_relu(input, inplace=self.inplace)
