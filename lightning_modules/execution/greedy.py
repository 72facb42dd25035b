"""Local losses (rules/greedy.py): each module in turn, forward, loss and gradient, then its detached messages go up.

    clips -> module 1 -- messages --> module 2 -- messages --> ... module J
               |                        |                        |
             answer, loss             answer, loss             answer, loss         only one module's graph at a time

Vectorised, here, a module works on all ticks of its clips at once; an edge between modules is a shift by one tick
forward, and has no way back. Pipelined (greedy_pipeline.py) all modules work at each tick. Both give the same numbers
(methods.md section 4 [C]; the clock [D]), and so do several stages: each process does this for its own modules,
receives what they read and sends what others read (stage_messages.py). A stage never waits for one above it.

What goes from one module to another is quantised where the sending unit has a quantiser; its codebook stays as it is
until the batch is over, and then makes one step. Two things about codebooks depend on the executor [D]. One that was
never started takes its codes from what it is given first: vectorised from all ticks of the batch, pipelined from its
first tick alone. And dead codes begin anew at vectors drawn call by call, one call a batch or one a tick. So what is
quantised is the same in both only as long as codebooks have started and no code is dead.

Shape legend: B clips, T frames, S ticks of one module's answers, N any number of frames, C channels, H and W height and
width, K numbers of an answer.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.execution.arguments import check_gives_output
from lightning_modules.execution.clip_loss import (
    Answer,
    Loss,
    targets_at,
    valid_ticks,
)
from lightning_modules.execution.schedule import target_frame
from lightning_modules.execution.stage import Stage, first_tick
from lightning_modules.execution.stage_messages import StageMessages
from lightning_modules.layers.vector_quantiser import Packed
from lightning_modules.networks.clip_network import ClipNetwork
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.networks.wiring import INPUT
from lightning_modules.rules.rule import Rule

Network = UnitNetwork | ClipNetwork
OnTick = Callable[[Mapping[str, Tensor]], None]


@dataclass
class Clips:
    """What modules read of some clips, at all their ticks at once.

    Args:
        messages: by source, (S, B, C, H, W) from the source's first tick on; of networks that take whole clips
            (B, C, T, H, W).
        targets: labels (B,), or one target for each nominal frame (B, T, ...).
        lengths_B: real frames of each clip.
        frames: length of the clips, T.
        rows_B: which clips of the batch these are.
    """

    messages: dict[int, Tensor]
    targets: Tensor
    lengths_B: Tensor
    frames: int
    rows_B: Tensor


@dataclass
class ModulePass:
    """What a module made of some clips: sums over its valid (clip, tick) pairs.

    Args:
        sent: detached outputs that higher modules read, by unit, as in `Clips`.
        loss: summed.
        logits_BSK: its answers.
        valid_BS: which of them count.
        gradients: summed, by parameter name; none where nothing is learnt.
        packed: what is sent, as codes, by unit: where they were asked for.
    """

    sent: dict[int, Tensor]
    loss: Tensor
    logits_BSK: Tensor
    valid_BS: Tensor
    gradients: dict[str, Tensor]
    packed: dict[int, Packed]


@torch.no_grad()
def answer_of_modules(network: Network, video: Tensor) -> Tensor:
    """Return the last module's answer to frames (N, C, H, W), or to clips (B, T, C, H, W) of a network that takes them.

    All modules work on the same frames, on what they send one another: quantised where it is.
    """
    messages = {INPUT: video.transpose(1, 2) if isinstance(network, ClipNetwork) else video}
    for module in range(1, network.module_count + 1):
        outputs, answer = network.module_forward(module, messages, heads=False)
        messages |= sent_messages(network, outputs, learn=False)[0]
    return answer


def whole_batch(network: Network, video_BTCHW: Tensor, targets: Tensor, lengths_B: Tensor) -> list[Clips]:
    """Return a batch as modules read it: of networks that take whole clips, clips of one length together.

    The reason is `ClipNetwork.forward`'s: padding cannot be masked after the fact.
    """
    rows_B = torch.arange(len(lengths_B), device=lengths_B.device)
    frames = video_BTCHW.shape[1]
    if isinstance(network, UnitNetwork):
        messages = {} if video_BTCHW.is_meta else {INPUT: video_BTCHW.transpose(0, 1).contiguous()}
        return [Clips(messages, targets, lengths_B, frames, rows_B)]
    parts = []
    for length in lengths_B.unique().tolist():
        rows = (lengths_B == length).nonzero().squeeze(1)
        video = video_BTCHW[rows, : max(length, 1)].transpose(1, 2)
        parts.append(Clips({INPUT: video}, targets[rows], lengths_B[rows], max(length, 1), rows))
    return parts


def trainable(network: Network, module: int) -> dict[str, Tensor]:
    """Return the trainable parameters of a module's units and head, by name."""
    parameters = (network.unit_parameters(unit) for unit in network.module_units(module))
    return {name: p for found in parameters for name, p in found.items() if p.requires_grad}


