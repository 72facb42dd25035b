"""The vectorised executor: a unit works on all ticks of a clip at once, and every edge is a delay operator.

methods.md section 3, "Vectorised form" [D]; the graph left out where no gradient is used is ours too [D].

It gives the pipelined executor's numbers at backprop's speed on one device, for `update: clip`. It holds T frames of
activations; the pipelined executor holds one. Under Sideways unit i uses no gradient before tick 2D - i: where these
are most of a clip's ticks, they pass through it without a graph.

Shape legend: B clips, T frames, S ticks of one unit's outputs, N ticks with an output of the network, K classes.
"""

import torch
from torch import Tensor

from lightning_modules.execution.arguments import check_gives_output
from lightning_modules.execution.clip_loss import ClipSums, Loss, targets_at, valid_outputs
from lightning_modules.execution.edge import edge, mask_gradient
from lightning_modules.execution.schedule import first_gradient_tick, lag
from lightning_modules.networks.clip_network import ClipNetwork
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.networks.wiring import INPUT
from lightning_modules.rules.rule import Rule


def _first_tick(rule: Rule, unit: int) -> int:
    if unit == INPUT:
        return 1 - rule.forward_shift
    return unit if rule.forward_shift else 1


def _first_used_tick(rule: Rule, network: UnitNetwork, unit: int) -> int:
    """Return the first tick whose gradient a unit uses: before it no graph is needed."""
    if rule.forwards_gradients and unit != INPUT:
        return first_gradient_tick(network.wiring, unit)
    return _first_tick(rule, unit)


def _split(rule: Rule, network: UnitNetwork, unit: int, frames: int) -> tuple[range, range]:
    """Return a unit's ticks without a graph, and those with one.

    They are split only where most need none: joining the outputs is a copy, which autograd keeps beside the part.
    """
    first, end = _first_tick(rule, unit), frames + 1
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
    messages_SB = [
        edge(
            outputs[source] if network.wiring.carries_gradient(source, unit) else outputs[source].detach(),
            source_first=_first_tick(rule, source),
            reader_first=ticks.start,
            last=ticks[-1],
            forward=rule.forward_shift,
            backward=backward,
            used_from=_first_used_tick(rule, network, source),
        )
        for source in network.wiring.sources_of(unit)
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


def network_outputs(network: UnitNetwork | ClipNetwork, video_BTCHW: Tensor, rule: Rule, lengths_B: Tensor) -> Tensor:
    """Return the network's outputs (N, B, K), with a graph whose backward pass is the rule's.

    Raises:
        ValueError: the clip ends before the pipeline's first output.
    """
    if isinstance(network, ClipNetwork):
        return network(video_BTCHW, lengths_B)[None]
    frames = video_BTCHW.shape[1]
    check_gives_output(network, rule, frames)
    outputs = {INPUT: video_BTCHW.transpose(0, 1).contiguous()}
    shortest = int(lengths_B.min())
    for unit in range(1, network.depth + 1):
        outputs[unit] = _unit_outputs(network, unit, outputs, rule, frames, lengths_B, shortest)
    return outputs[network.depth]


def _summed_loss(logits_NBK: Tensor, targets: Tensor, valid_BN: Tensor, loss: Loss) -> Tensor:
    """Return the sum of the losses of all valid (clip, tick) pairs; output n is about frame n + 1."""
    n, b = logits_NBK.shape[:2]
    targets_NB = torch.stack([targets_at(targets, frame) for frame in range(1, n + 1)])
    losses = loss(logits_NBK.flatten(0, 1), targets_NB.flatten(0, 1)).view(n, b)
    return (losses * valid_BN.T).sum()


def run_vectorised(
    network: UnitNetwork | ClipNetwork,
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    loss: Loss,
) -> ClipSums:
    """Return the sums of a clip, all ticks at once."""
    logits_NBK = network_outputs(network, video_BTCHW, rule, lengths_B)
    if rule.whole_clip:
        valid_BN = lengths_B[:, None] > 0
    else:
        valid_BN = valid_outputs(rule, network.depth, video_BTCHW.shape[1], lengths_B)
    total = _summed_loss(logits_NBK, targets, valid_BN, loss)
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    parameters = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    gradients = {name: g for name, g in zip(names, found, strict=True) if g is not None}
    return ClipSums(total.detach(), logits_NBK.detach().transpose(0, 1), valid_BN, gradients)
