"""Whether a detector finds anything at all: said of the data, and never of a stream by itself.

    a stream without targets      nothing of it is chosen; the others go on
    MANY streams without any      refused: there is nothing to predict
    targets, and no uncertainty   refused: there is nothing to remember

Shape legend: B lanes, T steps of the longest stream.
"""

import math

from torch import Tensor

from lightning_modules.memory.candidates import Candidates

MANY = 64  # streams without any target, one after the other or side by side
NOTHING = 1e-3  # nats: below it a local model is sure


class Findings:
    """Judges what a detector found until something was.

    Args:
        entropies: whether uncertainties are those of a trained local model that answers with classes.

    Attributes:
        some: something was found, so that nothing is judged any more.
    """

    def __init__(self, *, entropies: bool) -> None:
        self.entropies = entropies
        self.some = False
        self._streams = 0

    def judge(self, uncertainty: Tensor | Candidates) -> None:
        """Look at the uncertainties (B, T) or candidates of the streams that were searched just now.

        Raises:
            ValueError: MANY streams have no target, or a local model is sure of every step.
        """
        if self.some:
            return
        self._streams += len(uncertainty)
        self.some = finds(uncertainty)
        if self.some and self.entropies:
            refuse_certainty(_values(uncertainty))
        if not self.some and self._streams >= MANY:
            raise ValueError(
                f"the detector finds nothing: no step of {self._streams} streams has a target, so there is nothing to "
                "predict. Give the streams targets (y), or another DataModule"
            )


def finds(uncertainty: Tensor | Candidates) -> bool:
    """Return whether some lane has a step that could be chosen."""
    return bool((_values(uncertainty) > -math.inf).any())


def _values(uncertainty: Tensor | Candidates) -> Tensor:
    return uncertainty if isinstance(uncertainty, Tensor) else uncertainty.value_BS


def refuse_certainty(uncertainty_BT: Tensor) -> None:
    """Refuse a trained local model that is sure of every step: then nothing waits for a memory.

    Raises:
        ValueError: the largest entropy is below NOTHING.
    """
    largest = float(uncertainty_BT.max())
    if largest < NOTHING:
        raise ValueError(
            f"the detector finds nothing: after its training the local model is sure of every step (largest entropy "
            f"{largest:.1e} nats, expected {NOTHING:g} or more), so no step waits for a memory. Either the local "
            "context sees the answer (use a shorter --model.context), or the targets need no memory"
        )
