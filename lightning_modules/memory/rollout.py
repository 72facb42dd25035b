"""One rollout's loss: MemUP's, of chosen steps far ahead, or truncated backprop's, of the rollout's own steps.

    MemUP        m_s ... m_t | ...... k1 .... k2 ...      graph: the rollout's memory, and the K predictions
    truncated    m_s ... m_t |                            graph: the rollout's memory, and a prediction at each step

Nothing between a moment t and a chosen step k is in the graph, or is read (methods.md section 6 [P]). Chosen steps that
lie in the rollout are predicted from their own memories too, as a test asks them: moments are few, and a memory that
has heard part of the question is none of them [D].

Shape legend: B lanes, N steps of the rollout, M moments, K chosen steps, F features.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_modules.memory.candidates import Candidates, choose
from lightning_modules.memory.encoders import Encoder
from lightning_modules.memory.memory_network import MemoryNetwork
from lightning_modules.memory.questions import Question, refuse_missing
from lightning_modules.memory.reading import Steps, read_windows, to_device
from lightning_modules.memory.recurrent import State
from lightning_modules.memory.selectors import Chosen, Selector, TopK


class RolloutLoss(NamedTuple):
    """What a rollout gave.

    Args:
        loss: the mean over what was predicted; None where there was nothing to predict.
        state: of the memory after the rollout, with its graph.
        right: share of right answers among the predicted classes.
        chosen: the steps that moments predicted; None for truncated backprop.
    """

    loss: Tensor | None
    state: State
    right: Tensor | None
    chosen: Chosen | None


def moments_of(moments_M: Tensor, start_B: Tensor, length_B: Tensor) -> Tensor:
    """Return the moments (B, M) as steps of the streams; where a rollout is shorter, its last step stands for more."""
    return start_B[:, None] + torch.minimum(moments_M, (length_B[:, None] - 1).clamp_min(0))


def different(steps_BMK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different steps that each lane's moments chose, (B, J), and where each choice is among them (B, M, K).

    Moments of one rollout choose nearly the same steps; each is read once. A lane with fewer than J repeats its last.
    """
    sorted_BS, order_BS = steps_BMK.flatten(1).sort(dim=1)
    rank_BS = torch.zeros_like(sorted_BS)
    rank_BS[:, 1:] = (sorted_BS[:, 1:] != sorted_BS[:, :-1]).cumsum(1)
    where_BS = torch.empty_like(rank_BS).scatter_(1, order_BS, rank_BS)
    steps_BJ = sorted_BS[:, -1:].repeat(1, int(rank_BS.max()) + 1).scatter_(1, rank_BS, sorted_BS)
    return steps_BJ, where_BS.view(steps_BMK.shape)


def memup_loss(
    network: MemoryNetwork,
    encoder: Encoder,
    question: Question,
    selector: Selector,
    *,
    lanes: Any,
    run: Steps,
    state: State,
    start_B: Tensor,
    length_B: Tensor,
    moments_M: Tensor,
    uncertainty: Tensor | Candidates,
    generator: torch.Generator | None = None,
) -> RolloutLoss:
    """Return MemUP's loss: the mean of -log q(y_k | c_k, m_t) over moments t and their chosen steps k [P].

    Args:
        network: memory, context and predictor.
        encoder: gives the features of chosen steps.
        question: what is asked.
        selector: chooses steps.
        lanes: streams side by side.
        run: the rollout's steps, with what the local context needs before them.
        state: of the memory before the rollout.
        start_B: first step of the rollout.
        length_B: its steps; 0 where a lane's stream is over.
        moments_M: prediction moments, counted from the rollout's first step.
        uncertainty: (B, T) of all steps of the streams, or, for TopK, their candidates.
        generator: of what the selector draws.

    Raises:
        ValueError: a chosen step has no target.
    """
    device = run.features.device
    memory_BNH, state = network.remember(run.features, state)
    moments_BM = moments_of(moments_M, start_B, length_B)
    chosen = choose(uncertainty, selector, to_device(moments_BM, device), generator)
    valid_BMK = chosen.valid_BMK & to_device(length_B > 0, device)[:, None, None]
    at_BM = to_device(moments_BM - start_B[:, None], device)
    memory_BMH = memory_BNH.gather(1, at_BM[..., None].expand(-1, -1, memory_BNH.shape[-1]))
    steps_BJ, where_BMK = different(chosen.steps_BMK)
    windows = read_windows(encoder, lanes, steps_BJ.cpu(), network.context.window, device)
    targets_BMK = windows.targets.gather(1, where_BMK.flatten(1)).view(valid_BMK.shape)
    refuse_missing(question, targets_BMK, chosen.steps_BMK, valid_BMK)
    outputs = network.of_chosen(windows.features, where_BMK, memory_BMH)
    outputs, targets, valid = outputs.flatten(0, 2), targets_BMK.flatten(), valid_BMK.flatten()
    if selector.ahead:
        own = _own_steps(network, run, memory_BNH, start_B, length_B, selector.ahead, uncertainty)
        parts = zip((outputs, targets, valid), own, strict=True)
        outputs, targets, valid = (torch.cat([far, near.flatten(0, 1)]) for far, near in parts)
    return _mean(question, outputs, targets, valid, state, Chosen(chosen.steps_BMK, valid_BMK))


def _own_steps(
    network: MemoryNetwork,
    run: Steps,
    memory_BNH: Tensor,
    start_B: Tensor,
    length_B: Tensor,
    k: int,
    uncertainty: Tensor | Candidates,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs (B, K, ...), targets and whether they count (B, K), of the rollout's steps among the K chosen."""
    device = memory_BNH.device
    start_B, length_B = to_device(start_B, device), to_device(length_B, device)
    chosen = choose(uncertainty, TopK(k), start_B[:, None])
    at_BK = chosen.steps_BMK[:, 0] - start_B[:, None]
    valid_BK = chosen.valid_BMK[:, 0] & (at_BK < length_B[:, None])
    at_BK = at_BK.clamp(max=memory_BNH.shape[1] - 1)
    gathered = [
        x.gather(1, at_BK[..., None].expand(-1, -1, x.shape[-1])) for x in (network.context(run.features), memory_BNH)
    ]
    return network.predictor(*gathered), run.targets.gather(1, at_BK), valid_BK


def each_step_loss(
    network: MemoryNetwork, question: Question, *, run: Steps, state: State, length_B: Tensor
) -> RolloutLoss:
    """Return truncated backprop's loss: what is said of each of the rollout's steps from its own memory.

    Args: as `memup_loss`.
    """
    outputs, _, state = network.at_each_step(run.features, state)
    steps = torch.arange(outputs.shape[1], device=outputs.device)
    valid_BN = run.inside & (steps < to_device(length_B, outputs.device)[:, None])
    return _mean(question, outputs, run.targets, valid_BN & question.is_asked(run.targets), state, None)


def _mean(
    question: Question, outputs: Tensor, targets: Tensor, valid: Tensor, state: State, chosen: Chosen | None
) -> RolloutLoss:
    count = valid.sum()
    if not count:
        return RolloutLoss(None, state, None, chosen)
    loss = (question.loss(outputs, targets) * valid).sum() / count
    right = None if question.outputs == 1 else ((outputs.argmax(-1) == targets) & valid).sum() / count
    return RolloutLoss(loss, state, right, chosen)
