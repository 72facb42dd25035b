"""Which code of a codebook is nearest to each vector, and draws of vectors that no code is near to.

Shape legend: P positions, G groups, K codes of a group, D = C / G channels of a group.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

# Distances held at a time. On a CPU the time is the same from 4 MiB on.
DISTANCE_BYTES = 16 * 2**20


def exact(device: torch.device) -> AbstractContextManager[object]:
    """Return a context without autocast: a distance is a difference of large numbers, which half precision loses."""
    if torch.amp.autocast_mode.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def nearest(vectors_PGD: Tensor, codebook_GKD: Tensor, *, distance_bytes: int = DISTANCE_BYTES) -> Tensor:
    """Return the index (P, G) of the code with the least squared distance, the first of equals.

    |v - c|^2 / 2 without its |v|^2, which is the same for all codes; distances to the codebook's own mean, so that
    what all vectors have in common costs no digits.

    Args:
        vectors_PGD: of the codebook's type.
        codebook_GKD: one codebook for each group.
        distance_bytes: distances held at a time.
    """
    positions, groups, _ = vectors_PGD.shape
    codes = codebook_GKD.shape[1]
    mean_G1D = codebook_GKD.mean(1, keepdim=True)
    codes_GKD = codebook_GKD - mean_G1D
    half_G1K = codes_GKD.square().sum(-1)[:, None] / 2
    held = max(1, distance_bytes // (codebook_GKD.element_size() * codes))
    groups_held = min(groups, max(1, held // 256))
    positions_held = max(1, held // groups_held)
    indices_PG = torch.empty(positions, groups, dtype=torch.int64, device=vectors_PGD.device)
    with exact(vectors_PGD.device):
        for g in range(0, groups, groups_held):
            here = slice(g, g + groups_held)
            for p in range(0, positions, positions_held):
                chunk = slice(p, p + positions_held)
                vectors_GPD = vectors_PGD[chunk, here].transpose(0, 1) - mean_G1D[here]
                half_GPK = torch.baddbmm(half_G1K[here], vectors_GPD, codes_GKD[here].transpose(1, 2), alpha=-1)
                indices_PG[chunk, here] = half_GPK.argmin(-1).T
    return indices_PG


def flat_indices(indices_PG: Tensor, codes: int) -> Tensor:
    """Return indices (P, G) into the codebooks of all groups, one behind the other."""
    return indices_PG + torch.arange(indices_PG.shape[1], device=indices_PG.device) * codes


def take(codebook_GKD: Tensor, indices_PG: Tensor) -> Tensor:
    """Return the codes (P, G, D) of these indices."""
    return F.embedding(flat_indices(indices_PG, codebook_GKD.shape[1]), codebook_GKD.flatten(0, 1))


def sums_by_code(vectors_PGD: Tensor, indices_PG: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Return how many vectors have each code, (G, K), and their sums, (G, K, D)."""
    _, groups, depth = vectors_PGD.shape
    flat = flat_indices(indices_PG, codes).reshape(-1)
    counts = torch.zeros(groups * codes, dtype=torch.int64, device=flat.device)
    counts.index_add_(0, flat, torch.ones_like(flat))
    sums = vectors_PGD.new_zeros(groups * codes, depth).index_add_(0, flat, vectors_PGD.reshape(-1, depth))
    return counts.view(groups, codes), sums.view(groups, codes, depth)


def squared_errors(vectors_PGD: Tensor, codebook_GKD: Tensor, indices_PG: Tensor) -> Tensor:
    """Return the squared distance (G, P) of each vector from its code."""
    return (vectors_PGD - take(codebook_GKD, indices_PG)).square().sum(-1).T


def draw_keys(error_GP: Tensor, generator: torch.Generator) -> Tensor:
    """Return keys (G, P): the vectors with the largest are a draw by squared error, without replacement.

    Efraimidis and Spirakis, 2006: log(u) / weight. Draws of several calls can be joined by their keys. What has no
    error, or none that is finite, gets -inf: a code is never drawn where one is already.
    """
    uniform_GP = torch.rand(error_GP.shape, generator=generator, device=error_GP.device, dtype=error_GP.dtype)
    drawn_GP = (error_GP > 0) & torch.isfinite(error_GP)
    return torch.where(drawn_GP, uniform_GP.log() / error_GP, -torch.inf)
