"""How a codebook is found and kept up: a first draw, what is gathered of a step, one averaged update.

    learn calls of a step       counts (G, K), sums (G, K, D), a few vectors by their error
                                   |
    step                        averages of counts and sums -> codes; dead codes <- vectors drawn

The form is ours, methods.md section 4 [D]: exponential averages with Laplace smoothing, dead codes from the batch.

Shape legend: P positions, G groups, K codes of a group, D = C / G channels of a group, R vectors kept for dead codes.
"""

import torch
from torch import Tensor

from lightning_modules.layers.nearest_code import draw_keys, nearest, squared_errors, sums_by_code

# Vectors kept for dead codes, in each group: more dead ones wait for the next step.
RESERVOIR = 256
# Of the vectors of one call, so many may be drawn for dead codes.
CANDIDATES = 4096
# A first codebook is drawn from so many positions, and from at least so many for each code.
FIRST_POSITIONS, FIRST_PER_CODE = 4096, 4
# A code that begins anew has so many times the count below which it would be dead.
NEW_OVER_DEAD = 2.0
_SEED = 0x5EED_C0DE


def seeded(device: torch.device, version: int, call: int) -> torch.Generator:
    """Return the generator of one call: of the codebook's version alone, so that a resumed run draws the same."""
    return torch.Generator(device).manual_seed(_SEED + 1_000_003 * version + call)


