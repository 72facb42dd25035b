"""The goals' verdicts, on made-up figures: a figure on the wrong side of its bound is a miss."""

import pytest

from app.bench_goals import (
    Verdict,
    ceiling,
    cpu_ratio,
    goal_1,
    goal_2,
    goal_3,
    goal_4,
    goal_8,
    greedy_beside,
    own_loss,
    rate_ratio,
    summary,
    verdicts,
)


def row(name, rule, executor, wall, *, frames=16, update="clip", cpu=None, threads=1, saved=(1.0,), **more):
    """A row whose every round took `wall` ms."""
    placement = "stages" if executor in ("pipelined", "vectorised", "GPipe", "1F1B") else "one process"
    return {
        "row": name,
        "rule": rule,
        "executor": executor,
        "placement": placement,
        "stash": "none",
        "frames": frames,
        "update": update,
        "threads": threads,
        "passes": 0.9 if rule == "sideways" else 1.0,
        "wall_ms": [wall, 2 * wall, 3 * wall],
        "cpu_ms": [cpu or wall] * 3,
        "busiest_cpu_ms": [(cpu or wall) / (2 if placement == "stages" else 1)] * 3,
        "saved_mib": list(saved),
        **more,
    }


def sideways(wall=100.0, *, frames=16, update="clip", **more):
    return row(f"sideways T={frames} {update}", "sideways", "pipelined", wall, frames=frames, update=update, **more)


def copies(name, *arguments, **more):
    """A row of two copies without messages."""
    return row(name, *arguments, **more) | {"placement": "copies", "copies": 2}


def only(found):
    (verdict,) = found
    return verdict


def test_a_rate_is_compared_inside_each_round():
    slow = row("slow", "backprop", "whole", 1.0) | {"wall_ms": [200.0, 10.0, 600.0]}
    fast = sideways() | {"wall_ms": [100.0, 1000.0, 300.0]}
    assert rate_ratio(fast, slow) == 2.0


@pytest.mark.parametrize(("base_ms", "met"), [(181.0, True), (179.0, False)])
def test_goal_1_over_naive_model_parallel_backprop(base_ms, met):
    verdict = only(goal_1([sideways(), row("naive", "backprop", "vectorised", base_ms)], 16))
    assert (verdict.goal, verdict.base, verdict.bound, verdict.met) == (1, "naive", 1.8, met)
    assert verdict.figure == pytest.approx(base_ms / 100)
    assert float(verdict.note) == pytest.approx(0.9 * base_ms / 100, rel=1e-2)


@pytest.mark.parametrize("executor", ["whole", "accumulated"])
@pytest.mark.parametrize(("threads", "bound"), [(1, 1.8), (2, 1.0)])
def test_goal_1_over_one_process(executor, threads, bound):
    for factor, met in ((1.01, True), (0.99, False)):
        base = row("alone", "backprop", executor, 100 * bound * factor, threads=threads)
        verdict = only(goal_1([sideways(), base], 16))
        assert (verdict.bound, verdict.met) == (bound, met)


def test_goal_1_compares_equal_numbers_of_updates():
    rows = [
        sideways(),
        sideways(update="frame"),
        row("clip", "backprop", "vectorised", 1.0),
        row("frame", "backprop", "vectorised", 1.0, update="frame"),
        row("whole clip", "backprop", "whole", 1.0),
        row("each frame", "backprop", "whole", 1.0, frames=1),
        row("another length", "backprop", "whole", 1.0, frames=64),
    ]
    pairs = {(verdict.row, verdict.base) for verdict in goal_1(rows, 16)}
    assert pairs == {
        ("sideways T=16 clip", "clip"),
        ("sideways T=16 clip", "whole clip"),
        ("sideways T=16 frame", "frame"),
        ("sideways T=16 frame", "each frame"),
    }


@pytest.mark.parametrize(("m", "bound"), [(2, 1.35), (8, 1.10), (64, 1.0)])
def test_goal_2_is_over_the_best_schedule(m, bound):
    for factor, met in ((1.01, True), (0.99, False)):
        best = row("best", "backprop", "1F1B", 100 * bound * factor, frames=m)
        worse = row("worse", "backprop", "GPipe", 1000.0, frames=m)
        found = [v for v in goal_2([sideways(), worse, best], 16) if v.bound == bound]
        assert [v.base for v in found] == ["best"] * len(found)
        assert found
        assert all(v.met == met for v in found)


def test_goal_2_any_schedule_counts_torchgpipe_too_and_no_plain_backprop():
    rows = [sideways(), row("torchgpipe", "backprop", "torchgpipe", 99.0), row("whole", "backprop", "whole", 1.0)]
    verdict = only(goal_2(rows, 16))
    assert (verdict.base, verdict.met) == ("torchgpipe", False)


