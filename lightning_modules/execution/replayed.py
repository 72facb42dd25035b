"""Asynchronous local losses: modules that draw minibatches from buffers, and wait for no other module.

[C] Below every module but the first lies a buffer of the last M minibatches. In a step a module draws one, learns from
it, and pushes what it made of it into the buffer above; the first module takes the step's own batch:

    batch --> module 1 --> [ M minibatches ] --> module 2 --> [ M minibatches ] --> module 3
                           push     draw                      push     draw

In one process a step lets every module that works draw before any pushes, the highest first, as if all worked at the
same time: with M = 1 and no slow module, module j learns from the batch of j - 1 steps ago what the synchronous form
learns from it. A slow module (work_schedule.py) leaves out steps; where the first one does, the step's batch is lost,
as a camera's frames would be.

A minibatch is a batch of clips: the messages at all their ticks that modules above the boundary read, with targets and
lengths. What is quantised is held as packed codes, with the codebook that they were made with.

In several processes (`stage.replay`) each stage does this for its own modules, again and again until the first stage
has gone on to its next batch; see strategies/replay_link.py.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_modules.execution.clip_loss import Answer, Loss
from lightning_modules.execution.greedy import (
    ModulePass,
    Network,
    mean_answer,
    mean_gradients,
    module_pass,
    needed_above,
    stage_modules,
    whole_batch,
)
from lightning_modules.execution.minibatch import Coded, Minibatch, dense, from_plain, plain
from lightning_modules.execution.replay_buffer import ReplayBuffer
from lightning_modules.execution.stage import Stage
from lightning_modules.execution.work_schedule import WorkSchedule
from lightning_modules.rules.rule import Rule

OnUpdate = Callable[[Mapping[str, Tensor]], None]


class ReplayMemory:
    """What asynchronous modules hold between steps: buffers, and how many steps there were.

    It belongs to one training run, is empty for rules without buffers, and its state belongs into a checkpoint.
    """

    def __init__(self) -> None:
        self.step = self.resumed = 0
        self.seed = torch.initial_seed() % 2**31  # of the schedule of slow modules: the run's
        self._buffers: dict[int, ReplayBuffer] = {}
        self._updates: dict[int, int] = {}
        self._codebooks: dict[int, tuple[int, Tensor]] = {}
        self._restored: dict[int, Any] = {}

    def buffer(self, module: int, rule: Rule, device: torch.device) -> ReplayBuffer:
        """Return the buffer below a module."""
        if module not in self._buffers:
            options = rule.replay
            assert options is not None
            self._buffers[module] = buffer = ReplayBuffer(
                options.size, options.order, options.max_reuse, plain=plain, restored=from_plain
            )
            if module in self._restored:
                buffer.load_state_dict(self._restored.pop(module))
                buffer.to(device)
        return self._buffers[module]

    def count_update(self, module: int) -> None:
        """Count that a module has learnt from a minibatch."""
        self._updates[module] = self._updates.get(module, 0) + 1

    def codebook(self, network: Network, unit: int) -> Tensor:
        """Return a copy of the codebook of a unit's quantiser, the same one as long as it does not change."""
        quantiser = network.quantiser(unit)
        assert quantiser is not None
        version = int(quantiser.version)
        if unit not in self._codebooks or self._codebooks[unit][0] != version:
            self._codebooks[unit] = (version, quantiser.codebook.detach().clone())
        return self._codebooks[unit][1]

    def updates(self, modules: Collection[int] | None = None) -> dict[int, int]:
        """Return how often each module has learnt from a minibatch, of `modules` or of all."""
        return {j: count for j, count in sorted(self._updates.items()) if modules is None or j in modules}

    def figures(self, modules: Collection[int] | None = None) -> dict[str, float]:
        """Return what is logged of `modules`, or of all.

        Each buffer's age and reuse since the last call, its bytes, and each module's updates.
        """
        found: dict[str, float] = {}
        for module, buffer in sorted(self._buffers.items()):
            named = buffer.figures() | {"bytes": float(buffer.nbytes)}
            found |= {f"buffer/{name}/module_{module}": value for name, value in named.items()}
        return found | {f"updates/module_{module}": float(count) for module, count in self.updates(modules).items()}

    def state_dict(self) -> dict[str, Any]:
        """Return plain containers and tensors, for a checkpoint."""
        held = {module: buffer.state_dict() for module, buffer in self._buffers.items()}
        return {"step": self.step, "seed": self.seed, "updates": dict(self._updates), "buffers": self._restored | held}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what `state_dict` described; None: from the start."""
        self.__init__()  # type: ignore[misc]
        if state is not None:
            self.step = self.resumed = state["step"]
            self.seed, self._updates = state["seed"], dict(state["updates"])
            self._restored = dict(state["buffers"])


def run_replayed(
    network: Network,
    video_BTCHW: Tensor,
    targets: Tensor,
    rule: Rule,
    lengths_B: Tensor,
    loss: Loss,
    memory: ReplayMemory,
    on_update: OnUpdate,
    stage: Stage | None = None,
) -> tuple[dict[int, Answer], Tensor]:
    """Do a step of all modules, and hand over their gradients, means over what each has drawn [C, methods.md 4].

    Returns:
        The answers of the modules that worked, and the targets that the highest of them was asked for.
    """
    batch = whole_batch(network, video_BTCHW, targets, lengths_B) if stage is None or stage.has_video else None
    link = None if stage is None else stage.replay
    if link is None:
        memory.step += 1
        return _step(network, batch, rule, loss, memory, on_update, stage)
    answers: dict[int, Answer] = {}
    asked = targets
    below = stage_modules(network, stage)[0]
    while not link.is_over():
        memory.step = max(memory.step, memory.resumed + link.now)
        for number, content in link.incoming():
            memory.step = max(memory.step, number)
            memory.buffer(below, rule, lengths_B.device).push(from_plain(content), number)
        found, drawn = _step(network, batch, rule, loss, memory, on_update, stage)
        answers |= found
        if found and max(found) == max(answers):
            asked = drawn
        if batch is not None:
            break
        if not found:
            link.rest()
    link.end_batch()
    return answers, asked


def _step(
    network: Network,
    batch: Minibatch | None,
    rule: Rule,
    loss: Loss,
    memory: ReplayMemory,
    on_update: OnUpdate,
    stage: Stage | None,
) -> tuple[dict[int, Answer], Tensor]:
    """Let every module of a stage that works in this step draw, learn and push, the highest first."""
    device = next(network.parameters()).device
    works = _schedule(network, rule, memory.seed).works(memory.step)
    modules = stage_modules(network, stage)
    answers, gradients = dict[int, Answer](), dict[str, Tensor]()
    asked = torch.empty(0, device=device)
    for module in reversed(modules):
        if not works[module - 1]:
            continue
        drawn = batch if module == 1 else memory.buffer(module, rule, device).draw(memory.step)
        if drawn is None:
            continue
        clips = dense(network, drawn)
        pack = network.module_outputs(module)
        passes = [module_pass(network, module, part, rule, loss, pack=pack) for part in clips]
        memory.count_update(module)
        answers[module] = mean_answer(passes, clips, sum(len(part.rows_B) for part in clips))
        gradients |= mean_gradients(passes)
        if not asked.numel():
            asked = torch.cat([part.targets for part in clips])[torch.cat([p.rows_B for p in clips]).argsort()]
        if module < network.module_count:
            content = _content(network, module, drawn, passes, memory)
            if module + 1 in modules:
                memory.buffer(module + 1, rule, device).push(content, memory.step)
            elif stage is not None and stage.replay is not None:
                stage.replay.outgoing(memory.step, plain(content))
    if gradients:
        on_update(gradients)
    for module in answers:
        for unit in network.module_outputs(module):
            if (quantiser := network.quantiser(unit)) is not None:
                quantiser.step()
    return answers, asked


def _schedule(network: Network, rule: Rule, seed: int) -> WorkSchedule:
    assert rule.replay is not None
    modules = network.module_count
    return WorkSchedule(rule.replay.slow_downs_of(modules), seed, modules=modules)


def _content(
    network: Network, module: int, drawn: Minibatch, passes: list[ModulePass], memory: ReplayMemory
) -> Minibatch:
    """Return what goes into the buffer above a module: what higher modules read, the module's own outputs quantised."""
    needed = needed_above(network, module)
    made = []
    for part, done in zip(drawn, passes, strict=True):
        own: dict[int, Any] = dict(done.sent)
        for unit, packed in done.packed.items():
            own[unit] = Coded(packed, memory.codebook(network, unit), done.sent[unit].shape)
        made.append(replace(part, messages={j: m for j, m in (part.messages | own).items() if j in needed}))
    return made
