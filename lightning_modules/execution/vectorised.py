"""The vectorised executor: a unit works on all ticks of a clip at once, and every edge is a delay operator.

methods.md section 3, "Vectorised form" [D]; the graph left out where no gradient is used is ours too [D].

It gives the pipelined executor's numbers at backprop's speed on one device, for `update: clip`. It holds T frames of
activations; the pipelined executor holds one. Under Sideways unit i uses no gradient before tick 2D - i: where these
are most of a clip's ticks, they pass through it without a graph.

Where the units are on several devices (`stage`), each process does this for its own units, and whole clips of
activations and gradients are sent: the naive model parallelism that the pipeline is measured against. One stage works
while the others wait.

Shape legend: B clips, T frames, S ticks of one unit's outputs, N ticks with an output of the network, K classes.
"""

import torch
from torch import Tensor

from lightning_modules.execution.arguments import check_gives_output
from lightning_modules.execution.clip_loss import ClipSums, Loss, leading_targets, valid_outputs
from lightning_modules.execution.edge import edge, mask_gradient
from lightning_modules.execution.placement import Channel, whole
from lightning_modules.execution.schedule import first_gradient_tick, lag
from lightning_modules.execution.stage import Stage, first_tick
from lightning_modules.networks.clip_network import ClipNetwork
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.networks.wiring import INPUT
from lightning_modules.rules.rule import Rule


def _first_used_tick(rule: Rule, network: UnitNetwork, unit: int) -> int:
    """Return the first tick whose gradient a unit uses: before it no graph is needed."""
    if rule.forwards_gradients and unit != INPUT:
        return first_gradient_tick(network.wiring, unit)
    return first_tick(rule, network.wiring, unit)


def _split(rule: Rule, network: UnitNetwork, unit: int, frames: int) -> tuple[range, range]:
    """Return a unit's ticks without a graph, and those with one.

    They are split only where most need none: joining the outputs is a copy, which autograd keeps beside the part.
    """
    first, end = first_tick(rule, network.wiring, unit), frames + 1
    graph = min(_first_used_tick(rule, network, unit), end)
    if 2 * (graph - first) < end - first:
        graph = first
    return range(first, graph), range(graph, end)


def _gradient_mask(
    rule: Rule, network: UnitNetwork, unit: int, ticks: range, lengths_B: Tensor, shortest: int
) -> Tensor | None:
    """Return the (S, B) mask of ticks at which a clip has not ended, for its gradients; None where it is all true."""
    if rule.forwards_gradients:
        age = 0
    elif rule.stash == "exact" and not rule.drains:
        age = lag(network.wiring, unit)
    else:
        return None
    if unit == network.depth or ticks[-1] + age <= shortest:
        return None
    ticks_S1 = torch.arange(ticks.start, ticks.stop, device=lengths_B.device)[:, None]
    return ticks_S1 + age <= lengths_B


def _messages(
    network: UnitNetwork, unit: int, outputs: dict[int, Tensor], rule: Rule, ticks: range
) -> tuple[list[Tensor], torch.Size]:
    """Return a unit's messages at some ticks, each (S*B, C, H, W), and (S, B)."""
    # With a stash the gradient is about the tick whose message it is: exact backprop's shift.
    backward = -rule.forward_shift if rule.stash == "exact" else rule.backward_shift
    wiring = network.wiring
    messages_SB = [
        edge(
            outputs[source] if wiring.carries_gradient(source, unit) else outputs[source].detach(),
            source_first=first_tick(rule, wiring, source),
            reader_first=ticks.start,
            last=ticks[-1],
            forward=rule.forward_shift * wiring.delay(source, unit),
            backward=backward * wiring.delay(source, unit),
            used_from=_first_used_tick(rule, network, source),
        )
        for source in wiring.sources_of(unit)
    ]
    return [m.flatten(0, 1) for m in messages_SB], messages_SB[0].shape[:2]


