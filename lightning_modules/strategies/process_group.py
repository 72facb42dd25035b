"""Messages between stages over torch.distributed point-to-point: gloo on CPUs, NCCL on GPUs [D].

    receiver, in tick t
    take message t          from buffer t % 2, which its receive has filled
    post receive t + 1      into the other buffer: message t - 1 is no longer used
    work on message t       while message t + 1 arrives

The routes say which messages come, so every receive that is posted is matched. Messages are matched by order alone,
since NCCL has no tags: from one stage to another they go in the order of their ticks, then of their units, whatever
the order in which either end asks for them. A message whose turn has not come waits for the others of its tick.

Sends do not wait; up to two messages of a channel are kept alive behind the one that is being sent. With the two
buffers at the other end a stage may be one tick ahead of its neighbour without waiting, as with shared memory.

Over NCCL this was never run: no machine with two GPUs was at hand. What differs there is in `nccl_links`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store

from lightning_modules.execution.placement import Channel
from lightning_modules.execution.stage import Route, StageError
from lightning_modules.strategies.shared_memory import Phase, other_end, raise_lost

KEPT = 2
_PATIENCE = timedelta(hours=1)  # the watchdog ends waits for the dead long before; others may take their time
_INTERRUPT_TAG = 1


class Link(NamedTuple):
    """One direction between two stages.

    Args:
        group: a process group that both ends are in.
        peer: rank of the other end in it.
    """

    group: Any
    peer: int


Links = Mapping[tuple[int, int], Link]


def gloo_links(store: Store, index: int, stages: int) -> Links:
    """Return the links from (sender) and to (receiver) a stage: one gloo group of all stages. Waits for all of them."""
    group = dist.ProcessGroupGloo(PrefixStore("gloo", store), index, stages, _PATIENCE)
    return {pair: Link(group, sum(pair) - index) for pair in _pairs(index, stages)}


def nccl_links(store: Store, index: int, stages: int, device: torch.device) -> Links:
    """Return the links of a stage on a GPU: one communicator for each direction. Waits for all stages. Untested.

    A communicator's work is done in order on one stream: with one for both directions two stages that send first
    would wait for one another. The first message of a communicator blocks the host until its other end comes too, so
    all of them get it here, in one order that all stages share.
    """
    links = {}
    for sender, receiver in _pairs(index, stages):
        rank = int(index == receiver)
        meeting = PrefixStore(f"nccl/{sender}/{receiver}", store)
        group: Any = dist.ProcessGroupNCCL(meeting, rank, 2, dist.ProcessGroupNCCL.Options())
        group.eager_connect_single_device(device)
        first = torch.zeros(1, device=device)
        work = group.recv([first], 0, 0) if rank else group.send([first], 1, 0)
        work.wait()
        torch.cuda.synchronize(device)
        links[sender, receiver] = Link(group, 1 - rank)
    return links


def _pairs(index: int, stages: int) -> list[tuple[int, int]]:
    """Every (sender, receiver) with this stage, in an order that all stages share."""
    return [(s, r) for s in range(stages) for r in range(stages) if s != r and index in (s, r)]


@dataclass
class _Inbox:
    """The receiving end of a channel.

    Args:
        route: of this clip.
        buffers: two.
        posted: receives of this clip so far.
        taken: messages of this clip so far.
        works: receives that were posted and not waited for.
        turn: buffer of the next receive.
    """

    route: Route
    buffers: list[Tensor] = field(default_factory=list)
    posted: int = 0
    taken: int = 0
    works: deque[tuple[Any, Tensor]] = field(default_factory=deque)
    turn: int = 0


@dataclass
class _Line:
    """The messages of one direction between two stages, in order.

    Args:
        link: its process group.
        turns: of this clip, those that were not sent, or whose receives were not posted.
        waiting: messages whose turn has not come.
    """

    link: Link
    turns: deque[tuple[int, Channel]] = field(default_factory=deque)
    waiting: dict[tuple[int, Channel], Tensor] = field(default_factory=dict)


class ProcessGroupExchange:
    """One stage's ends of all its channels, over process groups. Messages are on the links' device.

    Args:
        index: this stage.
        links: for each (sender, receiver) with this stage.
        device: of the buffers.
        check: raises StageError when another stage is known to have died or stalled.
        lost: is told the stage that can no longer be reached, and may raise a StageError that says more.
        phase: names what this stage waits for, while it does.
    """

    def __init__(
        self,
        index: int,
        links: Links,
        device: torch.device,
        check: Callable[[], None],
        *,
        lost: Callable[[int], None] = lambda stage: None,
        phase: Phase = nullcontext,
    ) -> None:
        self.index, self.device = index, device
        self._check, self._lost, self._phase = check, lost, phase
        self._lines = {pair: _Line(link) for pair, link in links.items()}
        self._inboxes: dict[Channel, _Inbox] = {}
        self._kept: dict[Channel, deque[tuple[Any, Tensor]]] = {}
        self._routes: Mapping[Channel, Route] = {}

    def open(self, routes: Mapping[Channel, Route]) -> None:
        """Prepare for a clip, and post the first receive of every channel."""
        assert all(not line.turns for line in self._lines.values()), "the clip before has messages left"
        self._routes = routes
        for channel, route in routes.items():
            if channel.receiver == self.index:
                self._open_inbox(channel, route)
        turns = sorted((tick, channel) for channel, route in routes.items() for tick in route.ticks)
        for tick, channel in turns:
            self._lines[channel.sender, channel.receiver].turns.append((tick, channel))
        for (_, receiver), line in self._lines.items():
            if receiver == self.index:
                self._post(line)

    def send(self, channel: Channel, tick: int, message: Tensor) -> None:
        """Send a message when its turn has come, after those of its tick for lower units; it is kept until then."""
        route, line = self._routes[channel], self._lines[channel.sender, channel.receiver]
        assert (tick, channel) in line.turns, f"{channel}: message for tick {tick} of {route}"
        assert message.shape == route.shape, f"{channel}: message {tuple(message.shape)} for {route}"
        line.waiting[tick, channel] = message.detach().to(self.device, route.dtype).contiguous()
        while line.turns and line.turns[0] in line.waiting:
            turn = line.turns.popleft()
            self._start(turn[1], line.link, line.waiting.pop(turn))

    def receive(self, channel: Channel, tick: int) -> Tensor:
        """Wait for the message of a tick and return it: one of two buffers, valid until the next call for the channel.

        Raises:
            StageError: the sender died or stalled.
        """
        inbox = self._inboxes[channel]
        expected = inbox.route.ticks[inbox.taken : inbox.taken + 1]
        assert expected == (tick,), f"{channel}: message for tick {tick}; by the schedule it is {expected or 'none'}"
        assert inbox.works, f"{channel}: no receive for tick {tick}, since messages of earlier ticks were not taken"
        work, buffer = inbox.works.popleft()
        self._wait(work, channel)
        inbox.taken += 1
        self._post(self._lines[channel.sender, channel.receiver])
        return buffer.detach()

    def interrupt(self) -> None:
        """End all waits of gloo with an error, from another thread: a receive that times out closes its whole group."""
        gloo = {link for link in (line.link for line in self._lines.values()) if link.group.name() == "gloo"}
        for link in gloo:
            try:
                link.group.recv([torch.zeros(1)], link.peer, _INTERRUPT_TAG).wait(timedelta(milliseconds=1))
            except RuntimeError:
                continue

    def close(self) -> None:
        """Wait until everything that was sent has left, unless its receiver is gone."""
        for channel, kept in self._kept.items():
            for work, _ in kept:
                self._finish(work, channel)
        self._kept.clear()
        self._lines.clear()
        self._inboxes.clear()

    def _open_inbox(self, channel: Channel, route: Route) -> None:
        """Keep a channel's buffers if they fit: the last message of the clip before may still be in use."""
        inbox = self._inboxes.setdefault(channel, _Inbox(route))
        if not inbox.buffers or (inbox.route.shape, inbox.route.dtype) != (route.shape, route.dtype):
            inbox.buffers = [torch.empty(route.shape, dtype=route.dtype, device=self.device) for _ in range(2)]
        inbox.route, inbox.posted, inbox.taken = route, 0, 0

    def _post(self, line: _Line) -> None:
        """Post receives, in order, as far as there are buffers: one message in use, one on its way."""
        while line.turns:
            channel = line.turns[0][1]
            inbox = self._inboxes[channel]
            if inbox.posted > inbox.taken:
                return
            line.turns.popleft()
            buffer = inbox.buffers[inbox.turn]
            inbox.works.append((self._call(channel, line.link.group.recv, buffer, line.link.peer), buffer))
            inbox.posted, inbox.turn = inbox.posted + 1, 1 - inbox.turn

    def _start(self, channel: Channel, link: Link, message: Tensor) -> None:
        kept = self._kept.setdefault(channel, deque())
        while len(kept) >= KEPT:
            self._wait(kept.popleft()[0], channel)
        kept.append((self._call(channel, link.group.send, message, link.peer), message))

    def _call(self, channel: Channel, operation: Callable[..., Any], tensor: Tensor, peer: int) -> Any:
        try:
            return operation([tensor], peer, 0)
        except RuntimeError:
            raise_lost(channel, self.index, self._check, self._lost)

    def _wait(self, work: Any, channel: Channel) -> None:
        """Wait for a send or receive. Gloo cannot be asked in slices: a wait that times out closes the group."""
        self._check()
        with self._phase(f"waiting for stage {other_end(channel, self.index)}"):
            try:
                work.wait()
            except RuntimeError:
                raise_lost(channel, self.index, self._check, self._lost)

    def _finish(self, work: Any, channel: Channel) -> None:
        try:
            self._wait(work, channel)
        except StageError:
            return
