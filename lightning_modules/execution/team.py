"""What a task asks of the processes that train together; here the answers of one process that does all the work.

A task (a LightningModule) is written once. It hands its gradients, figures and scores to its team, and the team knows
whether other processes have units, or other clips, of their own. `strategies/stage_team.py` is the team of several.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from lightning_modules.execution.stage import Stage

T = TypeVar("T")


class Team:
    """One process with all units and all clips.

    Args:
        stage: the units that work here; None for all of them.
    """

    def __init__(self, stage: Stage | None = None) -> None:
        self.stage = stage

    @property
    def stages(self) -> int:
        """Number of stages that the network is cut into."""
        return 1

    @property
    def replicas(self) -> int:
        """Number of copies of the network, each on clips of its own."""
        return 1

    @property
    def replica(self) -> int:
        """Which of the copies is here, from 0."""
        return 0

    @property
    def has_output(self) -> bool:
        """Whether outputs and losses are found in this process."""
        return self.stage is None or self.stage.has_output

    @property
    def is_asynchronous(self) -> bool:
        """Whether stages train without waiting for one another."""
        return False

    @property
    def draws(self) -> bool:
        """Whether training batches are empty here: what is learnt from comes from other stages, through buffers."""
        return False

    def average(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean over all processes that found gradients for the same units on other clips."""
        return dict(gradients)

    def frames_of_all_clips(self, frames: int) -> int:
        """Return the sum of the frames that all processes worked on, each on other clips."""
        return frames

    def from_output(self, value: T | None) -> T:
        """Return, in every stage, what the stage with the outputs gives; the others give None."""
        assert value is not None
        return value

    def from_all_units(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return, in every stage, the values of all stages by parameter name: each unit's from where it works."""
        return dict(values)

    def from_all_clips(self, value: T) -> list[T]:
        """Return, where the outputs are, the value of each process that worked on other clips."""
        return [value]

    def from_all_stages(self, value: T) -> list[T]:
        """Return, in every stage, each stage's value."""
        return [value]

    def newest_figures(self, own: Mapping[str, Any], *, meet: bool) -> dict[str, Any]:
        """Return all stages' figures, the newest of each name, for the logs of stages that do not wait for each other.

        Args:
            own: this stage's new ones.
            meet: whether all stages wait here and get the same; else only the first stage gets any, what it knows.
        """
        return dict(own)
