"""A memory that watches streams as they come: one step in, one answer out, in time and memory that do not grow.

    x_t --encoder--> features of step t - ahead --memory, predictor--> what is said of step t - ahead

Kept between steps: memory's state, the features of W - 1 steps, and what a pipelined encoder has in flight.

Shape legend: B lanes, W steps of the local context, F features, K outputs.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_modules.memory.encoders import Encoder
from lightning_modules.memory.memory_network import MemoryNetwork
from lightning_modules.memory.recurrent import State


class Watcher:
    """Watches streams side by side, from their first step on.

    Args:
        network: memory, context and predictor.
        encoder: gives the features.
    """

    def __init__(self, network: MemoryNetwork, encoder: Encoder) -> None:
        self.network = network
        self._encode = encoder.step_by_step()
        self.ahead = encoder.ahead
        self._state: State | None = None
        self._before: Tensor | None = None
        self._nothing: Tensor | None = None

    @torch.no_grad()
    def feed(self, x: Tensor) -> Tensor | None:
        """Return what is said of the step `ahead` steps ago, (B, K); None where that is before the first.

        Args:
            x: the next step of each lane: symbols (B,), vectors (B, F) or frames (B, C, H, W).
        """
        self._nothing = torch.zeros_like(x)
        features_BF = self._encode(x)
        if features_BF is None:
            return None
        if self._before is None or self._state is None:
            lanes, features = features_BF.shape
            self._before = features_BF.new_zeros(lanes, self.network.context.window - 1, features)
            self._state = self.network.memory.initial(lanes, features_BF)
        window_BWF = torch.cat([self._before, features_BF[:, None]], 1)
        outputs_B1K, _, self._state = self.network.at_each_step(window_BWF, self._state)
        self._before = window_BWF[:, 1:].clone()
        return outputs_B1K[:, 0]

    def rest(self) -> Iterator[Tensor]:
        """Give what is said of the last `ahead` steps, now that the streams are over."""
        for _ in range(self.ahead):
            assert self._nothing is not None, "feed a step first"
            said = self.feed(self._nothing)
            if said is not None:
                yield said
