"""One stage of a placement at work: its units, and its exchange of messages with the other stages.

Shape legend: B clips, S ticks of one unit's outputs.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lightning_modules.execution.placement import Channel, Placement, message_ticks
from lightning_modules.layers.bit_packing import index_bits, packed_bytes
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.networks.wiring import INPUT, Wiring
from lightning_modules.rules.rule import Rule


@dataclass(frozen=True)
class Route:
    """What a channel carries in the course of one clip.

    Args:
        ticks: one message for each, in order.
        shape: of every message.
        dtype: of every message.
        dense: of codes: the route as it would be without them.
    """

    ticks: tuple[int, ...]
    shape: torch.Size
    dtype: torch.dtype
    dense: "Route | None" = None

    @property
    def nbytes(self) -> int:
        """Bytes of all messages."""
        return len(self.ticks) * self.shape.numel() * self.dtype.itemsize


class Exchange(Protocol):
    """Carries messages between stages; both ends open the same routes, so that nothing has to be announced.

    A sender does not wait for the receiver as long as the receiver is at most one tick behind.
    """

    def open(self, routes: Mapping[Channel, Route]) -> None:
        """Prepare for a clip: its routes from and to this stage. All messages of the clip before have been received."""

    def send(self, channel: Channel, tick: int, message: Tensor) -> None:
        """Send a message; it is copied or kept, and the caller does not change it."""

    def receive(self, channel: Channel, tick: int) -> Tensor:
        """Return the message for a tick, once it is there; it is valid until the next one of its channel is received.

        Raises:
            StageError: the sender died or stalled.
        """


class ReplayLink(Protocol):
    """Carries minibatches from the stage below and to the stage above; nobody waits (rules with replay buffers)."""

    @property
    def now(self) -> int:
        """Number of the batch that the first stage works on, as far as is known here."""

    def incoming(self) -> list[tuple[int, Any]]:
        """Begin a step; return the minibatches that have come since the last, each with its time, oldest first."""

    def outgoing(self, number: int, content: Any) -> None:
        """Send a minibatch to the stage above."""

    def is_over(self) -> bool:
        """Whether the first stage's batch is over; there it never is."""

    def rest(self) -> None:
        """Let some time pass: there was nothing to draw."""

    def end_batch(self) -> None:
        """End the work for a batch; the first stage's batch is over with that."""


class StageError(RuntimeError):
    """Another stage died, stalled or failed, so that this one cannot go on."""

    told_elsewhere = False  # whether the process of another stage tells the user


@dataclass(frozen=True)
class Stage:
    """One stage: where it stands in the placement, and how it reaches the others.

    Args:
        placement: the units of all stages.
        index: this stage, from 0.
        exchange: the way to the others; None where there are none.
        on_tick_start: is told the number of each tick before any of its work; for watchdogs and clocks.
        on_clip_end: is called when a clip's last tick is over.
        replay: the way to the others for rules with replay buffers; None where modules wait for those below.
    """

    placement: Placement
    index: int = 0
    exchange: Exchange | None = None
    on_tick_start: Callable[[int], None] | None = None
    on_clip_end: Callable[[], None] | None = None
    replay: ReplayLink | None = None
    routes: dict[Channel, Route] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def units(self) -> range:
        """The units that work here."""
        return self.placement.stages[self.index]

    @property
    def has_video(self) -> bool:
        """Whether the frames come in here."""
        return self.index == 0

    @property
    def has_output(self) -> bool:
        """Whether the last unit, and with it outputs and losses, are here."""
        return self.index == len(self.placement.stages) - 1

    def channels(self, kind: str, unit: int) -> list[Channel]:
        """Channels of a kind, about a unit, that start or end here."""
        return self._channels[kind, unit]

    @cached_property
    def _channels(self) -> dict[tuple[str, int], list[Channel]]:
        found: dict[tuple[str, int], list[Channel]] = defaultdict(list)
        for c in self.placement.channels:
            if self.index in (c.sender, c.receiver):
                found[c.kind, c.unit].append(c)
        return found

    def send(self, channel: Channel, tick: int, message: Tensor) -> None:
        """Send a message to another stage, to be used at a tick."""
        assert self.exchange is not None
        self.exchange.send(channel, tick, message)

    def receive(self, channel: Channel, tick: int) -> Tensor:
        """Return another stage's message for a tick."""
        assert self.exchange is not None
        return self.exchange.receive(channel, tick)

    def carries(self, channel: Channel, tick: int) -> bool:
        """Whether a channel has a message for a tick of this clip."""
        return channel in self.routes and tick in self.routes[channel].ticks

    def open(self, routes: Mapping[Channel, Route]) -> None:
        """Prepare for a clip; `routes` holds those of all stages until the next one."""
        self.routes.clear()
        self.routes.update(routes)
        if self.exchange is not None:
            mine = {c: r for c, r in routes.items() if self.index in (c.sender, c.receiver)}
            self.exchange.open(mine)


