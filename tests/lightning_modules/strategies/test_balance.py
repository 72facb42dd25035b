"""The cut into stages is the best there is, options are checked, and the printed table says what it should."""

import itertools
import random
import time

import pytest
import torch

from lightning_modules.networks import build_network
from lightning_modules.rules import make_rule
from lightning_modules.strategies.balance import balanced, given_sizes, report, stage_times, unit_times

pytestmark = pytest.mark.timeout(60)
CPU = torch.device("cpu")


def all_cuts(units: int, stages: int) -> list[list[int]]:
    """Every way to cut a row of units, found by trying every set of places."""
    places = itertools.combinations(range(1, units), stages - 1)
    return [[b - a for a, b in itertools.pairwise((0, *ends, units))] for ends in places]


@pytest.mark.parametrize("units", [1, 2, 5, 8])
def test_no_cut_is_better(units: int) -> None:
    generator = random.Random(units)
    for stages in range(1, units + 1):
        for _ in range(10):
            times = [generator.lognormvariate(0, 1) for _ in range(units)]
            sizes = balanced(times, stages)
            assert len(sizes) == stages
            best = min(max(stage_times(times, cut)) for cut in all_cuts(units, stages))
            assert max(stage_times(times, sizes)) == pytest.approx(best, rel=1e-12)


def test_of_cuts_with_the_same_period_the_most_even_one_is_taken() -> None:
    """Whole numbers, so that many cuts tie; unit 1 sets the period whatever the others do."""
    generator = random.Random(0)
    for _ in range(50):
        times = [float(generator.randint(1, 3)) for _ in range(7)]
        tied = [c for c in all_cuts(7, 3) if max(stage_times(times, c)) == max(stage_times(times, balanced(times, 3)))]
        squares = {tuple(c): sum(t**2 for t in stage_times(times, c)) for c in tied}
        assert squares[tuple(balanced(times, 3))] == min(squares.values())
    assert balanced([9.0, 1, 1, 1, 1], 3) == [1, 2, 2]
    assert balanced([1.0] * 5, 2) == [2, 3]
    assert balanced([0.1] * 6, 3) == [2, 2, 2]


def test_more_stages_than_units_are_refused() -> None:
    with pytest.raises(ValueError, match=r"5 stages for a network of 3 units.*--trainer\.devices 3 or fewer"):
        balanced([1.0, 2.0, 3.0], 5)
    with pytest.raises(ValueError, match="0 stages"):
        balanced([1.0], 0)


def test_a_report_names_stages_shares_and_period() -> None:
    text = report([2.0, 1.0, 3.0, 0.5], [2, 2])
    assert text.splitlines() == [
        "stage  units         ms  share of the period",
        "    0  1-2         3.00    86 %",
        "    1  3-4         3.50   100 %",
        "period 3.50 ms a frame, mean of the stages 3.25 ms",
    ]


def test_a_unit_that_sets_the_period_alone_is_named() -> None:
    last = report([1.0, 1.0, 4.0], [1, 1, 1]).splitlines()[-1]
    assert last == (
        "hint: unit 3 alone sets the period, 2.0 x the mean stage; narrow it, or split it into two units, "
        "or use fewer stages: 2 of them are as fast"
    )
    assert report([1.0, 1.0, 4.0], [2, 1]).splitlines()[-1].endswith("or split it into two units")
    assert "hint" not in report([1.0, 1.2], [1, 1])
    assert "hint" not in report([1.0, 2.0, 2.0], [1, 2])  # two units make the slowest stage: a better cut may not exist


@pytest.mark.parametrize("given", ["2,1,2", "[2, 1, 2]", [2, 1, 2], (2, 1, 2)], ids=repr)
def test_sizes_can_be_given(given: object) -> None:
    assert given_sizes(given, 3, 5) == [2, 1, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["auto", " Auto "])
def test_auto_means_measured(given: str) -> None:
    assert given_sizes(given, 3, 5) is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("atuo", r"balance 'atuo' is no list of numbers; expected 'auto'"),
        ([2, None], r"no list of numbers"),
        ([3, 2], r"balance \[3, 2\] is for 2 stages, but there are 3; give 3 numbers that add up to 5, such as 1,2,2"),
        ("2,2,2", r"balance \[2, 2, 2\] places 6 units, the network has 5"),
        ([5, 0, 0], r"at least 1 a stage"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(given: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        given_sizes(given, 3, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("stash", ["none", "exact"])
@pytest.mark.parametrize("edges", ["all", "newest"])
def test_every_unit_is_timed_and_nothing_is_changed(edges: str, stash: str) -> None:
    network = build_network("small_cnn", wiring="concat", depth=4, num_classes=3, gradient_edges=edges)  # type: ignore[arg-type]
    for p in network.unit_parameters(2).values():
        p.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    random_state, start = torch.get_rng_state(), time.process_time()
    times = unit_times(network, (3, 32, 32), 2, CPU, make_rule("sideways", stash=stash))  # type: ignore[arg-type]
    assert time.process_time() - start < 8  # the budget is 1.5 s, and the first call imports; the machine may be busy
    assert len(times) == 4
    assert all(t > 0 for t in times)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in network.named_parameters())


def test_a_network_frozen_below_its_last_unit_is_timed_without_products() -> None:
    network = build_network("small_cnn", depth=2, num_classes=3)
    for p in network.unit_parameters(1).values():
        p.requires_grad_(False)
    assert len(unit_times(network, (3, 16, 16), 1, CPU, make_rule("sideways"))) == 2


def test_a_unit_with_more_work_takes_longer() -> None:
    """The first unit of 64 channels works on 32 x 32 pixels, the head on 64 numbers: hundreds of times the work."""
    network = build_network("small_cnn", depth=3, width=4.0, num_classes=3)
    times = unit_times(network, (3, 64, 64), 4, CPU, make_rule("sideways"))
    assert times[0] > times[2]
    assert times[1] > times[2]
