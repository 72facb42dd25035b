"""Which modules work: rates, independence, and a pure function of seed, step and module."""

from itertools import combinations, pairwise

import pytest

from lightning_modules.execution.work_schedule import WorkSchedule, draw

STEPS = 20_000


def test_without_slow_downs_all_work():
    schedule = WorkSchedule([1, 1.0, 1], seed=3)
    assert all(schedule.works(step) == (True, True, True) for step in range(1000))


def test_rates():
    slow_downs = (1.0, 1.2, 2.0, 5.0, float("inf"))
    works = [WorkSchedule(slow_downs, seed=0).works(step) for step in range(STEPS)]
    for slow_down, module in zip(slow_downs, zip(*works, strict=True), strict=True):
        p = 1 / slow_down
        assert sum(module) / STEPS == pytest.approx(p, abs=4 * (p * (1 - p) / STEPS) ** 0.5)


def test_modules_steps_and_seeds_are_independent():
    """Each pair of two in three series works together at a quarter of the steps, where each works at half."""
    by_module = WorkSchedule([2.0, 2.0, 2.0], seed=0)
    series = [list(s) for s in zip(*(by_module.works(step) for step in range(STEPS)), strict=True)]
    series.append(series[0][1:] + series[0][:1])
    series.append([WorkSchedule([2.0], seed=1).works(step)[0] for step in range(STEPS)])
    for a, b in combinations(series, 2):
        together = sum(x and y for x, y in zip(a, b, strict=True)) / STEPS
        assert together == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / STEPS) ** 0.5)


def test_pauses_are_geometric():
    """A module at half speed works at the next step with probability 1/2, whatever it did before: mean gap 2."""
    at = [step for step in range(STEPS) if WorkSchedule([2.0], seed=7).works(step)[0]]
    gaps = [b - a for a, b in pairwise(at)]
    assert sum(gap == 1 for gap in gaps) / len(gaps) == pytest.approx(0.5, abs=0.02)
    assert sum(gap == 3 for gap in gaps) / len(gaps) == pytest.approx(0.125, abs=0.02)


def test_nothing_to_save():
    """Any step may be asked for at any time, in any order, and of a new object."""
    whole = [WorkSchedule([2.0, 3.0], seed=5).works(step) for step in range(100)]
    assert [WorkSchedule([2.0, 3.0], seed=5).works(step) for step in reversed(range(100))] == whole[::-1]


def test_another_modules_slow_down_changes_nothing():
    a, b = WorkSchedule([2.0, 1.0, 3.0], seed=0), WorkSchedule([2.0, 9.0, 3.0], seed=0)
    assert all(a.works(step)[::2] == b.works(step)[::2] for step in range(200))


def test_draws_are_the_same_on_every_machine():
    keys = ((0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1))
    assert [round(draw(*key), 12) for key in keys] == [0.901030272396, 0.146290311499, 0.008492802857, 0.534869640268]
    assert all(0 <= draw(0, step, 1) < 1 for step in range(1000))


@pytest.mark.parametrize(
    ("slow_downs", "modules", "message"),
    [
        ([1.0, 0.5], None, "module 2 has slow-down 0.5; give 1 for"),
        ([float("nan")], None, "module 1 has slow-down nan"),
        ([], None, "give one for each"),
        ([1.0, 2.0], 3, r"2 slow-downs were given for 3 modules; .* such as \[1.0, 1.0, 2.0\]"),
    ],
)
def test_errors_that_teach(slow_downs, modules, message):
    with pytest.raises(ValueError, match=message):
        WorkSchedule(slow_downs, seed=0, modules=modules)
