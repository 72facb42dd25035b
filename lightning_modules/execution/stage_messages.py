"""What modules of one stage tell those of others in the course of a clip: tensors, or codes and what they mean.

    sender                                                     receiver
    output -> nearest codes --- bits, every message ------->   codes -> dense again
              codebook      --- once, with the first ------>   kept for the clip

A codebook stays as it is while a clip lasts, so that its copy goes once; where weights change at every tick it changes
too, and goes with every message. The receiver's own copy of the quantiser is not used: it is as old as the last time
that weights were brought together. Which ticks have messages is the routes' business (stage.py). All of this is ours
(methods.md section 4 [D]).
"""

from collections.abc import Iterable
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from lightning_modules.execution.placement import Channel
from lightning_modules.execution.stage import Stage
from lightning_modules.layers.vector_quantiser import Packed, VectorQuantiser
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.networks.wiring import INPUT


class StageMessages:
    """A stage's messages of one clip, whose routes are open.

    Args:
        network: cut into modules.
        stage: where it is at work.
    """

    def __init__(self, network: UnitNetwork, stage: Stage) -> None:
        self.network, self.stage = network, stage
        self.units = tuple(unit for unit in stage.units if stage.channels("activation", unit))  # that are sent
        self._codebooks: dict[int, Tensor] = {}

    def send(self, unit: int, tick: int, message: Tensor, packed: Packed | None = None) -> None:
        """Send a unit's output, or a frame, to every stage that uses it at a tick.

        Args:
            unit: number; 0 for the frame.
            tick: at which it is used.
            message: dense.
            packed: its codes, of a unit that quantises.
        """
        for channel in self.stage.channels("activation", unit):
            if not self.stage.carries(channel, tick):
                continue
            self.stage.send(channel, tick, message if packed is None else packed.data)
            if self.stage.carries(beside := _beside(channel), tick):
                # A copy: it may wait to be sent until after its next step.
                self.stage.send(beside, tick, self._quantiser(unit).codebook.clone())

    def receive(self, source: int, tick: int) -> Tensor:
        """Return another stage's message for a tick, dense; valid until the next one of its source is received."""
        (channel,) = self.stage.channels("activation", source)
        dense = self.stage.routes[channel].dense
        if dense is None:
            return self.stage.receive(channel, tick)
        if self.stage.carries(beside := _beside(channel), tick):
            self._codebooks[source] = self.stage.receive(beside, tick)
        return self._decoded(source, self.stage.receive(channel, tick), dense.shape, dense.dtype)

    def receive_all(self, sources: Iterable[int], messages: dict[int, Tensor]) -> None:
        """Add to `messages` what comes from other stages for all ticks of a clip and is not there yet."""
        for source in sources:
            if source not in messages and self.stage.channels("activation", source):
                # A copy: modules above may read it after the exchange has used its memory again.
                messages[source] = self.receive(source, 0).clone()

    def _decoded(self, unit: int, data: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        quantiser = self._quantiser(unit)
        flat = torch.Size((prod(shape[:-3]), *shape[-3:]))
        packed = Packed(data, flat, dtype, 0, quantiser.groups, quantiser.codes)
        return quantiser.decode(packed, codebook=self._codebooks[unit]).view(shape)

    def _quantiser(self, unit: int) -> VectorQuantiser:
        assert unit != INPUT
        quantiser = self.network.quantiser(unit)
        assert quantiser is not None
        return quantiser


def _beside(channel: Channel) -> Channel:
    """Return the channel of the codebook beside one of codes."""
    return replace(channel, kind="codebook")
