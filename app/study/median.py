"""The median pruner: who is behind the middle of the others is stopped, on the last fold as on the first."""

from __future__ import annotations

import math
from statistics import median

import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


class MedianPruner(BasePruner):
    """Stops a trial whose best of the present run is worse than the median of the others at the same validation.

    Optuna's own takes the best of the whole trial. Where a trial is several runs (see `app.study.reports`), that is
    mostly a value of the first one, beside which nothing on the later folds counts:

        reported         fold 0: 0.5 0.7 0.9    fold 1: 0.45 0.45 0.45
        its best so far          0.5 0.7 0.9            0.9  0.9  0.9      never below the others' 0.75
        best of the run          0.5 0.7 0.9            0.45 0.45 0.45     stopped at the first validation of fold 1

    The best of the run, and not its newest value: one validation that is worse by chance stops nobody.

    `start_up`: complete trials that there must be. `warm_up`: validations of a trial that decide nothing. A newest
    value that is no number stops the trial.
    """

    def __init__(self, start_up: int = 5, warm_up: int = 1) -> None:
        self._start_up, self._warm_up = start_up, warm_up

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to stop the trial after its newest report."""
        others = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        step = trial.last_step
        if step is None or step < self._warm_up or len(others) < self._start_up:
            return False
        if math.isnan(trial.intermediate_values[step]):
            return True
        beside = [other.intermediate_values[step] for other in others if step in other.intermediate_values]
        known = [value for value in beside if not math.isnan(value)]
        if not known:
            return False
        values = [value for at, value in trial.intermediate_values.items() if at >= first_step(trial)]
        own = [value for value in values if not math.isnan(value)]
        if study.direction == StudyDirection.MAXIMIZE:
            return max(own) < median(known)
        return min(own) > median(known)


def first_step(trial: FrozenTrial) -> int:
    """Return the step of the present run's first validation: how many its runs before had."""
    return sum(len(run["reported"]) for run in trial.user_attrs.get("runs", []))
