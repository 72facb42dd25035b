"""Slow copies of a network, of which a detector asks what memory did not foresee (methods.md section 6 [C])."""

import copy

import torch
from torch import nn

from lightning_modules.memory.memory_network import MemoryNetwork


class Followers(nn.Module):
    """Copies of a network that follow it slowly: an exponential moving average (EMA) of its weights [C].

    Args:
        network: what they follow.
        decay: share of the past that an update keeps.
    """

    def __init__(self, network: MemoryNetwork, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay is {decay}; expected 0 (always the newest) to below 1: --model.ema_decay 0.99")
        self.copy = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def follow(self, network: MemoryNetwork) -> None:
        """Go a step towards the network's weights."""
        torch._foreach_lerp_(list(self.copy.parameters()), list(network.parameters()), 1 - self.decay)
