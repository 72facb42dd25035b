"""A convolution that keeps a sketch of its input instead of the input, and estimates its weight's gradient from it.

    forward    y = conv(x, w)        kept: X E and the probes' key            exact
    backward   input, bias           need no x                                exact
               weight                conv_weight_gradient(X~, dY)             X~ = (X E) E^T / r (probes.py)

The weight's gradient is linear in x, so that it is unbiased whatever the kernel, stride, padding, dilation and groups
(arXiv 2106.06998, methods.md section 5; the exact form [D]: the public code shifts flattened images, which is biased).
For `multi` probes the same number comes from the contraction (X E)^T dY, r samples instead of B: the cheaper is taken.

Shape legend: B samples, C input channels (ci), O output channels (co), S spatial sizes, r probes.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from lightning_modules.layers import local_probes, shared_probes
from lightning_modules.layers.convolution import Geometry
from lightning_modules.layers.probes import Draw, Fields, Probes, gaussian_fields, samples_at_once


def estimated_weight_gradient(
    kept: Tensor,
    means: Tensor | None,
    grad: Tensor,
    weight: Tensor,
    geometry: Geometry,
    shape: Sequence[int],
    probes: Probes,
    fields: Fields,
) -> Tensor:
    """Return an unbiased estimate of a convolution's weight gradient from a sketch of its input.

    methods.md section 5, "Exact estimator" [D].

    Args:
        kept: `sketch` of the input, (B, C, r) or (B, r).
        means: of the input's channels, (B, C), where the sketch is without them.
        grad: gradient of the output, (B, O, *S').
        weight: for its shape.
        geometry: of the convolution.
        shape: of the input with its border, (B, C, *S).
        probes: how many, and of what kind.
        fields: the probes that the sketch was made with.
    """
    # Sums of many parts: half precision adds up in single.
    total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    if not grad.numel() or not prod(shape):
        return total.to(weight.dtype)
    if probes.mode == "multi" and means is None and probes.count <= len(kept):
        n = prod(shape[1:])
        for piece in fields.pieces(probes.count, n, beside=prod(grad.shape[1:])):
            columns = kept[:, piece.start : piece.stop].T / probes.count
            # What has no name is gone before the next is made.
            total += geometry.weight_gradient(
                fields(0, piece, n).view(len(piece), *shape[1:]),
                weight,
                (columns @ grad.flatten(1)).view(len(piece), *grad.shape[1:]),
            )
        return total.to(weight.dtype)
    step = samples_at_once(shape, probes, kept.element_size())
    for first in range(0, len(kept), step):
        some = range(first, min(first + step, len(kept)))
        total += geometry.weight_gradient(
            _expanded(kept, means, some, shape, probes, fields), weight, grad[some.start : some.stop]
        )
    return total.to(weight.dtype)


def _expanded(
    kept: Tensor, means: Tensor | None, some: range, shape: Sequence[int], probes: Probes, fields: Fields
) -> Tensor:
    """Return X~ of some samples."""
    place = slice(some.start, some.stop)
    kept, means = kept[place], None if means is None else means[place]
    if probes.mode == "local":
        return local_probes.expand(kept, means, shape, probes, fields, some)
    return shared_probes.expand(kept, means, shape[1:], probes, fields)


class _SketchedConvolution(torch.autograd.Function):
    """The convolution that keeps a sketch; nothing where the weight requires no gradient."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        key: Tensor,
        geometry: Geometry,
        probes: Probes,
        draw: Draw,
    ) -> Tensor:
        bordered = geometry.bordered(x)
        if ctx.needs_input_grad[1]:
            means = probes.means(bordered)
            sketch = (local_probes if probes.mode == "local" else shared_probes).sketch
            kept = sketch(bordered, means, probes, Fields(probes, key, bordered, draw))
            kept = kept.bfloat16() if probes.half and kept.dtype == torch.float32 else kept
            ctx.save_for_backward(weight, kept, means, key)
        else:
            ctx.save_for_backward(weight, None, None, None)
        ctx.shape, ctx.bordered_shape = x.shape, bordered.shape
        ctx.geometry, ctx.probes, ctx.draw = geometry, probes, draw
        return geometry(bordered, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, kept, means, key = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = geometry.without_border(geometry.input_gradient(ctx.bordered_shape, weight, grad), ctx.shape)
        if ctx.needs_input_grad[1]:
            kept = kept.to(weight.dtype)
            fields = Fields(ctx.probes, key, kept, ctx.draw)
            of_weight = estimated_weight_gradient(
                kept, means, grad, weight, geometry, ctx.bordered_shape, ctx.probes, fields
            )
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum([d for d in range(grad.dim()) if d != 1])
        return of_x, of_weight, of_bias, None, None, None, None


def sketched_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    probes: Probes,
    key: Tensor,
    draw: Draw = gaussian_fields,
) -> Tensor:
    """Return the convolution (B, O, *S') of x (B, C, *S); its backward estimates the weight's gradient.

    methods.md section 5 [D]. Differentiable once.

    Args:
        x: input.
        weight: as torch has it for such a convolution; where it requires no gradient, nothing is kept.
        bias: (O,), or None.
        geometry: stride, padding and so on.
        probes: how the input is sketched.
        key: whole numbers on the CPU from which probes are drawn.
        draw: `gaussian_fields`, or probes of one's own.
    """
    return _SketchedConvolution.apply(x, weight, bias, key, geometry, probes, draw)
