"""All that the pipelined executor holds between two ticks, and its form in a checkpoint."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class PipelineState:
    """All that the pipeline holds between two ticks.

    Args:
        tick: ticks done so far.
        activations: each unit's newest output.
        gradients: for each unit, the sum of gradient messages by the tick at which they are used.
        inputs: with `stash: exact`, each unit's past inputs by tick.
        targets: of the last frames, (B, at most D - 1, ...), where there is one for each: the next outputs are about
            these frames. None for labels, which hold for all frames.
    """

    tick: int = 0
    activations: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[int, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    inputs: dict[int, dict[int, list[Tensor]]] = field(default_factory=lambda: defaultdict(dict))
    targets: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return plain containers and tensors, for a checkpoint."""
        return {
            "tick": self.tick,
            "activations": dict(self.activations),
            "gradients": {unit: dict(waiting) for unit, waiting in self.gradients.items()},
            "inputs": {unit: dict(stash) for unit, stash in self.inputs.items()},
            "targets": self.targets,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "PipelineState":
        """Return the state that `state_dict` described; ticks change neither its containers nor its tensors."""
        new = cls(tick=state["tick"], activations=dict(state["activations"]), targets=state["targets"])
        new.gradients.update({unit: dict(waiting) for unit, waiting in state["gradients"].items()})
        new.inputs.update({unit: dict(stash) for unit, stash in state["inputs"].items()})
        return new

    def to(self, device: torch.device) -> "PipelineState":
        """Return the state on a device, for one that comes from a checkpoint."""
        return PipelineState.from_state_dict(_moved(self.state_dict(), device))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    return [_moved(part, device) for part in value] if isinstance(value, list) else value
