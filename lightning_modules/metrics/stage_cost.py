"""What a round of training costs under each rule, executor and placement: the setting, the contestants, their parts.

All contestants train networks of the same units on the same frames, with an SGD step for each update; `round_frames`
frames of B clips make a round:

    clips of T = 4     | 1 2 3 4 | 5 6 7 8 |      `update: clip`: 2 updates a round; `update: frame`: one at every tick
    m = 2              | 1 2 | 3 4 | 5 6 | 7 8 |  an exact schedule: 4 updates, each of two micro-batches of one frame

Copies show what the machine has to give: every process trains the whole network on all frames, and sends nothing.

Greedy rows train the same units, put together in one module a stage, each below the last with a head of its own: the
heads' cost is part of every figure. Vectorised, a stage sends its messages of a whole clip at once and goes on with the
next clip, so that a run's first clip fills the pipeline, once; such a row goes through the round's frames several
times (laps) and its times are those of one lap:

    stage 1    | clip 1 | clip 2 | clip 3 | ...
    stage 2             | clip 1 | clip 2 | clip 3 | ...
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from lightning_modules.execution import clip_gradients
from lightning_modules.execution.placement import cut, whole
from lightning_modules.execution.schedule import first_gradient_tick, first_output_tick
from lightning_modules.execution.stage import Exchange, Stage
from lightning_modules.metrics.equal_units import COLOURS, equal_units
from lightning_modules.metrics.head_cost import ModuleCost, module_costs
from lightning_modules.networks import UnitNetwork
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules
from lightning_modules.networks.wiring import Wiring, make_wiring
from lightning_modules.rules import make_rule
from lightning_modules.rules.rule import Update

CLASSES = 10
RATE = 1e-6  # moves nothing far: a step's cost does not depend on where it leads
STEADY = 32  # clips of a timed row whose pipeline is filled once, by the first
Placement = Literal["one process", "stages", "copies"]


@dataclass(frozen=True)
class Setting:
    """The network, the frames, and how many devices.

    Args:
        stages: processes, P; of the contestants in stages each has D / P units.
        depth: units, D.
        blocks: convolutions in each unit.
        channels: of every message.
        size: height and width of frames and messages.
        batch: clips, B.
        wiring: a name.
        round_frames: frames of each clip in a round, a multiple of all clips' and updates' lengths.
    """

    stages: int = 2
    depth: int = 2
    blocks: int = 2
    channels: int = 64
    size: int = 16
    batch: int = 1
    wiring: str = "chain"
    round_frames: int = 64

    @property
    def message_kib(self) -> float:
        """Size of one message."""
        return self.batch * self.channels * self.size**2 * 4 / 1024

    @property
    def units(self) -> tuple[int, ...]:
        """Units of each stage."""
        return (self.depth // self.stages,) * self.stages

    def make_wiring(self, rule: str = "sideways") -> Wiring:
        """Return the wiring, under `greedy` with a module for each stage."""
        wiring = make_wiring(self.wiring, self.depth)
        return replace(wiring, modules=self.units, gradients="local") if rule == "greedy" else wiring

    def make_network(self) -> UnitNetwork:
        """Return the network, the same in every process."""
        torch.manual_seed(0)
        return equal_units(self.depth, channels=self.channels, blocks=self.blocks, classes=CLASSES, wiring=self.wiring)

    def network_of(self, network: UnitNetwork, rule: str) -> UnitNetwork:
        """Return a copy that a rule trains: under `greedy` with a module for each stage, the same heads everywhere."""
        network = copy.deepcopy(network)
        if rule == "greedy":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                cut_into_modules(network, LocalModules(modules=self.units))
        return network

    def greedy_costs(self) -> list[ModuleCost]:
        """Return what each module costs, and its head."""
        frame_shape = (COLOURS, self.size, self.size)
        return module_costs(self.network_of(self.make_network(), "greedy"), frame_shape)

    def make_frames(self) -> Tensor:
        """Return the frames of a round (round_frames, B, C, H, W), noise."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(self.round_frames, self.batch, COLOURS, self.size, self.size, generator=generator)


