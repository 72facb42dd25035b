"""Times of several steps on a shared machine, measured side by side.

A time means little by itself there, so every round does one step of every row, each round starts with another row, and
ratios are taken inside a round:

    round 1   a b c d        ratio of c: median over rounds of  time(c, round) / time(base, round)
    round 2   b c d a
    round 3   c d a b
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from lightning_modules.metrics.latency import percentile, synchronise


@dataclass
class Times:
    """One row's times, a value for each round, in ms."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def _timed(step: Callable[[], None], device: torch.device, times: Times) -> None:
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    synchronise(device)
    times.wall_ms.append(1000 * (time.perf_counter() - wall))
    times.cpu_ms.append(1000 * (time.process_time() - cpu))


def interleaved_times(
    steps: Mapping[str, Callable[[], None]],
    rounds: int,
    device: torch.device,
    *,
    warm_up: int = 2,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, Times]:
    """Time every step once a round and return all times; warm-up rounds, run first, are dropped."""
    names = list(steps)
    times = {name: Times() for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            _timed(steps[name], device, times[name] if number >= warm_up else Times())
        after_round()
    return times


def median_ratio(values: list[float], base: list[float]) -> float:
    """Return the median over rounds of value / base."""
    return percentile([value / under for value, under in zip(values, base, strict=True)], 50)
