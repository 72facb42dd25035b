"""The vectorised executor: a unit works on all ticks of a clip at once, and every edge is a delay operator.

It gives the pipelined executor's numbers at backprop's speed on one device, for `update: clip`. It holds T frames of
activations; the pipelined executor holds one.

Shape legend: B clips, T frames, S ticks of one unit's outputs, N ticks with an output of the network, K classes.
"""

import torch
from torch import Tensor

from lightning_modules.execution.clip_loss import Loss, targets_at, valid_outputs
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


def _gradient_mask(rule: Rule, network: UnitNetwork, unit: int, frames: int, lengths_B: Tensor) -> Tensor | None:
    """Return the (S, B) mask of ticks whose gradient a unit uses; None where all do."""
    ticks_S1 = torch.arange(_first_tick(rule, unit), frames + 1, device=lengths_B.device)[:, None]
    if rule.forwards_gradients:
        return (ticks_S1 >= first_gradient_tick(network.wiring, unit)) & (ticks_S1 <= lengths_B)
    if rule.stash == "exact" and not rule.drain:
        return ticks_S1 + lag(network.wiring, unit) <= lengths_B
    return None


def _unit_outputs(
    network: UnitNetwork, unit: int, outputs: dict[int, Tensor], rule: Rule, frames: int, lengths_B: Tensor
) -> Tensor:
    first = _first_tick(rule, unit)
    # With a stash the gradient is about the tick whose message it is: exact backprop's shift.
    backward = -rule.forward_shift if rule.stash == "exact" else rule.backward_shift
    messages_SB = [
        edge(
            outputs[source] if network.wiring.carries_gradient(source, unit) else outputs[source].detach(),
            source_first=_first_tick(rule, source),
            reader_first=first,
            last=frames,
            forward=rule.forward_shift,
            backward=backward,
        )
        for source in network.wiring.sources_of(unit)
    ]
    output = network.unit(unit)([m.flatten(0, 1) for m in messages_SB])
    output_SB = output.unflatten(0, messages_SB[0].shape[:2])
    mask_SB = _gradient_mask(rule, network, unit, frames, lengths_B)
    if mask_SB is None or unit == network.depth or not output_SB.requires_grad:
        return output_SB
    return mask_gradient(output_SB, mask_SB)


def network_outputs(network: UnitNetwork | ClipNetwork, video_BTCHW: Tensor, rule: Rule, lengths_B: Tensor) -> Tensor:
    """Return the network's outputs (N, B, K), with a graph whose backward pass is the rule's."""
    if isinstance(network, ClipNetwork):
        return network(video_BTCHW, lengths_B)[None]
    frames = video_BTCHW.shape[1]
    outputs = {INPUT: video_BTCHW.transpose(0, 1).contiguous()}
    for unit in range(1, network.depth + 1):
        outputs[unit] = _unit_outputs(network, unit, outputs, rule, frames, lengths_B)
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
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Return summed loss, logits (B, N, K), their mask (B, N) and summed gradients by parameter name."""
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
    return total.detach(), logits_NBK.detach().transpose(0, 1), valid_BN, gradients
