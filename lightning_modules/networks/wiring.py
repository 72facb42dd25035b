"""Which units each unit reads: the wirings of Sideways and Skip-Sideways.

Units are numbered 1..D; 0 stands for the video frame. A skip of span s = i - j lets unit i read unit j directly. Every
message takes one tick whatever its span, so a span-s skip brings a frame that is s - 1 newer than the chain's: that is
where time enters (Skip-Sideways, arXiv 2106.08318 [P]; the variants' names and spans are ours [D]).

    chain      1 <- 0   2 <- 1   3 <- 2        4 <- 3               = Sideways (arXiv 2001.06232)
    residual   1 <- 0   2 <- 1   3 <- 2 + 1    4 <- 3 + 2           sum, span 2
    concat     1 <- 0   2 <- 1   3 <- 2 , 1    4 <- 3 , 2           channels side by side, span 2
    dense      1 <- 0   2 <- 1   3 <- 2 , 1    4 <- 3 , 2 , 1       every lower unit, at most `reach` units down
    input      1 <- 0   2 <- 1,0 3 <- 2 , 0    4 <- 3 , 0           the frame itself, downsampled

and, for the encoder-decoder networks of future frames alone, here with 6 units,

    unet       1 <- 0   2 <- 1   3 <- 2   4 <- 3   5 <- 4 , 2   6 <- 5 , 1      the mirror unit of the same size

whose skips cross time like all others: unit 6 puts together the decoded frame t - 5 and the encoded frame t - 1.

Which edges carry gradients back is a second choice [D]. A pseudo-gradient meets an input that is two frames newer for
each hop it came. Where a unit compares an old message with a new one, the old message's gradient then meets an input
*newer* than what it was compared with: the order in time is turned round, and the units below learn the opposite of
what was asked. Along the newest message's edge the order stays. `gradients: newest` sends gradients only there (and
from the last unit, which compares nothing, to all that it reads):

    concat     3 reads 2 (frame n) and 1 (frame n + 1)      all: to 2 and 1      newest: to 1 only

`gradients: shortest` lets each unit's gradient come back along one path, that of the fewest hops to the last unit (of
equals, from the highest reader): the smallest lag that a wiring can give each unit, and with `stash: exact` the fewest
past inputs, 2 x hops + 1 of them instead of 2 (D - i) + 1, and no message that waits:

    unet       unit 1 -> 6   2 -> 5 -> 6   3 -> 4 -> 5 -> 6      hops of units 1..6: 1 2 3 2 1 0; chain: 5 4 3 2 1 0

The price of both: what the other edges would bring is missing, on a constant video too, so that "constant video equals
backprop" holds against backprop over the same edges only.

Units may be put together in modules, which take the unit's place in the clock: all units of a module work in one tick
on the same frame, and a message takes a tick where it goes from one module to another. `gradients: local` keeps
gradients inside modules (Decoupled Greedy Learning, rules/greedy.py):

    modules 2,2     module 1: 1 <- 0   2 <- 1  |  module 2: 3 <- 2 , 1   4 <- 3 , 2        | messages, no gradients
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Literal, get_args

Merge = Literal["sum", "concat"]
WIRINGS = ("chain", "residual", "concat", "dense", "input")  # of every network of units
PREDICTOR_WIRINGS = (*WIRINGS, "unet")  # of encoder-decoder networks
GradientEdges = Literal["all", "newest", "shortest", "local"]
INPUT = 0


@dataclass(frozen=True)
class Wiring:
    """The units that each unit reads, and how it merges them.

    Args:
        name: one of `PREDICTOR_WIRINGS`, or a name of your own.
        sources: `sources[i - 1]` lists what unit i reads, its chain neighbour i - 1 first; 0 is the frame.
        merge: `sum` adds the messages, `concat` puts their channels side by side.
        gradients: `all` edges carry gradients back, only those of each unit's `newest` message, only those of each
            unit's `shortest` path to the last one, or only `local` ones, inside modules.
        modules: number of units in each module, the lowest first; none: every unit has a tick of its own.

    Raises:
        ValueError: a unit does not read its chain neighbour first, or reads a unit that is not below it, or a unit
            would get no gradient, or modules that are not all units, at least one each.
    """

    name: str
    sources: tuple[tuple[int, ...], ...]
    merge: Merge = "concat"
    gradients: GradientEdges = "all"
    modules: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.modules and (min(self.modules) < 1 or sum(self.modules) != self.depth):
            raise ValueError(
                f"modules of {list(self.modules)} units make {sum(self.modules)}; the network has {self.depth} units, "
                "and each module needs at least one"
            )
        for unit, sources in enumerate(self.sources, start=1):
            if not sources or sources[0] != unit - 1:
                raise ValueError(f"unit {unit} reads {sources}; its chain neighbour {unit - 1} must come first")
            if len(set(sources)) != len(sources) or not all(0 <= j < unit for j in sources):
                raise ValueError(f"unit {unit} reads {sources}; expected distinct units from 0 to {unit - 1}")
        if self.gradients not in get_args(GradientEdges):
            known = ", ".join(name for name in get_args(GradientEdges) if name != "local")
            raise ValueError(f"gradient edges {self.gradients!r} are unknown; expected one of {known}")
        without = [unit for unit in range(1, self.depth + 1) if not self.gradient_paths(unit)]
        if without:
            raise ValueError(
                f"wiring {self.name!r} with gradient edges {self.gradients!r} gives no gradient to units {without}; "
                "use gradient edges 'all' or 'shortest', or wiring 'residual', 'concat' or 'dense'"
            )

    @property
    def depth(self) -> int:
        """Number of units, D."""
        return len(self.sources)

    @property
    def lmin(self) -> int:
        """Ticks of the shortest path from the frame to the output, Lmin."""
        return min(self.path_lengths(self.depth))

    def sources_of(self, unit: int) -> tuple[int, ...]:
        """What a unit reads (1-based), its chain neighbour first."""
        return self.sources[unit - 1]

    def position(self, unit: int) -> int:
        """The unit's place in the clock, from 1: its number, or that of its module."""
        return _positions(self)[unit]

    @property
    def length(self) -> int:
        """Ticks from the frame's arrival to the output along the chain: D, or the number of modules."""
        return self.position(self.depth)

    def delay(self, source: int, unit: int) -> int:
        """Ticks that a message takes: one, or none inside a module; the frame comes to every unit as a message."""
        return 1 if source == INPUT or self.position(source) != self.position(unit) else 0

    def carries_gradient(self, source: int, unit: int) -> bool:
        """Whether a unit sends a gradient back over an edge: never to the frame [D, see the top of this file]."""
        if source == INPUT:
            return False
        if self.gradients == "local":
            return not self.delay(source, unit)
        if self.gradients == "shortest":
            return unit == _next_on_shortest_path(self, source)
        return self.gradients == "all" or unit == self.depth or source == min(self.sources_of(unit))

    def edges(self) -> Iterator[tuple[int, int]]:
        """Yield every (source, unit) pair."""
        for unit, sources in enumerate(self.sources, start=1):
            for source in sources:
                yield source, unit

    def path_lengths(self, unit: int) -> frozenset[int]:
        """Lengths in ticks of all paths from the frame to a unit; `max` is the unit's position, `min` its Lmin."""
        return _path_lengths(self, unit)

    def gradient_paths(self, unit: int) -> frozenset[int]:
        """Lengths in ticks of all paths that bring a unit gradients from the last unit; {0} for the last unit itself.

        With `local` gradients those from the last unit of its module: {0} for all.
        """
        return _gradient_paths(self, unit)

    @property
    def has_skips(self) -> bool:
        """Whether any unit reads more than its chain neighbour."""
        return any(len(sources) > 1 for sources in self.sources)


