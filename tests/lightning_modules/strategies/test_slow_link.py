"""A link that delays every message costs no throughput while the delay hides behind half a tick's work; then it does.

Units sleep instead of computing: that is the same on a loaded machine.
"""

import time

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.execution import clip_gradients
from lightning_modules.execution.placement import cut
from lightning_modules.execution.stage import Stage
from lightning_modules.networks import UnitNetwork
from lightning_modules.strategies.shared_memory import SharedMemoryExchange
from tests.lightning_modules.execution.reference import moving_video, tiny_network
from tests.lightning_modules.strategies.processes import running

HALF_TICK_MS = 50.0
FRAMES, FILLED = 16, 5
ROUNDS = 3


class _Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        time.sleep(HALF_TICK_MS / 1000)
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        time.sleep(HALF_TICK_MS / 1000)
        return grad


class SleepingBody(nn.Module):
    """What a unit does, in a fixed time for its forward, and for its product."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return _Sleep.apply(self.body(x))


def sleeping_network() -> UnitNetwork:
    network = tiny_network(2, "chain")
    for number in (1, 2):
        network.unit(number).body = SleepingBody(network.unit(number).body)
    return network


def tick_times_ms(index, store, delays_ms) -> list[float]:
    """Mean time of a tick for each delay, once the pipeline is full: the best of interleaved rounds.

    Other programs only make ticks longer; a delay makes one tick of several longer, so medians would not show it.
    """
    network, video = sleeping_network(), moving_video(1, FRAMES)
    means: dict[float, list[float]] = {delay_ms: [] for delay_ms in delays_ms}
    for delay_ms in delays_ms * ROUNDS:
        starts: list[float] = []
        exchange = SharedMemoryExchange(store, index, lambda: None, delay_ms=delay_ms)
        stage = Stage(cut(network.wiring, (1, 1)), index, exchange, lambda _, to=starts: to.append(time.monotonic()))
        clip_gradients(network, video, torch.tensor([1]), executor="pipelined", stage=stage)
        exchange.close()
        means[delay_ms].append(1000 * (starts[-1] - starts[FILLED]) / (len(starts) - FILLED - 1))
    return [min(means[delay_ms]) for delay_ms in delays_ms]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_delay_below_half_a_tick_is_free_and_one_of_two_ticks_is_not(tmp_path) -> None:
    delays = [0.0, 0.8 * HALF_TICK_MS, 4 * HALF_TICK_MS]
    with running(tmp_path, 2, tick_times_ms, delays) as group:
        none, below_half, two = (max(pair) for pair in zip(*group.results(180), strict=True))
    assert none >= 2 * HALF_TICK_MS
    assert below_half <= 1.15 * none, (none, below_half, two)
    assert two > 1.5 * none, (none, below_half, two)
