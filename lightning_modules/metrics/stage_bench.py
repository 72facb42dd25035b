"""All contestants of a setting, side by side in the same processes: times, ticks, memory, and the frame's own loss."""

import ctypes
import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_modules.execution.placement import cut
from lightning_modules.execution.schedule import shortest_clip
from lightning_modules.execution.stage import Exchange, Stage
from lightning_modules.metrics.interleaved import Times
from lightning_modules.metrics.latency import percentile
from lightning_modules.metrics.memory import MIB, SavedTensors, peak_mib, reset_peak
from lightning_modules.metrics.own_loss import measured_ticks
from lightning_modules.metrics.processes import Process, in_processes
from lightning_modules.metrics.side_by_side import Span, round_times, timed_rounds
from lightning_modules.metrics.stage_cost import OURS, PLAIN, Contestant, Part, Setting, idle, our_part, plain_part
from lightning_modules.metrics.stage_peers import TORCHGPIPE, peer_part, torchgpipe_part
from lightning_modules.networks import UnitNetwork
from lightning_modules.strategies.mixed import ClosingExchange, make_exchange

CPU = torch.device("cpu")
WARM_UP = 2


@dataclass(frozen=True)
class StageMemory:
    """What one process holds in one clip, or one update of an exact schedule, in MiB.

    Args:
        saved_mib: most bytes that autograd's graphs held at one time; None where other threads hold them.
        peak_mib: peak of the process's resident set, after its free memory was given back to the system.
    """

    saved_mib: float | None
    peak_mib: float


@dataclass(frozen=True)
class Found:
    """What one process found.

    Args:
        spans: of each timed contestant, one a round.
        tick_ms: from each tick's start to the next one's, of each contestant that has ticks.
        memory: of each contestant.
        own_loss_ticks: of this process's units.
    """

    spans: dict[str, list[Span]]
    tick_ms: dict[str, list[float]]
    memory: dict[str, StageMemory]
    own_loss_ticks: dict[int, int]


@dataclass(frozen=True)
class Result:
    """A contestant's figures.

    Args:
        contestant: whose.
        times: of every round; empty where only memory was measured.
        tick_p50_ms: of the slowest stage, where there are ticks.
        tick_p95_ms: the same.
        memory: of each process that worked.
        busiest_ms: CPU time of the process that needed most, of every round.
    """

    contestant: Contestant
    times: Times
    memory: list[StageMemory]
    tick_p50_ms: float | None = None
    tick_p95_ms: float | None = None
    busiest_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class SettingResults:
    """All figures of one setting.

    Args:
        setting: of all contestants.
        results: in the contestants' order.
        own_loss_ticks: seen in a run in stages, by unit.
    """

    setting: Setting
    results: list[Result]
    own_loss_ticks: dict[int, int] = field(default_factory=dict)


def measure_setting(
    setting: Setting, contestants: Sequence[Contestant], rounds: int, *, after_round: Callable[[], object] | None = None
) -> SettingResults:
    """Start the processes and measure every contestant.

    Args:
        setting: network, frames, stages.
        contestants: with different names.
        rounds: how many count, after two that do not.
        after_round: called after each round.

    Raises:
        RuntimeError: a process failed, with its traceback.
    """

    def told(said: object) -> None:
        if after_round is not None:
            after_round()

    found: list[Found] = in_processes(_work, setting.stages, setting, tuple(contestants), rounds, told=told)
    own_loss = {unit: tick for f in found for unit, tick in f.own_loss_ticks.items()}
    return SettingResults(setting, [_result(c, found) for c in contestants], dict(sorted(own_loss.items())))


def _result(contestant: Contestant, found: Sequence[Found]) -> Result:
    name = contestant.name
    result = Result(contestant, Times(), [f.memory[name] for f in found if name in f.memory])
    if contestant.timed:
        spans, laps = [f.spans[name] for f in found], contestant.laps
        times = round_times(spans)
        result = replace(
            result,
            times=Times([wall / laps for wall in times.wall_ms], [cpu / laps for cpu in times.cpu_ms]),
            busiest_ms=[1000 * max(s.cpu_s for s in of_round) / laps for of_round in zip(*spans, strict=True)],
        )
    ticks = [f.tick_ms[name] for f in found if f.tick_ms.get(name)]
    if not ticks:
        return result
    p50, p95 = (max(percentile(values, q) for values in ticks) for q in (50, 95))
    return replace(result, tick_p50_ms=p50, tick_p95_ms=p95)