@cache
def _positions(wiring: Wiring) -> tuple[int, ...]:
    """Return the position of the frame, 0, and of every unit."""
    if not wiring.modules:
        return tuple(range(wiring.depth + 1))
    return (0, *(number for number, units in enumerate(wiring.modules, start=1) for _ in range(units)))


def _readers(wiring: Wiring, unit: int) -> list[int]:
    return [i for j, i in wiring.edges() if j == unit]


@cache
def _path_lengths(wiring: Wiring, unit: int) -> frozenset[int]:
    if unit == INPUT:
        return frozenset({0})
    sources = wiring.sources_of(unit)
    return frozenset(n + wiring.delay(source, unit) for source in sources for n in _path_lengths(wiring, source))


@cache
def _hops_to_last(wiring: Wiring, unit: int) -> int:
    """Fewest hops from a unit to the last one, over all edges."""
    return 0 if unit == wiring.depth else 1 + min(_hops_to_last(wiring, reader) for reader in _readers(wiring, unit))


@cache
def _next_on_shortest_path(wiring: Wiring, unit: int) -> int:
    """The reader through which a unit is nearest to the last one; of equals the highest [D]."""
    return min(_readers(wiring, unit), key=lambda reader: (_hops_to_last(wiring, reader), -reader))


@cache
def _gradient_paths(wiring: Wiring, unit: int) -> frozenset[int]:
    if unit == wiring.depth or wiring.gradients == "local":
        return frozenset({0})
    readers = [i for i in _readers(wiring, unit) if wiring.carries_gradient(unit, i)]
    return frozenset(n + wiring.delay(unit, reader) for reader in readers for n in _gradient_paths(wiring, reader))


def _sources(name: str, unit: int, depth: int, reach: int | None) -> tuple[int, ...]:
    chain = (unit - 1,)
    if name in ("residual", "concat"):
        return chain + ((unit - 2,) if unit > 2 else ())
    if name == "dense":
        lowest = 1 if reach is None else max(1, unit - reach)
        return chain + tuple(range(unit - 2, lowest - 1, -1))
    if name == "input":
        return chain + ((INPUT,) if unit > 1 else ())
    if name == "unet":
        mirror = depth - unit + 1
        return chain + ((mirror,) if mirror < unit - 1 else ())
    return chain


def make_wiring(name: str, depth: int, *, reach: int | None = None, gradients: GradientEdges = "all") -> Wiring:
    """Return the named wiring for D = `depth` units (methods.md section 3; the variants and their spans are ours [D]).

    Args:
        name: one of `PREDICTOR_WIRINGS`; `unet` is made for encoder-decoder networks.
        depth: number of units, at least 1.
        reach: `dense` only: the largest span of a skip; None means no limit.
        gradients: `all` edges carry gradients back, or only those of each unit's `newest` message, or only each unit's
            `shortest` path.

    Raises:
        ValueError: an unknown name, a depth below 1, or a reach that has no meaning.
    """
    if name not in PREDICTOR_WIRINGS:
        near = get_close_matches(name, PREDICTOR_WIRINGS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"wiring {name!r} is unknown; expected one of {', '.join(PREDICTOR_WIRINGS)}{hint}")
    if depth < 1:
        raise ValueError(f"depth is {depth}; a network needs at least 1 unit")
    if reach is not None and (name != "dense" or reach < 1):
        raise ValueError(f"reach={reach} with wiring {name!r}; reach is a span >= 1 and belongs to wiring 'dense' only")
    sources = tuple(_sources(name, unit, depth, reach) for unit in range(1, depth + 1))
    return Wiring(name, sources, "sum" if name == "residual" else "concat", gradients)
