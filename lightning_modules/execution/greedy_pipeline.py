"""Local losses tick by tick: at each tick every module works on the messages of the tick before.

    tick            t               t+1
    module 2        frame t-1       frame t          forward, loss, gradient; then the message goes up
    module 1        frame t         frame t+1

The same numbers as all ticks at once (greedy.py), holding one tick; weights may change at every tick, and clips may
continue a stream (methods.md section 4 [C]; the clock [D]).

Shape legend: B clips, T frames, S ticks of one module's answers, C channels, H and W height and width, K numbers of an
answer.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_modules.execution.clip_loss import (
    Answer,
    Loss,
    add_gradients,
    joined_targets,
    last_targets,
    mean_over_alive,
    targets_at,
    valid_ticks,
)
from lightning_modules.execution.greedy import (
    OnTick,
    asked_frame,
    gradients_of,
    sent_messages,
    stage_modules,
    step_codebooks,
    summed_loss,
    trainable,
)
from lightning_modules.execution.pipeline_state import PipelineState
from lightning_modules.execution.stage import Stage
from lightning_modules.execution.stage_messages import StageMessages
from lightning_modules.layers.vector_quantiser import Packed
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.networks.wiring import INPUT
from lightning_modules.rules.rule import Rule


class GreedyPipeline:
    """The modules of a stage tick by tick: each on the messages of the tick before, with a loss of its own.

    Args:
        network: cut into modules.
        rule: `greedy`.
        loss: None: answers only.
        state: where to go on from; None starts empty.
        stage: the modules that work here; None: all of them, in one process.
    """

    def __init__(
        self,
        network: UnitNetwork,
        rule: Rule,
        loss: Loss | None = None,
        state: PipelineState | None = None,
        *,
        stage: Stage | None = None,
    ) -> None:
        self.network, self.rule, self.loss = network, rule, loss
        self.state = state or PipelineState()
        self.stage = stage
        self._others = None if stage is None else StageMessages(network, stage)
        self._packed = () if self._others is None else self._others.units
        self.modules = stage_modules(network, stage)
        # Asked for at every tick, and not free: they walk modules and wirings.
        self.trainable = {j: trainable(network, j) for j in self.modules}
        self._sources = {j: network.module_sources(j) for j in self.modules}
        self.first_ticks = {j: network.wiring.position(network.module_units(j)[-1]) for j in self.modules}

    def infer(self, frame_BCHW: Tensor | None) -> Tensor | None:
        """Take one frame, do one tick of every module, and return the network's output; None before there is one."""
        return self.tick(frame_BCHW, None, None, heads=False)[0].get(self.network.module_count)

    def tick(
        self,
        frame_BCHW: Tensor | None,
        targets: Mapping[int, Tensor] | None,
        weight_B: Tensor | None,
        *,
        heads: bool = True,
    ) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[str, Tensor]]:
        """Do one tick of every module.

        Args:
            frame_BCHW: the new frame; None in stages without the video.
            targets: by module, what its answer is compared with; modules without one only answer. None: nothing is
                learnt.
            weight_B: 1 for clips that have not ended, else 0; None: no clip has.
            heads: whether they answer too; without, modules that have one give what it would read.

        Returns:
            By module: answers (B, ...), and summed losses; summed gradients by parameter name.
        """
        self.state.tick += 1
        if self.stage is not None and self.stage.on_tick_start is not None:
            self.stage.on_tick_start(self.state.tick)
        answers, losses, gradients = dict[int, Tensor](), dict[int, Tensor](), dict[str, Tensor]()
        own_B = None if weight_B is None else weight_B > 0
        new: dict[int, Tensor] = {}
        arrived: dict[int, Tensor] = {}
        for module in self.modules:
            if self.state.tick < self.first_ticks[module]:
                continue
            target = None if targets is None else targets.get(module)
            learn = targets is not None
            messages = {j: self._message(j, frame_BCHW, arrived) for j in self._sources[module]}
            with torch.set_grad_enabled(target is not None):
                outputs, answer = self.network.module_forward(module, messages, heads=heads)
                if target is not None:
                    assert self.loss is not None
                    weight_N = answer.new_ones(len(answer)) if weight_B is None else weight_B
                    total = summed_loss(answer, target, weight_N, self.loss)
                    losses[module] = total.detach()
            sent, packed = sent_messages(self.network, outputs, learn=learn, pack=self._packed, own_N=own_B)
            new.update(sent)
            self._publish(sent, packed)
            if target is not None:
                gradients.update(gradients_of(self.trainable[module], total))
            answers[module] = answer.detach()
        self.state.activations = new
        return answers, losses, gradients

    def _message(self, source: int, frame_BCHW: Tensor | None, arrived: dict[int, Tensor]) -> Tensor:
        if source == INPUT and (self.stage is None or self.stage.has_video):
            assert frame_BCHW is not None
            return frame_BCHW
        if self.stage is None or source in self.stage.units:
            return self.state.activations[source]
        if source not in arrived:
            assert self._others is not None
            arrived[source] = self._others.receive(source, self.state.tick)
        return arrived[source]

    def _publish(self, sent: Mapping[int, Tensor], packed: Mapping[int, Packed]) -> None:
        if self._others is not None:
            for unit, message in sent.items():
                self._others.send(unit, self.state.tick + 1, message, packed.get(unit))

    def send_frame(self, tick: int, frame_BCHW: Tensor) -> None:
        """Send the frame of a later tick to the other stages that read it."""
        if self._others is not None:
            self._others.send(INPUT, tick, frame_BCHW)


