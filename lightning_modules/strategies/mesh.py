"""Stages and replicas of a run: a mesh of ranks, stages of one replica side by side.

4 processes, 2 stages x 2 replicas        stage 0   stage 1
                            replica 0     rank 0    rank 1
                            replica 1     rank 2    rank 3
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mesh:
    """Which stage and replica a rank is.

    Args:
        processes: number of ranks.
        stages: number of stages of a replica.
        rank: this process.

    Raises:
        ValueError: the processes do not make whole replicas.
    """

    processes: int
    stages: int
    rank: int

    def __post_init__(self) -> None:
        if self.stages < 1 or self.processes % self.stages:
            raise ValueError(
                f"{self.processes} processes with {self.stages} stages make no whole replicas; use --trainer.devices "
                f"{max(self.stages, 1)} or a multiple of it, or stages that divide {self.processes}"
            )

    @property
    def replicas(self) -> int:
        """Number of copies of the network, each on clips of its own."""
        return self.processes // self.stages

    @property
    def stage(self) -> int:
        """This rank's stage, from 0."""
        return self.rank % self.stages

    @property
    def replica(self) -> int:
        """This rank's replica, from 0."""
        return self.rank // self.stages

    def rank_of(self, stage: int, replica: int) -> int:
        """Return the rank that is a stage of a replica."""
        return replica * self.stages + stage

    @property
    def team(self) -> list[int]:
        """Ranks of this replica, the first stage's first."""
        return [self.rank_of(s, self.replica) for s in range(self.stages)]

    @property
    def twins(self) -> list[int]:
        """Ranks of this stage in all replicas."""
        return [self.rank_of(self.stage, r) for r in range(self.replicas)]
