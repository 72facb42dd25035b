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

Where the units are on several devices (`stage`), each process does this for its own units. A unit's activation is sent
before its product is begun, and another stage's message is waited for where it is first used: an activation before the
forward, a gradient before the product. So messages travel while units work.

Shape legend: B clips, T frames, C channels, H and W height and width, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.execution.arguments import check_gives_output
from lightning_modules.execution.clip_loss import (
    ClipSums,
    Loss,
    add_gradients,
    cross_entropy,
    joined_targets,
    last_targets,
    leading_targets,
    mean_over_alive,
    targets_at,
    valid_outputs,
)
from lightning_modules.execution.greedy_pipeline import GreedyPipeline
from lightning_modules.execution.pipeline_state import PipelineState
from lightning_modules.execution.placement import drain_ticks, message_ticks, whole
from lightning_modules.execution.schedule import (
    first_gradient_tick,
    first_output_tick,
    lag,
    message_wait,
    nominal_frame,
)
from lightning_modules.execution.stage import Stage
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


def _vjp(
    sources: tuple[int, ...],
    parameters: Mapping[str, Tensor],
    leaves: list[Tensor],
    output: Tensor,
    grad_output: Tensor | None,
    *,
    retain_graph: bool = False,
) -> _Vjp:
    inputs = {j: leaf for j, leaf in zip(sources, leaves, strict=True) if leaf.requires_grad}
    wanted = [*parameters.values(), *inputs.values()]
    if not wanted:
        return _Vjp({}, {})
    found = torch.autograd.grad(output, wanted, grad_output, retain_graph=retain_graph)
    return _Vjp(dict(zip(parameters, found, strict=False)), dict(zip(inputs, found[len(parameters) :], strict=True)))