@pytest.mark.parametrize(("kib", "bound"), [(64, 1.10), (512, 1.05)])
def test_goal_3(kib, bound):
    base = row("alone", "backprop", "accumulated", 1.0, cpu=100.0)
    for cpu, met in ((100 * bound - 1, True), (100 * bound + 1, False)):
        verdict = only(goal_3([sideways(cpu=cpu), base], 16, kib))
        assert (verdict.bound, verdict.met) == (bound, met)
    assert not goal_3([sideways(), base | {"threads": 2}], 16, kib)


def test_goal_4_takes_the_worst_stage():
    short, long = sideways(saved=(1.0, 0.5)), sideways(frames=64, saved=(0.5, 1.02))
    flat = only(goal_4([short, long], [16, 64], 2))
    assert (flat.figure, flat.met) == (1.02, False)
    assert only(goal_4([short, long | {"saved_mib": [1.0, 1.0]}], [16, 64], 2)).met


@pytest.mark.parametrize(("saved", "met"), [(2.8, False), (2.9, True)])
def test_goal_4_over_one_frame_at_four_units_only(saved, met):
    rows = [sideways(), row("one frame", "backprop", "whole", 1.0, frames=1, saved=(saved,))]
    assert only(goal_4(rows, [16], 4)).met == met
    assert not goal_4(rows, [16], 2)


@pytest.mark.parametrize(("saved", "met"), [((4.9, 1.0), False), ((1.0, 5.1), True)])
def test_goal_4_over_gpipe(saved, met):
    rows = [sideways(), row("GPipe", "backprop", "GPipe", 1.0, frames=8, saved=saved)]
    assert only(goal_4(rows, [16], 2)).met == met


def greedy(executor, wall, *, update="clip", name=None, **more):
    return row(name or f"greedy {executor} {update}", "greedy", executor, wall, update=update, **more)


@pytest.mark.parametrize(("stages", "bound"), [(2, 1.85), (4, 3.03)])
@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
def test_goal_8_is_the_published_speed_up(stages, bound, executor):
    for factor, met in ((1.01, True), (0.99, False)):
        base = row("alone", "backprop", "whole", 100 * bound * factor)
        verdict = only(goal_8([greedy(executor, 100.0), base], 16, stages))
        assert (verdict.goal, verdict.base, verdict.bound, verdict.met) == (8, "alone", bound, met)
    assert not goal_8([greedy(executor, 100.0), base], 16, 3)


def test_goal_8_compares_equal_numbers_of_updates_on_one_thread():
    rows = [
        greedy("vectorised", 100.0),
        greedy("pipelined", 100.0),
        greedy("pipelined", 1.0, name="second transport"),
        greedy("pipelined", 100.0, update="frame"),
        greedy("vectorised", 1.0, name="one process") | {"placement": "one process"},
        row("at once", "backprop", "whole", 1.0),
        row("one by one", "backprop", "accumulated", 1.0),
        row("each frame", "backprop", "whole", 1.0, frames=1),
        row("two threads", "backprop", "whole", 1.0, threads=2),
        row("another length", "backprop", "whole", 1.0, frames=64),
    ]
    assert [(verdict.row, verdict.base) for verdict in goal_8(rows, 16, 2)] == [
        ("greedy vectorised clip", "at once"),
        ("greedy vectorised clip", "one by one"),
        ("greedy pipelined clip", "at once"),
        ("greedy pipelined clip", "one by one"),
        ("greedy pipelined frame", "each frame"),
    ]


def test_goal_8_of_the_ceiling_is_over_copies_of_the_same_executor():
    own, base = greedy("vectorised", 100.0), row("alone", "backprop", "whole", 150.0)
    pairs = [
        copies(executor, "greedy", executor, wall) for executor, wall in (("pipelined", 10.0), ("vectorised", 160.0))
    ]
    verdict = only(goal_8([own, base, *pairs], 16, 2))
    assert (verdict.figure, verdict.of_ceiling) == (1.5, 0.8)


def test_greedy_beside_the_others():
    rows = [
        greedy("pipelined", 100.0, cpu=100.0),
        greedy("pipelined", 150.0, name="alone", cpu=80.0) | {"placement": "one process"},
        sideways(110.0),
        sideways(1.0, update="frame"),
        row("naive", "backprop", "vectorised", 200.0),
        row("slow", "backprop", "GPipe", 140.0, frames=2),
        row("fast", "backprop", "1F1B", 120.0, frames=8),
        row("two threads", "backprop", "whole", 1.0, threads=2),
        row("at once", "backprop", "whole", 170.0),
    ]
    assert greedy_beside(rows, 16) == [
        ["greedy pipelined clip", "at once", "1.7", "3.4", "0.588"],
        ["greedy pipelined clip", "alone", "1.5", "0.8", "1.25"],
        ["greedy pipelined clip", "sideways T=16 clip", "1.1", "1.1", "0.909"],
        ["greedy pipelined clip", "naive", "2", "2", "0.5"],
        ["greedy pipelined clip", "fast", "1.2", "1.2", "0.833"],
    ]
    assert not greedy_beside(rows[1:], 16)


