"""Stages as threads of one process, with queues between them: what the placement says, without any transport."""

import copy
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightning_modules.execution.placement import Channel, Placement
from lightning_modules.execution.stage import Route, Stage
from lightning_modules.networks import UnitNetwork


class Queues:
    """One stage's ends of queues that all stages share. Checks that exactly the messages of the routes are sent."""

    def __init__(self, shared: Mapping[Channel, "queue.Queue[tuple[int, Tensor]]"], index: int) -> None:
        self.shared, self.index = shared, index
        self.sent: dict[Channel, list[int]] = {}
        self.received: dict[Channel, list[int]] = {}
        self.routes: dict[Channel, Route] = {}
        self.in_use: dict[Channel, Tensor] = {}
        self.bytes: dict[int, int] = {}  # of all that was sent, by unit

    def open(self, routes: Mapping[Channel, Route]) -> None:
        self.check()
        self.routes = dict(routes)
        self.sent = {c: [] for c in routes if c.sender == self.index}
        self.received = {c: [] for c in routes if c.receiver == self.index}

    def check(self) -> None:
        """Every message of the routes has been sent and received, in order."""
        for done in (self.sent, self.received):
            assert {c: tuple(ticks) for c, ticks in done.items()} == {c: self.routes[c].ticks for c in done}

    def send(self, channel: Channel, tick: int, message: Tensor) -> None:
        assert message.shape == self.routes[channel].shape, (channel, message.shape, self.routes[channel])
        assert message.dtype == self.routes[channel].dtype
        self.sent[channel].append(tick)
        self.bytes[channel.unit] = self.bytes.get(channel.unit, 0) + message.nbytes
        self.shared[channel].put((tick, message.clone()))

    def receive(self, channel: Channel, tick: int) -> Tensor:
        """The channel's message before this one is spoiled, as a transport's buffer would be written anew."""
        if channel in self.in_use:
            spoiled = self.in_use[channel]
            spoiled.fill_(float("nan") if spoiled.is_floating_point() else 255)
        self.received[channel].append(tick)
        sent_for, message = self.shared[channel].get(timeout=20)
        assert sent_for == tick
        self.in_use[channel] = message
        return message


def in_stages(
    network: UnitNetwork, placement: Placement, work: Callable[[UnitNetwork, Stage], Any]
) -> list[tuple[UnitNetwork, Any]]:
    """Run `work(network, stage)` for every stage at once; return each stage's copy of the network and result."""
    codebooks = [replace(c, kind="codebook") for c in placement.channels if c.kind == "activation"]
    shared: dict[Channel, Any] = {c: queue.Queue() for c in (*placement.channels, *codebooks)}
    stages = [Stage(placement, s, Queues(shared, s)) for s in range(len(placement.stages))]
    copies = [copy.deepcopy(network) for _ in stages]
    results: list[Any] = [None] * len(stages)
    errors: list[BaseException] = []

    def run(s: int) -> None:
        try:
            results[s] = work(copies[s], stages[s])
            stages[s].exchange.check()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(s,), daemon=True) for s in range(len(stages))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    assert not any(t.is_alive() for t in threads), "a stage waits for a message that nobody sends"
    return list(zip(copies, results, strict=True))


def own_state(copies: Sequence[UnitNetwork], placement: Placement) -> dict[str, Tensor]:
    """The whole network's weights, each unit's from the stage in which it works."""
    return {
        name: p.detach()
        for copied, units in zip(copies, placement.stages, strict=True)
        for unit in units
        for name, p in copied.unit_parameters(unit).items()
    }
