"""What goes on from rollout to rollout: memory's state, and the uncertainties of the streams that are being read.

It belongs to streams, and each lane knows of which, and at which step it goes on. A lane that comes with anything else
begins anew, as where an epoch is cut short (`limit_train_batches`):

    batch      3          4          | the next epoch
    lane 0     a 8-11     a 12-15    | a 16-19     goes on
    lane 1     b 4-7      b 8-11     | d 4-7       begins anew: b 12 was expected

Shape legend: B lanes, T steps of the longest stream.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.memory.candidates import Candidates
from lightning_modules.memory.recurrent import State, detached, reset


class Carried:
    """Kept between batches and in checkpoints; lanes that begin a stream begin anew.

    Args:
        k: of the candidates that are kept; absent where the uncertainties of all steps are.
    """

    def __init__(self, k: int | None = None) -> None:
        self.k = k
        self.state: State | None = None
        self.uncertainty: Tensor | Candidates | None = None
        self._places: list[tuple[str, int]] = []

    def begins(self, ids: Sequence[str], start_B: Tensor, steps: int, new_B: Tensor) -> Tensor:
        """Return which lanes begin, (B,) bool on the CPU: those that say so, and those that do not go on as expected.

        Args:
            ids: names of the lanes' streams.
            start_B: first step of the rollout in each, int64.
            steps: of the rollout; the next one is expected to start after them.
            new_B: which lanes say that a stream begins, bool.
        """
        starts = start_B.tolist()
        here = [*zip(ids, starts, strict=True)]
        expected = self._places if len(self._places) == len(here) else [None] * len(here)
        self._places = [(name, start + steps) for name, start in here]
        return new_B.cpu() | torch.tensor([place != due for place, due in zip(here, expected, strict=True)])

    def begin(self, new_B: Tensor, initial: Callable[[], State]) -> State:
        """Return memory's state for a rollout: empty in lanes that begin a stream.

        Args:
            new_B: which lanes do, bool.
            initial: gives the state of empty memories of all lanes.
        """
        empty = initial()
        if self.state is None or len(next(iter(self.state.values()))) != len(new_B):
            return empty
        here = next(iter(empty.values())).device
        return reset({name: part.to(here) for name, part in self.state.items()}, new_B)

    def end(self, state: State) -> None:
        """Keep memory's state without its graph."""
        self.state = detached(state)

    def uncertainty_of(
        self, lanes: Any, new_B: Tensor, detect: Callable[[Any], Tensor | Candidates]
    ) -> Tensor | Candidates:
        """Return the uncertainties (B, T) or the candidates of the streams; of lanes that begin one they are found now.

        Args:
            lanes: streams side by side.
            new_B: which of them begin, bool on the CPU.
            detect: from lanes to their uncertainties (b, T') or candidates.
        """
        if self.uncertainty is None or len(self.uncertainty) != len(new_B):
            new_B, self.uncertainty = torch.ones_like(new_B), None
        if self.uncertainty is None or new_B.any():
            found = detect(lanes.only(new_B.nonzero().flatten()))
            if isinstance(found, Candidates):
                self.uncertainty = _candidates(self.uncertainty, found, new_B)
            else:
                self.uncertainty = _all_steps(self.uncertainty, found, new_B, int(lanes.lengths_B.max()))
        return self.uncertainty

    def state_dict(self) -> dict[str, Any]:
        """Return plain containers and tensors, for a checkpoint."""
        kept = self.uncertainty
        return {
            "state": self.state,
            "places": [[name, step] for name, step in self._places],
            "k": self.k,
            "uncertainty": kept.state_dict() if isinstance(kept, Candidates) else kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` described; uncertainties that were kept for another K are found anew."""
        self.state, self.uncertainty = state["state"], None
        self._places = [(name, step) for name, step in state["places"]]
        if state["k"] == self.k:
            kept = state["uncertainty"]
            self.uncertainty = Candidates(**kept) if isinstance(kept, Mapping) else kept


def _candidates(known: Tensor | Candidates | None, found: Candidates, new_B: Tensor) -> Candidates:
    return known.with_lanes(new_B, found) if isinstance(known, Candidates) else found


def _all_steps(known: Tensor | Candidates | None, found: Tensor, new_B: Tensor, steps: int) -> Tensor:
    out_BT = found.new_full((len(new_B), max(steps, found.shape[1])), -math.inf)
    if isinstance(known, Tensor):
        kept = min(known.shape[1], out_BT.shape[1])
        out_BT[:, :kept] = known[:, :kept].to(found.device)
    new_B = new_B.to(found.device)
    out_BT[new_B] = -math.inf
    out_BT[new_B, : found.shape[1]] = found
    return out_BT
