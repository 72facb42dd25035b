"""One tick of all units over static buffers: the pipelined executor's numbers, in a form that a CUDA graph can replay.

A graph does the same work on the same addresses again and again. So whatever outlives a tick has a place of its own,
and a message's place depends on nothing but the parity of its tick:

    tick t            reads slots (t - 1) % 2        writes slots t % 2
    unit i            outputs h_j of its sources     its output h_i
    unit i < D        the gradient for h_i           the gradients for its sources' outputs

Until every unit has its first complete gradient, at tick L (`schedule.shortest_clip`), the ticks of a clip differ; from
then on all even ticks do the same work on the same addresses, and so do all odd ones. Ticks of one phase are the same:

    tick     1  2  ..  L-1   L   L+1  L+2  L+3  ..
    phase    1  2  ..  L-1   L   L+1   L   L+1  ..         1: unit 1 alone works; L and L+1: every unit does all it can

Slots are never cleared: what was left by an earlier clip is not read before it has been written anew.

Rule: Sideways without a stash [P, methods.md sections 2 and 3]; slots, phases and this form are ours [D].

Shape legend: B clips, T frames, C channels, H and W height and width, K classes.
"""

import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_modules.execution.clip_loss import (
    ClipSums,
    Loss,
    leading_targets,
    mean_over_alive,
    targets_at,
    valid_outputs,
)
from lightning_modules.execution.pipelined import OnTick
from lightning_modules.execution.schedule import first_gradient_tick, first_output_tick, nominal_frame, shortest_clip
from lightning_modules.execution.stage import message_shapes
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.networks.wiring import INPUT
from lightning_modules.rules.rule import Rule


