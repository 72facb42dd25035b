"""The team of a depth-parallel run: stages of one replica exchange messages, equal stages of replicas average.

             stage 0        stage 1
replica 0    rank 0 <~~~~~> rank 1       ~~~  messages of the pipeline; figures and weights by letters
               |              |           |   mean of the gradients, once an update
replica 1    rank 2 <~~~~~> rank 3
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_modules.execution.stage import Stage
from lightning_modules.execution.team import Team
from lightning_modules.networks import UnitNetwork
from lightning_modules.strategies.letters import Letters, for_tensors
from lightning_modules.strategies.mesh import Mesh
from lightning_modules.strategies.replay_link import ReplayLink

T = TypeVar("T")


class StageTeam(Team):
    """One rank of a run with several stages, several replicas, or both.

    Args:
        mesh: this rank's place.
        stage: the units that work here, and their exchange.
        network: tells units' parameters by name.
        letters: from and to the other ranks; a rank's address is its number.
        twins: process group of this stage in all replicas; None where there is one replica.
        guard: around each call that waits for all twins, with what it is for.
        link: to the other stages, where none waits for another in training.
    """

    def __init__(
        self,
        mesh: Mesh,
        stage: Stage,
        network: UnitNetwork,
        letters: Letters,
        twins: dist.ProcessGroup | None,
        guard: Callable[[str], AbstractContextManager[object]] = nullcontext,
        link: ReplayLink | None = None,
    ) -> None:
        super().__init__(stage)
        self.mesh, self.network, self.letters, self.twins, self.guard = mesh, network, letters, twins, guard
        self.link = link

    @property
    def stages(self) -> int:
        """Number of stages that the network is cut into."""
        return self.mesh.stages

    @property
    def replicas(self) -> int:
        """Number of copies of the network, each on clips of its own."""
        return self.mesh.replicas

    @property
    def replica(self) -> int:
        """Which of the copies is here, from 0."""
        return self.mesh.replica

    @property
    def is_asynchronous(self) -> bool:
        """Whether stages train without waiting for one another."""
        return self.link is not None

    @property
    def draws(self) -> bool:
        """Whether training batches are empty here: what is learnt from comes from other stages, through buffers."""
        return self.link is not None and self.mesh.stage > 0

    @property
    def _units(self) -> range:
        assert self.stage is not None
        return self.stage.units

    def average(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean over replicas; a unit without a gradient in some of them is averaged over the others.

        One message for all of a stage's parameters, in their order, with a count for each unit.
        """
        if self.twins is None:
            return dict(gradients)
        units = {u: self._trainable(u) for u in self._units if self._trainable(u)}
        flat = [gradients.get(n, torch.zeros_like(p)).flatten() for ps in units.values() for n, p in ps.items()]
        counts = [float(any(name in gradients for name in ps)) for ps in units.values()]
        if not flat:
            return {}
        both = torch.cat([*flat, flat[0].new_tensor(counts)])
        with self.guard("averaging gradients"):
            dist.all_reduce(both, group=self.twins)
        sums, counts = both[: -len(counts)], both[-len(counts) :].tolist()
        return self._unflatten(units, sums, counts)

    def _trainable(self, unit: int) -> dict[str, Tensor]:
        return {n: p for n, p in self.network.unit_parameters(unit).items() if p.requires_grad}

    def _unflatten(
        self, units: Mapping[int, Mapping[str, Tensor]], sums: Tensor, counts: list[float]
    ) -> dict[str, Tensor]:
        means: dict[str, Tensor] = {}
        start = 0
        for parameters, count in zip(units.values(), counts, strict=True):
            for name, p in parameters.items():
                if count:
                    means[name] = sums[start : start + p.numel()].view_as(p) / count
                start += p.numel()
        return means

    def frames_of_all_clips(self, frames: int) -> int:
        """Return the sum of the frames that all replicas worked on."""
        if self.twins is None:
            return frames
        total = torch.tensor(frames, device=next(self.network.unit(self._units[0]).parameters()).device)
        with self.guard("counting frames"):
            dist.all_reduce(total, group=self.twins)
        return int(total)

    def from_output(self, value: T | None) -> T:
        """Return, in every stage, what the stage with the outputs gives; the others give None."""
        last = self.mesh.team[-1]
        if self.has_output:
            assert value is not None
            for other in self.mesh.team[:-1]:
                self.letters.write(str(other), "figures", _on_cpu(value))
            return value
        return self.letters.read(str(last), "figures")

    def from_all_units(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return, in every stage, the values of all stages by parameter name: each unit's from where it works."""
        own = {name for unit in self._units for name in self.network.unit_parameters(unit)}
        merged: dict[str, Any] = {}
        for part in self._round("units", {name: value for name, value in values.items() if name in own}):
            merged.update(part)
        return merged

    def from_all_stages(self, value: T) -> list[T]:
        """Return, in every stage, each stage's value."""
        return self._round("stages", value)

    def newest_figures(self, own: Mapping[str, Any], *, meet: bool) -> dict[str, Any]:
        """Return all stages' figures, the newest of each name; see `Team`."""
        if self.link is None:
            return dict(own)
        known = self.link.own_figures(own)
        if not meet:
            return self.link.newest_figures(known)
        return {name: value for part in self.from_all_stages(known) for name, value in part.items()}

    def from_all_clips(self, value: T) -> list[T]:
        """Return, where the outputs are, the value of each process that worked on other clips."""
        if self.twins is None:
            return [value]
        for other in self.mesh.twins:
            if other != self.mesh.rank:
                self.letters.write(str(other), "clips", _on_cpu(value))
        return [value if r == self.mesh.rank else self.letters.read(str(r), "clips") for r in self.mesh.twins]

    def _round(self, topic: str, value: T) -> list[T]:
        for other in self.mesh.team:
            if other != self.mesh.rank:
                self.letters.write(str(other), topic, _on_cpu(value))
        return [value if r == self.mesh.rank else self.letters.read(str(r), topic) for r in self.mesh.team]


def _on_cpu(value: Any) -> Any:
    return for_tensors(value, lambda t: t.detach().cpu())
