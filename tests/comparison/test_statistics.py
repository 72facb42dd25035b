"""Hand-computed cases, and numpy or scipy as the independent reference."""

import math

import numpy as np
import pytest

from app.comparison.statistics import (
    Interval,
    fold_means,
    gap_recovered,
    has_diverged,
    has_fallen_back,
    holds,
    mean_interval,
    mean_std,
    paired_difference,
    relative_difference,
    share,
    verdict,
)


def test_seeds_are_averaged_within_their_fold_first():
    # fold 0: (0.8 + 0.9 + 1.0) / 3 = 0.9; fold 1: 0.5. A mean over the four runs would be 0.8.
    values = {(0, 0): 0.8, (0, 1): 0.9, (0, 2): 1.0, (1, 0): 0.5}
    summary = mean_std(values)
    assert fold_means(values) == pytest.approx([0.9, 0.5])
    assert summary.mean == pytest.approx(0.7)
    assert summary.std == pytest.approx(math.sqrt(0.08))  # of 0.9 and 0.5, n-1
    assert (summary.std_over, summary.n_folds, summary.n_seeds, summary.n_runs) == ("folds", 2, 3, 4)


def test_std_is_over_seeds_where_there_is_one_fold():
    summary = mean_std({(0, 0): 0.1, (0, 1): 0.2, (0, 2): 0.6})
    assert summary.std == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert summary.std_over == "seeds"


def test_one_run_has_no_std():
    summary = mean_std({(0, 0): 0.25})
    assert (summary.mean, summary.std, summary.std_over) == (0.25, None, None)


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        mean_std({})


def test_difference_uses_shared_pairs_alone():
    row = {(0, 0): 0.5, (1, 0): 0.7, (2, 0): 0.9, (3, 0): 99.0}
    control = {(0, 0): 0.4, (1, 0): 0.5, (2, 0): 0.6, (2, 1): -99.0}
    difference = paired_difference(row, control)
    assert difference is not None
    assert difference.estimate == pytest.approx(0.2)
    assert difference.units == 3
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.3))  # 3 units: 1/27 > 2.5 %, so min and max


def test_no_shared_pair_is_no_difference():
    assert paired_difference({(0, 0): 1.0}, {(1, 0): 1.0}) is None


def test_pairing_removes_what_folds_have_in_common():
    generator = np.random.default_rng(0)
    hardness = generator.normal(0, 1, 9)
    control = {(fold, 0): float(hardness[fold]) for fold in range(9)}
    row = {(fold, 0): float(hardness[fold] + 0.1 + generator.normal(0, 0.01)) for fold in range(9)}
    difference = paired_difference(row, control)
    assert difference is not None
    assert difference.low is not None
    assert difference.high is not None
    assert 0.08 < difference.low < 0.1 + 0.01 < difference.high + 0.02 < 0.15


def test_interval_agrees_with_scipy_where_there_is_one_run_a_fold():
    stats = pytest.importorskip("scipy.stats")
    sample = np.random.default_rng(3).normal(0.2, 0.1, 30)
    ours = mean_interval({(fold, 0): float(value) for fold, value in enumerate(sample)}, resamples=40_000)
    theirs = stats.bootstrap(
        (sample,), np.mean, method="percentile", n_resamples=40_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_interval_has_the_width_theory_gives_for_folds_and_seeds():
    # Two-stage resampling of F folds with S seeds: variance of the mean = var(fold means)/F + mean(var within)/(F S),
    # with variances of divisor n: the plug-in values.
    table = np.random.default_rng(5).normal(0, 1, (40, 3)) + np.random.default_rng(6).normal(0, 1, (40, 1))
    values = {(fold, seed): float(table[fold, seed]) for fold in range(40) for seed in range(3)}
    interval = mean_interval(values, resamples=40_000)
    expected = math.sqrt(table.mean(1).var() / 40 + table.var(axis=1).mean() / (40 * 3))
    assert interval.low is not None
    assert interval.high is not None
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(expected, rel=0.03)


def test_one_fold_resamples_its_seeds():
    interval = mean_interval({(0, 0): 0.0, (0, 1): 0.3, (0, 2): 0.6})
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.3, 0.0, 0.6))
    assert interval.units == 3


@pytest.mark.parametrize("values", [{(0, 0): 0.9}, {(0, 0): 0.9, (1, 0): 0.8}, {(0, s): 0.9 for s in range(2)}])
def test_too_few_runs_have_no_interval_and_no_verdict(values):
    interval = mean_interval(values)
    assert (interval.low, interval.high) == (None, None)
    assert verdict(interval) == "undecided"


def test_intervals_are_the_same_every_time():
    values = {(fold, 0): fold / 7 for fold in range(7)}
    assert mean_interval(values) == mean_interval(values)