def _work(process: Process, setting: Setting, contestants: Sequence[Contestant], rounds: int) -> Found:
    """Measure all contestants as one of the processes."""
    network, frames = setting.make_network(), setting.make_frames()
    transports = {c.transport for c in contestants if c.transport is not None}
    exchanges = {transport: _exchange(transport, process) for transport in sorted(transports)}
    parts = {c.name: _part(setting, c, network, frames, process.rank, exchanges) for c in contestants}
    done = 0

    def after_round() -> None:
        nonlocal done
        done += 1
        if done == WARM_UP:
            for part in parts.values():
                part.tick_starts_s.clear()
        if process.rank == 0:
            process.tell(done)

    timed = {c.name: parts[c.name].round for c in contestants if c.timed}
    spans = timed_rounds(timed, rounds, warm_up=WARM_UP, after_round=after_round)
    ticks = {name: tick_ms(part.tick_starts_s) for name, part in parts.items()}
    memory = {c.name: _memory(parts[c.name], c) for c in contestants}
    own_loss = _own_loss(setting, network, frames, process, next(iter(exchanges.values()), None))
    for exchange in exchanges.values():
        exchange.close()
    return Found(spans, ticks, {name: m for name, m in memory.items() if m is not None}, own_loss)


def _exchange(transport: str, process: Process) -> ClosingExchange:
    """Return this process's end of a transport, without a watchdog: a process that fails ends them all."""
    return make_exchange(
        transport,
        stage_ranks=range(process.count),
        index=process.rank,
        store=dist.PrefixStore(transport, process.store),
        device=CPU,
        check=lambda: None,
    )


def _part(
    setting: Setting,
    contestant: Contestant,
    network: UnitNetwork,
    frames: Tensor,
    rank: int,
    exchanges: Mapping[str, Exchange],
) -> Part:
    if contestant.placement == "one process" and rank > 0:
        return idle()
    if contestant.executor in OURS:
        rank = rank if contestant.placement == "stages" else 0
        exchange = None if contestant.transport is None else exchanges[contestant.transport]
        return our_part(setting, contestant, network, frames, rank, exchange)
    if contestant.executor in PLAIN:
        return plain_part(setting, contestant, network, frames)
    if contestant.executor == TORCHGPIPE:
        return torchgpipe_part(setting, contestant, network, frames)
    return peer_part(setting, contestant, network, frames, rank)


def tick_ms(starts_s: Sequence[float]) -> list[float]:
    """Return the times from each tick's start to the next one's in ms; NaN among the starts parts two clips."""
    found = [1000 * (end - start) for start, end in pairwise(starts_s)]
    return [value for value in found if not math.isnan(value)]


def _memory(part: Part, contestant: Contestant) -> StageMemory | None:
    """Measure one step, after one that is not counted; None where this process has nothing to do."""
    dist.barrier()
    if not part.steps:
        return None
    part.step(0)
    _give_back_memory()
    reset_peak(CPU)
    part.step(0)
    peak = peak_mib(CPU)
    with SavedTensors.measure(part.module) as meter:
        part.step(0)
    # Its threads run the forwards, and the hooks hold for one thread.
    return StageMemory(None if contestant.executor == TORCHGPIPE else meter.peak_bytes / MIB, peak)


def _give_back_memory() -> None:
    """Return freed memory to the system, so that the peak of one contestant is not another's (glibc only)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _own_loss(
    setting: Setting, network: UnitNetwork, frames: Tensor, process: Process, exchange: Exchange | None
) -> dict[int, int]:
    """Run one clip in stages with the loss of frame 1 alone; nothing where no contestant works in our stages."""
    if exchange is None:
        return {}
    stage = Stage(cut(network.wiring, setting.units), process.rank, exchange)
    video_BTCHW = frames[: shortest_clip(network.wiring)].transpose(0, 1)
    found = measured_ticks(network, video_BTCHW if stage.has_video else video_BTCHW.to("meta"), stage)
    dist.barrier()
    return found
