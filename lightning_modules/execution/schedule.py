"""The clock of the pipeline: which message a unit reads at a tick, and which frame's gradient arrives. No tensors.

Ticks and frames count from 1; at tick t the frame x^t arrives. D = 4 units on a chain (numbers are frames):

    tick        1   2   3   4   5   6   7   8
    unit 1 fwd  1   2   3   4   5   6   7   8
    unit 2 fwd      1   2   3   4   5   6   7
    unit 3 fwd          1   2   3   4   5   6
    unit 4 fwd              1   2   3   4   5
    unit 4 bwd              1   2   3   4   5      gradient of the frame's own loss
    unit 3 bwd                  1   2   3   4      gradient about frame 1 meets the input of frame 3
    unit 2 bwd                      1   2   3      ... of frame 5
    unit 1 bwd                          1   2      ... of frame 7: lag 2(D - i) = 6 frames

so unit i forwards frame t - i + 1 from tick i on, and has its first gradient at tick 2D - i, about frame
t - 2D + i + 1. On a wiring with skips the chain still sets these ticks; a skip of span s brings a frame s - 1 newer,
and a gradient that is early, so that gradients below tick 2D - i lack the longer paths and are not used (methods.md
sections 2 and 3 [D]). Where not every edge carries gradients, the longest path that does takes the chain's place: with
h_i its hops, the first complete gradient comes at tick D + h_i and the lag is 2 h_i; on the chain h_i = D - i.

Where units are put together in modules, a module takes the unit's place in all of this, and with local gradients every
unit has one at each tick of its own: the lag is 0.

Marks in this file name sections of methods.md.
"""

from dataclasses import dataclass

from lightning_modules.networks.wiring import INPUT, Wiring


@dataclass(frozen=True)
class Read:
    """One message that a unit reads at a tick.

    Args:
        source: the unit that sent it, 0 for the video.
        frames: the frames that it has seen, one for each path length.
    """

    source: int
    frames: frozenset[int]


@dataclass(frozen=True)
class Work:
    """What one unit does at one tick.

    Args:
        reads: the messages that it reads; empty before its chain message is there.
        output_frame: nominal frame of its output, t - i + 1; None before tick i.
        gradient_frame: nominal frame whose loss's gradient arrives on the longest path; None before the first.
    """

    reads: tuple[Read, ...]
    output_frame: int | None
    gradient_frame: int | None


def first_output_tick(wiring: Wiring, unit: int) -> int:
    """First tick at which a unit has its chain message, and so an output: i [P, 2], of a module its number [D, 4]."""
    return wiring.position(unit)


def first_gradient_tick(wiring: Wiring, unit: int) -> int:
    """First tick at which a unit's gradient is complete: 2D - i on the chain [D, 2]; a local one comes at once."""
    if wiring.gradients == "local":
        return first_output_tick(wiring, unit)
    return wiring.length + max(wiring.gradient_paths(unit))


def lag(wiring: Wiring, unit: int) -> int:
    """Largest age difference in frames of gradient and activation: 2(D - i) on the chain [D, 2]."""
    return 2 * max(wiring.gradient_paths(unit))


def shortest_clip(wiring: Wiring) -> int:
    """Fewest frames from which every unit gets a gradient: 2D - 1 on the chain [D, 2]."""
    return max(first_gradient_tick(wiring, unit) for unit in range(1, wiring.depth + 1))


def nominal_frame(wiring: Wiring, unit: int, tick: int) -> int:
    """Oldest frame in a unit's output, the one that came along the chain: t - i + 1 [P, 2]."""
    return tick - wiring.position(unit) + 1


def target_frame(wiring: Wiring, unit: int, tick: int) -> int:
    """Nominal frame of the network's output that has seen as new a frame as a unit's output: what it is asked [D, 4].

    Targets belong to the nominal frames of the last unit. A module's head is asked for what the last unit will be asked
    when the same newest frame has reached it; on the chain, its own nominal frame's.
    """
    return newest_frame(wiring, unit, tick) - (wiring.length - min(wiring.path_lengths(wiring.depth)))


def newest_frame(wiring: Wiring, unit: int, tick: int) -> int:
    """Newest frame that can have reached a unit's output, t - Lmin + 1; horizons of prediction count from it [D, 3]."""
    return tick - min(wiring.path_lengths(unit)) + 1


def frames_read(wiring: Wiring, unit: int, tick: int) -> frozenset[int]:
    """Frames that have reached a unit's output at a tick: one for each path length; empty before tick i [D, 3]."""
    if unit == INPUT:
        return frozenset({tick + 1})
    if tick < first_output_tick(wiring, unit):
        return frozenset()
    return frozenset(tick - length + 1 for length in wiring.path_lengths(unit))


def message_wait(wiring: Wiring, reader: int, source: int) -> int:
    """Ticks that a gradient waits at the source for the longest path's, with `stash: exact`: 2(s - 1) [D, 3]."""
    return lag(wiring, source) - lag(wiring, reader) - 2


def work(wiring: Wiring, tick: int, unit: int) -> Work:
    """Return what a unit does at a tick: the clock table's entry [D]."""
    if tick < first_output_tick(wiring, unit):
        return Work((), None, None)
    reads = tuple(Read(j, frames_read(wiring, j, tick - wiring.delay(j, unit))) for j in wiring.sources_of(unit))
    frame = tick - first_gradient_tick(wiring, unit) + 1
    return Work(reads, nominal_frame(wiring, unit, tick), frame if frame >= 1 else None)


def clock_table(wiring: Wiring, frames: int) -> list[list[Work]]:
    """Return the whole clock table: `table[t - 1][i - 1]` for ticks 1..T and units 1..D [D]."""
    return [[work(wiring, t, i) for i in range(1, wiring.depth + 1)] for t in range(1, frames + 1)]
