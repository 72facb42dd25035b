"""What a run of a trial tells its study after each validation, and the study's answer: go on, or enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reports:
    """The validations of one run of a trial.

    A trial of several runs reports, at its s-th validation, the mean over the runs so far: the last values of those
    that have ended, and the newest of the present one. All trials run in one order, so step s means the same to each.

    `trial`: an Optuna trial, with `report` and `should_prune`; None for a study that takes no reports (one of several
    objectives). `metric`: what is reported, as the validation logs it. `ended`: the last value of each run of the trial
    that has ended. `first_step`: validations that those runs had. `required`: a pruner needs the metric.
    """

    trial: Any
    metric: str
    ended: Sequence[float] = ()
    first_step: int = 0
    required: bool = False
    values: list[float] = field(default_factory=list)  # of this run alone
    pruned: str | None = None  # when, in words

    def add(self, value: float, update: int) -> bool:
        """Report a validation at a weight update; return whether to stop the training."""
        if self.trial is None or self.pruned:
            return bool(self.pruned)
        self.trial.report((sum(self.ended) + value) / (len(self.ended) + 1), self.first_step + len(self.values))
        self.values.append(value)
        if self.trial.should_prune():
            self.pruned = f"after validation {len(self.values)} (update {update})"
        return bool(self.pruned)

    def repeat(self, values: Sequence[float]) -> None:
        """Report what an earlier worker had reported of this run, so that a pruner can compare from there on."""
        for value in values if self.trial is not None else []:
            self.trial.report((sum(self.ended) + value) / (len(self.ended) + 1), self.first_step + len(self.values))
            self.values.append(value)