@dataclass(frozen=True)
class Contestant:
    """One way to train.

    Args:
        rule: `backprop`, `sideways`, or `greedy`.
        executor: `whole` or `accumulated` (plain PyTorch: an update's frames at once, or one after another),
            `vectorised`, `pipelined`, or an exact schedule's name.
        placement: where the units are.
        frames: of a clip, T; of an update of exact schedules, m.
        update: weights change after each clip, or at each frame.
        transport: between stages, for those that choose it; None for others.
        threads: of one process.
        stash: Sideways' stash.
        timed: False: only its memory is measured.
        laps: how often a timed round goes through its frames; times are those of one lap.
    """

    rule: str
    executor: str
    placement: Placement
    frames: int
    update: Update = "clip"
    transport: str | None = None
    threads: int = 1
    stash: Literal["none", "exact"] = "none"
    timed: bool = True
    laps: int = 1

    @property
    def name(self) -> str:
        """What the table calls it; no two are the same."""
        words = [self.rule, *(["stash exact"] if self.stash == "exact" else []), self.executor]
        words += [f"T={self.frames} update {self.update}" if self.executor in OURS else f"m={self.frames}"]
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        places = {"one process": threads, "copies": "copies, no messages", "stages": self.transport or "gloo"}
        where = places[self.placement]
        return f"{' '.join(words)}, {where.replace('_', ' ')}"


PLAIN = ("whole", "accumulated")
OURS = ("vectorised", "pipelined")


@dataclass
class Part:
    """One process's part of a contestant.

    Args:
        step: one clip, or one update of an exact schedule; takes its number in the round.
        steps: how many make a round, laps included.
        module: what trains here.
        threads: while it runs.
        tick_starts_s: grows by the start of each tick where there are ticks; a clip's start is marked by NaN.
    """

    step: Callable[[int], None]
    steps: int
    module: nn.Module
    threads: int = 1
    tick_starts_s: list[float] = field(default_factory=list)

    def round(self) -> None:
        """Do one round."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        for number in range(self.steps):
            self.step(number)
        if self.threads > 1:
            torch.set_num_threads(1)


def idle() -> Part:
    """Return the part of a process that has nothing to do."""
    return Part(lambda number: None, 0, nn.Module())


def optimizer_of(parameters: Iterable[Tensor]) -> SGD:
    """Return every contestant's optimizer."""
    return SGD(parameters, lr=RATE)


def labels_of(setting: Setting) -> Tensor:
    """Return a class for each clip."""
    return torch.arange(setting.batch) % CLASSES


