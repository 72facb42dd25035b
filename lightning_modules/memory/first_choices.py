"""What a detector would have a stream's first moment predict, and which of it the data scores.

    stream    |--first--|...............................
    moment             m                                    the last step before the first prediction
    chosen                 k3          k1         k2        from there on, the most uncertain first
    scored                             a          a         A = 2: of the two first choices both are hits

Shape legend: B lanes, K chosen steps, A answers (steps that are scored).
"""

import torch
from torch import Tensor

from lightning_modules.memory.candidates import Candidates
from lightning_modules.memory.selectors import TopK
from lightning_modules.memory.settings import Settings, rollout_of


def first_choices(hp: Settings, candidates: Candidates, lengths_B: Tensor) -> Tensor:
    """Return the steps that each stream's first moment chooses (B, K), the most uncertain first, -1 for none.

    Args:
        hp: the memory's settings.
        candidates: of the streams.
        lengths_B: steps of the streams.
    """
    rollout = rollout_of(hp) or 1
    first = min(rollout, hp["predict_every"] or rollout)
    moments_B1 = lengths_B.clamp(1, first)[:, None].to(candidates.value_BS.device) - 1
    chosen = candidates.choose(TopK(hp["k"]), moments_B1)
    return chosen.steps_BMK[:, 0].masked_fill(~chosen.valid_BMK[:, 0], -1)


def hits_of(chosen_BK: Tensor, answers_BA: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, of each lane, the scored steps among the min(K, A) first choices, their number, and A, all (B,).

    Args:
        chosen_BK: as `first_choices` gives them.
        answers_BA: scored steps, -1 for none.
    """
    answers_BA = answers_BA.to(chosen_BK.device)
    answers_B = (answers_BA >= 0).sum(1)
    rank_K = torch.arange(chosen_BK.shape[1], device=chosen_BK.device)
    counts_BK = (chosen_BK >= 0) & (rank_K < answers_B[:, None])
    hit_BK = (chosen_BK[:, :, None] == answers_BA[:, None]).any(-1) & counts_BK
    return hit_BK.sum(1).float(), counts_BK.sum(1), answers_B
