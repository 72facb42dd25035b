"""The exact pipelines that Sideways is measured beside: torch.distributed.pipelining, and torchgpipe where installed.

A stage, or a chunk of one where a process has two, is a run of units. With P = 2 processes and four chunks:

    GPipe, 1F1B           process 0: units 1, 2      process 1: units 3, 4
    Interleaved1F1B       process 0: chunks 1 and 3  process 1: chunks 2 and 4
    ZBV, DualPipeV        process 0: chunks 1 and 4  process 1: chunks 2 and 3
"""

import copy
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.metrics.stage_cost import Contestant, Part, Setting, labels_of, optimizer_of
from lightning_modules.networks import UnitNetwork
from lightning_modules.networks.wiring import INPUT, Wiring

SINGLE = ("GPipe", "1F1B")
INTERLEAVED = ("Interleaved1F1B",)
V_SHAPED = ("ZBVZeroBubble", "DualPipeV")
SCHEDULES = (*SINGLE, *INTERLEAVED, *V_SHAPED)
TORCHGPIPE = "torchgpipe"


def crossing(wiring: Wiring, unit: int) -> tuple[int, ...]:
    """Return the units below a unit whose outputs it, or a unit above it, reads; above the last unit: the last."""
    if unit > wiring.depth:
        return (wiring.depth,)
    return tuple(sorted({source for source, reader in wiring.edges() if source < unit <= reader}))


class UnitRun(nn.Module):
    """A run of units as one stage of an exact pipeline: takes what crosses the cut below it, gives what crosses above.

    Args:
        network: has the units.
        units: their numbers.
    """

    def __init__(self, network: UnitNetwork, units: range) -> None:
        super().__init__()
        self.wiring, self.numbers = network.wiring, units
        self.takes, self.gives = crossing(network.wiring, units.start), crossing(network.wiring, units.stop)
        self.units = nn.ModuleList(network.unit(number) for number in units)

    def forward(self, *messages: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs that are read above, for one tensor (N, C, H, W) of each unit that is read here."""
        outputs = dict(zip(self.takes, messages, strict=True))
        for number, unit in zip(self.numbers, self.units, strict=True):
            outputs[number] = unit([outputs[source] for source in self.wiring.sources_of(number)])
        # What only passes through is copied: zero-bubble schedules detach outputs in place, which no view allows.
        found = [outputs[unit] if unit in self.numbers else outputs[unit].clone() for unit in self.gives]
        return found[0] if len(found) == 1 else tuple(found)


def runs(depth: int, chunks: int) -> list[range]:
    """Return the units of each of `chunks` equal runs."""
    length = depth // chunks
    return [range(1 + n * length, 1 + (n + 1) * length) for n in range(chunks)]


def chunks_of(executor: str, rank: int, stages: int) -> tuple[int, ...]:
    """Return the numbers of a process's chunks, from 0."""
    if executor in SINGLE:
        return (rank,)
    return (rank, rank + stages) if executor in INTERLEAVED else (rank, 2 * stages - 1 - rank)


def cannot_run(setting: Setting, contestant: Contestant) -> str | None:
    """Return why a peer cannot take part in a setting, or None where it can."""
    name, m = contestant.executor, contestant.frames
    wiring = setting.make_wiring()
    chunks = setting.stages if name in (*SINGLE, TORCHGPIPE) else 2 * setting.stages
    if any(INPUT in crossing(wiring, run.start) for run in runs(setting.depth, setting.stages)[1:]):
        return "stages above the first read the frame"
    if name == TORCHGPIPE and importlib.util.find_spec(TORCHGPIPE) is None:
        return "not installed: pip install -r benchmarks/depth_parallel/requirements.txt"
    if name == TORCHGPIPE and wiring.has_skips:
        return "takes a plain sequence: skips would need its own layers"
    if setting.depth % chunks:
        return f"needs {chunks} equal chunks; the network has {setting.depth} units"
    fewest = {"1F1B": setting.stages, "Interleaved1F1B": setting.stages, "DualPipeV": 2 * setting.stages}.get(name, 1)
    return f"needs at least {fewest} micro-batches" if m < fewest else None


def peer_contestants(lengths: Sequence[int]) -> list[Contestant]:
    """Return every exact pipeline at every number of frames m of an update."""
    found = [Contestant("backprop", name, "stages", m) for name in SCHEDULES for m in lengths]
    return found + [Contestant("backprop", TORCHGPIPE, "one process", m, threads=2) for m in lengths]


def peer_part(setting: Setting, contestant: Contestant, network: UnitNetwork, frames: Tensor, rank: int) -> Part:
    """Return a process's part of an exact pipeline of torch.distributed.pipelining: schedule step, optimizer step."""
    from torch.distributed import pipelining

    name, m = contestant.executor, contestant.frames
    total = setting.stages if name in SINGLE else 2 * setting.stages
    numbers = chunks_of(name, rank, setting.stages)
    network = copy.deepcopy(network)
    chunks = nn.ModuleList(UnitRun(network, runs(setting.depth, total)[number]) for number in numbers)
    device = torch.device("cpu")
    stages = [pipelining.PipelineStage(c, n, total, device) for c, n in zip(chunks, numbers, strict=True)]
    schedule_class: Any = getattr(pipelining, f"Schedule{name}")
    schedule = schedule_class(stages[0] if name in SINGLE else stages, m, loss_fn=F.cross_entropy)
    optimizer = optimizer_of(chunks.parameters())
    labels = labels_of(setting).repeat(m)

    def step(number: int) -> None:
        optimizer.zero_grad()
        video = [frames[number * m : (number + 1) * m].flatten(0, 1)] if 0 in numbers else []
        last = {"target": labels, "losses": []} if total - 1 in numbers else {}
        schedule.step(*video, **last, return_outputs=False)
        optimizer.step()

    return Part(step, setting.round_frames // m, chunks)


def torchgpipe_part(setting: Setting, contestant: Contestant, network: UnitNetwork, frames: Tensor) -> Part:
    """Return torchgpipe's pipeline: one process, a thread for each of two devices, which are both the CPU here."""
    from torchgpipe import GPipe

    m = contestant.frames
    network = copy.deepcopy(network)
    parts = nn.Sequential(*[UnitRun(network, units) for units in runs(setting.depth, setting.stages)])
    devices = ["cpu"] * setting.stages
    pipeline = GPipe(parts, [1] * setting.stages, devices=devices, chunks=m, checkpoint="never")
    optimizer = optimizer_of(pipeline.parameters())
    labels = labels_of(setting).repeat(m)

    def step(number: int) -> None:
        optimizer.zero_grad()
        outputs = pipeline(frames[number * m : (number + 1) * m].flatten(0, 1))
        F.cross_entropy(outputs, labels).backward()
        optimizer.step()

    # One thread for each device: inside an operation one thread works, as in the processes of the others.
    return Part(step, setting.round_frames // m, pipeline, threads=1)
