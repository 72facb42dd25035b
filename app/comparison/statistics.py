"""Means, paired differences and gaps with bootstrap intervals. Pure functions on numpy alone.

A row's values are a mapping from (fold, seed) to one number. Folds are the clusters: the seeds of a fold share its
test clips, so seeds are averaged within a fold first, and the bootstrap draws folds, then seeds within each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
Values = Mapping[Pair, float]
FloatArray = NDArray[np.float64]

RESAMPLES = 10_000
# With 2 units the percentile interval is just [min, max], which misses the middle half of the time: no verdict on it.
FEWEST_UNITS = 3
FALL_BACK = 0.10


@dataclass(frozen=True)
class MeanStd:
    """Mean of the fold means, and a spread.

    `std` (ddof 1) is over the fold means where there are at least two folds (`std_over` "folds"); over the seeds
    where there is one fold and at least two seeds ("seeds"); else None.
    """

    mean: float
    std: float | None
    std_over: str | None
    n_folds: int
    n_seeds: int
    n_runs: int


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % bootstrap percentile interval.

    `units` is what the bootstrap resamples first: the number of folds, or of seeds where there is one fold. Below
    FEWEST_UNITS `low` and `high` are None.
    """

    estimate: float
    low: float | None
    high: float | None
    units: int


def fold_means(values: Values) -> FloatArray:
    """(F,) mean over the seeds of each fold, folds ascending."""
    return np.array([group.mean() for group in _groups(values)])


def mean_std(values: Values) -> MeanStd:
    """Mean and spread of a row. Errors: ValueError without values."""
    if not values:
        raise ValueError("no values to average: give at least one (fold, seed) value")
    groups = _groups(values)
    over = "folds" if len(groups) >= 2 else "seeds"
    spread = fold_means(values) if over == "folds" else groups[0]
    std = float(spread.std(ddof=1)) if len(spread) >= 2 else None
    n_seeds = len({seed for _, seed in values})
    return MeanStd(
        float(fold_means(values).mean()), std, over if std is not None else None, len(groups), n_seeds, len(values)
    )


