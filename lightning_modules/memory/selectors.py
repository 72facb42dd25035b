"""Selectors: which uncertain steps of the rest of a stream a memory must predict (methods.md section 6).

Legend: B lanes, T steps of a stream, M moments, K chosen steps.

    uncertainty   .1  .9  .3  .8  .2  .7  .05  .6          K = 3
    moment 0       |  [1]     [3]     [5]                  the largest of the whole stream
    moment 2              |   [3]     [5]      [7]         those before the moment no longer count
    moment 5                           [5] [6] [7]         only three are left
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NEVER = torch.iinfo(torch.int64).min
_SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Chosen:
    """The steps that each moment's memory predicts.

    Attributes:
        steps_BMK: int64, the most urgent first; where not valid the moment itself.
        valid_BMK: whether the step was chosen; false where fewer than K steps were left.
    """

    steps_BMK: Tensor
    valid_BMK: Tensor


class Selector(ABC):
    """Chooses up to `k` steps for each moment, none of them before it.

    Attributes:
        k: steps in all.
        ahead: those among them that are looked for in the rest of the stream, and are not the moment's own.
    """

    k: int
    ahead: int

    @abstractmethod
    def __call__(self, uncertainty_BT: Tensor, moments_BM: Tensor, generator: torch.Generator | None = None) -> Chosen:
        """Return the chosen steps, all lanes and moments at once.

        Args:
            uncertainty_BT: of every step of the streams, compared as float32; -inf where a step can't be chosen.
            moments_BM: int64, steps of the streams; one at T or beyond it finds nothing.
            generator: on the CPU, so that a device makes no difference; torch's own where None.

        Raises:
            ValueError: K beyond T, or an uncertainty that is not a number.
        """


class TopK(Selector):
    """The K most uncertain steps from the moment on, of equals the earliest [P].

    Args:
        k: how many.

    Raises:
        ValueError: k below 1.
    """

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"k={k}, expected at least 1 step to choose; give --model.k 1 or more")
        self.k = self.ahead = k

    def __call__(self, uncertainty_BT: Tensor, moments_BM: Tensor, generator: torch.Generator | None = None) -> Chosen:
        """Return the chosen steps; nothing is drawn.

        Each lane is searched once, whatever the number of moments: what the last moment chooses is among the first
        C = K + (last - first moment) from the first moment on, as no more than C - K of those lie before the last.
        """
        _check(uncertainty_BT, self.k)
        first_B1, last_B1 = moments_BM.amin(1, keepdim=True), moments_BM.amax(1, keepdim=True)
        C = min(self.k + int((last_B1 - first_B1).max()), uncertainty_BT.shape[1])
        candidates = _largest(uncertainty_BT.unsqueeze(1), first_B1, C)
        left_BMC = candidates.valid_BMK & (candidates.steps_BMK >= moments_BM.unsqueeze(-1))
        order_C = torch.arange(C, 0, -1, device=left_BMC.device)
        places_BMK = (left_BMC * order_C).topk(self.k, -1).indices
        steps_BMK = candidates.steps_BMK.expand(left_BMC.shape).gather(-1, places_BMK)
        return _chosen(steps_BMK, left_BMC.gather(-1, places_BMK), moments_BM)


class GumbelTopK(Selector):
    """K steps from the moment on, drawn without replacement with probability softmax(uncertainty / temperature) [C].

    Each moment draws anew [D]; the public code keeps its noise for twenty moments.

    Args:
        k: how many.
        temperature: near 0 the most uncertain ones, large ones draw evenly.

    Raises:
        ValueError: k below 1, or a temperature that is not above 0.
    """

    def __init__(self, k: int, temperature: float = 0.25) -> None:
        if k < 1:
            raise ValueError(f"k={k}, expected at least 1 step to choose; give --model.k 1 or more")
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"temperature={temperature}, expected a finite number above 0; for the most uncertain steps without "
                "any chance use the top_k selector"
            )
        self.k = self.ahead = k
        self.temperature = temperature

    def __call__(self, uncertainty_BT: Tensor, moments_BM: Tensor, generator: torch.Generator | None = None) -> Chosen:
        """Return steps drawn by the largest of uncertainty / temperature + Gumbel noise."""
        _check(uncertainty_BT, self.k)
        (B, T), M = uncertainty_BT.shape, moments_BM.shape[1]
        # torch.rand may draw 0, whose noise of -inf would forbid the step.
        uniform_BMT = torch.rand(B, M, T, generator=generator).clamp_min_(_SMALLEST).to(uncertainty_BT.device)
        noise_BMT = uniform_BMT.log_().neg_().log_().neg_()
        return _largest(noise_BMT.add_(uncertainty_BT.unsqueeze(1) / self.temperature), moments_BM, self.k)


class CurrentStep(Selector):
    """The moment itself, where it can be chosen: prediction without looking ahead [C]."""

    k, ahead = 1, 0

    def __call__(self, uncertainty_BT: Tensor, moments_BM: Tensor, generator: torch.Generator | None = None) -> Chosen:
        """Return the moments; nothing is drawn."""
        _check(uncertainty_BT, self.k)
        T = uncertainty_BT.shape[1]
        own_BM = uncertainty_BT.gather(1, moments_BM.clamp(0, T - 1))
        valid_BM = (own_BM > -torch.inf) & (moments_BM >= 0) & (moments_BM < T)
        return Chosen(moments_BM.unsqueeze(-1), valid_BM.unsqueeze(-1))


class Composite(Selector):
    """What several selectors choose, one after another; a step that two of them choose is kept once [C, D].

    Args:
        selectors: at least one; an earlier one's choice is the one that stays.

    Raises:
        ValueError: no selector.
    """

    def __init__(self, selectors: Sequence[Selector]) -> None:
        if not selectors:
            raise ValueError("a composite of no selectors chooses nothing; give at least one, such as TopK(4)")
        self.selectors = tuple(selectors)
        self.k = sum(selector.k for selector in selectors)
        self.ahead = sum(selector.ahead for selector in selectors)

    def __call__(self, uncertainty_BT: Tensor, moments_BM: Tensor, generator: torch.Generator | None = None) -> Chosen:
        """Return the selectors' choices beside each other, in their order."""
        parts = [selector(uncertainty_BT, moments_BM, generator) for selector in self.selectors]
        steps_BMK = torch.cat([part.steps_BMK for part in parts], -1)
        valid_BMK = torch.cat([part.valid_BMK for part in parts], -1)
        same_BMKK = (steps_BMK.unsqueeze(-1) == steps_BMK.unsqueeze(-2)) & valid_BMK.unsqueeze(-2)
        return _chosen(steps_BMK, valid_BMK & ~same_BMKK.tril(-1).any(-1), moments_BM)


