"""Rounds of contestants that need several processes, timed side by side in the same processes.

    process 0   | a's part      |   b's part |  c alone  |        | barrier: all start together
    process 1   |   a's part    | b's part   |           |

Each round starts with another contestant; the first rounds are dropped. A contestant's time is from the first process's
start to the last one's end, its CPU time the sum over processes and all their threads while they did their part.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch.distributed as dist

from lightning_modules.metrics.interleaved import Times

Part = Callable[[], None]


@dataclass(frozen=True)
class Span:
    """One process's part of a contestant's round: start and end on the machine's clock, and CPU time, in s."""

    start_s: float
    end_s: float
    cpu_s: float


def _timed(part: Part) -> Span:
    dist.barrier()
    start, cpu = time.perf_counter(), time.process_time()
    part()
    cpu = time.process_time() - cpu
    return Span(start, time.perf_counter(), cpu)


def timed_rounds(
    parts: Mapping[str, Part], rounds: int, *, warm_up: int = 2, after_round: Callable[[], object] = lambda: None
) -> dict[str, list[Span]]:
    """Time this process's part of every contestant once a round; all processes call this with the same names.

    Args:
        parts: by contestant, in the same order everywhere; a process that has nothing to do has an empty function.
        rounds: how many count.
        warm_up: rounds before these.
        after_round: called after each.
    """
    names = list(parts)
    spans: dict[str, list[Span]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            span = _timed(parts[name])
            if number >= warm_up:
                spans[name].append(span)
        after_round()
    return spans


def round_times(spans: Sequence[Sequence[Span]]) -> Times:
    """Return a contestant's times from the spans of all processes, each with one a round."""
    rounds = list(zip(*spans, strict=True))
    return Times(
        wall_ms=[1000 * (max(s.end_s for s in spans) - min(s.start_s for s in spans)) for spans in rounds],
        cpu_ms=[1000 * sum(s.cpu_s for s in spans) for spans in rounds],
    )
