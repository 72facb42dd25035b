"""The predictor: what is at step k, from k's local context and the memory of an earlier moment t <= k.

Shape legend: `...` any shape, C context, H memory, K outputs.
"""

from torch import Tensor, nn


class Predictor(nn.Module):
    """q(y_k | c_k, m_t): two hidden layers over context and memory (methods.md section 6 [C]).

    Args:
        context: C.
        memory: H.
        width: numbers of a hidden layer.
        outputs: K.
    """

    def __init__(self, context: int, memory: int, width: int, outputs: int) -> None:
        super().__init__()
        self.of_context, self.of_memory = nn.Linear(context, width), nn.Linear(memory, width, bias=False)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, context: Tensor, memory: Tensor) -> Tensor:
        """Return outputs (..., K) of contexts (..., C) and memories (..., H), either of which may be broadcast.

        The first layer is the sum of two: a memory's part is computed once for all steps that it predicts.
        """
        return self.rest(self.of_context(context) + self.of_memory(memory))
