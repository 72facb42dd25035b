"""Contestants of the depth-parallel benchmark: they train the same network, and the harness times and ends them."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from lightning_modules.metrics.equal_units import equal_units
from lightning_modules.metrics.own_loss import measured_ticks, scheduled_ticks
from lightning_modules.metrics.processes import in_processes
from lightning_modules.metrics.side_by_side import Span, round_times, timed_rounds
from lightning_modules.metrics.stage_bench import Found, _result, tick_ms
from lightning_modules.metrics.stage_cost import (
    Contestant,
    Setting,
    copies_of,
    our_contestants,
    our_part,
    passes_done,
    plain_part,
)
from lightning_modules.metrics.stage_peers import UnitRun, cannot_run, chunks_of, crossing, peer_part, runs
from lightning_modules.networks.wiring import WIRINGS, make_wiring
from tests.forked import forked, preload

preload(__name__)
TINY = Setting(depth=4, blocks=1, channels=4, size=4, batch=2, round_frames=8)


# What is trained


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("depth", [2, 4])
def test_frame_1s_own_loss_arrives_when_the_schedule_says(wiring, depth):
    network = equal_units(depth, channels=4, blocks=1, wiring=wiring)
    video = torch.rand(2, 2 * depth, 3, 4, 4)
    assert measured_ticks(network, video) == scheduled_ticks(network.wiring)
    assert scheduled_ticks(network.wiring)[1] == 2 * depth - 1


def test_a_later_frames_own_loss_arrives_later():
    network, video = equal_units(3, channels=4, blocks=1), torch.rand(2, 9, 3, 4, 4)
    assert measured_ticks(network, video, frame=3) == {
        unit: tick + 2 for unit, tick in scheduled_ticks(network.wiring).items()
    }


def test_a_clip_too_short_for_its_own_loss():
    with pytest.raises(ValueError, match="in a clip of at least 5"):
        measured_ticks(equal_units(3, channels=4, blocks=1), torch.rand(2, 4, 3, 4, 4))


@pytest.mark.parametrize("chunks", [1, 2, 4])
@pytest.mark.parametrize("wiring", ["chain", "residual", "concat", "dense"])
def test_runs_of_units_compute_the_network(wiring, chunks):
    network = equal_units(4, channels=4, blocks=1, wiring=wiring)
    frames = torch.rand(2, 3, 4, 4)
    messages = (frames,)
    for units in runs(4, chunks):
        found = UnitRun(network, units)(*messages)
        messages = found if isinstance(found, tuple) else (found,)
    torch.testing.assert_close(messages[0], network(frames))


def test_what_crosses_a_cut():
    assert crossing(make_wiring("chain", 4), 3) == (2,)
    assert crossing(make_wiring("residual", 4), 3) == (1, 2)
    assert crossing(make_wiring("residual", 4), 5) == (4,)


def test_where_chunks_go():
    assert [chunks_of("1F1B", rank, 2) for rank in (0, 1)] == [(0,), (1,)]
    assert [chunks_of("Interleaved1F1B", rank, 2) for rank in (0, 1)] == [(0, 2), (1, 3)]
    assert [chunks_of("ZBVZeroBubble", rank, 2) for rank in (0, 1)] == [(0, 3), (1, 2)]


def test_peers_that_cannot_run():
    frame_skips = Setting(depth=4, wiring="input")
    assert (
        cannot_run(frame_skips, Contestant("backprop", "GPipe", "stages", 8)) == "stages above the first read the frame"
    )
    assert cannot_run(TINY, Contestant("backprop", "1F1B", "stages", 1)) == "needs at least 2 micro-batches"
    assert cannot_run(TINY, Contestant("backprop", "GPipe", "stages", 2)) is None


@pytest.mark.parametrize("executor", ["whole", "accumulated"])
def test_plain_backprop_takes_the_gradient_of_all_frames_of_the_update(executor):
    network, frames = TINY.make_network(), TINY.make_frames()
    part = plain_part(TINY, Contestant("backprop", executor, "one process", 4), network, frames)
    assert part.steps == 2
    part.step(1)
    labels = (torch.arange(2) % 10).repeat(4)
    loss = F.cross_entropy(network(frames[4:8].flatten(0, 1)), labels)
    expected = torch.autograd.grad(loss, list(network.parameters()))
    for p, gradient in zip(part.module.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_our_part_changes_the_weights_and_tells_each_tick():
    network, frames = TINY.make_network(), TINY.make_frames()
    contestant = Contestant("sideways", "pipelined", "one process", 8, update="frame")
    part = our_part(TINY, contestant, network, frames, 0, None)
    before = {name: p.clone() for name, p in part.module.named_parameters()}
    part.round()
    assert all(not torch.equal(p, before[name]) for name, p in part.module.named_parameters() if p.dim() > 1)
    assert len(tick_ms(part.tick_starts_s)) == 7


def test_a_greedy_part_trains_one_module_a_stage_and_goes_through_its_laps():
    network, frames = TINY.make_network(), TINY.make_frames()
    part = our_part(TINY, Contestant("greedy", "vectorised", "one process", 4, laps=3), network, frames, 0, None)
    assert part.steps == 3 * 2
    assert not network.is_local
    assert part.module.wiring == TINY.make_wiring("greedy")
    assert part.module.wiring.modules == (2, 2)
    before = {name: p.clone() for name, p in part.module.named_parameters()}
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())
    part.round()
    changed = {name for name, p in part.module.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[1] for name in changed} == {"0", "1", "2", "3"}
    assert any(name.startswith("units.1.head.") for name in changed)


def test_all_processes_make_the_same_heads_and_draw_nothing():
    network, state = TINY.make_network(), torch.get_rng_state()
    first, second = (TINY.network_of(network, "greedy") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_greedys_heads_cost():
    below, above = Setting(depth=4, blocks=8, channels=32, size=16).greedy_costs()
    assert list(below.units) == [1, 2]
    assert 0 < below.mac_share < 0.01
    assert above.head_parameters == 0


def test_a_laps_time():
    contestant = Contestant("greedy", "vectorised", "stages", 4, laps=4)
    spans = {contestant.name: [Span(0.0, 2.0, 0.5)]}
    result = _result(
        contestant, [Found(spans, {}, {}, {}), Found({contestant.name: [Span(1.0, 4.0, 0.25)]}, {}, {}, {})]
    )
    assert (result.times.wall_ms, result.times.cpu_ms, result.busiest_ms) == ([1000.0], [187.5], [125.0])


def test_copies_are_of_what_is_timed():
    found = copies_of(our_contestants([8, 16], ["shared_memory", "process_group"]))
    assert {(c.executor, c.update, c.frames, c.laps) for c in found if c.rule == "greedy"} == {
        ("vectorised", "clip", 8, 1),
        ("pipelined", "clip", 8, 1),
        ("pipelined", "frame", 8, 1),
    }
    assert all(c.timed for c in found)


def test_share_of_passes():
    chain = make_wiring("chain", 2)
    assert passes_done(Contestant("backprop", "GPipe", "stages", 8), chain) == 1
    # A module for each unit, which work on 8 and 7 ticks; two units in one module leave none out.
    for modules, share in (((1, 1), 15 / 16), ((2,), 1)):
        cut = replace(chain, modules=modules, gradients="local")
        assert passes_done(Contestant("greedy", "vectorised", "stages", 8), cut) == pytest.approx(share)
    # Forwards of 8 and 7 ticks, gradients of 6 and 7, which count twice; an exact method has 8 of each.
    assert passes_done(Contestant("sideways", "pipelined", "stages", 8), chain) == pytest.approx((15 + 2 * 13) / 48)
    assert passes_done(Contestant("sideways", "pipelined", "stages", 4000), chain) == pytest.approx(1, abs=1e-3)


def test_ticks_are_not_counted_across_clips():
    nan = float("nan")
    assert tick_ms([nan, 1.0, 1.5, nan, 7.0, 7.25]) == [500.0, 250.0]


# In processes


PEERS = ("GPipe", "1F1B", "Interleaved1F1B", "ZBVZeroBubble", "DualPipeV")


def _peer_gradients(process, setting):
    network, frames = setting.make_network(), setting.make_frames()
    found = {}
    for executor in PEERS:
        part = peer_part(setting, Contestant("backprop", executor, "stages", 4), network, frames, process.rank)
        part.step(0)
        for run in part.module:
            for number, unit in zip(run.numbers, run.units, strict=True):
                for name, p in unit.named_parameters():
                    found[executor, f"units.{number - 1}.{name}"] = p.grad.numpy()
    return found


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_peers_find_exact_gradients():
    """They do what one-process backprop does, skips across the cuts included: else their times would mean nothing."""
    setting = Setting(depth=4, blocks=1, channels=4, size=4, batch=2, wiring="residual", round_frames=8)
    below, above = in_processes(_peer_gradients, 2, setting)
    network, frames = setting.make_network(), setting.make_frames()
    loss = F.cross_entropy(network(frames[:4].flatten(0, 1)), (torch.arange(2) % 10).repeat(4))
    loss.backward()
    expected = {(peer, name): p.grad for peer in PEERS for name, p in network.named_parameters()}
    assert not below.keys() & above.keys()
    assert (below | above).keys() == expected.keys()
    for key, gradient in (below | above).items():
        torch.testing.assert_close(torch.from_numpy(gradient), expected[key], rtol=1e-4, atol=1e-6)


def _rounds(process):
    calls = []

    def part(name):
        def run():
            calls.append(name)
            time.sleep(0.05 * (process.rank + 1) if name == "b" else 0)

        return run

    spans = timed_rounds(
        {name: part(name) for name in "abc"}, 2, warm_up=1, after_round=lambda: process.tell(len(calls))
    )
    return "".join(calls), spans, os.environ["OMP_NUM_THREADS"], torch.get_num_threads(), dist.get_backend()


def test_rounds_are_interleaved_and_the_slowest_process_counts():
    told = []
    found = in_processes(_rounds, 2, told=told.append)
    assert [calls for calls, *_ in found] == ["abcbcacab"] * 2
    assert [tuple(rest) for _, _, *rest in found] == [("1", 1, "gloo")] * 2
    assert sorted(told) == [3, 3, 6, 6, 9, 9]
    times = round_times([spans["b"] for _, spans, *_ in found])
    assert len(times.wall_ms) == 2
    assert all(100 <= wall < 1000 for wall in times.wall_ms)
    assert not multiprocessing.active_children()


def test_times_of_a_round():
    times = round_times([[Span(1.0, 1.5, 0.25)], [Span(1.125, 2.0, 0.5)]])
    assert (times.wall_ms, times.cpu_ms) == ([1000.0], [750.0])


def _fail(process):
    if process.rank == 1:
        raise ValueError("unit 7 is missing")
    dist.barrier()


def _die(process):
    if process.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def _hang(process):
    time.sleep(60)


@pytest.fixture
def start_at_once(monkeypatch):
    """Processes need not be fresh to fail."""
    monkeypatch.setattr("lightning_modules.metrics.processes.mp", SimpleNamespace(get_context=lambda _: forked()))


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("start_at_once")
@pytest.mark.parametrize(
    ("work", "message"),
    [(_fail, "process 1 of 2 failed:\n.*unit 7 is missing"), (_die, "process 1 of 2 ended without a word")],
)
def test_a_process_that_fails_ends_all(work, message):
    with pytest.raises(RuntimeError, match=f"(?s){message}|process 0 of 2 failed:.*(closed|reset)"):
        in_processes(work, 2)
    assert not multiprocessing.active_children()


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("start_at_once")
def test_silent_processes_are_ended():
    with pytest.raises(RuntimeError, match=r"\[0, 1\] of 2 said nothing for 2 s"):
        in_processes(_hang, 2, timeout_s=2)
    assert not multiprocessing.active_children()