def _unit_outputs(
    network: UnitNetwork,
    unit: int,
    outputs: dict[int, Tensor],
    rule: Rule,
    frames: int,
    lengths_B: Tensor,
    shortest: int,
) -> Tensor:
    quiet, ticks = _split(rule, network, unit, frames)
    parts_SB = []
    if quiet:
        with torch.no_grad():
            messages, shape = _messages(network, unit, outputs, rule, quiet)
            parts_SB.append(network.unit(unit)(messages).unflatten(0, shape))
    if ticks:
        messages, shape = _messages(network, unit, outputs, rule, ticks)
        part_SB = network.unit(unit)(messages).unflatten(0, shape)
        mask_SB = _gradient_mask(rule, network, unit, ticks, lengths_B, shortest)
        parts_SB.append(part_SB if mask_SB is None or not part_SB.requires_grad else mask_gradient(part_SB, mask_SB))
    return torch.cat(parts_SB) if len(parts_SB) > 1 else parts_SB[0]


def _stage_outputs(
    network: UnitNetwork, video_BTCHW: Tensor, rule: Rule, lengths_B: Tensor, stage: Stage
) -> tuple[dict[int, Tensor], list[Channel]]:
    """Return outputs of a stage's units and of what they read, and the channels by which the latter's gradients go.

    Only those that gradients are asked for or come in by; what comes from another stage is a leaf of the graph.
    """
    frames, shortest = video_BTCHW.shape[1], int(lengths_B.min())
    outputs: dict[int, Tensor] = {}
    back = []
    if stage.has_video:
        outputs[INPUT] = video_BTCHW.transpose(0, 1).contiguous()
        _send_all(stage, "activation", INPUT, outputs[INPUT])
    for unit in stage.units:
        for source in network.wiring.sources_of(unit):
            if source not in outputs:
                (channel,) = stage.channels("activation", source)
                outputs[source] = stage.receive(channel, 0)
                if gradients := stage.channels("gradient", source):
                    back += gradients
                    outputs[source] = outputs[source].detach().requires_grad_(torch.is_grad_enabled())
        outputs[unit] = _unit_outputs(network, unit, outputs, rule, frames, lengths_B, shortest)
        _send_all(stage, "activation", unit, outputs[unit].detach())
        kept = _needed_after(network, stage, unit) | {channel.unit for channel in back}
        # What no layer keeps for the backward pass is gone.
        outputs = {j: output for j, output in outputs.items() if j in kept}
    return outputs, back


def _needed_after(network: UnitNetwork, stage: Stage, unit: int) -> set[int]:
    """Return whose outputs are still needed here after a unit: read by units above, or where gradients come in."""
    above = [i for i in stage.units if i > unit]
    read = {source for i in above for source in network.wiring.sources_of(i)}
    return read | {network.depth} | {i for i in stage.units if stage.channels("gradient", i)}


def _send_all(stage: Stage, kind: str, unit: int, message: Tensor) -> None:
    for channel in stage.channels(kind, unit):
        stage.send(channel, 0, message)


def network_outputs(
    network: UnitNetwork | ClipNetwork,
    video_BTCHW: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    stage: Stage | None = None,
) -> Tensor | None:
    """Return the network's outputs (N, B, K), with a graph whose backward pass is the rule's; None in other stages.

    Raises:
        ValueError: the clip ends before the pipeline's first output.
    """
    if isinstance(network, ClipNetwork):
        return network(video_BTCHW, lengths_B)[None]
    check_gives_output(network, rule, video_BTCHW.shape[1])
    stage = stage or Stage(whole(network.wiring))
    outputs, _ = _stage_outputs(network, video_BTCHW, rule, lengths_B, stage)
    return outputs[network.depth] if stage.has_output else None


