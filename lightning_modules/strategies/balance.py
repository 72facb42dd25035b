"""Which units go into which stage: each unit's time is measured, and the cut whose slowest stage is fastest is taken.

    times of units    2.0  1.0  3.0  1.0  1.0  ms        two stages
    cut               2.0  1.0 | 3.0  1.0  1.0           stages of 3 and 5 ms: period 5 ms
                      2.0  1.0  3.0 | 1.0  1.0           stages of 6 and 2 ms
    balanced          [2, 3]

Stages do not wait for one another, so the slowest one's time is the period: a frame enters, and every unit is updated,
once in a period. Units that are put together in modules with losses of their own stay together: a module takes the
unit's place, and is timed as it works, with its head. All of this is ours [D].
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from math import fsum, inf
from statistics import median

import torch
from torch import Tensor

from lightning_modules.execution.greedy import trainable
from lightning_modules.execution.stage import message_shapes
from lightning_modules.networks.unit_network import UnitNetwork
from lightning_modules.rules.rule import Rule

_MOST_ROUNDS = 15
_BUDGET_S = 1.5
_DOMINATES = 1.3
# Sums of the same times in another order differ by rounding.
_SAME = 1 + 1e-9


def unit_times(
    network: UnitNetwork, frame_shape: tuple[int, int, int], clips: int, device: torch.device, rule: Rule
) -> list[float]:
    """Return each unit's median time in ms for one frame of a batch: forward and vector-Jacobian product, as in a tick.

    Units are timed in turns, a warm-up round first, for 1.5 s; at least one round after the warm-up, at most 15.
    Weights, gradients and random state stay as they were. Messages between stages are not part of it.

    Args:
        network: on `device`.
        frame_shape: (C, H, W).
        clips: clips in a batch, B.
        device: is waited for, so that queued work counts.
        rule: with `stash: exact` a unit does a second forward.
    """
    with _random_state_kept(device):
        steps = [_unit_step(network, unit, frame_shape, clips, device, rule) for unit in range(1, network.depth + 1)]
        return _times(steps, device)


def module_times(
    network: UnitNetwork, frame_shape: tuple[int, int, int], clips: int, device: torch.device
) -> list[float]:
    """Return each module's median time in ms for one frame of a batch: forward with head, backward, codes to send.

    Loss and gradient stay inside a module: there is no input gradient. What quantisers learn is not part of it, and
    otherwise as `unit_times`, with the same arguments.
    """
    with _random_state_kept(device):
        modules = range(1, network.module_count + 1)
        return _times([_module_step(network, module, frame_shape, clips, device) for module in modules], device)


def _random_state_kept(device: torch.device) -> AbstractContextManager[object]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _times(steps: Sequence[Callable[[], None]], device: torch.device) -> list[float]:
    times_ms: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + _BUDGET_S
    for number in range(1 + _MOST_ROUNDS):
        if number > 1 and time.perf_counter() > end:
            break
        for step, found in zip(steps, times_ms, strict=True):
            found.append(_timed_ms(step, device))
    return [median(found[1:]) for found in times_ms]


def _timed_ms(step: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return 1000 * (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _unit_step(
    network: UnitNetwork, number: int, frame_shape: tuple[int, int, int], clips: int, device: torch.device, rule: Rule
) -> Callable[[], None]:
    """Return a function that does a unit's work of one tick, on noise."""
    unit, wiring = network.unit(number), network.wiring
    shapes, dtype = message_shapes(network, tuple(frame_shape)), next(network.parameters()).dtype

    def noise(about: int) -> Tensor:
        return torch.rand(clips, *shapes[about], device=device, dtype=dtype)

    sources = wiring.sources_of(number)
    messages = {j: noise(j).requires_grad_(wiring.carries_gradient(j, number)) for j in sources}
    grad_output = noise(number)
    wanted = [t for t in (*unit.parameters(), *messages.values()) if t.requires_grad]

    def step() -> None:
        inputs = list(messages.values())
        if rule.stash == "exact":
            with torch.no_grad():
                unit(inputs)
        if not wanted:
            with torch.no_grad():
                unit(inputs)
            return
        torch.autograd.grad(unit(inputs), wanted, grad_output)

    return step


def _module_step(
    network: UnitNetwork, module: int, frame_shape: tuple[int, int, int], clips: int, device: torch.device
) -> Callable[[], None]:
    """Return a function that does a module's work of one tick, on noise."""
    shapes, dtype = message_shapes(network, tuple(frame_shape)), next(network.parameters()).dtype
    sources = network.module_sources(module)
    messages = {j: torch.rand(clips, *shapes[j], device=device, dtype=dtype) for j in sources}
    wanted = list(trainable(network, module).values())

    def step() -> None:
        with torch.set_grad_enabled(bool(wanted)):
            outputs, answer = network.module_forward(module, messages)
            for unit, output in outputs.items():
                if (quantiser := network.quantiser(unit)) is not None:
                    quantiser.encode(output)
            if wanted:
                torch.autograd.grad(answer.sum(), wanted, allow_unused=True)

    return step


