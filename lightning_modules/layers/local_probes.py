"""Sketches by probes that cover a few positions of one sample each, so that errors average out. [D]

    positions of a sample   | 1 .. 16 | 17 .. 32 | ...        each block has probes of its own, in each sample;
    kept of each channel    | s_1 s_2 | s_3 s_4  | ...        the channels of a sample share them

An estimate's error is that of (E E^T / r - I) against the sum over samples of dY X^T. Where all samples share E, their
parts add up before they meet it, and a batch's errors are as alike as its samples. With probes of their own they are
independent (benchmarks/xconv: 0.30 of a step's gradient instead of 0.34 at equal storage, at a random start), and fewer
random numbers are drawn, in proportion to N instead of N^2. Nothing more is kept, since probes come from their key.

Shape legend: B samples, C channels, S spatial sizes, N their product; K blocks of P positions (the last one may lack
some), with R probes each, r = K R.
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.layers.probes import Fields, Probes, samples_at_once


def _lacking(shape: Sequence[int], probes: Probes) -> int:
    """Return how many positions the last block lacks."""
    return probes.blocks * probes.local_size(shape) - prod(shape[2:])


def _fields(shape: Sequence[int], probes: Probes, fields: Fields, some: range) -> Tensor:
    """Return the probes (B, K, R, P) of some samples: 0 where the last block has no position."""
    size = probes.local_size(shape)
    drawn = fields(0, some, probes.local_elements(shape)).view(len(some), probes.blocks, -1, size)
    if lacking := _lacking(shape, probes):
        there = torch.ones(probes.blocks * size, dtype=drawn.dtype, device=drawn.device)
        there[-lacking:] = 0
        drawn = drawn * there.view(probes.blocks, 1, size)
    return drawn


def sketch(x: Tensor, means: Tensor | None, probes: Probes, fields: Fields) -> Tensor:
    """Return what probes make of X - means, (B, C, r) [D].

    Args:
        x: activation (B, C, *S).
        means: of its channels, (B, C), or None.
        probes: how many.
        fields: the probes.
    """
    parts = [x.new_empty(0, x.shape[1], probes.count)]
    step = samples_at_once(x.shape, probes, x.element_size())
    for first in range(0, len(x), step):
        some = range(first, min(first + step, len(x)))
        place = slice(some.start, some.stop)
        field = _fields(x.shape, probes, fields, some)
        rows = F.pad(x[place].flatten(2), (0, _lacking(x.shape, probes))).unflatten(2, (probes.blocks, -1))
        product = torch.einsum("bckp,bkrp->bckr", rows, field)
        if means is not None:
            product -= means[place][..., None, None] * field.sum(-1)[:, None]
        parts.append(product.flatten(2))
    return torch.cat(parts)


def expand(
    kept: Tensor, means: Tensor | None, shape: Sequence[int], probes: Probes, fields: Fields, some: range
) -> Tensor:
    """Return X~ of some samples, an unbiased estimate of their X (B, C, *S) [D].

    Args:
        kept: their sketch, (B, C, r).
        means: of their channels, (B, C), or None.
        shape: of all samples, (B, C, *S).
        probes: how many.
        fields: the probes that the sketch was made with.
        some: the samples' numbers; their first is a multiple of `samples_at_once`.
    """
    field = _fields(shape, probes, fields, some)
    each = probes.count // probes.blocks
    got = torch.einsum("bckr,bkrp->bckp", kept.unflatten(2, (probes.blocks, each)), field)
    got = got.flatten(2)[..., : prod(shape[2:])].div_(each)
    got = got if means is None else got.add_(means[..., None])
    return got.reshape(len(some), *shape[1:])