def _summed_loss(logits_NBK: Tensor, targets: Tensor, valid_BN: Tensor, loss: Loss, lead: int = 0) -> Tensor:
    """Return the sum of the losses of all valid (clip, tick) pairs; output n is about frame n + 1."""
    n, b = logits_NBK.shape[:2]
    targets_NB = torch.stack([leading_targets(targets, frame, lead) for frame in range(1, n + 1)])
    losses = loss(logits_NBK.flatten(0, 1), targets_NB.flatten(0, 1)).view(n, b)
    return (losses * valid_BN.T).sum()


def _stage_gradients(
    network: UnitNetwork,
    stage: Stage,
    outputs: dict[int, Tensor],
    back: list[Channel],
    total: Tensor | None,
    sent: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the gradients of a stage's parameters, from the loss and from other stages; send what these wait for.

    With `sent`, the loss behind what the last unit sends, `total` is that of its own parameters alone.
    """
    if sent is not None and total is not None:
        own = {name: p for name, p in network.unit_parameters(network.depth).items() if p.requires_grad}
        gradients = torch.autograd.grad(total, list(own.values()), retain_graph=True) if own else ()
        below = _stage_gradients(network, stage, outputs, back, sent)
        return below | dict(zip(own, gradients, strict=True))
    roots: list[tuple[Tensor, Tensor | None]] = [] if total is None else [(total, None)]
    for unit in stage.units:
        for channel in stage.channels("gradient", unit):
            roots.append((outputs[unit], stage.receive(channel, 0)))
    roots = [root for root in roots if root[0].requires_grad]
    parameters = {n: p for unit in stage.units for n, p in network.unit_parameters(unit).items() if p.requires_grad}
    wanted = [*parameters.values(), *(outputs[channel.unit] for channel in back)]
    found: tuple[Tensor | None, ...] = (None,) * len(wanted)
    if roots and wanted:
        found = torch.autograd.grad([r for r, _ in roots], wanted, [g for _, g in roots], allow_unused=True)
    for channel, gradient in zip(back, found[len(parameters) :], strict=True):
        stage.send(channel, 0, torch.zeros_like(outputs[channel.unit]) if gradient is None else gradient)
    return {name: g for name, g in zip(parameters, found, strict=False) if g is not None}


def run_vectorised(
    network: UnitNetwork | ClipNetwork,
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    loss: Loss,
    stage: Stage | None = None,
) -> ClipSums:
    """Return the sums of a clip, all ticks at once. With a `stage`: its units' gradients, as `run_pipelined` does."""
    if isinstance(network, ClipNetwork):
        return _run_whole_clip(network, video_BTCHW, targets, lengths_B, loss)
    check_gives_output(network, rule, video_BTCHW.shape[1])
    stage = stage or Stage(whole(network.wiring))
    outputs, back = _stage_outputs(network, video_BTCHW, rule, lengths_B, stage)
    valid_BN = valid_outputs(rule, network.wiring, video_BTCHW.shape[1], lengths_B)
    if not stage.has_output:
        gradients = _stage_gradients(network, stage, outputs, back, None)
        empty = torch.zeros(len(lengths_B), 0, 0, dtype=video_BTCHW.dtype, device=lengths_B.device)
        return ClipSums(empty.sum(), empty, valid_BN, gradients)
    logits_NBK = outputs[network.depth]
    total = _summed_loss(logits_NBK, targets, valid_BN, loss)
    sent = _summed_loss(logits_NBK, targets, valid_BN, loss, rule.lead) if rule.lead else None
    gradients = _stage_gradients(network, stage, outputs, back, total, sent)
    return ClipSums(total.detach(), logits_NBK.detach().transpose(0, 1), valid_BN, gradients)


def _run_whole_clip(
    network: ClipNetwork, video_BTCHW: Tensor, targets: Tensor, lengths_B: Tensor, loss: Loss
) -> ClipSums:
    logits_NBK = network(video_BTCHW, lengths_B)[None]
    valid_BN = lengths_B[:, None] > 0
    total = _summed_loss(logits_NBK, targets, valid_BN, loss)
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    gradients = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
    return ClipSums(total.detach(), logits_NBK.detach().transpose(0, 1), valid_BN, gradients)
