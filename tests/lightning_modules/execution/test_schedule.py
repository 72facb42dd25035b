"""The clock table, against brute force and against the drawing above it."""

import re

import pytest
import torch

from lightning_modules.execution import schedule
from lightning_modules.networks import WIRINGS, Wiring, make_wiring
from tests.lightning_modules.execution.reference import Reference, tiny_network


def test_the_drawn_clock_table_is_the_schedule() -> None:
    wiring = make_wiring("chain", 4)
    table = schedule.clock_table(wiring, 8)
    drawn = re.findall(r"unit (\d) (fwd|bwd)(.*)", schedule.__doc__ or "")
    assert len(drawn) == 8
    for unit, kind, rest in drawn:
        for tick in range(1, 9):
            column = 2 + 4 * (tick - 1)
            cell = rest.ljust(40)[column].strip()
            work = table[tick - 1][int(unit) - 1]
            frame = work.output_frame if kind == "fwd" else work.gradient_frame
            assert cell == ("" if frame is None else str(frame)), (unit, kind, tick)


@pytest.mark.parametrize("wiring_name", WIRINGS)
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_frames_read_are_those_that_change_the_output(wiring_name: str, depth: int) -> None:
    network = tiny_network(depth, wiring_name)
    frames = depth + 2
    video = torch.rand(1, frames, 2, 8, 8, dtype=torch.float64)
    labels = torch.zeros(1, dtype=torch.long)
    base = Reference(network, video, labels)
    for changed in range(1, frames + 1):
        other_video = video.clone()
        other_video[:, changed - 1] += 1
        other = Reference(network, other_video, labels)
        for unit in range(1, depth + 1):
            for tick in range(unit, frames + 1):
                differs = not torch.equal(base.output(unit, tick), other.output(unit, tick))
                assert differs == (changed in schedule.frames_read(network.wiring, unit, tick)), (unit, tick, changed)


@pytest.mark.parametrize("wiring_name", WIRINGS)
@pytest.mark.parametrize("depth", [2, 4, 6])
def test_receptive_field_spans_depth_minus_shortest_path_plus_one(wiring_name: str, depth: int) -> None:
    wiring = make_wiring(wiring_name, depth)
    tick = 3 * depth
    frames = schedule.frames_read(wiring, depth, tick)
    shortest = min(wiring.path_lengths(depth))
    assert max(frames) - min(frames) + 1 == depth - shortest + 1
    assert min(frames) == schedule.nominal_frame(wiring, depth, tick) == tick - depth + 1
    assert max(frames) == schedule.newest_frame(wiring, depth, tick) == tick - shortest + 1


@pytest.mark.parametrize("gradients", ["all", "newest", "shortest"])
@pytest.mark.parametrize("wiring_name", ["chain", "residual", "concat", "dense"])
def test_first_gradient_and_lag_against_a_walk_over_messages(wiring_name: str, gradients: str) -> None:
    wiring = make_wiring(wiring_name, 5, gradients=gradients)  # type: ignore[arg-type]
    # A token leaves the last unit once, at tick 0, and walks every edge that carries gradients, a tick an edge.
    arrivals: dict[int, set[int]] = {unit: set() for unit in range(1, 6)}
    arrivals[5] = {0}
    for tick in range(6):
        for source, reader in wiring.edges():
            if tick in arrivals[reader] and wiring.carries_gradient(source, reader):
                arrivals[source].add(tick + 1)
    for unit in range(1, 6):
        assert schedule.lag(wiring, unit) == 2 * max(arrivals[unit])
        assert schedule.first_gradient_tick(wiring, unit) == 5 + max(arrivals[unit])


@pytest.mark.parametrize("depth", [1, 2, 4, 7])
def test_chain_formulas(depth: int) -> None:
    wiring = make_wiring("chain", depth)
    table = schedule.clock_table(wiring, 20)
    for unit in range(1, depth + 1):
        works = [tick[unit - 1] for tick in table]
        assert schedule.lag(wiring, unit) == 2 * (depth - unit)
        assert schedule.first_gradient_tick(wiring, unit) == 2 * depth - unit
        assert sum(work.output_frame is not None for work in works) == 20 - unit + 1
        assert sum(work.gradient_frame is not None for work in works) == 20 - 2 * depth + unit + 1
    assert schedule.shortest_clip(wiring) == 2 * depth - 1


@pytest.mark.parametrize("wiring_name", WIRINGS)
def test_a_skip_of_span_s_waits_twice_s_minus_one_ticks(wiring_name: str) -> None:
    wiring = make_wiring(wiring_name, 6)
    for source, reader in wiring.edges():
        if source > 0:
            assert schedule.message_wait(wiring, reader, source) == 2 * (reader - source - 1)


def kept_orders(wiring: Wiring) -> list[bool]:
    """For every gradient path and every comparison that it starts from: is the order in time the true one?

    Unit i compares the message of p, about frame t - p, with that of k, about frame t - k. The gradient for p's message
    reaches a unit m hops down m ticks later, so it meets a frame that is 2m newer than the one it is about.
    """
    kept = []
    for compared, reader in wiring.edges():
        others = [k for k in wiring.sources_of(reader) if k != compared]
        # The last unit pools and adds up: it compares nothing.
        if reader == wiring.depth or not wiring.carries_gradient(compared, reader):
            continue
        hops, units = 1, {compared}
        while units:
            for other in others:
                true_offset = other - compared
                kept.append((true_offset > 0) == (true_offset + 2 * hops > 0) and true_offset + 2 * hops != 0)
            units = {j for j, i in wiring.edges() if i in units and wiring.carries_gradient(j, i)}
            hops += 1
    return kept


@pytest.mark.parametrize("depth", [4, 5, 6])
@pytest.mark.parametrize("wiring_name", ["residual", "concat", "dense"])
def test_newest_edges_keep_the_order_in_time_and_all_edges_do_not(wiring_name: str, depth: int) -> None:
    newest = kept_orders(make_wiring(wiring_name, depth, gradients="newest"))
    every = kept_orders(make_wiring(wiring_name, depth))
    assert newest
    assert all(newest)
    assert not all(every)


def trained_share(frames: int, depth: int) -> float:
    """Return the share of a run's (unit, tick) pairs that have a gradient, counted in the clock table."""
    pairs = [work for tick in schedule.clock_table(make_wiring("chain", depth), frames) for work in tick]
    return sum(work.gradient_frame is not None for work in pairs) / len(pairs)


def test_a_stream_trains_at_most_ticks_and_short_clips_at_few() -> None:
    """T = 16, D = 8: unit i trains at ticks 16 - i to 16, i + 1 of 16; a stream of ten such clips waits only once."""
    assert trained_share(16, 8) == 44 / 128  # 34 %
    assert trained_share(160, 8) == (8 * 144 + 44) / (8 * 160)  # 93 %
    assert trained_share(64, 8) > 0.8  # T = 8D
