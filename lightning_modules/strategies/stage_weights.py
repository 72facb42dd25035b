"""Weights and optimizer state of units that are trained in different processes, brought together in all of them.

    trained in          stage 0: units 1-2      stage 1: units 3-4
    bring_together      every process: units 1-4, each from the first replica's stage that trains it
    whole_optimizer     every process: the state of all units, under the indices of one optimizer over all parameters

So a checkpoint is one file with plain names, the same whatever the placement, and any other placement can load it.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.execution.placement import Placement
from lightning_modules.networks import UnitNetwork
from lightning_modules.strategies.letters import for_tensors
from lightning_modules.strategies.mesh import Mesh


class StageWeights:
    """What one rank holds of a network whose units are trained in several.

    Args:
        network: the whole network; the units of other stages as they were when last brought together.
        placement: which stage trains which units.
        mesh: this rank's place.
        guard: around each call that waits for all ranks, with what it is for.
    """

    def __init__(
        self,
        network: UnitNetwork,
        placement: Placement,
        mesh: Mesh,
        guard: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.network, self.placement, self.mesh, self.guard = network, placement, mesh, guard
        self.units = placement.stages[mesh.stage]

    def keep_others_on_cpu(self) -> None:
        """Move the units that are trained elsewhere to the CPU."""
        for unit in range(1, self.network.depth + 1):
            if unit not in self.units:
                self.network.unit(unit).cpu()

    @torch.no_grad()
    def bring_together(self) -> None:
        """Give every rank all units' weights, each from where it is trained."""
        if self.mesh.stages == 1:
            return
        with self.guard("bringing weights together"):
            for unit in range(1, self.network.depth + 1):
                for tensor in self.network.unit(unit).state_dict().values():
                    # In every replica the same: the first one's.
                    held = tensor.cpu()
                    dist.broadcast(held, src=self.mesh.rank_of(self.placement.stage_of(unit), 0))
                    if unit not in self.units:
                        tensor.copy_(held)

    def whole_optimizer(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """Return an optimizer's `state` (its state_dict here) with each unit's part from where it is trained."""
        if self.mesh.stages == 1:
            return state
        own = self._own_indices(optimizer)
        mine = {i: s for i, s in state["state"].items() if i in own}
        parts: list[Any] = [None] * self.mesh.processes
        with self.guard("bringing the optimizer's state together"):
            dist.all_gather_object(parts, for_tensors(mine, Tensor.cpu))
        merged: dict[int, Any] = {}
        for part in reversed(parts):  # replicas are alike: the first one's stays
            merged |= part
        return {**state, "state": dict(sorted(merged.items()))}

    def forget_others(self, optimizers: Iterable[Optimizer]) -> None:
        """Drop the optimizers' state of units that are trained elsewhere."""
        own = self._own_parameters()
        for optimizer in optimizers:
            for p in [p for p in optimizer.state if id(p) not in own]:
                del optimizer.state[p]

    def _own_parameters(self) -> set[int]:
        return {id(p) for unit in self.units for p in self.network.unit_parameters(unit).values()}

    def _own_indices(self, optimizer: Optimizer) -> set[int]:
        own = self._own_parameters()
        all_parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return {i for i, p in enumerate(all_parameters) if id(p) in own}
