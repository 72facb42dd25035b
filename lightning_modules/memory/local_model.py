"""What can be said of a step without memory: its local context, and a model that answers from it alone.

    x_{k-w+1} ... x_k --features--> context c_k --> local model d(y_k | c_k)         methods.md section 6 [C]
                                        `---------> predictor q(y_k | c_k, m_t)

w = 1 is the step alone. A longer window tells steps apart that look alike, as the places of a tail of equal symbols.

Shape legend: B lanes, N steps, W window, F features, C context, K outputs.
"""

import torch
from torch import Tensor, nn


class LocalContext(nn.Module):
    """A convolution over the last `window` steps' features, so that every step is worked on at once.

    It is normalised: windows that differ in one step alone are soon told apart [D].

    Args:
        features: F.
        window: steps that are seen, the newest is the step itself.
        width: C.
    """

    def __init__(self, features: int, window: int, width: int) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"context is {window} steps; expected 1 (the step alone) or more: --model.context 1")
        self.window, self.width = window, width
        self.linear, self.norm = nn.Linear(window * features, width), nn.LayerNorm(width)

    def forward(self, features_BNF: Tensor) -> Tensor:
        """Return contexts (B, N - W + 1, C): of all steps that have W - 1 before them."""
        windows = features_BNF.unfold(1, self.window, 1).transpose(-1, -2)
        return torch.relu(self.norm(self.linear(windows.flatten(-2))))


class LocalModel(nn.Module):
    """Answers from a local context alone: what stays uncertain needs memory [P].

    Args:
        features: F.
        window: of its own context.
        width: hidden numbers.
        outputs: K.
    """

    def __init__(self, features: int, window: int, width: int, outputs: int) -> None:
        super().__init__()
        self.context = LocalContext(features, window, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, features_BNF: Tensor) -> Tensor:
        """Return outputs (B, N - W + 1, K)."""
        return self.head(self.context(features_BNF))
