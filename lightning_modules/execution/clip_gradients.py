"""The functional entry point: a clip and its targets in, loss, outputs and gradients out. No Lightning.

Shape legend: B clips, T frames, C channels, H and W height and width, N ticks with an output, K classes.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.execution import greedy, greedy_pipeline
from lightning_modules.execution.arguments import (
    check_combination,
    check_gives_output,
    check_keeps_state,
    check_stage,
    check_state,
    check_targets,
    clip_lengths,
)
from lightning_modules.execution.clip_loss import (
    Answer,
    Loss,
    cross_entropy,
    gradient_count,
    mean_over_alive,
    valid_outputs,
)
from lightning_modules.execution.cuda_tick import run_cuda_graph
from lightning_modules.execution.pipeline_state import PipelineState
from lightning_modules.execution.pipelined import OnTick, infer_pipelined, run_pipelined
from lightning_modules.execution.replayed import ReplayMemory, run_replayed
from lightning_modules.execution.stage import Stage, clip_routes
from lightning_modules.execution.vectorised import network_outputs, run_vectorised
from lightning_modules.networks.clip_network import ClipNetwork
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.rules import Rule, make_rule


@dataclass
class ClipGradients:
    """What a rule found on a batch of clips.

    Args:
        loss: mean over all valid (clip, tick) pairs; None where the last unit works in another stage.
        logits_BNK: outputs at each tick that has one; none (B, 0, 0) where the last unit works in another stage.
        valid_BN: which outputs belong to a clip's own frames.
        gradients: by parameter name, a mean over each unit's valid (clip, tick) pairs; units without any, and other
            stages' units, are absent.
        state: what the pipeline holds after the clip; None for executors that keep none.
        answers: of each module of this stage that has worked, by number, where modules have losses of their own.
        targets: what the outputs were compared with, where that is not the batch's own (replay buffers).
    """

    loss: Tensor | None
    logits_BNK: Tensor
    valid_BN: Tensor
    gradients: dict[str, Tensor]
    state: PipelineState | None = None
    answers: dict[int, Answer] = field(default_factory=dict)
    targets: Tensor | None = None


def _scaled(
    network: UnitNetwork | ClipNetwork, rule: Rule, summed: dict[str, Tensor], lengths_B: Tensor, start: int
) -> dict[str, Tensor]:
    """Turn sums into means over each unit's valid pairs, and leave out units that have none."""
    if isinstance(network, ClipNetwork):
        return {name: gradient / len(lengths_B) for name, gradient in summed.items()}
    scaled: dict[str, Tensor] = {}
    for unit in range(1, network.depth + 1):
        count = gradient_count(rule, network.wiring, unit, lengths_B, start=start)
        names = [name for name in network.unit_parameters(unit) if name in summed]
        scaled.update({name: summed[name] / count for name in names if count})
    return scaled


def _frame_by_frame(
    network: UnitNetwork,
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    loss: Loss,
    on_tick: OnTick,
    stage: Stage | None,
) -> ClipGradients:
    """Per-frame backprop with `update: frame`: one exact gradient and one hand-over for each frame."""
    parts = []
    for frame in range(video_BTCHW.shape[1]):
        alive_B = (lengths_B > frame).long()
        here = targets if targets.dim() == 1 else targets[:, frame : frame + 1]
        video = video_BTCHW[:, frame : frame + 1]
        _open(network, stage, video, rule, "vectorised")
        part = run_vectorised(network, video, here, rule, alive_B, loss, stage)
        parts.append(part)
        on_tick(mean_over_alive(part.gradients, int(alive_B.sum())))
    losses, logits, valid, _ = zip(*parts, strict=True)
    total = torch.stack(losses).sum() / lengths_B.sum().clamp_min(1)
    return ClipGradients(_where_output(stage, total), torch.cat(logits, 1), torch.cat(valid, 1), {})


def _open(
    network: UnitNetwork | ClipNetwork, stage: Stage | None, video_BTCHW: Tensor, rule: Rule, executor: str, **of: bool
) -> None:
    if stage is not None and isinstance(network, UnitNetwork):
        stage.open(clip_routes(network, stage.placement, video_BTCHW, rule, executor, **of))


def _local(
    network: UnitNetwork | ClipNetwork,
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    executor: str,
    lengths_B: Tensor,
    loss: Loss,
    state: PipelineState | None,
    on_tick: OnTick | None,
    stage: Stage | None,
) -> ClipGradients:
    """Local losses: a module's gradients come from its own loss; what the network answered is the last module's."""
    if executor == "pipelined":
        assert isinstance(network, UnitNetwork)
        answers, gradients, state = greedy_pipeline.run_pipelined(
            network, video_BTCHW, targets, rule, lengths_B, loss, state, on_tick, stage
        )
    else:
        answers, gradients = greedy.run_vectorised(network, video_BTCHW, targets, rule, lengths_B, loss, stage)
    greedy.step_codebooks(network)
    return _of_answers(answers, network, lengths_B, gradients, state)


