"""The pipelined executor: tick by tick, every unit on the messages of the tick before, as separate devices would.

One tick of unit i (methods.md sections 2 and 3: [P] arXiv 2001.06232 and 2106.08318; [D] the one-tick delay of
gradients, the order inside a tick, the stash and its waiting messages):

    read      the messages sent at t - 1, the video's frame x^t for the lowest unit
    forward   h_i^t = f_i(merge(messages)); the last unit takes the loss
    gradient  sum of the messages that its readers sent for this tick (Sideways: at t - 1)
    vjp       at the newest input; with `stash: exact` at the input of tick t - 2(D - i), computed anew
    send      h_i^t to its readers, input gradients to its sources; both arrive at t + 1

Units of one tick do not see one another's work, so their order inside the tick is free. Only one unit's graph lives
at a time, whatever the length of the clip.

Shape legend: B clips, T frames, C channels, H and W height and width, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.execution.clip_loss import ClipSums, Loss, targets_at, valid_outputs
from lightning_modules.execution.pipeline_state import PipelineState
from lightning_modules.execution.schedule import first_gradient_tick, lag, message_wait, nominal_frame
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.networks.wiring import INPUT
from lightning_modules.rules.rule import Rule

OnTick = Callable[[Mapping[str, Tensor]], None]


@dataclass
class _Vjp:
    """A unit's vector-Jacobian product: gradients of its trainable parameters, and of its inputs by source."""

    parameters: dict[str, Tensor]
    sources: dict[int, Tensor]


def _leaves(network: UnitNetwork, unit: int, messages: list[Tensor]) -> list[Tensor]:
    sources = network.wiring.sources_of(unit)
    carries = network.wiring.carries_gradient
    return [m.detach().requires_grad_(carries(j, unit)) for j, m in zip(sources, messages, strict=True)]


def _vjp(network: UnitNetwork, unit: int, leaves: list[Tensor], output: Tensor, grad_output: Tensor) -> _Vjp:
    parameters = {name: p for name, p in network.unit_parameters(unit).items() if p.requires_grad}
    inputs = {j: leaf for j, leaf in zip(network.wiring.sources_of(unit), leaves, strict=True) if leaf.requires_grad}
    wanted = [*parameters.values(), *inputs.values()]
    if not wanted:
        return _Vjp({}, {})
    found = torch.autograd.grad(output, wanted, grad_output)
    return _Vjp(dict(zip(parameters, found, strict=False)), dict(zip(inputs, found[len(parameters) :], strict=True)))


