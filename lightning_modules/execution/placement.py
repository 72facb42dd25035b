"""Placement: which units work in which stage, and which messages cross between stages. No tensors.

A stage is a run of consecutive units on one device. D = 4 on wiring `concat`, cut into stages of two units:

    stage 0            stage 1
    1 --> 2   ======>  3 --> 4        activation of 2, to its chain neighbour 3 and over the skip to 4: one message
    1 --------------->  3             activation of 1, over a skip that crosses the cut
    1   2   <======    3   4          gradients for 2 (from 3 and 4, summed before they are sent) and for 1

A message has the number of the tick at which it is used. Both ends know from the schedule at which ticks of a clip a
channel carries one, so that nothing is announced (methods.md sections 2 and 3 [D]).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from lightning_modules.execution.schedule import first_gradient_tick, first_output_tick, lag
from lightning_modules.networks.wiring import INPUT, Wiring
from lightning_modules.rules.rule import Rule

Kind = Literal["activation", "gradient", "codebook"]


@dataclass(frozen=True, order=True)
class Channel:
    """One message a tick from a stage to another.

    Args:
        kind: `activation`: a unit's output, to a stage that reads it; `gradient`: the sum of a stage's gradients for a
            unit's output, to the unit's stage; `codebook`: beside activations that are sent as codes, what these mean.
        unit: the unit whose output it is or is about; 0 is the frame.
        sender: stage, from 0.
        receiver: stage.
    """

    kind: Kind
    unit: int
    sender: int
    receiver: int


@dataclass(frozen=True)
class Placement:
    """The units of each stage.

    Args:
        wiring: the network's.
        stages: for each stage its units, consecutive numbers from 1 to D.

    Raises:
        ValueError: an empty stage, or units that are not 1 to D in order.
    """

    wiring: Wiring
    stages: tuple[range, ...]

    def __post_init__(self) -> None:
        units = [unit for stage in self.stages for unit in stage]
        if not all(self.stages) or units != list(range(1, self.wiring.depth + 1)):
            given = ", ".join(f"{list(stage)}" for stage in self.stages)
            raise ValueError(
                f"stages {given}; expected the units 1 to {self.wiring.depth} in order, at least one in each stage"
            )

    def stage_of(self, unit: int) -> int:
        """Return the stage in which a unit works; the frame is in stage 0."""
        return next(s for s, units in enumerate(self.stages) if unit in units) if unit != INPUT else 0

    def readers(self, unit: int, stage: int) -> tuple[int, ...]:
        """Units of a stage that read a unit's output."""
        return tuple(i for i in self.stages[stage] if unit in self.wiring.sources_of(i))

    def senders(self, unit: int, stage: int) -> tuple[int, ...]:
        """Units of a stage that send a unit gradients."""
        return tuple(i for i in self.readers(unit, stage) if self.wiring.carries_gradient(unit, i))

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Every channel, in a fixed order; none where there is one stage."""
        return _channels(self)


@cache
def _channels(placement: Placement) -> tuple[Channel, ...]:
    found = []
    for unit in range(placement.wiring.depth + 1):
        home = placement.stage_of(unit)
        for stage in range(home + 1, len(placement.stages)):
            if placement.readers(unit, stage):
                found.append(Channel("activation", unit, home, stage))
            if placement.senders(unit, stage):
                found.append(Channel("gradient", unit, stage, home))
    return tuple(sorted(found))


def whole(wiring: Wiring) -> Placement:
    """Return the placement of all units in one stage."""
    return Placement(wiring, (range(1, wiring.depth + 1),))


def cut(wiring: Wiring, sizes: Sequence[int]) -> Placement:
    """Return the placement with so many units in each stage, the lowest first.

    Raises:
        ValueError: sizes that are not at least 1 each, or do not add up to the number of units.
    """
    if min(sizes, default=0) < 1 or sum(sizes) != wiring.depth:
        raise ValueError(
            f"stages of {list(sizes)} units make {sum(sizes)}; the network has {wiring.depth} units, "
            "and each stage needs at least one"
        )
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    return Placement(wiring, tuple(range(end - n + 1, end + 1) for n, end in zip(sizes, ends, strict=True)))


def drain_ticks(wiring: Wiring, rule: Rule) -> int:
    """Ticks after a clip's last frame in which its last losses are waited for: the largest lag, or none [D]."""
    return max(lag(wiring, i) for i in range(1, wiring.depth + 1)) if rule.drains else 0


@cache
def message_ticks(placement: Placement, channel: Channel, rule: Rule, frames: int) -> tuple[int, ...]:
    """Return the ticks at which a channel's messages are used, in the course of one clip of training [D].

    Activations: from the tick at which the stage's first reader works, to the last frame. Gradients: under Sideways
    from the unit's first complete one on; with a stash wherever a loss of the clip reaches the unit through the stage.

    Args:
        placement: has the channel.
        channel: one of its channels.
        rule: Sideways, with or without a stash.
        frames: frames of the clip.
    """
    wiring, unit = placement.wiring, channel.unit
    if channel.kind == "activation":
        reader = min(placement.readers(unit, channel.receiver))
        return tuple(range(first_output_tick(wiring, reader), frames + 1))
    ticks = range(first_gradient_tick(wiring, unit), frames + drain_ticks(wiring, rule) + 1)
    if rule.forwards_gradients:
        return tuple(ticks)
    paths = {p + 1 for i in placement.senders(unit, channel.sender) for p in wiring.gradient_paths(i)}
    back = lag(wiring, unit)
    return tuple(t for t in ticks if any(wiring.depth <= t - back + p <= frames for p in paths))