def run_pipelined(
    network: UnitNetwork,
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    loss: Loss | None,
    state: PipelineState | None = None,
    on_tick: OnTick | None = None,
    stage: Stage | None = None,
) -> tuple[dict[int, Answer], dict[str, Tensor], PipelineState]:
    """Return each module's answers, the mean gradients of its parameters, and the state after the clip, tick by tick.

    With `on_tick` (`update: frame`) each tick's mean gradients are handed over, and none are returned.
    """
    frames = video_BTCHW.shape[1]
    pipeline = GreedyPipeline(network, rule, loss, state, stage=stage)
    start, shortest = pipeline.state.tick, int(lengths_B.min())
    has_video = stage is None or stage.has_video
    targets, before = joined_targets(pipeline.state.targets, targets, start=start)
    answers: dict[int, list[Tensor]] = {j: [] for j in pipeline.modules}
    about: dict[int, list[int]] = {j: [] for j in pipeline.modules}
    losses: dict[int, Tensor] = {}
    summed: dict[str, Tensor] = {}
    for tick in range(start + 1, start + frames + 1):
        frame = tick - start
        weight_B = None if frame <= shortest else (lengths_B >= frame).to(video_BTCHW.dtype)
        asked = {j: asked_frame(network, j, rule, tick) for j in pipeline.modules}
        here = None
        if loss is not None:
            here = {j: targets_at(targets, n - before) for j, n in asked.items() if targets.dim() == 1 or n >= 1}
        if has_video and frame < frames:
            pipeline.send_frame(tick + 1, video_BTCHW[:, frame])
        frame_BCHW = video_BTCHW[:, frame - 1].clone() if has_video else None
        found, totals, gradients = pipeline.tick(frame_BCHW, here, weight_B)
        for module, answer in found.items():
            answers[module].append(answer)
            about[module].append(asked[module])
        for module, total in totals.items():
            losses[module] = losses[module] + total if module in losses else total
        if on_tick is not None:
            _hand_over(network, gradients, len(lengths_B) if weight_B is None else int(weight_B.sum()), on_tick)
        else:
            add_gradients(summed, gradients)
    if stage is not None and stage.on_clip_end is not None:
        stage.on_clip_end()
    oldest = max(1 - asked_frame(network, j, rule, 1) for j in pipeline.modules)  # frames ago, that is asked for
    pipeline.state.targets = last_targets(targets, 1 + oldest)
    done, means = dict[int, Answer](), dict[str, Tensor]()
    for module, given in answers.items():
        valid_BS = valid_ticks(pipeline.first_ticks[module], frames, lengths_B, start=start)
        if targets.dim() > 1:
            valid_BS = valid_BS & (torch.tensor(about[module], device=valid_BS.device) >= 1)
        logits = torch.stack(given, 1) if given else video_BTCHW.new_zeros(len(lengths_B), 0, 0)
        count = int(valid_BS.sum())
        done[module] = Answer(losses.get(module, logits.new_zeros(())) / max(count, 1), logits, valid_BS)
        for name in pipeline.trainable[module]:
            if name in summed and count:
                means[name] = summed[name] / count
    return done, means, pipeline.state


def _hand_over(network: UnitNetwork, gradients: Mapping[str, Tensor], alive: int, on_tick: OnTick) -> None:
    """Hand over a tick's mean gradients, none where all clips have ended; codebooks step with the weights."""
    if gradients:
        on_tick(mean_over_alive(gradients, alive))
    step_codebooks(network)