class Pipeline:
    """One process's pipeline over a network: it owns the state and does one tick at a time.

    Args:
        network: units and wiring.
        rule: Sideways, with or without a stash.
        loss: from (B, K) outputs and targets to (B,) losses.
        state: where to go on from; None starts empty.
    """

    def __init__(self, network: UnitNetwork, rule: Rule, loss: Loss, state: PipelineState | None = None) -> None:
        self.network = network
        self.rule = rule
        self.loss = loss
        self.state = state or PipelineState()

    def infer(self, frame_BCHW: Tensor) -> Tensor | None:
        """Take one frame, do one tick's forward of every unit, and return the output (B, K), None before tick D.

        h_i^t = f_i(messages of t - 1) [P, methods.md section 2].
        """
        self.state.tick += 1
        with torch.no_grad():
            new = {
                unit: self.network.unit(unit)(messages)
                for unit in range(1, self.network.depth + 1)
                if (messages := self._messages(unit, frame_BCHW)) is not None
            }
        self.state.activations = new
        return new.get(self.network.depth)

    def train(
        self, frame_BCHW: Tensor | None, targets_B: Tensor | None, weight_B: Tensor
    ) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
        """Do one tick of every unit: the four steps above [P, methods.md sections 2 and 3; stash D].

        Args:
            frame_BCHW: the new frame; None while the pipeline is drained.
            targets_B: the target of the output's nominal frame; None where there is no output yet.
            weight_B: 1 for clips that have not ended, else 0.

        Returns:
            The summed loss (a scalar), the output (B, K), and the tick's summed gradients by parameter name; both
            tensors are None where there is no output.
        """
        self.state.tick += 1
        activations: dict[int, Tensor] = {}
        sent: list[tuple[int, dict[int, Tensor]]] = []
        gradients: dict[str, Tensor] = {}
        total = output = None
        for unit in range(1, self.network.depth + 1):
            messages = None if frame_BCHW is None else self._messages(unit, frame_BCHW)
            vjp = None
            if unit == self.network.depth and messages is not None:
                assert targets_B is not None
                leaves = _leaves(self.network, unit, messages)
                output = self.network.unit(unit)(leaves)
                total = (self.loss(output, targets_B) * weight_B).sum()
                vjp = _vjp(self.network, unit, leaves, total, torch.ones_like(total))
                activations[unit], output, total = output.detach(), output.detach(), total.detach()
            elif unit < self.network.depth:
                activation, vjp = self._tick_below(unit, messages, weight_B)
                if activation is not None:
                    activations[unit] = activation
            if vjp is not None:
                gradients.update(vjp.parameters)
                sent.append((unit, vjp.sources))
        self.state.activations = activations
        for unit, messages_to in sent:
            self._send(unit, messages_to)
        return total, output, gradients

    def _messages(self, unit: int, frame_BCHW: Tensor) -> list[Tensor] | None:
        held = {INPUT: frame_BCHW, **self.state.activations}
        sources = self.network.wiring.sources_of(unit)
        return [held[j] for j in sources] if all(j in held for j in sources) else None

    def _tick_below(
        self, unit: int, messages: list[Tensor] | None, weight_B: Tensor
    ) -> tuple[Tensor | None, _Vjp | None]:
        """Forward and product of a unit below the last one."""
        grad_output = self._received(unit)
        if grad_output is not None and not self.rule.drains:
            # An ended clip works no more: a pseudo-gradient would meet its padding.
            grad_output = grad_output * weight_B.view(-1, *[1] * (grad_output.dim() - 1))
        if self.rule.stash == "exact":
            return self._tick_stashed(unit, messages, grad_output)
        if messages is None:
            return None, None
        complete = self.state.tick >= first_gradient_tick(self.network.wiring, unit)
        if grad_output is None or not complete:
            with torch.no_grad():
                return self.network.unit(unit)(messages), None
        leaves = _leaves(self.network, unit, messages)
        output = self.network.unit(unit)(leaves)
        return output.detach(), _vjp(self.network, unit, leaves, output, grad_output)

    def _tick_stashed(
        self, unit: int, messages: list[Tensor] | None, grad_output: Tensor | None
    ) -> tuple[Tensor | None, _Vjp | None]:
        stash = self.state.inputs[unit]
        activation = None
        if messages is not None:
            stash[self.state.tick] = messages
            with torch.no_grad():
                activation = self.network.unit(unit)(messages)
        past = stash.pop(self.state.tick - lag(self.network.wiring, unit), None)
        if past is None or grad_output is None:
            return activation, None
        leaves = _leaves(self.network, unit, past)
        return activation, _vjp(self.network, unit, leaves, self.network.unit(unit)(leaves), grad_output)

    def _received(self, unit: int) -> Tensor | None:
        return self.state.gradients[unit].pop(self.state.tick, None)

    def _send(self, unit: int, messages: Mapping[int, Tensor]) -> None:
        for source, message in messages.items():
            wait = message_wait(self.network.wiring, unit, source) if self.rule.stash == "exact" else 0
            waiting, at = self.state.gradients[source], self.state.tick + 1 + wait
            waiting[at] = waiting[at] + message if at in waiting else message


def run_pipelined(
    network: UnitNetwork,
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    loss: Loss,
    state: PipelineState | None = None,
    on_tick: OnTick | None = None,
) -> tuple[ClipSums, PipelineState]:
    """Return the sums of a clip, tick by tick, and the state after it.

    With `on_tick` (`update: frame`) each tick's mean gradients are handed over and none are summed.
    """
    pipeline = Pipeline(network, rule, loss, state)
    start, frames, depth = pipeline.state.tick, video_BTCHW.shape[1], network.depth
    summed: dict[str, Tensor] = {}
    losses, outputs = [], []
    drained = max(lag(network.wiring, i) for i in range(1, depth + 1)) if rule.drains else 0
    for tick in range(start + 1, start + frames + drained + 1):
        frame = tick - start
        weight_B = (lengths_B >= frame).to(video_BTCHW.dtype)
        about = nominal_frame(depth, tick)
        targets_B = targets_at(targets, max(about - start, 1)) if about >= 1 else None
        # A copy: a view in a graph or in the state would keep the whole clip alive.
        frame_BCHW = video_BTCHW[:, frame - 1].clone() if frame <= frames else None
        total, output, gradients = pipeline.train(frame_BCHW, targets_B, weight_B)
        if output is not None and total is not None:
            losses.append(total)
            outputs.append(output)
        if on_tick is None:
            for name, gradient in gradients.items():
                summed[name] = summed[name] + gradient if name in summed else gradient
        elif gradients and (alive := int(weight_B.sum())):
            on_tick({name: gradient / alive for name, gradient in gradients.items()})
    valid_BN = valid_outputs(rule, depth, frames, lengths_B, start=start)
    logits_BNK = torch.stack(outputs, dim=1) if outputs else video_BTCHW.new_zeros(len(video_BTCHW), 0, 0)
    total_loss = torch.stack(losses).sum() if losses else video_BTCHW.new_zeros(())
    return ClipSums(total_loss, logits_BNK, valid_BN, summed), pipeline.state
