"""Gloo between real processes: one process's numbers, messages that cannot be mixed up, no waits for the dead."""

import signal
import threading
import time

import pytest
import torch

from lightning_modules.execution.placement import Channel
from lightning_modules.execution.stage import Route, StageError
from lightning_modules.strategies.process_group import ProcessGroupExchange, gloo_links
from tests.lightning_modules.strategies.parity import check_gradients
from tests.lightning_modules.strategies.processes import mark, running

CPU = torch.device("cpu")
UP, DOWN = Channel("activation", 1, 0, 1), Channel("gradient", 1, 1, 0)


def alive() -> None:
    """No watchdog."""


def make(store, index, stages, check=alive) -> ProcessGroupExchange:
    # The store has keys of the group before: each gets a part of its own.
    made = store.add(f"made/{index}", 1)
    links = gloo_links(torch.distributed.PrefixStore(str(made), store), index, stages)
    return ProcessGroupExchange(index, links, CPU, check)


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("stages", [2, 4])
def test_gradients_of_several_clips_equal_one_processes(stages, tmp_path) -> None:
    check_gradients(tmp_path, stages, make)


def crossed_stage(index, store, ticks) -> None:
    """Sends for the next tick come before receives for this one, the channels in opposite orders, with gaps."""
    channels = {Channel("activation", unit, 0, 1): unit for unit in (1, 2, 3)}
    channels |= {Channel("gradient", unit, 1, 0): unit for unit in (1, 2, 3)}
    exchange = make(store, index, 2)
    for _ in range(3):
        routes = {
            c: Route(tuple(t for t in range(2, ticks + 1) if t % 5 != unit), torch.Size((8,)), torch.float32)
            for c, unit in channels.items()
        }
        exchange.open(routes)
        for tick in range(1, ticks + 1):
            # The receiver takes messages in another order than that in which they are sent.
            ours = [c for c in channels if c.sender == index][:: 1 if index else -1]
            theirs = [c for c in channels if c.receiver == index]
            for send, receive in zip(ours, theirs, strict=True):
                if tick + 1 in routes[send].ticks:
                    exchange.send(send, tick + 1, torch.full((8,), float(100 * send.unit + tick + 1)))
                if tick in routes[receive].ticks:
                    assert exchange.receive(receive, tick).eq(100 * receive.unit + tick).all()
    exchange.close()


@pytest.mark.timeout(60)
def test_crossed_channels_are_not_mixed_up_and_do_not_deadlock(tmp_path) -> None:
    with running(tmp_path, 2, crossed_stage, 40) as group:
        group.results(40)


def hold(index, store) -> float:
    """A message stays as it was until the next one is received; the sender may be that far ahead."""
    exchange = make(store, index, 2)
    exchange.open({UP: Route((1, 2, 3, 4), torch.Size((1 << 18,)), torch.float32)})
    start = time.monotonic()
    if index == 0:
        for tick in (1, 2, 3, 4):
            exchange.send(UP, tick, torch.full((1 << 18,), float(tick)))
        sent = time.monotonic() - start
        exchange.close()
        return sent
    time.sleep(1.5)
    held = exchange.receive(UP, 1)
    time.sleep(1.0)
    assert held.eq(1).all()
    for tick in (2, 3, 4):
        assert exchange.receive(UP, tick).eq(tick).all()
    exchange.close()
    return 0.0


@pytest.mark.timeout(60)
def test_a_message_is_not_overwritten_while_it_is_used(tmp_path) -> None:
    with running(tmp_path, 2, hold) as group:
        assert group.results(40)[0] > 1.2, "the fourth message left while the first was in use: in which buffer?"


def wait_for_a_dead_stage(index, store, folder) -> tuple[str, float]:
    exchange = make(store, index, 2)
    exchange.open({c: Route((1, 2), torch.Size((1 << 16,)), torch.float32) for c in (UP, DOWN)})
    mine, other = (UP, DOWN) if index == 0 else (DOWN, UP)
    exchange.send(mine, 1, torch.zeros(1 << 16))
    exchange.receive(other, 1)
    mark(folder, f"waiting{index}")
    if index == 1:
        time.sleep(60)
    with pytest.raises(StageError) as caught:
        exchange.receive(other, 2)
    exchange.close()
    return str(caught.value)


@pytest.mark.timeout(60)
def test_a_killed_stage_is_noticed_at_once(tmp_path) -> None:
    with running(tmp_path, 2, wait_for_a_dead_stage, tmp_path) as group:
        group.wait_for("waiting0")
        group.wait_for("waiting1")
        group.send_signal(1, signal.SIGKILL)
        outcome = group.join(10)[0]
    assert "stage 1 closed its end of the gradient of unit 1" in outcome.result, outcome


def interrupted(index, store, folder) -> str:
    """A stopped stage closes nothing: the wait ends when another thread says so."""
    verdict: list[str] = []

    def check() -> None:
        if verdict:
            raise StageError(verdict[0])

    exchange = make(store, index, 2, check)
    exchange.open({c: Route((1,), torch.Size((4,)), torch.float32) for c in (UP, DOWN)})
    mark(folder, f"waiting{index}")
    if index == 1:
        time.sleep(60)

    def watch() -> None:
        time.sleep(1.0)
        verdict.append("stage 1 stalled")
        exchange.interrupt()

    threading.Thread(target=watch, daemon=True).start()
    with pytest.raises(StageError) as caught:
        exchange.receive(DOWN, 1)
    exchange.close()
    return str(caught.value)


@pytest.mark.timeout(60)
def test_a_wait_can_be_interrupted(tmp_path) -> None:
    with running(tmp_path, 2, interrupted, tmp_path) as group:
        group.wait_for("waiting1")
        group.send_signal(1, signal.SIGSTOP)
        outcome = group.join(20, but=1)[0]
    assert outcome.result == "stage 1 stalled", outcome
