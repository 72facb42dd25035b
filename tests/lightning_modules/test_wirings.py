"""Wirings: what reads what, how far back in time, which edges carry gradients, and errors that teach."""

import pytest

from lightning_modules.execution.schedule import first_gradient_tick, lag, shortest_clip
from lightning_modules.networks.wiring import PREDICTOR_WIRINGS, WIRINGS, Wiring, make_wiring

SKIPS = ("residual", "concat", "dense")


def test_sources_of_the_drawn_table():
    drawn = {
        "chain": ((0,), (1,), (2,), (3,)),
        "residual": ((0,), (1,), (2, 1), (3, 2)),
        "concat": ((0,), (1,), (2, 1), (3, 2)),
        "dense": ((0,), (1,), (2, 1), (3, 2, 1)),
        "input": ((0,), (1, 0), (2, 0), (3, 0)),
    }
    assert {name: make_wiring(name, 4).sources for name in WIRINGS} == drawn
    assert {name for name in WIRINGS if make_wiring(name, 4).merge == "sum"} == {"residual"}
    assert {name for name in WIRINGS if not make_wiring(name, 4).has_skips} == {"chain"}


def test_reach_limits_the_span():
    assert make_wiring("dense", 6, reach=2).sources == make_wiring("concat", 6).sources
    assert make_wiring("dense", 6, reach=1).sources == make_wiring("chain", 6).sources
    assert make_wiring("dense", 6, reach=3).sources_of(6) == (5, 4, 3)


@pytest.mark.parametrize("depth", range(1, 8))
def test_path_lengths(depth):
    lengths = {name: make_wiring(name, depth).path_lengths(depth) for name in WIRINGS}
    assert lengths["chain"] == {depth}
    shortest = depth if depth < 3 else 2 + (depth - 1) // 2 if depth % 2 == 0 else 1 + (depth - 1) // 2
    assert lengths["residual"] == lengths["concat"] == set(range(shortest, depth + 1))
    assert lengths["dense"] == set(range(min(2, depth), depth + 1))
    assert lengths["input"] == set(range(1, depth + 1))


def test_path_lengths_of_a_deep_network_are_found_at_once():
    """Its paths are more than can be counted one by one."""
    assert make_wiring("dense", 50).path_lengths(50) == set(range(2, 51))


@pytest.mark.parametrize("name", WIRINGS)
@pytest.mark.parametrize("depth", range(1, 8))
def test_gradient_paths_with_all_edges(name, depth):
    wiring = make_wiring(name, depth)
    for unit in range(1, depth + 1):
        paths = wiring.gradient_paths(unit)
        assert max(paths) == depth - unit
        assert lag(wiring, unit) == 2 * (depth - unit)
        assert first_gradient_tick(wiring, unit) == 2 * depth - unit
    assert wiring.gradient_paths(depth) == {0}
    assert shortest_clip(wiring) == 2 * depth - 1


@pytest.mark.parametrize("name", SKIPS)
@pytest.mark.parametrize("depth", range(4, 8))
def test_newest_edges(name, depth):
    """Only each unit's lowest source, whose message is newest, gets a gradient; the last unit sends to all it reads."""
    wiring, everything = make_wiring(name, depth, gradients="newest"), make_wiring(name, depth)
    for source, unit in wiring.edges():
        newest = source == min(wiring.sources_of(unit))
        assert wiring.carries_gradient(source, unit) == (source != 0 and (unit == depth or newest))
        assert everything.carries_gradient(source, unit) == (source != 0)
    for unit in range(1, depth + 1):
        assert wiring.gradient_paths(unit)
        assert wiring.gradient_paths(unit) <= everything.gradient_paths(unit)
    assert lag(wiring, 1) < lag(everything, 1)


def test_newest_edges_by_hand():
    # concat, 5 units: 5 sends to 4 and 3; 4 sends to 2 only; 3 sends to 1 only; 2 reads only 1 and sends to it.
    wiring = make_wiring("concat", 5, gradients="newest")
    assert [wiring.gradient_paths(unit) for unit in range(1, 6)] == [{2, 3}, {2}, {1}, {1}, {0}]
    assert [lag(wiring, unit) for unit in range(1, 6)] == [6, 4, 2, 2, 0]


@pytest.mark.parametrize("name", PREDICTOR_WIRINGS)
@pytest.mark.parametrize("depth", range(4, 8))
def test_shortest_edges_give_each_unit_one_path_of_the_fewest_hops(name, depth):
    wiring, everything = make_wiring(name, depth, gradients="shortest"), make_wiring(name, depth)
    for unit in range(1, depth + 1):
        assert wiring.gradient_paths(unit) == {min(everything.gradient_paths(unit))}


def test_shortest_edges_by_hand():
    unet = make_wiring("unet", 6, gradients="shortest")
    assert [(j, i) for j, i in unet.edges() if unet.carries_gradient(j, i)] == [(3, 4), (4, 5), (2, 5), (5, 6), (1, 6)]
    assert [lag(unet, unit) for unit in range(1, 7)] == [2, 4, 6, 4, 2, 0]
    assert shortest_clip(unet) == 6 + 3
    # concat, 5 units: 5 reads 4 and 3, 4 reads 3 and 2, 3 reads 2 and 1: unit 2 has two hops by 4, unit 1 three by 3.
    concat = make_wiring("concat", 5, gradients="shortest")
    assert [(j, i) for j, i in concat.edges() if concat.carries_gradient(j, i)] == [(1, 3), (2, 4), (4, 5), (3, 5)]


def test_newest_edges_of_a_chain_are_all_edges():
    newest, everything = make_wiring("chain", 5, gradients="newest"), make_wiring("chain", 5)
    for unit in range(1, 6):
        assert newest.gradient_paths(unit) == everything.gradient_paths(unit)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_wiring("resdual", 4), "did you mean 'residual'"),
        (lambda: make_wiring("zzz", 4), "expected one of chain, residual, concat, dense, input"),
        (lambda: make_wiring("chain", 0), "at least 1 unit"),
        (lambda: make_wiring("concat", 4, reach=2), "belongs to wiring 'dense' only"),
        (lambda: make_wiring("dense", 4, reach=0), "reach is a span >= 1"),
        (
            lambda: make_wiring("input", 4, gradients="newest"),
            r"no gradient to units \[1, 2\]; use gradient edges 'all'",
        ),
        (lambda: make_wiring("chain", 4, gradients="some"), "expected one of all, newest, shortest"),
        (lambda: Wiring("mine", ((0,), (0, 1))), "its chain neighbour 1 must come first"),
        (lambda: Wiring("mine", ((0,), ())), "its chain neighbour 1 must come first"),
        (lambda: Wiring("mine", ((0,), (1, 1))), "expected distinct units"),
        (lambda: Wiring("mine", ((0,), (1, 2))), "expected distinct units from 0 to 1"),
    ],
)
def test_errors_that_teach(call, message):
    with pytest.raises(ValueError, match=message):
        call()
