"""What goes on from rollout to rollout: memory's state, and the uncertainties of the streams that are being read.

Shape legend: B lanes, T steps of the longest stream.
"""

import math
from collections.abc import Callable, Mapping
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
            "k": self.k,
            "uncertainty": kept.state_dict() if isinstance(kept, Candidates) else kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` described; uncertainties that were kept for another K are found anew."""
        self.state, self.uncertainty = state["state"], None
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