def test_greedy_is_no_rival_of_the_other_goals():
    rows = [sideways(), row("alone", "backprop", "whole", 150.0)]
    assert verdicts([*rows, greedy("vectorised", 1.0), greedy("pipelined", 1.0)], [16], 2, 64) == verdicts(
        rows, [16], 2, 64
    )


def test_a_row_without_times_is_in_no_rate():
    untimed = row("naive", "backprop", "vectorised", 1.0) | {"wall_ms": [], "cpu_ms": []}
    assert not verdicts([sideways(), untimed], [16], 2, 64)


def test_nan_meets_nothing():
    assert not Verdict(1, "rate", "a", "b", float("nan"), 1.8, at_least=True).met
    assert not Verdict(3, "CPU", "a", "b", float("nan"), 1.1, at_least=False).met


def test_one_miss_is_a_goal_missed():
    hit = Verdict(1, "rate", "a", "b", 2.0, 1.8, at_least=True)
    miss = Verdict(1, "rate", "a", "c", 1.0, 1.8, at_least=True)
    assert summary([hit, miss, Verdict(4, "saved bytes", "a", "b", 0.1, 0.2, at_least=False)]) == [
        "goal 1: missed, 1 of 2 comparisons",
        "goal 4: met, 1 of 1 comparisons",
    ]
    assert miss.cells[3:6] == ["1", ">= 1.8", "missed"]


def test_copies_train_their_frames_each():
    alone = row("alone", "backprop", "accumulated", 100.0, cpu=100.0)
    pair = copies("pair", "backprop", "accumulated", 125.0, cpu=240.0)
    assert (rate_ratio(pair, alone), rate_ratio(alone, pair)) == (1.6, 0.625)
    assert (cpu_ratio(pair, alone), cpu_ratio(alone, pair)) == (1.2, pytest.approx(1 / 1.2))
    assert ceiling([alone, pair]) == [
        "the machine's ceiling: 2 copies of [alone] that send nothing have 1.60 times the rate of one, "
        "at 1.20 times its CPU time"
    ]
    assert not ceiling([alone])


def test_the_ceiling_stands_beside_the_verdicts_and_changes_none():
    own, alone = sideways(cpu=150.0), row("alone", "backprop", "accumulated", 150.0, cpu=125.0)
    pair = copies("pair", "sideways", "pipelined", 180.0, cpu=240.0)
    other = copies("other clips", "sideways", "pipelined", 1.0, frames=64)
    other_update = copies("other updates", "sideways", "pipelined", 1.0, update="frame")
    plain = copies("plain", "backprop", "accumulated", 1.0)
    rows = [other_update, other, plain, own, alone, pair]
    rate, cpu = only(goal_1(rows, 16)), only(goal_3(rows, 16, 64))
    assert (rate.base, rate.figure, rate.met) == ("alone", 1.5, False)
    assert (cpu.base, cpu.figure, cpu.met) == ("alone", 1.2, False)
    assert (rate.of_ceiling, cpu.of_ceiling) == (0.9, 1.25)
    assert [verdict.cells[-1] for verdict in (rate, cpu)] == ["0.9", "1.25"]
    assert summary([rate, cpu]) == [
        "goal 1: missed, 0 of 1 comparisons; rate 0.90 to 0.90 of the ceiling's",
        "goal 3: missed, 0 of 1 comparisons; CPU 1.25 to 1.25 of the ceiling's",
    ]
    assert [v.cells[:-1] for v in verdicts(rows, [16], 2, 64)] == [
        v.cells[:-1] for v in verdicts([own, alone], [16], 2, 64)
    ]


def test_copies_are_no_rivals_of_goals_2_and_4():
    rows = [sideways(), copies("pair", "backprop", "accumulated", 1.0), copies("ours", "sideways", "pipelined", 1.0)]
    assert not [*goal_2(rows, 16), *goal_4(rows, [16], 4)]


def test_own_loss_line():
    assert own_loss({1: 3, 2: 2}, {1: 3, 2: 2}).endswith("unit 1 of 2: tick 3, as the schedule says")
    assert "NOT as the schedule says" in own_loss({1: 3, 2: 2}, {1: 4, 2: 2})
    assert "NOT as the schedule says" in own_loss({1: 3, 2: 2}, {})