class Pipeline:
    """A stage's pipeline over its units: it owns their state and does one tick at a time.

    Args:
        network: units and wiring.
        rule: Sideways, with or without a stash.
        loss: from (B, K) outputs and targets to (B,) losses.
        state: where to go on from; None starts empty.
        stage: the units that work here and their exchange with the other stages; None: all units, one process.
        frames: length of the clip; needed where there are other stages.
    """

    def __init__(
        self,
        network: UnitNetwork,
        rule: Rule,
        loss: Loss,
        state: PipelineState | None = None,
        *,
        stage: Stage | None = None,
        frames: int = 0,
    ) -> None:
        self.network = network
        self.rule = rule
        self.loss = loss
        self.state = state or PipelineState()
        self.stage = stage or Stage(whole(network.wiring))
        placement = self.stage.placement
        self._ticks = {c: message_ticks(placement, c, rule, frames) for c in placement.channels}
        self._arrived: dict[int, Tensor] = {}
        # Asked for at every tick, and not free: they walk modules and wirings.
        units = self.stage.units
        self._first_gradient = {unit: first_gradient_tick(network.wiring, unit) for unit in units}
        self._trainable = {
            unit: {name: p for name, p in network.unit_parameters(unit).items() if p.requires_grad} for unit in units
        }
        readers = {j: placement.readers(j, self.stage.index) for unit in units for j in network.wiring.sources_of(unit)}
        self._highest_reader = {source: max(found) for source, found in readers.items()}

    def infer(self, frame_BCHW: Tensor | None) -> Tensor | None:
        """Take one frame, do one tick's forward of every unit, and return the output (B, K), None before tick D.

        h_i^t = f_i(messages of t - 1) [P, methods.md section 2]. Stages without the video are given None.
        """
        self._start_tick()
        new: dict[int, Tensor] = {}
        with torch.no_grad():
            for unit in self.stage.units:
                if (messages := self._messages(unit, frame_BCHW)) is not None:
                    new[unit] = self.network.unit(unit)(messages)
                    self._publish(unit, new[unit])
        self.state.activations = new
        return new.get(self.network.depth)

    def train(
        self,
        frame_BCHW: Tensor | None,
        targets_B: Tensor | None,
        weight_B: Tensor | None,
        *,
        draining: bool = False,
        leading_B: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
        """Do one tick of every unit: the four steps above [P, methods.md sections 2 and 3; stash D].

        Args:
            frame_BCHW: the new frame; None while the pipeline is drained, and in stages without the video.
            targets_B: the target of the output's nominal frame; None where there is no output.
            weight_B: 1 for clips that have not ended, else 0; None: no clip has.
            draining: no frame comes any more; units only pass gradients on.
            leading_B: the target behind what the last unit sends, where that is not `targets_B` (`lead`).

        Returns:
            The summed loss (a scalar), the output (B, K), and the tick's summed gradients by parameter name; both
            tensors are None where there is no output.
        """
        self._start_tick()
        activations: dict[int, Tensor] = {}
        gradients: dict[str, Tensor] = {}
        total = output = None
        for unit in self.stage.units:
            messages = None if draining else self._messages(unit, frame_BCHW)
            if unit < self.network.depth:
                activation, vjp = self._tick_below(unit, messages, weight_B)
            elif messages is not None:
                assert targets_B is not None
                total, output, vjp = self._tick_last(messages, targets_B, weight_B, leading_B)
                activation = output
            else:
                activation = vjp = None
            if activation is not None:
                activations[unit] = activation
            if vjp is not None:
                gradients.update(vjp.parameters)
                self._queue(unit, vjp.sources)
            self._send_gradients(unit)
        self.state.activations = activations
        return total, output, gradients

    def send_frame(self, tick: int, frame_BCHW: Tensor) -> None:
        """Send the frame of a later tick to the other stages that read it."""
        self._send("activation", INPUT, tick, frame_BCHW)

    def _start_tick(self) -> None:
        self.state.tick += 1
        self._arrived = {}
        if self.stage.on_tick_start is not None:
            self.stage.on_tick_start(self.state.tick)

    def end_clip(self) -> None:
        """Say that no tick is under way any more."""
        if self.stage.on_clip_end is not None:
            self.stage.on_clip_end()

    def _messages(self, unit: int, frame_BCHW: Tensor | None) -> list[Tensor] | None:
        if self.state.tick < first_output_tick(self.network.wiring, unit):
            return None
        return [self._message(source, frame_BCHW) for source in self.network.wiring.sources_of(unit)]

    def _message(self, source: int, frame_BCHW: Tensor | None) -> Tensor:
        if source == INPUT and self.stage.has_video:
            assert frame_BCHW is not None
            return frame_BCHW
        if source in self.stage.units:
            return self.state.activations[source]
        if source not in self._arrived:
            (channel,) = self.stage.channels("activation", source)
            message = self.stage.receive(channel, self.state.tick)
            # A stash outlives the exchange's buffer.
            self._arrived[source] = message.clone() if self.rule.stash == "exact" else message
        return self._arrived[source]

    def _tick_last(
        self, messages: list[Tensor], targets_B: Tensor, weight_B: Tensor | None, leading_B: Tensor | None
    ) -> tuple[Tensor, Tensor, _Vjp]:
        """Forward, loss and product of the last unit."""
        unit = self.network.depth
        leaves = _leaves(self.network, unit, messages)
        output = self.network.unit(unit)(leaves)
        total = self._summed_loss(output, targets_B, weight_B)
        self._publish(unit, output.detach())
        if leading_B is None:
            vjp = self._vjp(unit, leaves, total, None)
        else:
            own = _vjp((), self._trainable[unit], [], total, None, retain_graph=True)
            sent = self._summed_loss(output, leading_B, weight_B)
            below = _vjp(self.network.wiring.sources_of(unit), {}, leaves, sent, None)
            vjp = _Vjp(own.parameters, below.sources)
        return total.detach(), output.detach(), vjp

    def _summed_loss(self, output: Tensor, targets_B: Tensor, weight_B: Tensor | None) -> Tensor:
        losses_B = self.loss(output, targets_B)
        return (losses_B if weight_B is None else losses_B * weight_B).sum()

    def _vjp(self, unit: int, leaves: list[Tensor], output: Tensor, grad_output: Tensor | None) -> _Vjp:
        return _vjp(self.network.wiring.sources_of(unit), self._trainable[unit], leaves, output, grad_output)

    def _tick_below(
        self, unit: int, messages: list[Tensor] | None, weight_B: Tensor | None
    ) -> tuple[Tensor | None, _Vjp | None]:
        """Forward and product of a unit below the last one."""
        if self.rule.stash == "exact":
            return self._tick_stashed(unit, messages, weight_B)
        if messages is None:
            return None, None
        if self.state.tick < self._first_gradient[unit]:
            self._received(unit, weight_B)  # incomplete, not used
            return self._forward(unit, messages), None
        leaves = _leaves(self.network, unit, messages)
        output = self.network.unit(unit)(leaves)
        self._publish(unit, output.detach())
        grad_output = self._received(unit, weight_B)
        vjp = None if grad_output is None else self._vjp(unit, leaves, output, grad_output)
        return output.detach(), vjp

    def _tick_stashed(
        self, unit: int, messages: list[Tensor] | None, weight_B: Tensor | None
    ) -> tuple[Tensor | None, _Vjp | None]:
        stash = self.state.inputs[unit]
        activation = None
        if messages is not None:
            stash[self.state.tick] = messages
            activation = self._forward(unit, messages)
        past = stash.pop(self.state.tick - lag(self.network.wiring, unit), None)
        grad_output = self._received(unit, weight_B)
        if past is None or grad_output is None:
            return activation, None
        leaves = _leaves(self.network, unit, past)
        return activation, self._vjp(unit, leaves, self.network.unit(unit)(leaves), grad_output)

    def _forward(self, unit: int, messages: list[Tensor]) -> Tensor:
        with torch.no_grad():
            activation = self.network.unit(unit)(messages)
        self._publish(unit, activation)
        return activation

    def _publish(self, unit: int, activation: Tensor) -> None:
        self._send("activation", unit, self.state.tick + 1, activation)

    def _received(self, unit: int, weight_B: Tensor | None) -> Tensor | None:
        """Return the sum of the gradients for a unit's output that are for this tick, from here and other stages."""
        total = self.state.gradients[unit].pop(self.state.tick, None)
        for channel in self.stage.channels("gradient", unit):
            if self.state.tick in self._ticks[channel]:
                message = self.stage.receive(channel, self.state.tick)
                total = message if total is None else total + message
        if total is None or weight_B is None or self.rule.drains:
            return total
        # An ended clip works no more: a pseudo-gradient would meet its padding.
        return total * weight_B.view(-1, *[1] * (total.dim() - 1))

    def _queue(self, unit: int, messages: Mapping[int, Tensor]) -> None:
        """Keep a unit's input gradients until the tick at which they are used, or sent to another stage."""
        for source, message in messages.items():
            wait = message_wait(self.network.wiring, unit, source) if self.rule.stash == "exact" else 0
            waiting, at = self.state.gradients[source], self.state.tick + 1 + wait
            waiting[at] = waiting[at] + message if at in waiting else message

    def _send_gradients(self, unit: int) -> None:
        """Send what is complete once a unit has worked: to sources elsewhere that no unit above it here reads."""
        for source in self.network.wiring.sources_of(unit):
            if source in self.stage.units or source == INPUT:
                continue
            if unit == self._highest_reader[source]:
                tick = self.state.tick + 1
                message = self.state.gradients[source].pop(tick, None)
                if message is not None:
                    self._send("gradient", source, tick, message)

    def _send(self, kind: str, unit: int, tick: int, message: Tensor) -> None:
        for channel in self.stage.channels(kind, unit):
            if tick in self._ticks[channel]:
                self.stage.send(channel, tick, message)


def run_pipelined(
    network: UnitNetwork,
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    loss: Loss,
    state: PipelineState | None = None,
    on_tick: OnTick | None = None,
    stage: Stage | None = None,
) -> tuple[ClipSums, PipelineState]:
    """Return the sums of a clip, tick by tick, and the state after it.

    With `on_tick` (`update: frame`) each tick's mean gradients are handed over, none where all clips have ended, and
    none are summed. With a `stage` they are its own units', and only the last stage has losses and outputs; a video
    that comes in elsewhere is a tensor on the meta device, of which only the shape is used.
    """
    frames, depth = video_BTCHW.shape[1], network.depth
    pipeline = Pipeline(network, rule, loss, state, stage=stage, frames=frames)
    start, has_video = pipeline.state.tick, pipeline.stage.has_video
    dtype, shortest = video_BTCHW.dtype, int(lengths_B.min())
    summed: dict[str, Tensor] = {}
    losses, outputs = [], []
    targets, before = joined_targets(pipeline.state.targets, targets, start=start)
    for tick in range(start + 1, start + frames + drain_ticks(network.wiring, rule) + 1):
        frame = tick - start
        weight_B = None if frame <= shortest else (lengths_B >= frame).to(dtype)
        about = nominal_frame(network.wiring, depth, tick)
        has_target = about >= 1 and frame <= frames
        targets_B = targets_at(targets, about - before) if has_target else None
        leading_B = leading_targets(targets, about - before, rule.lead) if has_target and rule.lead else None
        # A copy: a view in a graph or in the state would keep the whole clip alive.
        frame_BCHW = video_BTCHW[:, frame - 1].clone() if has_video and frame <= frames else None
        if has_video and frame < frames:
            pipeline.send_frame(tick + 1, video_BTCHW[:, frame])
        total, output, gradients = pipeline.train(
            frame_BCHW, targets_B, weight_B, draining=frame > frames, leading_B=leading_B
        )
        if output is not None and total is not None:
            losses.append(total)
            outputs.append(output)
        if on_tick is None:
            add_gradients(summed, gradients)
        elif gradients:
            on_tick(mean_over_alive(gradients, len(lengths_B) if weight_B is None else int(weight_B.sum())))
    pipeline.end_clip()
    pipeline.state.targets = last_targets(targets, depth)
    valid_BN = valid_outputs(rule, network.wiring, frames, lengths_B, start=start)
    empty = torch.zeros(len(lengths_B), 0, 0, dtype=dtype, device=lengths_B.device)
    logits_BNK = torch.stack(outputs, dim=1) if outputs else empty
    total_loss = torch.stack(losses).sum() if losses else empty.sum()
    return ClipSums(total_loss, logits_BNK, valid_BN, summed), pipeline.state


def make_pipeline(network: UnitNetwork, rule: Rule) -> Pipeline | GreedyPipeline:
    """Return an empty pipeline of a network as a rule with a clock runs it, for inference frame by frame."""
    if rule.local:
        return GreedyPipeline(network, rule)
    return Pipeline(network, rule, cross_entropy)


def infer_pipelined(
    network: UnitNetwork,
    video_BTCHW: Tensor,
    rule: Rule,
    stage: Stage | None = None,
    state: PipelineState | None = None,
) -> Tensor | None:
    """Return the outputs (B, N, K) of ticks D..T, tick by tick; None where the last unit works in another stage.

    With a `state` the clip goes on from there, and every tick from D on counts from the stream's start; there may be
    no output, (B, 0, 0).

    Raises:
        ValueError: the clip ends before the pipeline's first output, and no state was given.
    """
    frames = video_BTCHW.shape[1]
    if state is None:
        check_gives_output(network, rule, frames)
    pipeline = Pipeline(network, rule, cross_entropy, state, stage=stage, frames=frames)
    start, has_video, outputs = pipeline.state.tick, pipeline.stage.has_video, []
    for frame in range(frames):
        if has_video and frame + 1 < frames:
            pipeline.send_frame(start + frame + 2, video_BTCHW[:, frame + 1])
        outputs.append(pipeline.infer(video_BTCHW[:, frame] if has_video else None))
    pipeline.end_clip()
    if not pipeline.stage.has_output:
        return None
    found = [output for output in outputs if output is not None]
    return torch.stack(found, dim=1) if found else video_BTCHW.new_zeros(len(video_BTCHW), 0, 0)
