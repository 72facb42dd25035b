"""Detectors: how uncertain each step of a stream is without memory (methods.md section 6).

    entropy    of a local model that has been trained, and is then left as it is [P]
    surprise   -log q(y_k | c_k, m_k) of slowly following copies of memory and predictor [C]; of numbers the error
    oracle     the steps that the data scores: for tests and upper bounds

A stream is read once, in pieces, when it begins; each step gives one number. Where nothing looks ahead (selector
`current`) there is no detector, and a rollout's own steps say what they ask (`asked_now`).

Shape legend: B lanes, T steps of the longest stream, N steps of a piece, F features.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_modules.memory.encoders import Encoder
from lightning_modules.memory.local_model import LocalModel
from lightning_modules.memory.memory_network import MemoryNetwork
from lightning_modules.memory.questions import Question, refuse_missing
from lightning_modules.memory.reading import PIECE, Steps, read_pieces, spans, to_device

DETECTORS = ("entropy", "surprise", "oracle")
WORK = 2048  # steps of all lanes together that are read at a time, where PIECE of each lane are fewer


class Detector(ABC):
    """Tells how uncertain the steps of streams are."""

    def __call__(self, encoder: Encoder, lanes: Any, device: torch.device) -> Tensor:
        """Return uncertainties (B, T) of whole streams; see `pieces`."""
        return torch.cat(tuple(self.pieces(encoder, lanes, device)), 1)

    @abstractmethod
    def pieces(self, encoder: Encoder, lanes: Any, device: torch.device) -> Iterator[Tensor]:
        """Yield uncertainties (B, N) in nats, from the first step to the last; -inf where a step can't be chosen.

        Args:
            encoder: gives the features.
            lanes: streams side by side.
            device: where to work.

        Raises:
            ValueError: an uncertainty is not a number.
        """


class EntropyDetector(Detector):
    """The entropy of a local model's answer [P].

    Args:
        model: the local model.
        question: what is asked.
    """

    def __init__(self, model: LocalModel, question: Question) -> None:
        self.model, self.question = model, question

    def pieces(self, encoder: Encoder, lanes: Any, device: torch.device) -> Iterator[Tensor]:
        """Yield uncertainties (B, N); see `Detector`."""
        yield from _numbers(self._entropies(encoder, lanes, device), "the local model's entropy")

    @torch.no_grad()
    def _entropies(self, encoder: Encoder, lanes: Any, device: torch.device) -> Iterator[Tensor]:
        for _, piece in read_pieces(encoder, lanes, _piece(lanes), device, self.model.context.window - 1):
            yield _where_asked(self.question, piece, self.question.uncertainty(self.model(piece.features)))


class SurpriseDetector(Detector):
    """What copies of memory and predictor, which follow slowly, fail to predict at the step itself [C].

    Args:
        network: the copies.
        question: what is asked.
    """

    def __init__(self, network: MemoryNetwork, question: Question) -> None:
        self.network, self.question = network, question

    def pieces(self, encoder: Encoder, lanes: Any, device: torch.device) -> Iterator[Tensor]:
        """Yield uncertainties (B, N); see `Detector`."""
        yield from _numbers(self._surprises(encoder, lanes, device), "the surprise of the followers")

    @torch.no_grad()
    def _surprises(self, encoder: Encoder, lanes: Any, device: torch.device) -> Iterator[Tensor]:
        state = self.network.memory.initial(len(lanes.lengths_B), next(self.network.parameters()))
        for _, piece in read_pieces(encoder, lanes, _piece(lanes), device, self.network.context.window - 1):
            outputs, _, state = self.network.at_each_step(piece.features, state)
            yield _where_asked(self.question, piece, self.question.loss(outputs, piece.targets))


class OracleDetector(Detector):
    """The steps that the data scores, and no others.

    Args:
        question: what is asked.
    """

    def __init__(self, question: Question) -> None:
        self.question = question

    def pieces(self, encoder: Encoder, lanes: Any, device: torch.device) -> Iterator[Tensor]:
        """Yield 0 at the answers and -inf elsewhere (B, N); ValueError where one has no target."""
        answers_BA = lanes.answers_BA
        given = answers_BA >= 0
        _, targets = lanes.read(answers_BA.clamp_min(0))
        refuse_missing(self.question, targets, answers_BA, given)
        yield from self._scored(lanes, to_device(answers_BA, device))

    def _scored(self, lanes: Any, answers_BA: Tensor) -> Iterator[Tensor]:
        for start, steps in spans(lanes, _piece(lanes)):
            out_BN = torch.full((len(answers_BA), steps + 1), -math.inf, device=answers_BA.device)
            inside_BA = (answers_BA >= start) & (answers_BA < start + steps)
            yield out_BN.scatter_(1, torch.where(inside_BA, answers_BA - start, steps), 0.0)[:, :-1]


def asked_now(question: Question, run: Steps, start_B: Tensor, steps: int) -> Tensor:
    """Return uncertainties (B, T) that know of a rollout alone: 0 where its steps ask something, -inf elsewhere.

    Args:
        question: what is asked.
        run: the rollout's steps.
        start_B: its first step in each lane, int64.
        steps: T.
    """
    asked_BN = question.is_asked(run.targets) & run.inside
    at_BN = start_B.to(asked_BN.device)[:, None] + torch.arange(asked_BN.shape[1], device=asked_BN.device)
    out_BT = torch.full((len(asked_BN), steps + 1), -math.inf, device=asked_BN.device)
    return out_BT.scatter_(1, torch.where(asked_BN, at_BN, steps), 0.0)[:, :-1]


def _piece(lanes: Any) -> int:
    """Return how many steps are read at a time: few lanes are read in longer pieces."""
    return max(PIECE, WORK // len(lanes.lengths_B))


def _where_asked(question: Question, piece: Steps, uncertainty_BN: Tensor) -> Tensor:
    return uncertainty_BN.float().masked_fill(~(question.is_asked(piece.targets) & piece.inside), -math.inf)


def _numbers(pieces: Iterator[Tensor], what: str) -> Iterator[Tensor]:
    """Yield uncertainties that are numbers.

    Raises:
        ValueError: otherwise.
    """
    for piece_BN in pieces:
        if piece_BN.isnan().any():
            raise ValueError(
                f"{what} is not a number: the weights have diverged. Use a smaller --model.lr, or --model.clip_norm 1.0"
            )
        yield piece_BN