def units_in_stages(sizes: Sequence[int], modules: Sequence[int]) -> list[int]:
    """Return the number of units in each stage.

    Args:
        sizes: modules in each stage.
        modules: units in each module.
    """
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    return [sum(modules[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def modules_in_stages(sizes: Sequence[int], modules: Sequence[int]) -> list[int] | None:
    """Return the number of modules in each stage; None where a stage ends inside a module.

    Args:
        sizes: units in each stage.
        modules: units in each module.
    """
    counts = {sum(modules[:n]): n for n in range(len(modules) + 1)}
    ends = [counts.get(sum(sizes[:n])) for n in range(len(sizes) + 1)]
    return [b - a for a, b in pairwise(ends)] if None not in ends else None  # type: ignore[operator]


def balanced(times: Sequence[float], stages: int) -> list[int]:
    """Return the number of units in each stage, lowest first, such that the slowest stage takes least.

    Exact, by dynamic programming. Where several cuts have the same slowest stage: the one whose stages differ least
    (the smallest sum of squares), and of these the one with more units in the higher stages, since the first also takes
    frames in.

    Args:
        times: of each unit, the lowest first, in any unit.
        stages: how many.

    Raises:
        ValueError: no stages, or more than there are units.
    """
    if not 1 <= stages <= len(times):
        raise ValueError(
            f"{stages} stages for a network of {len(times)} units; a stage needs at least one unit: "
            f"type --trainer.devices {len(times)} or fewer (for each replica), or give the network more units"
        )
    period = _best_cut(times, stages, lambda stage: stage, max)[0]
    even = _best_cut(times, stages, lambda stage: stage**2 if stage <= period * _SAME else inf, lambda a, b: a + b)
    return even[1]


def _best_cut(
    times: Sequence[float], stages: int, cost: Callable[[float], float], join: Callable[[float, float], float]
) -> tuple[float, list[int]]:
    """Return the least joined cost of all cuts, and the first such cut; `best[n]` is about the first n units."""
    best = {n: (cost(fsum(times[:n])), [n]) for n in range(1, len(times) + 1)}
    for stage in range(2, stages + 1):
        best = {
            n: min((join(best[m][0], cost(fsum(times[m:n]))), [*best[m][1], n - m]) for m in range(stage - 1, n))
            for n in range(stage, len(times) + 1)
        }
    return best[len(times)]


def stage_times(times: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """Return the time of each stage; the period is the largest."""
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    return [fsum(times[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def report(times: Sequence[float], sizes: Sequence[int], part: str = "unit") -> str:
    """Return a table of the stages, the period, and a hint where one unit, or one module, alone sets it.

    Args:
        times: of each unit, or module, in ms.
        sizes: units, or modules, in each stage.
        part: `unit` or `module`.
    """
    in_stages, ends = stage_times(times, sizes), [sum(sizes[: n + 1]) for n in range(len(sizes))]
    period = max(in_stages)
    lines = [f"stage  {part + 's':<14}ms  share of the period"]
    for stage, (ms, end, size) in enumerate(zip(in_stages, ends, sizes, strict=True)):
        units = f"{end}" if size == 1 else f"{end - size + 1}-{end}"
        lines.append(f"{stage:>5}  {units:<6} {ms:>9.2f}  {100 * ms / period:>4.0f} %")
    lines.append(f"period {period:.2f} ms a frame, mean of the stages {fsum(in_stages) / len(sizes):.2f} ms")
    return "\n".join(lines + _hint(times, sizes, part))


def _hint(times: Sequence[float], sizes: Sequence[int], part: str) -> list[str]:
    in_stages = stage_times(times, sizes)
    period, mean = max(in_stages), fsum(in_stages) / len(sizes)
    stage = in_stages.index(period)
    if sizes[stage] > 1 or period <= _DOMINATES * mean:
        return []
    number = sum(sizes[: stage + 1])
    enough = next(s for s in range(1, len(sizes) + 1) if max(stage_times(times, balanced(times, s))) <= period * _SAME)
    fewer = f", or use fewer stages: {enough} of them are as fast" if enough < len(sizes) else ""
    less = "split it into two units" if part == "unit" else "give it fewer units (--model.modules)"
    return [
        f"hint: {part} {number} alone sets the period, {period / mean:.1f} x the mean stage; "
        f"narrow it, or {less}{fewer}"
    ]


def given_sizes(balance: str | Sequence[int], stages: int, depth: int, modules: Sequence[int] = ()) -> list[int] | None:
    """Return the stage sizes that a user gave, checked; None where they are to be measured.

    Args:
        balance: `auto`, or the number of units in each stage, the lowest first: a list, or text like "2,1,2".
        stages: how many there are.
        depth: number of units of the network.
        modules: units in each module, which stay together; none where there are no modules.

    Raises:
        ValueError: with what was given, what was expected, and what to give instead.
    """
    if isinstance(balance, str) and balance.strip().lower() == "auto":
        return None
    sizes = _numbers(balance)
    parts = list(modules) or [1] * depth
    example = ",".join(map(str, units_in_stages(balanced([1.0] * len(parts), stages), parts)))
    use = f"give {stages} numbers that add up to {depth}, such as {example}, or 'auto'"
    if len(sizes) != stages:
        raise ValueError(f"balance {sizes} is for {len(sizes)} stages, but there are {stages}; {use}")
    if min(sizes) < 1 or sum(sizes) != depth:
        raise ValueError(
            f"balance {sizes} places {sum(sizes)} units, the network has {depth}, at least 1 a stage; {use}"
        )
    if modules_in_stages(sizes, parts) is None:
        raise ValueError(
            f"balance {sizes} cuts inside a module: they have {list(modules)} units, the lowest first, and a module "
            f"works in one stage; {use}"
        )
    return sizes


def _numbers(balance: str | Sequence[int]) -> list[int]:
    parts = balance.strip().strip("[]()").split(",") if isinstance(balance, str) else balance
    try:
        return [int(part) for part in parts]
    except (TypeError, ValueError):
        raise ValueError(
            f"balance {balance!r} is no list of numbers; expected 'auto', or the units of each stage, such as 2,1,2"
        ) from None
