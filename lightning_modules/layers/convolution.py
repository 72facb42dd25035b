"""A convolution as numbers say it, its forward pass, and its gradients one at a time.

Autograd finds the gradients of input and weight from one saved input. Here each is found by itself: that of the input
without any, that of the weight for whatever stands in the input's place.

Shape legend: B samples, C input channels, O output channels, S spatial sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input, as torch.convolution takes it.

    Args:
        stride: of each dimension.
        padding: zeros on both sides.
        dilation: of each dimension.
        groups: of channels.
        transposed: whether it is a transposed convolution.
        output_padding: of a transposed one.
        border: `reflect` or `replicate`: pixels are put around the input first, `around` of them.
        around: as torch.nn.functional.pad takes it.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    border: str | None = None
    around: tuple[int, ...] = ()

    def bordered(self, x: Tensor) -> Tensor:
        """Return the input with its border."""
        return x if self.border is None else F.pad(x, self.around, self.border)

    def without_border(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """Return the input's gradient from that of the input with its border."""
        if self.border is None:
            return gradient
        kind = {"reflect": "reflection", "replicate": "replication"}[self.border]
        backward = getattr(torch.ops.aten, f"{kind}_pad{len(self.around) // 2}d_backward")
        return backward(gradient, gradient.new_empty(1).expand(shape), self.around)

    @property
    def _steps(self) -> tuple[Any, ...]:
        """What torch's functions take after weight and bias."""
        outside = self.output_padding or (0,) * len(self.stride)
        return self.stride, self.padding, self.dilation, self.transposed, outside, self.groups

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of an input that has its border."""
        return torch.convolution(x, weight, bias, *self._steps)

    def _backward(self, x: Tensor, weight: Tensor, grad: Tensor, mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *self._steps, mask)

    def input_gradient(self, shape: Sequence[int], weight: Tensor, grad: Tensor) -> Tensor:
        """Return the exact gradient of an input of a shape, that with its border."""
        return self._backward(grad.new_empty(1).expand(shape), weight, grad, [True, False, False])[0]

    def weight_gradient(self, x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient of the weight for an input; the weight gives its shape alone."""
        return self._backward(x, weight, grad, [False, True, False])[1]