def _check(uncertainty_BT: Tensor, k: int) -> None:
    T = uncertainty_BT.shape[1]
    if k > T:
        raise ValueError(f"K={k} is beyond the stream's {T} steps; give --model.k {T} or less")
    unknown_BT = uncertainty_BT.isnan()
    if unknown_BT.any():
        lane, step = unknown_BT.nonzero()[0].tolist()
        raise ValueError(
            f"the uncertainty of step {step} of lane {lane} is not a number ({int(unknown_BT.sum())} such steps in "
            "all), expected a number, or -inf where a step can't be chosen; if the detector diverged, lower --model.lr"
        )


def _largest(score_BMT: Tensor, moments_BM: Tensor, k: int) -> Chosen:
    """Return the k steps of largest score from each moment on, of equals the earliest.

    torch's topk leaves open which of equals it takes, so that it gets keys none of which are equal: the score's bits
    above, the step's below.
    """
    steps_T = torch.arange(score_BMT.shape[-1], device=score_BMT.device)
    moments_BM1 = moments_BM.unsqueeze(-1)
    keys_BMT = _ordered(score_BMT).mul_(2**32).sub_(steps_T).masked_fill_(steps_T < moments_BM1, _NEVER)
    steps_BMK = keys_BMT.topk(k, -1).indices
    valid_BMK = (score_BMT.gather(-1, steps_BMK) > -torch.inf) & (steps_BMK >= moments_BM1)
    return _chosen(steps_BMK, valid_BMK, moments_BM)


def _ordered(x: Tensor) -> Tensor:
    """Return int64 numbers within 32 bits that compare as x does in float32: floats' bits, negative ones flipped."""
    bits = (x.float() + 0.0).view(torch.int32)  # + 0.0: -0.0 becomes 0.0, its equal
    return bits.bitwise_xor_((bits >> 31) & 0x7FFFFFFF).long()


def _chosen(steps_BMK: Tensor, valid_BMK: Tensor, moments_BM: Tensor) -> Chosen:
    return Chosen(torch.where(valid_BMK, steps_BMK, moments_BM.unsqueeze(-1)), valid_BMK)
