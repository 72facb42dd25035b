"""What is asked at a step, and how an answer is judged: a class (cross-entropy) or a number (squared error).

                 predictor says    loss              local model says          its uncertainty
    Classes      K logits          cross-entropy     K logits                  entropy of the softmax, nats
    Numbers      a number          squared error     mean and log-variance     entropy of the normal distribution, nats

Shape legend: `...` any shape of steps, K numbers of an output.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # the target of a step at which nothing is asked; of numbers it is NaN
_NORMAL_ENTROPY = 0.5 * (1 + math.log(2 * math.pi))
_LOG_VARIANCE = 12.0  # bound of a local model's log-variance, both ways


class Question(ABC):
    """Loss and uncertainty of one kind of target.

    Attributes:
        outputs: numbers that a predictor gives.
        local_outputs: numbers that a local model gives.
    """

    outputs: int
    local_outputs: int

    @abstractmethod
    def is_asked(self, targets: Tensor) -> Tensor:
        """Return where there is a target (...)."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return losses (...) of outputs (..., K); 0 where nothing is asked."""

    @abstractmethod
    def local_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return a local model's losses (...); 0 where nothing is asked."""

    @abstractmethod
    def uncertainty(self, outputs: Tensor) -> Tensor:
        """Return the entropy (...) in nats of what a local model says."""


class Classes(Question):
    """One of K classes; targets int64, IGNORE where nothing is asked.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.outputs = self.local_outputs = num_classes

    def is_asked(self, targets: Tensor) -> Tensor:
        """Return where there is a target (...)."""
        return targets != IGNORE

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return cross-entropies (...); 0 where nothing is asked."""
        flat = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="none")
        return flat.view(targets.shape)

    local_loss = loss

    def uncertainty(self, outputs: Tensor) -> Tensor:
        """Return the entropy (...) of the softmax: 0 to log K."""
        log_p = outputs.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)


class Numbers(Question):
    """A number; targets floats, NaN where nothing is asked."""

    outputs, local_outputs = 1, 2

    def is_asked(self, targets: Tensor) -> Tensor:
        """Return where there is a target (...)."""
        return ~targets.isnan()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return squared errors (...); 0 where nothing is asked."""
        return (outputs[..., 0] - torch.where(targets.isnan(), outputs[..., 0], targets)).square()

    def local_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return negative log-likelihoods (...) under a normal distribution; 0 where nothing is asked."""
        mean, log_variance = outputs[..., 0], outputs[..., 1].clamp(-_LOG_VARIANCE, _LOG_VARIANCE)
        error = (mean - targets.nan_to_num()).square()
        nll = 0.5 * (log_variance + error * (-log_variance).exp())
        return torch.where(targets.isnan(), torch.zeros_like(nll), nll)

    def uncertainty(self, outputs: Tensor) -> Tensor:
        """Return the entropy (...) of the normal distribution; smaller than 0 for a narrow one."""
        return 0.5 * outputs[..., 1].clamp(-_LOG_VARIANCE, _LOG_VARIANCE) + _NORMAL_ENTROPY


def make_question(num_classes: int) -> Question:
    """Return what data with so many classes asks: a number where there is one."""
    return Numbers() if num_classes == 1 else Classes(num_classes)


def refuse_missing(question: Question, targets: Tensor, steps: Tensor, chosen: Tensor) -> None:
    """Refuse chosen steps at which nothing is asked: there would be nothing to learn from.

    Args:
        question: what is asked.
        targets: of the chosen steps (...).
        steps: their numbers (...).
        chosen: which of them count (...).

    Raises:
        ValueError: some have no target, with the first of them.
    """
    missing = chosen & ~question.is_asked(targets)
    if missing.any():
        raise ValueError(
            f"targets are missing at {int(missing.sum())} of {int(chosen.sum())} chosen steps, the first at step "
            f"{int(steps[missing][0])}: the data names it an answer, or calls it uncertain, and asks nothing there. "
            "Give those steps a target, or take another detector: --model.detector entropy"
        )