def first_codebook(vectors_PGD: Tensor, codes: int, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Return a codebook (G, K, D) of vectors drawn, and how many vectors each code has (G, K); None without vectors.

    Drawn by their squared error from those drawn before, a few at a time: vectors that many positions share, such as
    a black background's, take one code and not most of them. More codes than vectors: they are repeated.
    """
    some = max(FIRST_POSITIONS, FIRST_PER_CODE * codes)
    order = torch.randperm(len(vectors_PGD), generator=generator, device=vectors_PGD.device)
    vectors_PGD = vectors_PGD[order[:some]]
    vectors_PGD = vectors_PGD[torch.isfinite(vectors_PGD).flatten(1).all(1)]
    if not len(vectors_PGD):
        return None
    new_GRD = vectors_PGD[:1].transpose(0, 1)
    drawn, found = [new_GRD], 1
    error_GP = squared_errors(vectors_PGD, new_GRD, nearest(vectors_PGD, new_GRD))
    while found < min(codes, len(vectors_PGD)):
        chosen_GR = draw_keys(error_GP, generator).topk(min(max(1, found // 8), codes - found), dim=1).indices
        new_GRD = _rows(vectors_PGD, chosen_GR)
        drawn.append(new_GRD)
        found += new_GRD.shape[1]
        error_GP = error_GP.minimum(squared_errors(vectors_PGD, new_GRD, nearest(vectors_PGD, new_GRD)))
    book_GKD = torch.cat(drawn, 1)[:, torch.arange(codes, device=vectors_PGD.device) % found].contiguous()
    counts_GK, _ = sums_by_code(vectors_PGD, nearest(vectors_PGD, book_GKD), codes)
    return book_GKD, counts_GK * (len(order) / len(vectors_PGD))


def _rows(vectors_PGD: Tensor, chosen_GR: Tensor) -> Tensor:
    """Return the chosen vectors of each group (G, R, D)."""
    groups = torch.arange(vectors_PGD.shape[1], device=vectors_PGD.device)
    return vectors_PGD[chosen_GR, groups[:, None]]


class Gathered:
    """What the learn calls of one step left behind; it does not grow with their number.

    Args:
        codebook_GKD: the codebook that they were coded with.
        version: its version.
    """

    def __init__(self, codebook_GKD: Tensor, version: int) -> None:
        groups, codes, _ = codebook_GKD.shape
        self.version, self.calls, self.positions = version, 0, 0
        self.counts_GK = torch.zeros(groups, codes, dtype=torch.int64, device=codebook_GKD.device)
        self.sums_GKD = torch.zeros_like(codebook_GKD)
        self.keys_GR = codebook_GKD.new_full((groups, min(RESERVOIR, codes)), -torch.inf)
        self.vectors_GRD = codebook_GKD.new_zeros(*self.keys_GR.shape, codebook_GKD.shape[2])

    def add(self, vectors_PGD: Tensor, indices_PG: Tensor, codebook_GKD: Tensor) -> None:
        """Count vectors and their nearest codes."""
        counts_GK, sums_GKD = sums_by_code(vectors_PGD, indices_PG, codebook_GKD.shape[1])
        self.counts_GK += counts_GK
        self.sums_GKD += sums_GKD
        self._draw(vectors_PGD, indices_PG, codebook_GKD)
        self.calls += 1
        self.positions += len(vectors_PGD)

    def _draw(self, vectors_PGD: Tensor, indices_PG: Tensor, codebook_GKD: Tensor) -> None:
        """Keep the vectors with the largest keys, of those kept before and some of these."""
        generator = seeded(vectors_PGD.device, self.version, 1 + self.calls)
        share = len(vectors_PGD) / CANDIDATES
        if share > 1:
            within = torch.rand(CANDIDATES, generator=generator, device=vectors_PGD.device)
            some = ((torch.arange(CANDIDATES, device=within.device) + within) * share).long()
            some.clamp_(max=len(vectors_PGD) - 1)
            vectors_PGD, indices_PG = vectors_PGD[some], indices_PG[some]
        # A candidate stands for the `share` positions that it is one of, so that calls of any sizes can be joined.
        error_GP = squared_errors(vectors_PGD, codebook_GKD, indices_PG)
        keys_GP = draw_keys(error_GP, generator) / max(share, 1.0)
        best = keys_GP.topk(min(keys_GP.shape[1], self.keys_GR.shape[1]), dim=1)
        keys = torch.cat([self.keys_GR, best.values], 1)
        vectors = torch.cat([self.vectors_GRD, _rows(vectors_PGD, best.indices)], 1)
        kept = keys.topk(self.keys_GR.shape[1], dim=1)
        self.keys_GR = kept.values
        self.vectors_GRD = vectors.gather(1, kept.indices[..., None].expand(-1, -1, vectors.shape[2]))

    def finite(self) -> tuple[Tensor, Tensor]:
        """Return counts and sums without the codes that met a vector that is not finite: one bad step spoils none."""
        good_GK = torch.isfinite(self.sums_GKD).all(-1)
        return (self.counts_GK * good_GK).to(self.sums_GKD), torch.where(good_GK[..., None], self.sums_GKD, 0.0)


def averaged(
    ema_GK: Tensor, ema_GKD: Tensor, counts_GK: Tensor, sums_GKD: Tensor, decay: float
) -> tuple[Tensor, Tensor]:
    """Return the averages of counts and sums with a step's weighted 1 - decay."""
    return decay * ema_GK + (1 - decay) * counts_GK, decay * ema_GKD + (1 - decay) * sums_GKD


def codes_of(ema_GK: Tensor, ema_GKD: Tensor, epsilon: float, counts_GK: Tensor, codebook_GKD: Tensor) -> Tensor:
    """Return the codes (G, K, D): sums over counts, the counts with Laplace smoothing that keeps their total.

    A code that nothing was near in this step stays where it is: its mean is the same, and the smoothing would pull it
    to the origin as its count falls.

    Args:
        ema_GK: averaged counts.
        ema_GKD: averaged sums.
        epsilon: of the smoothing.
        counts_GK: of this step.
        codebook_GKD: the codes before it.
    """
    total_G1 = ema_GK.sum(-1, keepdim=True)
    smooth_GK = (ema_GK + epsilon) / (total_G1 + ema_GK.shape[1] * epsilon) * total_G1
    means_GKD = ema_GKD / smooth_GK.clamp_min(torch.finfo(smooth_GK.dtype).tiny)[..., None]
    return torch.where(counts_GK[..., None] > 0, means_GKD, codebook_GKD)


def revived(
    ema_GK: Tensor, ema_GKD: Tensor, codebook_GKD: Tensor, gathered: Gathered, dead: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts, sums and codes with dead codes at vectors that were gathered, as far as there are any.

    Nothing here waits for the device: the number of dead codes stays there.

    Args:
        ema_GK: averaged counts.
        ema_GKD: averaged sums.
        codebook_GKD: codes.
        gathered: holds the vectors, the best first.
        dead: a code is dead below this share of its group's mean count.
    """
    limit_G1 = dead * ema_GK.mean(-1, keepdim=True)
    dead_GK = ema_GK < limit_G1
    rank_GK = dead_GK.cumsum(-1) - 1
    slot_GK = rank_GK.clamp(0, gathered.keys_GR.shape[1] - 1)
    there_GK = (rank_GK == slot_GK) & torch.isfinite(gathered.keys_GR.gather(1, slot_GK))
    new_GK = dead_GK & there_GK
    vectors_GKD = gathered.vectors_GRD.gather(1, slot_GK[..., None].expand_as(codebook_GKD))
    ema_GK = torch.where(new_GK, NEW_OVER_DEAD * limit_G1, ema_GK)
    new_GK1 = new_GK[..., None]
    return (
        ema_GK,
        torch.where(new_GK1, vectors_GKD * ema_GK[..., None], ema_GKD),
        torch.where(new_GK1, vectors_GKD, codebook_GKD),
    )


def perplexity_of(ema_GK: Tensor) -> Tensor:
    """Return e to the entropy of the codes' use, the mean over groups: K where all are used alike, 1 where one is."""
    share_GK = ema_GK / ema_GK.sum(-1, keepdim=True).clamp_min(torch.finfo(ema_GK.dtype).tiny)
    return torch.special.entr(share_GK).sum(-1).exp().mean()