def summed_loss(answer_NK: Tensor, targets_N: Tensor, weight_N: Tensor, loss: Loss) -> Tensor:
    """Return the weighted sum of the losses; frames are compared at the answer's own resolution [D]."""
    if answer_NK.dim() == 4 and answer_NK.shape[-2:] != targets_N.shape[-2:]:
        targets_N = F.adaptive_avg_pool2d(targets_N, (answer_NK.shape[-2], answer_NK.shape[-1]))
    return (loss(answer_NK, targets_N) * weight_N).sum()


def sent_messages(
    network: Network,
    outputs: Mapping[int, Tensor],
    *,
    learn: bool,
    pack: Collection[int] = (),
    own_N: Tensor | None = None,
) -> tuple[dict[int, Tensor], dict[int, Packed]]:
    """Return outputs as other modules read them, detached, quantised where the unit has a quantiser.

    And the codes of the units in `pack` that have one. With `own_N` codebooks learn from these rows alone: the others
    are padding.
    """
    sent, packed = dict[int, Tensor](), dict[int, Packed]()
    for unit, output in outputs.items():
        quantiser = network.quantiser(unit)
        if quantiser is None:
            sent[unit] = output.detach()
            continue
        if learn and own_N is not None:
            quantiser(output[own_N], learn=True)
        learn_all = learn and own_N is None
        if unit in pack:
            packed[unit] = quantiser.encode(output, learn=learn_all)
            sent[unit] = quantiser.decode(packed[unit])
        else:
            sent[unit] = quantiser(output, learn=learn_all)
    return sent, packed


def gradients_of(parameters: Mapping[str, Tensor], total: Tensor) -> dict[str, Tensor]:
    """Return a loss's gradients of some parameters, by name; nothing where there is no graph."""
    if not parameters or not total.requires_grad:
        return {}
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


def module_pass(
    network: Network,
    module: int,
    clips: Clips,
    rule: Rule,
    loss: Loss | None,
    *,
    learn: bool = True,
    pack: Collection[int] = (),
) -> ModulePass:
    """Do one module's work on some clips, all ticks at once [C, methods.md section 4].

    Args:
        network: cut into modules.
        module: number, 1-based.
        clips: with the messages of all its sources.
        rule: one with local losses.
        loss: None: answers only.
        learn: find gradients, and let quantisers gather what they learn from.
        pack: units whose codes are returned too, where they have any.
    """
    learn = learn and loss is not None
    with torch.set_grad_enabled(learn):
        if isinstance(network, ClipNetwork):
            shape = own_N = None
            outputs, answer_BK = network.module_forward(module, clips.messages)
            answers_SBK, about = answer_BK[None], [1]
            valid_BS = clips.lengths_B[:, None] > 0
        else:
            first = first_tick(rule, network.wiring, network.module_units(module)[-1])
            ticks = range(first, clips.frames + 1)
            messages = {j: _at_ticks(network, module, j, clips, rule, ticks) for j in network.module_sources(module)}
            shape = (len(ticks), len(clips.lengths_B))
            outputs, answer_NK = network.module_forward(module, messages)
            answers_SBK = answer_NK.unflatten(0, shape)
            about = [asked_frame(network, module, rule, tick) for tick in ticks]
            valid_BS = valid_ticks(first, clips.frames, clips.lengths_B)
            own_N = None if bool(valid_BS.all()) else valid_BS.T.flatten()
            if clips.targets.dim() > 1:
                valid_BS = valid_BS & (torch.tensor(about, device=valid_BS.device) >= 1)
        total = answers_SBK.new_zeros(())
        if loss is not None:
            targets_SB = torch.stack([targets_at(clips.targets, max(frame, 1)) for frame in about])
            weight_SB = valid_BS.T.to(answers_SBK.dtype)
            total = summed_loss(answers_SBK.flatten(0, 1), targets_SB.flatten(0, 1), weight_SB.flatten(), loss)
    gradients = gradients_of(trainable(network, module), total) if learn else {}
    sent, packed = sent_messages(network, outputs, learn=learn, pack=pack, own_N=own_N)
    if shape is not None:
        sent = {unit: x.unflatten(0, shape) for unit, x in sent.items()}
    logits_BSK = answers_SBK.detach().transpose(0, 1)
    return ModulePass(sent, total.detach(), logits_BSK, valid_BS, gradients, packed)


