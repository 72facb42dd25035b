"""Candidates: the steps of a stream that `TopK` could ever choose, so that the others need not be kept.

A step that K later ones beat, being more uncertain, is never among the K most uncertain from any moment on; where no
K do, it is, from itself on. Equals do not beat: the earliest of them is chosen. The steps kept are found exactly while
a detector reads the stream [D]: a K-skyband over (time, uncertainty), the steps that fewer than K others exceed in
both. Of uncertainties in random order about K (1 + ln(T / K)) of T remain.

    uncertainty   .1  .9  .3  .3  .3  .8  .2  .7          K = 2
    candidates        .9              .8  .2  .7          .1 and .3 are beaten by .8 and .7
    K = 3             .9  .3  .3  .3  .8  .2  .7          three steps, one run: an uncertainty, its first and last step

Steps side by side that are equally uncertain are kept as one run, so that a stream of blanks is one. What stays long is
a stream that is ever less uncertain, none of whose steps is beaten.

Shape legend: B lanes, T steps of a stream, N steps of a piece, S runs, M moments, K chosen.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_modules.memory.selectors import Chosen, Selector

COMPARED = 2**18  # comparisons of steps with each other that are held at a time


@dataclass(frozen=True, eq=False)
class Candidates:
    """The runs of steps that `TopK(k)` could choose, in the order of time; lanes with fewer are filled at their left.

    Attributes:
        k: the largest K that can be asked for.
        value_BS: the uncertainty of each run's steps, float32; -inf where there is no run.
        first_BS: its first step, int64; -1 where there is none.
        last_BS: its last step, the same.
    """

    k: int
    value_BS: Tensor
    first_BS: Tensor
    last_BS: Tensor

    def __len__(self) -> int:
        """Return the number of lanes."""
        return len(self.value_BS)

    def to(self, device: torch.device) -> "Candidates":
        """Return the candidates on a device, for ones that come from a checkpoint."""
        return Candidates(self.k, self.value_BS.to(device), self.first_BS.to(device), self.last_BS.to(device))

    def choose(self, selector: Selector, moments_BM: Tensor) -> Chosen:
        """Return what `TopK` chooses of the whole stream, however short, and nothing from its end on.

        Args:
            selector: a `TopK` of the candidates' own K, or less.
            moments_BM: int64, steps of the streams.
        """
        k = selector.k
        assert k <= self.k
        missing = max(0, k - self.value_BS.shape[1])
        value_BS, first_BS, last_BS = _widened((self.value_BS, self.first_BS, self.last_BS), missing)
        runs = selector(value_BS, torch.searchsorted(last_BS, moments_BM.contiguous()))
        places_BJ = runs.steps_BMK.clamp(max=value_BS.shape[1] - 1).flatten(1)
        shape, moments_BM1 = runs.steps_BMK.shape, moments_BM[..., None]
        first_BMK = torch.maximum(first_BS.gather(1, places_BJ).view(shape), moments_BM1)
        last_BMK = last_BS.gather(1, places_BJ).view(shape)
        length_BMK = (last_BMK - first_BMK + 1) * runs.valid_BMK
        end_BMK = length_BMK.cumsum(-1)
        rank_BMK = torch.arange(k, device=moments_BM.device).expand(shape).contiguous()
        run_BMK = torch.searchsorted(end_BMK, rank_BMK, right=True).clamp_(max=k - 1)
        steps_BMK = (first_BMK - end_BMK + length_BMK).gather(-1, run_BMK) + rank_BMK
        valid_BMK = rank_BMK < end_BMK[..., -1:]
        return Chosen(torch.where(valid_BMK, steps_BMK, moments_BM1), valid_BMK)

    def with_lanes(self, new_B: Tensor, found: "Candidates") -> "Candidates":
        """Return candidates whose new lanes are the found ones, in their order.

        Args:
            new_B: which lanes are new, bool.
            found: as many lanes as are new.
        """
        width, other = self.value_BS.shape[1], found.value_BS.shape[1]
        parts = zip(
            _widened((self.value_BS, self.first_BS, self.last_BS), max(0, other - width)),
            _widened((found.value_BS, found.first_BS, found.last_BS), max(0, width - other)),
            strict=True,
        )
        new_B = new_B.to(found.value_BS.device)
        value_BS, first_BS, last_BS = (
            own.to(theirs.device).index_put((new_B,), theirs.to(own.dtype)) for own, theirs in parts
        )
        unused = int((value_BS == -math.inf).sum(1).min())
        return Candidates(found.k, *(part[:, unused:].contiguous() for part in (value_BS, first_BS, last_BS)))

    def state_dict(self) -> dict[str, Any]:
        """Return a plain container of numbers and tensors, for a checkpoint."""
        return {"k": self.k, "value_BS": self.value_BS, "first_BS": self.first_BS, "last_BS": self.last_BS}


def candidates_of(pieces: Iterable[Tensor], k: int) -> Candidates:
    """Return the candidates of streams that are read forward in time; no more than them and a piece are held.

    Args:
        pieces: uncertainties (B, N) of steps that follow on each other, at least one piece; -inf where a step can't be
            chosen.
        k: K.
    """
    held: _Held | None = None
    start = 0
    for piece_BN in pieces:
        for block_BN in piece_BN.float().split(max(16, math.isqrt(COMPARED // len(piece_BN))), 1):
            held = _followed(held or _Held.nothing(block_BN), block_BN, start, k)
            start += block_BN.shape[1]
    assert held is not None
    return Candidates(k, held.value_BS, held.first_BS, held.last_BS)


def choose(uncertainty: Tensor | Candidates, selector: Selector, moments_BM: Tensor, generator: Any = None) -> Chosen:
    """Return what a selector chooses, of all steps (B, T) or of candidates.

    Only what `TopK` chooses can be told from candidates; the others, `GumbelTopK`, `CurrentStep` and `Composite`, may
    choose any step, and are given the uncertainties of all.
    """
    if isinstance(uncertainty, Tensor):
        return selector(uncertainty, moments_BM, generator)
    return uncertainty.choose(selector, moments_BM)


@dataclass(frozen=True, eq=False)
class _Held:
    """Runs that are not yet beaten, as `Candidates`, and how many later steps are more uncertain (`more_BS`)."""

    value_BS: Tensor
    first_BS: Tensor
    last_BS: Tensor
    more_BS: Tensor

    @staticmethod
    def nothing(like_BN: Tensor) -> "_Held":
        steps_B0 = torch.empty(len(like_BN), 0, dtype=torch.int64, device=like_BN.device)
        return _Held(like_BN[:, :0].contiguous(), steps_B0, steps_B0, steps_B0)


def _followed(held: _Held, value_BN: Tensor, start: int, k: int) -> _Held:
    """Return what is not beaten once more steps have been read, the first of which is `start`."""
    lanes, steps = value_BN.shape
    ordered_BN = value_BN.sort(1).values
    more_BS = held.more_BS + steps - torch.searchsorted(ordered_BN, held.value_BS, right=True)
    later_NN = torch.ones(steps, steps, dtype=torch.bool, device=value_BN.device).triu_(1)
    more_BN = ((value_BN[:, None, :] > value_BN[:, :, None]) & later_NN).sum(-1)
    steps_BN = torch.arange(start, start + steps, device=value_BN.device).expand(lanes, steps)
    value, first = torch.cat([held.value_BS, value_BN], 1), torch.cat([held.first_BS, steps_BN], 1)
    last, more = torch.cat([held.last_BS, steps_BN], 1), torch.cat([more_BS, more_BN], 1)
    # Equal steps side by side are beaten by the same ones, so that runs are kept or dropped as wholes.
    kept = (more < k) & (value > -math.inf)
    goes_on = (value[:, 1:] == value[:, :-1]) & (first[:, 1:] == last[:, :-1] + 1)
    begins, ends = kept & ~pad(goes_on, (1, 0)), kept & ~pad(goes_on, (0, 1))
    width = int(begins.sum(1).max())
    return _Held(
        _compacted(value, begins, width, -math.inf),
        _compacted(first, begins, width, -1),
        _compacted(last, ends, width, -1),
        _compacted(more, begins, width, 0),
    )


def _compacted(values: Tensor, kept: Tensor, width: int, filling: float) -> Tensor:
    """Return each lane's kept values, in their order, at the right of (B, width)."""
    places = (kept.cumsum(1) + (width - kept.sum(1, keepdim=True))).masked_fill_(~kept, 0)
    return values.new_full((len(values), width + 1), filling).scatter_(1, places, values)[:, 1:].contiguous()


def _widened(parts: tuple[Tensor, Tensor, Tensor], missing: int) -> tuple[Tensor, Tensor, Tensor]:
    value_BS, first_BS, last_BS = parts
    before = (missing, 0)
    return pad(value_BS, before, value=-math.inf), pad(first_BS, before, value=-1), pad(last_BS, before, value=-1)