def _of_answers(
    answers: dict[int, Answer],
    network: UnitNetwork | ClipNetwork,
    lengths_B: Tensor,
    gradients: dict[str, Tensor],
    state: PipelineState | None = None,
) -> ClipGradients:
    last = answers.get(network.module_count)
    if last is None:
        none = torch.zeros(len(lengths_B), 0, dtype=torch.bool, device=lengths_B.device)
        return ClipGradients(None, none[:, :, None].float(), none, gradients, state, answers)
    return ClipGradients(*last, gradients, state, answers)


def _where_output(stage: Stage | None, loss: Tensor) -> Tensor | None:
    return loss if stage is None or stage.has_output else None


def clip_gradients(
    network: UnitNetwork | ClipNetwork,
    video_BTCHW: Tensor,
    targets: Tensor,
    *,
    rule: Rule | str = "sideways",
    executor: str = "vectorised",
    lengths_B: Tensor | None = None,
    loss: Loss = cross_entropy,
    state: PipelineState | None = None,
    on_tick: OnTick | None = None,
    stage: Stage | None = None,
    memory: ReplayMemory | None = None,
) -> ClipGradients:
    """Return loss, outputs and gradients of a batch of clips under a rule; the network's own `.grad` is not touched.

    methods.md sections 1 to 3: Sideways [P], its means over valid ticks and the vectorised form [D].

    Args:
        network: from `build_network`.
        video_BTCHW: clips; frames at and beyond a clip's length are ignored.
        targets: labels (B,), or one target for each frame (B, T, ...).
        rule: a rule or its name.
        executor: `vectorised`, `pipelined`, or `cuda_graph` (pipelined, on one GPU); they agree to rounding.
        lengths_B: real frames of each clip; None means all T.
        loss: from (n, K) outputs and (n, ...) targets to (n,) losses.
        state: pipelined only: go on from here, for clips that continue a stream; it is changed in place.
        on_tick: needed by `update: frame`: takes a tick's gradients, changes the weights; none where all clips ended.
            And by rules with replay buffers: takes the gradients of a step's updates.
        stage: only these units work here, and all stages call this at the same time. Stages without the video, or
            without outputs, may be given it, or the targets, as a tensor on the meta device: a shape.
        memory: what modules with replay buffers hold between batches; it is changed in place.

    Raises:
        ValueError: a combination that makes no sense, with what to use instead; shapes or lengths that do not fit.
    """
    rule = make_rule(rule) if isinstance(rule, str) else rule
    check_combination(network, rule, executor)
    check_state(rule, executor, state)
    check_stage(network, stage, state)
    lengths_B = clip_lengths(video_BTCHW, lengths_B)
    check_targets(video_BTCHW, targets)
    if rule.hands_over != (on_tick is not None):
        raise ValueError(
            f"update {rule.update!r} with on_tick={on_tick}; on_tick belongs to update 'frame' and to replay buffers, "
            "and only there"
        )
    if rule.replay is not None:
        assert on_tick is not None
        memory = ReplayMemory() if memory is None else memory
        answers, asked = run_replayed(network, video_BTCHW, targets, rule, lengths_B, loss, memory, on_tick, stage)
        return replace(_of_answers(answers, network, lengths_B, {}), targets=asked)
    if executor == "vectorised" and rule.update == "frame":
        assert isinstance(network, UnitNetwork)
        assert on_tick is not None
        return _frame_by_frame(network, video_BTCHW, targets, rule, lengths_B, loss, on_tick, stage)
    start = state.tick if state else 0
    _open(network, stage, video_BTCHW, rule, executor)
    if rule.local:
        return _local(network, video_BTCHW, targets, rule, executor, lengths_B, loss, state, on_tick, stage)
    if executor == "pipelined":
        assert isinstance(network, UnitNetwork)
        sums, state = run_pipelined(network, video_BTCHW, targets, rule, lengths_B, loss, state, on_tick, stage)
    elif executor == "cuda_graph":
        assert isinstance(network, UnitNetwork)
        sums = run_cuda_graph(network, video_BTCHW, targets, rule, lengths_B, loss, on_tick, stage)
    else:
        sums = run_vectorised(network, video_BTCHW, targets, rule, lengths_B, loss, stage)
    gradients = _scaled(network, rule, sums.gradients, lengths_B, start)
    mean = _where_output(stage, sums.loss / sums.valid_BN.sum().clamp_min(1))
    return ClipGradients(mean, sums.logits_BNK, sums.valid_BN, gradients, state)


