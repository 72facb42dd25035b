"""Whether a detector finds anything at all: said of the data, and never of a stream by itself.

    a stream without targets      nothing of it is chosen; the others go on
    MANY streams without any      refused: there is nothing to predict
    MANY that are all certain     refused: there is nothing to remember

Shape legend: B lanes, T steps of the longest stream.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_modules.memory.candidates import Candidates

MANY = 64  # streams, one after the other or side by side
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
        self._streams, self._largest = 0, -math.inf

    def judge(self, uncertainty: Tensor | Candidates) -> None:
        """Look at the uncertainties (B, T) or candidates of the streams that were searched just now.

        Raises:
            ValueError: MANY streams have no target, or a local model is sure of every step of theirs.
        """
        if self.some:
            return
        self._streams += len(uncertainty)
        self._largest = max(self._largest, _largest(uncertainty))
        self.some = self._largest >= NOTHING if self.entropies else self._largest > -math.inf
        if self.some or self._streams < MANY:
            return
        if self._largest == -math.inf:
            raise ValueError(
                f"the detector finds nothing: no step of {self._streams} streams has a target, so there is nothing to "
                "predict. Give the streams targets (y), or another DataModule"
            )
        raise ValueError(
            f"the detector finds nothing: after its training the local model is sure of every step of {self._streams} "
            f"streams (largest entropy {self._largest:.1e} nats, expected {NOTHING:g} or more), so no step waits for a "
            "memory. Either the local context sees the answer (use a shorter --model.context), or the targets need no "
            "memory"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers, for a checkpoint."""
        return {"some": self.some, "streams": self._streams, "largest": self._largest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` described."""
        self.some, self._streams, self._largest = state["some"], state["streams"], state["largest"]


def _largest(uncertainty: Tensor | Candidates) -> float:
    """Return the largest uncertainty of all lanes; -inf where no step could be chosen."""
    values = uncertainty if isinstance(uncertainty, Tensor) else uncertainty.value_BS
    return float(values.max()) if values.numel() else -math.inf
