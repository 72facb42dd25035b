"""What the pipeline holds between two pieces of a stream: begun anew where videos begin, in the checkpoint otherwise.

batch      piece 0    piece 1    piece 2    piece 0 (other videos)
state      new ---------> -----------> |     new ------>
"""

from collections.abc import Mapping
from typing import Any

import torch

from lightning_modules.execution import PipelineState


class StreamState:
    """The state of one stream of batches: training, validation and prediction each have their own."""

    def __init__(self) -> None:
        self._state: PipelineState | None = None

    def at(self, piece: int, device: torch.device) -> PipelineState:
        """Return the state that a piece goes on from, on a device; it is changed in place. Piece 0 starts videos.

        Raises:
            ValueError: a later piece, and the pieces before it were not seen.
        """
        if piece == 0:
            self._state = PipelineState()
        if self._state is None:
            raise ValueError(
                f"piece {piece} of a stream whose first pieces were not seen here: the checkpoint was written by a run "
                "without stream. Start a new run without --ckpt_path, or go on with --data.stream false."
            )
        self._state = self._state.to(device)
        return self._state

    def state_dict(self) -> dict[str, Any] | None:
        """Return plain containers and tensors, for a checkpoint; None where no stream has begun."""
        return None if self._state is None else self._state.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what `state_dict` described."""
        self._state = None if state is None else PipelineState.from_state_dict(state)