def plain_part(setting: Setting, contestant: Contestant, network: UnitNetwork, frames: Tensor) -> Part:
    """Return backprop as anybody writes it in PyTorch: frames, loss, backward, and a step after the update's last."""
    network = copy.deepcopy(network)
    optimizer, m = optimizer_of(network.parameters()), contestant.frames
    at_once = m if contestant.executor == "whole" else 1
    labels = labels_of(setting).repeat(at_once)

    def step(number: int) -> None:
        optimizer.zero_grad()
        for part in frames[number * m : (number + 1) * m].split(at_once):
            (F.cross_entropy(network(part.flatten(0, 1)), labels) * (at_once / m)).backward()
        optimizer.step()

    return Part(step, setting.round_frames // m, network, contestant.threads)


def our_part(
    setting: Setting,
    contestant: Contestant,
    network: UnitNetwork,
    frames: Tensor,
    rank: int,
    exchange: Exchange | None,
) -> Part:
    """Return a stage's part, or the whole, of training by `clip_gradients`."""
    network = setting.network_of(network, contestant.rule)
    in_stages = contestant.placement == "stages"
    placement = cut(network.wiring, setting.units) if in_stages else whole(network.wiring)
    starts: list[float] = []
    stage = Stage(placement, rank, exchange, on_tick_start=lambda tick: starts.append(time.perf_counter()))
    own = {name: p for unit in stage.units for name, p in network.unit_parameters(unit).items()}
    train = clip_trainer(network, contestant, own, stage)
    clips = [clip.transpose(0, 1) for clip in frames.split(contestant.frames)]
    clips = clips if stage.has_video else [clip.to("meta") for clip in clips]
    labels = labels_of(setting)

    def step(number: int) -> None:
        starts.append(float("nan"))
        train(clips[number % len(clips)], labels)

    return Part(step, contestant.laps * len(clips), network, contestant.threads, starts)


def clip_trainer(
    network: UnitNetwork, contestant: Contestant, own: Mapping[str, Tensor], stage: Stage
) -> Callable[[Tensor, Tensor], None]:
    """Return a function that trains a stage's own parameters on a batch of clips."""
    backprop = contestant.rule == "backprop"
    rule = make_rule(
        "backprop_frame" if backprop else contestant.rule, update=contestant.update, stash=contestant.stash
    )
    optimizer = optimizer_of(own.values())

    def update(gradients: Mapping[str, Tensor]) -> None:
        for name, p in own.items():
            p.grad = gradients.get(name)
        optimizer.step()

    def train(video_BTCHW: Tensor, labels_B: Tensor) -> None:
        on_tick = update if contestant.update == "frame" else None
        result = clip_gradients(
            network, video_BTCHW, labels_B, rule=rule, executor=contestant.executor, on_tick=on_tick, stage=stage
        )
        if on_tick is None:
            update(result.gradients)
            for p in own.values():
                p.grad = None

    return train


def passes_done(contestant: Contestant, wiring: Wiring) -> float:
    """Return the share of an exact method's work that is done, a unit's backward counted as twice its forward.

    A clip's first frames fill the pipeline: unit i works from tick i on, and has gradients from tick 2D - i on. With a
    stash its forward is done a second time. A greedy module works from its own tick on, with a gradient at each; heads
    are left out.

    Args:
        contestant: whose work.
        wiring: as the setting makes it for the contestant's rule.
    """
    if contestant.rule == "backprop":
        return 1.0
    units, frames = range(1, wiring.depth + 1), contestant.frames
    forward = sum(frames - first_output_tick(wiring, i) + 1 for i in units)
    if contestant.stash == "exact":
        return (forward + 3 * wiring.depth * (frames - wiring.depth + 1)) / (3 * wiring.depth * frames)
    backward = sum(max(0, frames - first_gradient_tick(wiring, i) + 1) for i in units)
    return (forward + 2 * backward) / (3 * wiring.depth * frames)


def our_contestants(
    clips: Sequence[int], transports: Sequence[str], threads: Sequence[int] = (1, 2), *, round_frames: int = 64
) -> list[Contestant]:
    """Return one-process backprop, Sideways and greedy, naive model-parallel backprop, Sideways and greedy in stages.

    Args:
        clips: lengths; the first is that of all rows, the others' rows are few.
        transports: for Sideways and greedy; the other rows in stages take the first.
        threads: for one-process backprop.
        round_frames: of a setting.
    """
    first, best = clips[0], transports[0]
    found = []
    for n in threads:
        found += [Contestant("backprop", how, "one process", first, threads=n) for how in PLAIN]
        found.append(Contestant("backprop", PLAIN[0], "one process", 1, threads=n))
    found += [Contestant("sideways", executor, "one process", first) for executor in OURS]
    for update in ("clip", "frame"):
        found.append(Contestant("backprop", "vectorised", "stages", first, update, best))
        found += [Contestant("sideways", "pipelined", "stages", first, update, t) for t in transports]
    found.append(Contestant("sideways", "pipelined", "stages", first, "clip", best, stash="exact"))
    found += greedy_contestants(clips, transports, round_frames)
    for length in clips[1:]:
        found.append(Contestant("backprop", PLAIN[0], "one process", length, timed=False))
        found.append(Contestant("backprop", "vectorised", "stages", length, "clip", best, timed=False))
        found.append(Contestant("sideways", "vectorised", "one process", length, timed=False))
        found += [Contestant("sideways", "pipelined", "stages", length, update, best) for update in ("clip", "frame")]
    return found


def greedy_contestants(clips: Sequence[int], transports: Sequence[str], round_frames: int) -> list[Contestant]:
    """Return greedy in one process and in stages; of other lengths than the first only their memory is measured."""
    first, best = clips[0], transports[0]
    laps = math.ceil(STEADY * first / round_frames)
    found = [Contestant("greedy", executor, "one process", first) for executor in OURS]
    found.append(Contestant("greedy", "vectorised", "stages", first, "clip", best, laps=laps))
    found += [Contestant("greedy", "pipelined", "stages", first, "clip", t) for t in transports]
    found.append(Contestant("greedy", "pipelined", "stages", first, "frame", best))
    others = [(executor, length) for length in clips[1:] for executor in OURS]
    return found + [Contestant("greedy", e, "stages", length, "clip", best, timed=False) for e, length in others]


def copies_of(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Return the copies that show the machine's ceiling: of one-process backprop, Sideways and greedy in stages.

    Args:
        contestants: who takes part; all rows of a rule with the same executor, clips and updates have the same copies.
    """
    plain = [c for c in contestants if (c.executor, c.threads) == ("accumulated", 1)]
    ours = [c for c in contestants if c.rule != "backprop" and (c.placement, c.stash) == ("stages", "none")]
    own = [c for c in [*plain, *ours] if c.timed]
    return list(dict.fromkeys(replace(c, placement="copies", transport=None, laps=1) for c in own))