def paired_difference(row: Values, control: Values, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """Mean of row - control over the (fold, seed) pairs that both have, with its interval; None without any pair."""
    shared = sorted(set(row) & set(control))
    if not shared:
        return None
    return mean_interval({pair: row[pair] - control[pair] for pair in shared}, seed=seed, resamples=resamples)


def relative_difference(row: Values, versus: Values, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """(row - versus) / versus, each a mean over the (fold, seed) pairs that both have: 0.05 is 5 % more.

    The bootstrap draws both rows together. None without any pair, and where a value of `versus` is not positive.
    """
    shared = sorted(set(row) & set(versus))
    if not shared or min(versus[pair] for pair in shared) <= 0:
        return None
    table = np.array([[row[pair], versus[pair]] for pair in shared])
    return _interval(shared, table, lambda means: means[..., 0] / means[..., 1] - 1.0, seed, resamples)


def mean_interval(values: Values, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of the fold means with its interval."""
    table = np.array([[values[pair]] for pair in sorted(values)])
    return _interval(sorted(values), table, lambda means: means[..., 0], seed, resamples)


def gap_recovered(
    row: Values,
    frozen: Values,
    exact: Values,
    *,
    least_gap: float = 0.0,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """(row - frozen) / (exact - frozen), each a mean over the (fold, seed) pairs that all three have.

    The bootstrap draws the three rows together. None (not defined) where exact does not clearly beat frozen: the
    lower end of their difference's interval is not above `least_gap`. The few resamples whose denominator is then
    still not positive (at most 2.5 %) are left out.
    """
    shared = sorted(set(row) & set(frozen) & set(exact))
    if not shared:
        return None
    gap = paired_difference({p: exact[p] for p in shared}, {p: frozen[p] for p in shared}, seed=seed)
    if gap is None or gap.low is None or gap.low <= least_gap:
        return None
    table = np.array([[row[pair] - frozen[pair], exact[pair] - frozen[pair]] for pair in shared])

    def ratio(means: FloatArray) -> FloatArray:
        numerator, denominator = means[..., 0], means[..., 1]
        positive = denominator > 0
        return np.where(positive, numerator / np.where(positive, denominator, 1.0), np.nan)

    return _interval(shared, table, ratio, seed, resamples)


def verdict(interval: Interval | None, bound: float = 0.0) -> str:
    """Where the interval lies: "above" or "below" the bound, "undecided" where it spans or touches it, or is missing.

    "equal" where every run is at the bound itself.
    """
    if interval is None or interval.low is None or interval.high is None:
        return "undecided"
    if interval.low == interval.high == bound:
        return "equal"
    if interval.low > bound:
        return "above"
    return "below" if interval.high < bound else "undecided"


def holds(interval: Interval | None, *, at_least: float | None = None, at_most: float | None = None) -> str:
    """ "holds", "fails" or "undecided" for a claim `value >= at_least` or `value <= at_most`."""
    if interval is None or interval.low is None or interval.high is None:
        return "undecided"
    if at_least is not None:
        return "holds" if interval.low >= at_least else "fails" if interval.high < at_least else "undecided"
    if at_most is None:
        raise ValueError("give at_least or at_most")
    return "holds" if interval.high <= at_most else "fails" if interval.low > at_most else "undecided"


def has_diverged(metrics: Mapping[str, float | None], *, loss_above: float | None = None) -> bool:
    """Whether a run diverged: a loss or score is not finite (None stands for it), or test/loss is above a limit."""
    watched = [metrics[name] for name in ("train/loss", "test/loss", "test/top1", "test/mse") if name in metrics]
    if any(value is None or not math.isfinite(value) for value in watched):
        return True
    loss = metrics.get("test/loss")
    return loss_above is not None and loss is not None and loss > loss_above


def has_fallen_back(metrics: Mapping[str, float | None], *, drop: float = FALL_BACK) -> bool:
    """Whether the last validation is worse than the best one of the run, where both are logged.

    val/top1 by more than `drop` below val/top1_max, or val/mse by more than the share `drop` above val/mse_min.
    """
    best, last = metrics.get("val/top1_max"), metrics.get("val/top1")
    if best is not None and last is not None:
        return best - last > drop
    least, last = metrics.get("val/mse_min"), metrics.get("val/mse")
    return least is not None and last is not None and last > (1 + drop) * least


def share(flags: list[bool]) -> float:
    """Share of True, nan for no flag."""
    return float(np.mean(flags)) if flags else math.nan


def _groups(values: Values) -> list[FloatArray]:
    folds = sorted({fold for fold, _ in values})
    return [np.array([values[pair] for pair in sorted(values) if pair[0] == fold]) for fold in folds]


def _interval(
    pairs: list[Pair], table: FloatArray, figure: Callable[[FloatArray], FloatArray], seed: int, resamples: int
) -> Interval:
    """Interval of figure(mean over folds of mean over seeds of table); table (N pairs, K columns)."""
    folds = sorted({fold for fold, _ in pairs})
    groups = [table[[index for index, pair in enumerate(pairs) if pair[0] == fold]] for fold in folds]
    estimate = float(figure(np.stack([group.mean(axis=0) for group in groups]).mean(axis=0)))
    units = len(groups) if len(groups) > 1 else len(groups[0])
    if units < FEWEST_UNITS:
        return Interval(estimate, None, None, units)
    draws = figure(_resampled_means(groups, np.random.default_rng(seed), resamples))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Interval(estimate, float(low), float(high), units)


def _resampled_means(groups: list[FloatArray], generator: np.random.Generator, resamples: int) -> FloatArray:
    """(resamples, K) means: draw as many folds as there are, with replacement, then seeds within each drawn fold."""
    total = np.zeros((resamples, groups[0].shape[1]))
    for _ in groups:
        drawn = generator.integers(len(groups), size=resamples)
        for index, group in enumerate(groups):
            where = np.flatnonzero(drawn == index)
            seeds = generator.integers(len(group), size=(len(where), len(group)))
            total[where] += group[seeds].mean(axis=1)
    return total / len(groups)
