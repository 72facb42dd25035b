"""Sketches by probes that all samples share: the paper's ways (methods.md section 5).

    independent   x (B C, N)     E (N, r)                 all channels share E too [C]
    multi         x (B, C N)     E (C N, r) [P]
    orthogonal    x (B, C_k N)   E_k (C_k N, r_k)         for each block k of channels [P]

As every sample meets the same E, samples' errors add up instead of averaging out: local_probes.py does better.

Shape legend: B samples, C channels (ci), S spatial sizes, N their product, n elements that a probe covers, r probes.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from lightning_modules.layers.probes import Fields, Probes, samples_at_once


def _rows(x: Tensor, channels: slice, mode: str) -> Tensor:
    """Return what probes multiply: (B, C, N) for independent ones, else (B, n)."""
    return x.flatten(2) if mode == "independent" else x[:, channels].flatten(1)


def sketch(x: Tensor, means: Tensor | None, probes: Probes, fields: Fields) -> Tensor:
    """Return (X - means) E: (B, C, r) for independent probes, else (B, r) (methods.md section 5 [C]).

    Args:
        x: activation (B, C, *S).
        means: of its channels, (B, C), or None.
        probes: how many, and of what kind.
        fields: the probes.
    """
    positions = prod(x.shape[2:])
    parts = []
    for block, (channels, mine) in enumerate(probes.of_channels(x.shape[1])):
        n = positions if probes.mode == "independent" else (channels.stop - channels.start) * positions
        parts += [
            _products(x, means, channels, probes, fields(block, piece, n)) for piece in fields.pieces(len(mine), n)
        ]
    return torch.cat(parts, -1)


def _products(x: Tensor, means: Tensor | None, channels: slice, probes: Probes, field: Tensor) -> Tensor:
    """Return the part of the sketch that some probes make."""
    # What does not lie in memory as it is read is copied, some samples at a time.
    step = max(1, len(x)) if x.is_contiguous() else samples_at_once(x.shape, probes, x.element_size())
    starts = range(0, max(1, len(x)), step)
    product = torch.cat([_rows(x[start : start + step], channels, probes.mode) @ field.T for start in starts])
    return product if means is None else product - _of_means(means, channels, field, probes.mode)


def _of_means(means: Tensor, channels: slice, field: Tensor, mode: str) -> Tensor:
    """Return what probes make of the channels' means, without spreading these over all positions."""
    if mode == "independent":
        return means[..., None] * field.sum(1)
    own = means[:, channels]
    return own @ field.unflatten(1, (own.shape[1], -1)).sum(2).T


def expand(kept: Tensor, means: Tensor | None, shape: Sequence[int], probes: Probes, fields: Fields) -> Tensor:
    """Return X~ = means + (X - means) E E^T / r, an unbiased estimate of X (methods.md section 5 [D]).

    Args:
        kept: the sketch of some samples, (B, C, r) or (B, r).
        means: of their channels, (B, C), or None.
        shape: of one sample, (C, *S).
        probes: how many, and of what kind.
        fields: the probes that the sketch was made with.
    """
    positions = prod(shape[1:])
    got = kept.new_zeros(len(kept), *shape)
    for block, (channels, mine) in enumerate(probes.of_channels(shape[0])):
        if probes.mode == "independent":
            rows = got.view(len(kept) * shape[0], positions)
        else:
            rows = got.view(len(kept), shape[0] * positions)
            rows = rows[:, channels.start * positions : channels.stop * positions]
        n = rows.shape[1]
        for piece in fields.pieces(len(mine), n):
            columns = kept[..., mine.start + piece.start : mine.start + piece.stop].reshape(len(rows), len(piece))
            # In place: no second tensor of this size. Divided within: r X~ is too large for float16.
            rows.addmm_(columns, fields(block, piece, n), alpha=1 / len(mine))
    return got if means is None else got.add_(means.view(*means.shape, *[1] * (len(shape) - 1)))