def _at_ticks(network: UnitNetwork, module: int, source: int, clips: Clips, rule: Rule, ticks: range) -> Tensor:
    """Return a source's messages that a module reads at its ticks, (S * B, C, H, W)."""
    delay = rule.forward_shift  # between modules, and from the frame
    start = ticks.start - delay - first_tick(rule, network.wiring, source)
    return clips.messages[source][start : start + len(ticks)].flatten(0, 1)


def asked_frame(network: UnitNetwork, module: int, rule: Rule, tick: int) -> int:
    """Return the nominal frame whose target a module's answer of a tick is compared with; below 1 there is none [D]."""
    top = network.module_units(module)[-1]
    return target_frame(network.wiring, top, tick) if rule.forward_shift else tick


def mean_answer(passes: Iterable[ModulePass], clips: Iterable[Clips], batch: int) -> Answer:
    """Return a module's answers for the whole batch, in the batch's order, with the mean loss."""
    passes, clips = list(passes), list(clips)
    count = sum(p.valid_BS.sum() for p in passes)
    loss = sum((p.loss for p in passes), passes[0].loss.new_zeros(())) / max(int(count), 1)
    order = torch.cat([part.rows_B for part in clips]).argsort()
    logits = torch.cat([p.logits_BSK for p in passes])[order]
    assert len(logits) == batch
    return Answer(loss, logits, torch.cat([p.valid_BS for p in passes])[order])


def mean_gradients(passes: Iterable[ModulePass]) -> dict[str, Tensor]:
    """Return the mean of a module's gradients over its valid (clip, tick) pairs; nothing where it has none."""
    passes = list(passes)
    count = sum(int(p.valid_BS.sum()) for p in passes)
    if not count:
        return {}
    names = {name for p in passes for name in p.gradients}
    return {n: torch.stack([p.gradients[n] for p in passes if n in p.gradients]).sum(0) / count for n in sorted(names)}


def stage_modules(network: Network, stage: Stage | None) -> list[int]:
    """Return the modules that work in a stage."""
    modules = range(1, network.module_count + 1)
    return [j for j in modules if stage is None or network.module_units(j)[-1] in stage.units]


def needed_above(network: Network, module: int) -> set[int]:
    """Return the sources that modules above a module read from it or from below."""
    modules = range(module + 1, network.module_count + 1)
    return {j for m in modules for j in network.module_sources(m) if j not in _units_above(network, module)}


def _units_above(network: Network, module: int) -> range:
    return range(network.module_units(module)[-1] + 1, network.module_units(network.module_count)[-1] + 1)


def run_vectorised(
    network: Network,
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    loss: Loss | None,
    stage: Stage | None = None,
) -> tuple[dict[int, Answer], dict[str, Tensor]]:
    """Return each module's answers and the mean gradients of its parameters, all ticks of a module at once.

    With a `stage` those of its modules. Without a `loss` there are no gradients, and nothing is learnt.
    """
    if isinstance(network, UnitNetwork):
        check_gives_output(network, rule, video_BTCHW.shape[1])
    parts = whole_batch(network, video_BTCHW, targets, lengths_B)
    others = None if stage is None else _opened(network, stage, parts[0])
    pack = () if others is None else others.units
    answers, gradients = {}, dict[str, Tensor]()
    for module in stage_modules(network, stage):
        if others is not None:
            others.receive_all(network.module_sources(module), parts[0].messages)
        passes = [module_pass(network, module, part, rule, loss, pack=pack) for part in parts]
        answers[module] = mean_answer(passes, parts, len(lengths_B))
        gradients.update(mean_gradients(passes))
        needed = needed_above(network, module)
        for part, done in zip(parts, passes, strict=True):
            part.messages = {j: m for j, m in (part.messages | done.sent).items() if j in needed}
        if others is not None:
            for unit, message in passes[0].sent.items():
                others.send(unit, 0, message, passes[0].packed.get(unit))
        del passes
    return answers, gradients


def _opened(network: Network, stage: Stage, clips: Clips) -> StageMessages:
    """Return the messages to and from other stages, the frames sent."""
    assert isinstance(network, UnitNetwork)
    messages = StageMessages(network, stage)
    if stage.has_video:
        messages.send(INPUT, 0, clips.messages[INPUT])
    else:
        clips.messages = {}  # a stage may be told the frames, as targets
    return messages


def step_codebooks(network: Network) -> None:
    """Let every quantiser learn from what it has gathered."""
    for module in range(1, network.module_count + 1):
        for unit in network.module_outputs(module):
            if (quantiser := network.quantiser(unit)) is not None:
                quantiser.step()