@torch.no_grad()
def clip_logits(
    network: UnitNetwork | ClipNetwork,
    video_BTCHW: Tensor,
    *,
    rule: Rule | str,
    executor: str = "vectorised",
    lengths_B: Tensor | None = None,
    stage: Stage | None = None,
    state: PipelineState | None = None,
) -> tuple[Tensor | None, Tensor]:
    """Return outputs (B, N, K) and their mask (B, N): those of `clip_answers` without the modules' own."""
    return clip_answers(
        network, video_BTCHW, rule=rule, executor=executor, lengths_B=lengths_B, stage=stage, state=state
    )[:2]


class ClipAnswers(NamedTuple):
    """What a network answers.

    Args:
        logits_BNK: its outputs; None where the last unit works in another stage.
        valid_BN: which of them belong to a clip's own frames.
        modules: of each module of this stage, by number, where modules answer for themselves.
    """

    logits_BNK: Tensor | None
    valid_BN: Tensor
    modules: dict[int, Answer]


@torch.no_grad()
def clip_answers(
    network: UnitNetwork | ClipNetwork,
    video_BTCHW: Tensor,
    *,
    rule: Rule | str,
    executor: str = "vectorised",
    lengths_B: Tensor | None = None,
    stage: Stage | None = None,
    state: PipelineState | None = None,
) -> ClipAnswers:
    """Return outputs and their mask, as the rule's network computes them at test time (section 2 [D]).

    A pipelined network answers at ticks D..T; an ordinary one at every frame. A rule that cannot be pipelined runs
    vectorised whatever `executor` says: nothing is learnt here, so nothing waits. `cuda_graph` runs pipelined here.
    With a `stage` the outputs are None everywhere but in the last one. With a `state` the clips go on from there: it is
    changed in place, and the mask is about the ticks of these frames alone. backprop_shifted's network is the pipeline
    too, so that a state does for it what it does for Sideways.

    Raises:
        ValueError: a combination that makes no sense; lengths that do not fit; a clip that ends before tick D and goes
            on from nowhere; a state for a network without time.
    """
    rule = replace(make_rule(rule) if isinstance(rule, str) else rule, update="clip")  # no weight changes here
    check_combination(network, rule, executor if rule.pipelines else "vectorised")
    check_stage(network, stage, state)
    if state is not None:
        check_keeps_state(network, rule)
    lengths_B = clip_lengths(video_BTCHW, lengths_B)
    if rule.local:
        return _local_answers(network, video_BTCHW, rule, executor, lengths_B, stage, state)
    if isinstance(network, ClipNetwork):
        outputs_NBK = network_outputs(network, video_BTCHW, rule, lengths_B)
        assert outputs_NBK is not None
        return ClipAnswers(outputs_NBK.transpose(0, 1), lengths_B[:, None] > 0, {})
    start = state.tick if state is not None else 0
    valid_BN = valid_outputs(rule, network.wiring, video_BTCHW.shape[1], lengths_B, start=start)
    if state is not None:
        executor = "pipelined"
    else:
        executor = ("pipelined" if executor == "cuda_graph" else executor) if rule.pipelines else "vectorised"
    _open(network, stage, video_BTCHW, rule, executor, training=False)
    if executor == "pipelined":
        return ClipAnswers(infer_pipelined(network, video_BTCHW, rule, stage, state), valid_BN, {})
    outputs_NBK = network_outputs(network, video_BTCHW, rule, lengths_B, stage)
    return ClipAnswers(None if outputs_NBK is None else outputs_NBK.transpose(0, 1), valid_BN, {})


def _local_answers(
    network: UnitNetwork | ClipNetwork,
    video_BTCHW: Tensor,
    rule: Rule,
    executor: str,
    lengths_B: Tensor,
    stage: Stage | None,
    state: PipelineState | None,
) -> ClipAnswers:
    none = torch.zeros(len(lengths_B), device=lengths_B.device, dtype=torch.long)  # labels, which nobody asks for
    if state is not None or (executor != "vectorised" and rule.pipelines):
        assert isinstance(network, UnitNetwork)
        if state is None:
            check_gives_output(network, rule, video_BTCHW.shape[1])
        _open(network, stage, video_BTCHW, rule, "pipelined", training=False)
        answers, *_ = greedy_pipeline.run_pipelined(
            network, video_BTCHW, none, rule, lengths_B, None, state, None, stage
        )
    else:
        if isinstance(network, UnitNetwork):
            check_gives_output(network, rule, video_BTCHW.shape[1])
        _open(network, stage, video_BTCHW, rule, "vectorised", training=False)
        answers, _ = greedy.run_vectorised(network, video_BTCHW, none, rule, lengths_B, None, stage)
    last = answers.get(network.module_count)
    if last is not None:
        return ClipAnswers(last.logits_BNK, last.valid_BN, answers)
    assert isinstance(network, UnitNetwork)
    start = state.tick if state is not None else 0
    return ClipAnswers(None, valid_outputs(rule, network.wiring, video_BTCHW.shape[1], lengths_B, start=start), answers)