# Of networks that are still in use.
_SHAPES: WeakKeyDictionary[UnitNetwork, dict[tuple[int, ...], dict[int, torch.Size]]] = WeakKeyDictionary()


def message_shapes(network: UnitNetwork, frame_shape: tuple[int, ...]) -> dict[int, torch.Size]:
    """Return the shape of each unit's output for one frame (C, H, W), of the frame itself at 0; nothing is computed."""
    known = _SHAPES.setdefault(network, {})
    if frame_shape not in known:
        known[frame_shape] = _message_shapes(network, frame_shape)
    return known[frame_shape]


def _message_shapes(network: UnitNetwork, frame_shape: tuple[int, ...]) -> dict[int, torch.Size]:
    ghost = copy.deepcopy(network).to("meta")
    outputs = {INPUT: torch.empty(1, *frame_shape, device="meta", dtype=next(network.parameters()).dtype)}
    with torch.no_grad():
        for unit in range(1, network.depth + 1):
            outputs[unit] = ghost.unit(unit)([outputs[j] for j in network.wiring.sources_of(unit)])
    return {unit: output.shape[1:] for unit, output in outputs.items()}


def clip_routes(
    network: UnitNetwork,
    placement: Placement,
    video_BTCHW: Tensor,
    rule: Rule,
    executor: str,
    *,
    training: bool = True,
) -> dict[Channel, Route]:
    """Return what every channel carries in the course of a clip.

    Pipelined: a message (B, ...) for each tick at which it is used. Vectorised: one message (S, B, ...) for all ticks,
    at tick 0. Outputs of units that quantise go as codes (bytes), and beside them the codebook: with the first message,
    since it stays the same for a clip, or with every one where weights change at every tick.

    Args:
        network: gives the messages' shapes, and what quantises them.
        placement: has the channels.
        video_BTCHW: its shape is all that counts; a tensor on the meta device will do.
        rule: decides which gradients there are.
        executor: `pipelined` or `vectorised`.
        training: without it there are no gradients.
    """
    clips, frames = video_BTCHW.shape[:2]
    shapes = message_shapes(network, tuple(video_BTCHW.shape[2:]))
    routes: dict[Channel, Route] = {}
    for channel in placement.channels:
        if not training and channel.kind == "gradient":
            continue
        shape = torch.Size((clips, *shapes[channel.unit]))
        if executor == "pipelined":
            ticks = message_ticks(placement, channel, rule, frames)
        else:
            ticks, shape = (0,), torch.Size((ticks_of(rule, network.wiring, channel.unit, frames), *shape))
        if ticks:
            routes |= _channel_routes(network, channel, Route(ticks, shape, video_BTCHW.dtype), rule)
    return routes


def _channel_routes(network: UnitNetwork, channel: Channel, dense: Route, rule: Rule) -> dict[Channel, Route]:
    """Return a channel's route as it is, or that of codes and of their codebook."""
    quantiser = None if channel.unit == INPUT else network.quantiser(channel.unit)
    if quantiser is None:
        return {channel: dense}
    positions = dense.shape.numel() // quantiser.channels
    codes = packed_bytes(positions * quantiser.groups, index_bits(quantiser.codes))
    book = quantiser.codebook
    ticks = dense.ticks if rule.update == "frame" else dense.ticks[:1]
    return {
        channel: Route(dense.ticks, torch.Size((codes,)), torch.uint8, dense),
        replace(channel, kind="codebook"): Route(ticks, book.shape, book.dtype),
    }


def message_bytes(routes: Mapping[Channel, Route]) -> dict[int, int]:
    """Return the bytes that routes carry by unit, of 0 the frames': every receiver's copy, codebooks too."""
    found: dict[int, int] = defaultdict(int)
    for channel, route in routes.items():
        found[channel.unit] += route.nbytes
    return dict(found)


def first_tick(rule: Rule, wiring: Wiring, unit: int) -> int:
    """First tick of a unit's outputs where all ticks are worked on at once; 0 for the pipeline's frames."""
    if unit == INPUT:
        return 1 - rule.forward_shift
    return wiring.position(unit) if rule.forward_shift else 1


def ticks_of(rule: Rule, wiring: Wiring, unit: int, frames: int) -> int:
    """Number of ticks S at which a unit has an output; all T for the frames."""
    return frames if unit == INPUT else frames - first_tick(rule, wiring, unit) + 1