class SlotTick:
    """Static buffers for a batch of clips of one shape, and the tick that works on them. Call it with a tick's number.

    Args:
        network: is not kept alive; whoever calls a tick holds it.
        loss: from (B, K) outputs and targets to (B,) losses.
        frame_BCHW: a frame of the batch; its shape, dtype and device are all that counts.
        targets_B: the targets of a frame; likewise.
        lead: the rule's: with one, the last unit's messages have targets of their own.
        sums: add up the clip's gradients; without it `gradients` are those of the last tick.
        autocast: type in which units compute and messages wait, such as bfloat16; None for the weights' own.
        channels_last: messages and frames lie in memory with channels last; the weights are the caller's.
    """

    def __init__(
        self,
        network: UnitNetwork,
        loss: Loss,
        frame_BCHW: Tensor,
        targets_B: Tensor,
        *,
        lead: int = 0,
        sums: bool = True,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> None:
        self._network = weakref.ref(network)
        self._loss_of, self._sums, self._autocast = loss, sums, autocast
        self.wiring, self.device = network.wiring, frame_BCHW.device
        self.steady = shortest_clip(network.wiring)
        dtype, clips = next(network.parameters()).dtype, frame_BCHW.shape[0]
        shapes = message_shapes(network, tuple(frame_BCHW.shape[1:]))

        def slot(unit: int, kind: torch.dtype) -> Tensor:
            new = torch.zeros(clips, *shapes[unit], dtype=kind, device=self.device)
            return new.contiguous(memory_format=torch.channels_last) if channels_last and new.dim() == 4 else new

        self.frame_BCHW, self.targets_B = slot(INPUT, frame_BCHW.dtype), torch.zeros_like(targets_B)
        self.leading_B = torch.zeros_like(targets_B) if lead else None
        self.weight_B = torch.zeros(clips, dtype=dtype, device=self.device)
        self.loss, self.output_BK = torch.zeros((), dtype=dtype, device=self.device), slot(network.depth, dtype)
        lower = range(1, network.depth)
        self._activations = [{unit: slot(unit, autocast or dtype) for unit in lower} for _ in range(2)]
        self._messages = [{unit: slot(unit, autocast or dtype) for unit in lower} for _ in range(2)]
        self._gradients = {
            unit: {name: torch.zeros_like(p) for name, p in network.unit_parameters(unit).items() if p.requires_grad}
            for unit in range(1, network.depth + 1)
        }

    @property
    def network(self) -> UnitNetwork:
        """The network, as long as somebody holds it."""
        network = self._network()
        assert network is not None, "the network is gone, and its slots should be too"
        return network

    @property
    def phases(self) -> range:
        """Every phase, numbered by its first tick."""
        return range(1, self.steady + 2)

    def phase(self, tick: int) -> int:
        """Return the phase of a tick: ticks of one phase do the same work on the same addresses."""
        return tick if tick < self.steady else self.steady + (tick - self.steady) % 2

    def reset(self) -> None:
        """Begin a clip."""
        if gradients := [g for of_unit in self._gradients.values() for g in of_unit.values()]:
            torch._foreach_zero_(gradients)

    def load(self, frame_BCHW: Tensor, targets_B: Tensor, weight_B: Tensor, leading_B: Tensor) -> None:
        """Bring in what a tick needs from outside: the new frame, the output's targets, and 1 for clips that go on.

        `leading_B` are the targets behind what the last unit sends; without a lead nothing reads them.
        """
        self.frame_BCHW.copy_(frame_BCHW)
        self.targets_B.copy_(targets_B)
        if self.leading_B is not None:
            self.leading_B.copy_(leading_B)
        self.weight_B.copy_(weight_B)

    def gradients(self, tick: int) -> dict[str, Tensor]:
        """Return the static tensors of summed gradients, of the units that have had one by a tick."""
        units = [unit for unit in self._gradients if tick >= first_gradient_tick(self.wiring, unit)]
        return {name: gradient for unit in units for name, gradient in self._gradients[unit].items()}

    def __call__(self, tick: int) -> None:
        """Do one tick of every unit on what was loaded [P, methods.md sections 2 and 3]."""
        # A cached cast of a weight would be made by one graph and read by another.
        with torch.autocast(
            self.device.type, dtype=self._autocast, enabled=self._autocast is not None, cache_enabled=False
        ):
            for unit in range(1, self.wiring.depth + 1):
                if tick >= first_gradient_tick(self.wiring, unit):
                    self._train_unit(unit, tick)
                elif tick >= first_output_tick(self.wiring, unit):
                    with torch.no_grad():
                        self._write(unit, tick, self.network.unit(unit)(self._read(unit, tick)))

    def _read(self, unit: int, tick: int) -> list[Tensor]:
        slots = self._activations[(tick - 1) % 2]
        return [self.frame_BCHW if j == INPUT else slots[j] for j in self.wiring.sources_of(unit)]

    def _write(self, unit: int, tick: int, output: Tensor) -> None:
        place = self.output_BK if unit == self.wiring.depth else self._activations[tick % 2][unit]
        place.copy_(output)

    def _train_unit(self, unit: int, tick: int) -> None:
        sources = self.wiring.sources_of(unit)
        used = [self.wiring.carries_gradient(j, unit) and self._is_used(j, tick + 1) for j in sources]
        read = zip(used, self._read(unit, tick), strict=True)
        leaves = [slot.detach().requires_grad_(is_used) for is_used, slot in read]
        output = self.network.unit(unit)(leaves)
        self._write(unit, tick, output.detach())
        root, grad_output = self._root(unit, tick, output)
        parameters = [p for p in self.network.unit_parameters(unit).values() if p.requires_grad]
        inputs = {j: leaf for j, leaf in zip(sources, leaves, strict=True) if leaf.requires_grad}
        for_sources = root
        if unit == self.wiring.depth and self.leading_B is not None:
            for_sources = (self._loss_of(output, self.leading_B) * self.weight_B).sum()
        own, below = self._products(root, for_sources, grad_output, parameters, list(inputs.values()))
        if parameters:
            keep = torch._foreach_add_ if self._sums else torch._foreach_copy_
            keep(list(self._gradients[unit].values()), own)
        for source, gradient in zip(inputs, below, strict=True):
            self._send(unit, source, tick, gradient)

    @staticmethod
    def _products(
        root: Tensor, for_sources: Tensor, grad_output: Tensor | None, parameters: list[Parameter], inputs: list[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the gradients of a unit's parameters and of its inputs, in one pass where both have one root."""
        if root is for_sources or not parameters or not inputs:
            wanted = [*parameters, *inputs]
            found = torch.autograd.grad(root if parameters else for_sources, wanted, grad_output) if wanted else ()
            return found[: len(parameters)], found[len(parameters) :]
        own = torch.autograd.grad(root, parameters, grad_output, retain_graph=True)
        return own, torch.autograd.grad(for_sources, inputs, grad_output)

    def _root(self, unit: int, tick: int, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what a unit's product starts from: the loss, or its output and the gradient that has arrived."""
        if unit == self.wiring.depth:
            total = (self._loss_of(output, self.targets_B) * self.weight_B).sum()
            self.loss.copy_(total.detach())
            return total, None
        message = self._messages[(tick - 1) % 2][unit]
        # An ended clip works no more: a pseudo-gradient would meet its padding.
        return output, (message * self.weight_B.view(-1, *[1] * (message.dim() - 1))).to(output.dtype)

    def _is_used(self, unit: int, tick: int) -> bool:
        return unit != INPUT and tick >= first_gradient_tick(self.wiring, unit)

    def _send(self, reader: int, source: int, tick: int, gradient: Tensor) -> None:
        """Add a gradient to its source's message; the lowest reader, which works first, begins it."""
        message = self._messages[tick % 2][source]
        readers = [i for j, i in self.wiring.edges() if j == source and self.wiring.carries_gradient(j, i)]
        message.copy_(gradient) if reader == min(readers) else message.add_(gradient)


def run_slots(
    slots: SlotTick,
    tick: Callable[[int], None],
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    on_tick: OnTick | None = None,
) -> ClipSums:
    """Return the sums of a clip, as `run_pipelined` does, tick by tick over static buffers.

    Nothing waits for the device but, with `on_tick`, the count of clips that go on, once before the first tick.

    Args:
        slots: made for clips of this shape; without `sums` where there is `on_tick`.
        tick: does the tick of a number: `slots` itself, or a replay of it.
        video_BTCHW: on the slots' device, as the targets and lengths are.
        targets: labels (B,), or one target for each frame (B, T, ...).
        rule: Sideways without a stash.
        lengths_B: real frames of each clip.
        on_tick: for `update: frame`: takes each tick's mean gradients, none where all clips have ended.
    """
    frames, depth = video_BTCHW.shape[1], slots.wiring.depth
    ticks_T = torch.arange(1, frames + 1, device=lengths_B.device)
    weights_TB = (lengths_B[None] >= ticks_T[:, None]).to(slots.weight_B.dtype)
    alive = weights_TB.sum(1).tolist() if on_tick is not None else []
    losses, outputs = [], []
    slots.reset()
    for number in range(1, frames + 1):
        about = max(nominal_frame(slots.wiring, depth, number), 1)
        leading_B = leading_targets(targets, about, rule.lead)
        slots.load(video_BTCHW[:, number - 1], targets_at(targets, about), weights_TB[number - 1], leading_B)
        tick(number)
        if number >= depth:
            outputs.append(slots.output_BK.clone())
            losses.append(slots.loss.clone())
        if on_tick is not None and (gradients := slots.gradients(number)):
            on_tick(mean_over_alive(gradients, int(alive[number - 1])))
    summed = {} if on_tick is not None else {name: g.clone() for name, g in slots.gradients(frames).items()}
    empty = slots.output_BK.new_zeros(len(lengths_B), 0, 0)
    logits_BNK = torch.stack(outputs, dim=1) if outputs else empty
    total_loss = torch.stack(losses).sum() if losses else empty.sum()
    return ClipSums(total_loss, logits_BNK, valid_outputs(rule, slots.wiring, frames, lengths_B), summed)
