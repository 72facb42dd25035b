"""Shared memory between real processes: one process's numbers, no deadlock, nothing left behind."""

import signal
import time
from pathlib import Path

import pytest
import torch

from lightning_modules.execution.placement import Channel
from lightning_modules.execution.stage import Route, StageError
from lightning_modules.strategies.shared_memory import SLOTS, SharedMemoryExchange
from tests.lightning_modules.strategies.parity import check_gradients
from tests.lightning_modules.strategies.processes import mark, running

UP, DOWN = Channel("activation", 1, 0, 1), Channel("gradient", 1, 1, 0)


def alive() -> None:
    """No watchdog."""


def make(store, index, stages) -> SharedMemoryExchange:
    return SharedMemoryExchange(store, index, alive)


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("stages", [2, 4])
def test_gradients_of_several_clips_equal_one_processes(stages, tmp_path) -> None:
    check_gradients(tmp_path, stages, make)


def crossed_stage(index, store, ticks) -> None:
    """Every stage sends for the next tick before it takes this one's, the channels in opposite orders."""
    channels = [Channel("activation", unit, 0, 1) for unit in (1, 2)]
    channels += [Channel("gradient", unit, 1, 0) for unit in (1, 2)]
    exchange = SharedMemoryExchange(store, index, alive)
    for _ in range(3):
        exchange.open({c: Route(tuple(range(2, ticks + 1)), torch.Size((8,)), torch.float32) for c in channels})
        for tick in range(1, ticks + 1):
            ours = [c for c in channels if c.sender == index]
            theirs = [c for c in channels if c.receiver == index][::-1]
            for send, receive in zip(ours, theirs, strict=True):
                if tick < ticks:
                    exchange.send(send, tick + 1, torch.full((8,), float(100 * send.unit + tick + 1)))
                if tick > 1:
                    assert exchange.receive(receive, tick).eq(100 * receive.unit + tick).all()
    exchange.close()


@pytest.mark.timeout(60)
def test_crossed_channels_do_not_deadlock(tmp_path) -> None:
    """With two slots this hangs: each stage waits to send what the other would take after a send of its own."""
    with running(tmp_path, 2, crossed_stage, 40) as group:
        group.results(40)


def run_ahead(index, store, folder) -> float:
    exchange = SharedMemoryExchange(store, index, alive)
    exchange.open({UP: Route(tuple(range(1, 9)), torch.Size((4,)), torch.float32)})
    if index == 1:
        time.sleep(1.0)
        held = exchange.receive(UP, 1)
        time.sleep(1.0)
        assert held.eq(1).all()
        assert [exchange.receive(UP, tick)[0].item() for tick in range(2, 9)] == list(range(2, 9))
        return 0.0
    start = time.monotonic()
    for tick in range(1, 9):
        exchange.send(UP, tick, torch.full((4,), float(tick)))
        if tick == SLOTS:
            assert time.monotonic() - start < 0.5
    return time.monotonic() - start


@pytest.mark.timeout(60)
def test_a_sender_runs_ahead_by_the_slots_and_never_writes_over_a_message_in_use(tmp_path) -> None:
    with running(tmp_path, 2, run_ahead, tmp_path) as group:
        assert group.results(40)[0] > 1.5


def wait_for_a_dead_stage(index, store, folder) -> str:
    exchange = SharedMemoryExchange(store, index, alive)
    routes = {c: Route(tuple(range(1, 9)), torch.Size((1 << 20,)), torch.float32) for c in (UP, DOWN)}
    exchange.open(routes)
    message = torch.zeros(1 << 20)
    mine, other = (UP, DOWN) if index == 0 else (DOWN, UP)
    exchange.send(mine, 1, message)
    exchange.receive(other, 1)
    mark(folder, f"waiting{index}")
    if index == 1:
        time.sleep(60)
    with pytest.raises(StageError) as caught:
        exchange.receive(other, 2)
    assert "memfd:skip-sideways" in Path("/proc/self/maps").read_text()
    with pytest.raises(StageError):
        exchange.send(mine, 2, message)
    exchange.close()
    return str(caught.value)


@pytest.mark.timeout(60)
def test_a_killed_stage_is_noticed_at_once_and_leaves_nothing(tmp_path) -> None:
    with running(tmp_path, 2, wait_for_a_dead_stage, tmp_path) as group:
        group.wait_for("waiting0")
        group.wait_for("waiting1")
        killed = time.monotonic()
        group.send_signal(1, signal.SIGKILL)
        outcome = group.join(20)[0]
        assert time.monotonic() - killed < 5
    assert "stage 1 closed its end of the gradient of unit 1" in outcome.result, outcome


def dead() -> None:
    raise StageError("stage 1 (rank 1, units 3-4) died")


def ask_the_watchdog(index, store) -> None:
    exchange = SharedMemoryExchange(store, index, dead)
    exchange.open({DOWN: Route((1,), torch.Size((4,)), torch.float32)})
    start = time.monotonic()
    with pytest.raises(StageError, match=r"stage 1 \(rank 1, units 3-4\) died"):
        exchange.receive(DOWN, 1)
    assert time.monotonic() - start < 1


@pytest.mark.timeout(60)
def test_a_wait_asks_the_watchdog(tmp_path) -> None:
    with running(tmp_path, 1, ask_the_watchdog) as group:
        group.results(40)


def out_of_turn(index, store) -> None:
    exchange = SharedMemoryExchange(store, 0, alive)
    try:
        store.set("shared_memory/1/address/1", exchange._store.get("shared_memory/1/address/0"))
        exchange.open({UP: Route((2, 3), torch.Size((4,)), torch.float32)})
        with pytest.raises(AssertionError, match=r"message for tick 3; by the schedule it is \(2,\)"):
            exchange.send(UP, 3, torch.zeros(4))
        with pytest.raises(AssertionError, match=r"message \(5,\) for Route"):
            exchange.send(UP, 2, torch.zeros(5))
        with pytest.raises(AssertionError, match="1 messages of Route"):
            exchange.open({UP: Route((2, 3), torch.Size((4,)), torch.float32)})
    finally:
        exchange.close()


@pytest.mark.timeout(60)
def test_messages_off_schedule_are_our_own_bugs(tmp_path) -> None:
    with running(tmp_path, 1, out_of_turn) as group:
        group.results(40)
