"""Who chooses the next trial's values (samplers), and who stops a trial that lags behind (pruners).

What a trial draws depends on the study's seed, the trial's turn and the trials that have ended, never on how many draws
this process has made before: a study that was killed and goes on draws what an unbroken one draws. (With several
workers, what has ended when a trial begins is a matter of time; and hyperband deals trials out by their numbers.)

    trial     0   1   2   3 (killed)   4 (runs 3 again)   5
    turn      0   1   2   3            3                  4
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from app.comparison.overrides import nearest
from app.study.median import MedianPruner
from app.study.objectives import Objective
from app.study.space import Space

SAMPLERS = ("tpe", "nsga2", "random", "grid")
PRUNERS = ("none", "median", "hyperband")
LARGEST_GRID = 10_000


def make_sampler(name: str, seed: int, space: Space, trials: int = 40) -> BaseSampler:
    """Make a sampler by name; `trials` tell how soon it may lean on what it has seen.

    `trials`: the study's first total. It stays as it was when somebody raises the total later, or else the same turn
    would be drawn otherwise, and NSGA-II's generations would change their size.

    tpe: a quarter of the trials at random, ten at most, then where good trials lie denser than others.
    nsga2: generations of a fifth of the trials (4 to 50), so that some five follow one another; Optuna's 50 would make
    40 trials one generation, which is random search. Keys with a `when` are not inherited but drawn at random.
    random: every trial by itself.
    grid: every point once, in an order of the seed's; for spaces that have an end.

    Errors: ValueError for an unknown name, and for a grid without an end, with the keys that make it so.
    """
    if name == "grid":
        return Grid(seed, space)
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda number: optuna.samplers.TPESampler(seed=number, n_startup_trials=max(1, min(10, trials // 4))),
        "nsga2": lambda number: optuna.samplers.NSGAIISampler(
            seed=number, population_size=max(4, min(50, trials // 5))
        ),
        "random": lambda number: optuna.samplers.RandomSampler(seed=number),
    }
    if name not in makers:
        raise ValueError(f"--sampler {name}: unknown; {nearest(name, SAMPLERS)}")
    return SeededByTrial(makers[name], seed)


def make_pruner(name: str) -> BasePruner:
    """Make a pruner by name.

    median: stops a trial whose best validation of the present run is worse than the median of the others at the same
    validation, once five trials have run to their end. The first validation decides nothing: learning rates are still
    warming up. See `app.study.median`.
    hyperband: by brackets, which begin after the first whole trial. A trial of bracket b is looked at after its
    validations 3^b + 1, 3^(b+1) + 1, ... (2, 4, 10, 28, ...), and goes on where its newest value is among the best
    third of those that got there. With several runs a trial, these values are the means over the runs so far, the same
    runs for every trial, so a later fold counts; but most of the early looks fall on the first fold.

    Errors: ValueError for an unknown name.
    """
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "median":
        return MedianPruner(start_up=5, warm_up=1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner()
    raise ValueError(f"--pruner {name}: unknown; {nearest(name, PRUNERS)}")


def check_pruner(name: str, objectives: Sequence[Objective]) -> None:
    """Refuse to prune by several objectives. Errors: ValueError with what to leave out."""
    if name != "none" and len(objectives) > 1:
        given = ", ".join(objective.metric for objective in objectives)
        raise ValueError(
            f"--pruner {name} with {len(objectives)} objectives ({given}): of several, no trial is simply behind "
            "another; leave --pruner out, or keep one --objective"
        )


def turn(study: optuna.Study, trial: FrozenTrial) -> int:
    """Which place a trial has among those that count: one that is run again has the place of the first attempt."""
    from app.study.storage import SURPLUS  # that module makes its samplers here

    # Under hyperband a sampler is shown its bracket's trials alone; places are counted over the whole study.
    whole = getattr(study, "_study", study)
    number = trial.system_attrs.get("failed_trial", trial.number)
    without_place = [
        other.number
        for other in whole.get_trials(deepcopy=False)
        if other.system_attrs.get("retry_history") or other.user_attrs.get(SURPLUS)
    ]
    return number - sum(other < number for other in without_place)


class SeededByTrial(BaseSampler):
    """A sampler that is made anew for every trial, with a seed of the study's seed and the trial's turn.

    Values that are drawn one by one have a seed each: a trial that was killed half-way goes on as it would have.

    `make`: seed -> sampler, whose state must lie in the study alone (as of Optuna's TPE, NSGA-II and random).
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._inner = make(seed)

    def _seeded(self, study: optuna.Study, trial: FrozenTrial, what: str) -> BaseSampler:
        # Seeds of text differ in all bits from one turn to the next, which numbers that follow one another need not.
        return self._make(random.Random(f"{self._seed}/{turn(study, trial)}/{what}").getrandbits(32))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the trial's own sampler."""
        self._inner = self._seeded(study, trial, "")
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Ask the trial's sampler."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the trial's sampler."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask a sampler of this value's own."""
        own = self._seeded(study, trial, param_name)
        return own.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tell the trial's sampler."""
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Do nothing: a trial's seed is its own in every thread and process."""


class Grid(BaseSampler):
    """Every point of a space once, shuffled: the trial of turn n is the n-th point, and after the last comes the first.

    Optuna's BruteForceSampler reads from the trials which points are taken: it gives two workers that ask at the same
    moment the same one, and fails for good where a process was killed half-way through its draws. A turn is nobody
    else's.
    """

    def __init__(self, seed: int, space: Space) -> None:
        endless = [parameter.key for parameter in space.parameters if parameter.count() is None]
        if endless:
            raise ValueError(
                f"--sampler grid: {', '.join(endless)} has no end of values; give it a step or choices, "
                "or use --sampler tpe"
            )
        size = space.size() or 0
        if size > LARGEST_GRID:
            raise ValueError(
                f"--sampler grid: the space has {size:,} points, more than {LARGEST_GRID:,}; use --sampler random"
            )
        self._space = space
        self._points = list(space.points())
        random.Random(seed).shuffle(self._points)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: values are asked for one by one."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing: values are asked for one by one."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of the trial's point."""
        point = self._points[turn(study, trial) % len(self._points)]
        return self._space[param_name].params_value(point[param_name])