def test_gap_recovered_is_a_ratio_of_paired_means():
    # exact - frozen: 0.4, 0.3, 0.5 (mean 0.4); row - frozen: 0.2, 0.3, 0.4 (mean 0.3).
    frozen = {(0, 0): 0.5, (1, 0): 0.6, (2, 0): 0.4}
    exact = {(0, 0): 0.9, (1, 0): 0.9, (2, 0): 0.9}
    row = {(0, 0): 0.7, (1, 0): 0.9, (2, 0): 0.8}
    gap = gap_recovered(row, frozen, exact)
    assert gap is not None
    assert gap.estimate == pytest.approx(0.75)
    assert (gap.low, gap.high) == pytest.approx((0.5, 1.0))  # all from fold 0: 0.2/0.4; all from fold 1: 0.3/0.3


def test_exact_recovers_all_and_frozen_nothing():
    frozen = {(fold, 0): 0.5 + 0.01 * fold for fold in range(5)}
    exact = {(fold, 0): 0.9 - 0.02 * fold for fold in range(5)}
    for row, expected in ((frozen, 0.0), (exact, 1.0)):
        gap = gap_recovered(row, frozen, exact)
        assert gap is not None
        assert (gap.estimate, gap.low, gap.high) == pytest.approx((expected,) * 3)


def test_gap_is_not_defined_where_exact_does_not_clearly_beat_frozen():
    frozen = {(fold, 0): 0.8 for fold in range(4)}
    exact = {(0, 0): 0.9, (1, 0): 0.9, (2, 0): 0.7, (3, 0): 0.8}
    assert gap_recovered(exact, frozen, exact) is None


def test_gap_is_not_defined_below_the_least_gap():
    frozen = {(fold, 0): 0.80 for fold in range(4)}
    exact = {(fold, 0): 0.83 for fold in range(4)}
    assert gap_recovered(exact, frozen, exact) is not None
    assert gap_recovered(exact, frozen, exact, least_gap=0.05) is None


@pytest.mark.parametrize(
    ("low", "high", "bound", "expected"),
    [
        (0.1, 0.2, 0.0, "above"),
        (-0.2, -0.1, 0.0, "below"),
        (-0.1, 0.1, 0.0, "undecided"),
        (0.0, 0.1, 0.0, "undecided"),
        (0.0, 0.0, 0.0, "equal"),
        (0.1, 0.2, 0.15, "undecided"),
        (0.1, 0.2, 0.3, "below"),
    ],
)
def test_verdict(low, high, bound, expected):
    assert verdict(Interval((low + high) / 2, low, high, 9), bound) == expected


def test_holds():
    interval = Interval(0.8, 0.75, 0.85, 9)
    assert holds(interval, at_least=0.75) == "holds"
    assert holds(interval, at_least=0.8) == "undecided"
    assert holds(interval, at_least=0.9) == "fails"
    assert holds(interval, at_most=0.9) == "holds"
    assert holds(interval, at_most=0.7) == "fails"
    assert holds(None, at_most=0.7) == "undecided"


def test_divergence():
    assert not has_diverged({"test/loss": 3.0, "test/top1": 0.1})
    assert has_diverged({"test/loss": float("nan")})
    assert has_diverged({"train/loss": None})
    assert has_diverged({"test/loss": float("inf")})
    assert has_diverged({"test/loss": 3.0}, loss_above=2.5)
    assert share([True, False, False, True]) == 0.5
    assert math.isnan(share([]))


def test_falling_back():
    assert has_fallen_back({"val/top1": 0.80, "val/top1_max": 1.0})
    assert not has_fallen_back({"val/top1": 0.95, "val/top1_max": 1.0})
    assert not has_fallen_back({"val/top1": 0.1})


def test_relative_difference_is_a_ratio_of_paired_means():
    # row - versus: 0.1, 0.0, 0.2 (mean 0.1); versus: mean 1.0. Resampled: all from fold 1 gives 0, all from fold 2 0.4.
    versus = {(0, 0): 1.0, (1, 0): 1.5, (2, 0): 0.5, (9, 0): 100.0}
    row = {(0, 0): 1.1, (1, 0): 1.5, (2, 0): 0.7}
    ratio = relative_difference(row, versus)
    assert ratio is not None
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((0.1, 0.0, 0.4))
    assert relative_difference(row, {(0, 0): 0.0}) is None
    assert relative_difference(row, {(7, 0): 1.0}) is None


def test_a_rising_error_is_falling_back_too():
    assert has_fallen_back({"val/mse": 0.012, "val/mse_min": 0.010})
    assert not has_fallen_back({"val/mse": 0.0105, "val/mse_min": 0.010})
    assert has_diverged({"test/mse": None})
