"""The loss of a clip: one loss for each tick that has an output, and the counts that turn sums into means.

Shape legend: B clips, N ticks with an output, K classes. All losses here are sums; a unit's gradient is divided by the
number of (clip, tick) pairs that gave it one, so that every rule means the same by a learning rate (methods.md section
2, `update: clip` [D]).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.execution.schedule import first_gradient_tick
from lightning_modules.networks.wiring import Wiring
from lightning_modules.rules.rule import Rule

Loss = Callable[[Tensor, Tensor], Tensor]


class ClipSums(NamedTuple):
    """What an executor found, not yet divided by any count.

    Args:
        loss: sum over all valid (clip, tick) pairs.
        logits_BNK: outputs at each tick that has one.
        valid_BN: which of them belong to a clip's own frames.
        gradients: sums by parameter name.
    """

    loss: Tensor
    logits_BNK: Tensor
    valid_BN: Tensor
    gradients: dict[str, Tensor]


class Answer(NamedTuple):
    """What one module answered, where modules have losses of their own.

    Args:
        loss: mean over its valid (clip, tick) pairs; 0 where it was only asked.
        logits_BNK: its answer at each of its ticks.
        valid_BN: which of them count.
    """

    loss: Tensor
    logits_BNK: Tensor
    valid_BN: Tensor


def add_gradients(summed: dict[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    """Add a tick's gradients to a clip's, in place: all of a unit's in one call."""
    known = [name for name in gradients if name in summed]
    if known:
        torch._foreach_add_([summed[name] for name in known], [gradients[name] for name in known])
    if len(known) < len(gradients):
        # A copy: a gradient may share its memory with the message that it was made from.
        summed.update({name: gradient.clone() for name, gradient in gradients.items() if name not in summed})


def mean_over_alive(gradients: Mapping[str, Tensor], alive: int) -> dict[str, Tensor]:
    """Return a tick's summed gradients divided by the number of clips that have not ended; nothing where all have."""
    if not alive or not gradients:
        return {}
    return dict(zip(gradients, torch._foreach_div(list(gradients.values()), alive), strict=True))


def cross_entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, (B,), unreduced."""
    return F.cross_entropy(logits_BK, labels_B, reduction="none")


def targets_at(targets: Tensor, frame: int) -> Tensor:
    """Return the targets of a nominal frame (1-based): labels (B,) hold for all frames, others are (B, T, ...)."""
    return targets if targets.dim() == 1 else targets[:, frame - 1]


def leading_targets(targets: Tensor, frame: int, lead: int) -> Tensor:
    """Return the targets of `lead` frames later, of the clip's last frame where that comes first (see sideways.py)."""
    return targets if targets.dim() == 1 else targets[:, min(frame + lead, targets.shape[1]) - 1]


def joined_targets(before: Tensor | None, targets: Tensor, *, start: int) -> tuple[Tensor, int]:
    """Return the targets that a piece of a stream needs, and the number of the frame that they begin after.

    An output of the pipeline is about a frame that came D - 1 ticks ago. So the first outputs of a piece are about
    frames of the piece before:

        frames      ..  7   8 | 9  10  11  12        D = 3, a piece of four frames after the eighth
        outputs                 7   8   9  10        `before` holds the targets of frames 7 and 8

    Args:
        before: of the last frames before this piece (B, n, ...).
        targets: of this piece (B, T, ...), or labels (B,).
        start: frames before this piece.

    Raises:
        ValueError: a target for each frame now, and none of the frames before.
    """
    if targets.dim() == 1 or not start:
        return targets, 0
    if before is None:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} for a stream whose {start} frames so far had none of their own; "
            "give a target for each frame from the stream's start on, or labels (B,)"
        )
    return torch.cat([before, targets], dim=1), start - before.shape[1]


def last_targets(targets: Tensor, depth: int) -> Tensor | None:
    """Return the targets of the last D - 1 frames, (B, at most D - 1, ...), a copy; None for labels."""
    return None if targets.dim() == 1 else targets[:, max(0, targets.shape[1] - depth + 1) :].clone()


def first_loss_tick(rule: Rule, wiring: Wiring) -> int:
    """First tick with an output: D in the pipeline [P, section 2], 1 in the ordinary network."""
    return wiring.length if rule.forward_shift else 1


def valid_outputs(rule: Rule, wiring: Wiring, frames: int, lengths_B: Tensor, *, start: int = 0) -> Tensor:
    """Return the mask (B, N) of outputs that belong to a clip's own frames.

    Args:
        rule: sets the first tick with an output.
        wiring: the network's.
        frames: frames of the clip, T.
        lengths_B: number of real frames of each clip.
        start: ticks already done before this clip, in a stream.
    """
    return valid_ticks(first_loss_tick(rule, wiring), frames, lengths_B, start=start)


def valid_ticks(first: int, frames: int, lengths_B: Tensor, *, start: int = 0) -> Tensor:
    """Return the mask (B, N) of the ticks from `first` on that belong to a clip's own frames; see `valid_outputs`."""
    first = max(first, start + 1)
    ticks_N = torch.arange(first, max(first, start + frames + 1), device=lengths_B.device)
    return ticks_N[None, :] <= lengths_B[:, None] + start


def gradient_count(rule: Rule, wiring: Wiring, unit: int, lengths_B: Tensor, *, start: int = 0) -> int:
    """Return how many (clip, tick) pairs a unit's gradient is the mean of; 0 where it gets none.

    Sideways: the ticks from 2D - i to a clip's end [D, section 2]. Exact gradients, with a stash too: the ticks with a
    loss, D to the end [D, sections 1 and 3].
    """
    first = first_gradient_tick(wiring, unit) if rule.forwards_gradients else first_loss_tick(rule, wiring)
    before = max(first - 1, start)
    return int((lengths_B + start - before).clamp_min(0).sum())
