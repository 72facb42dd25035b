"""Time per training step and per frame at test time. Warm-up is dropped, and a device's work is waited for."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lightning_modules.execution import make_pipeline
from lightning_modules.execution.greedy import answer_of_modules
from lightning_modules.networks import ClipNetwork, UnitNetwork
from lightning_modules.rules import Rule


def synchronise(device: torch.device) -> None:
    """Wait until a device has done its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def percentile(values: Sequence[float], q: float) -> float:
    """Return the q-th percentile (0..100) of at least one value, linearly interpolated."""
    return torch.tensor(values, dtype=torch.float64).quantile(q / 100).item()


@torch.no_grad()
def tick_ms(
    network: UnitNetwork | ClipNetwork, rule: Rule, frame_shape: tuple[int, int, int], frames: int, ticks: int = 30
) -> float:
    """Return the median time in ms from a frame's arrival to the next output, batch 1, in one process.

    A pipelined network does one tick of all its units; an ordinary one a whole forward; a 3D network must wait for a
    clip of `frames` frames and runs on all of it.

    Args:
        network: in evaluation mode.
        rule: decides between tick and forward.
        frame_shape: (C, H, W).
        frames: length of a 3D network's clip.
        ticks: how many are timed, after a warm-up of D + 2: from tick D on a pipeline does its whole work.
    """
    device = next(network.parameters()).device
    frame_1CHW = torch.rand(1, *frame_shape, device=device)
    answer = _answer(network, rule)
    given = frame_1CHW.repeat(frames, 1, 1, 1)[None] if isinstance(network, ClipNetwork) else frame_1CHW
    return median_ms(partial(answer, given), device, warm_up=network.depth + 2, times=ticks)


def median_ms(do: Callable[[], object], device: torch.device, warm_up: int, times: int = 30) -> float:
    """Return the median time in ms of something that is done so many times, after a warm-up of a few more."""
    found = []
    for _ in range(warm_up + times):
        start = time.perf_counter()
        do()
        synchronise(device)
        found.append(1000 * (time.perf_counter() - start))
    return percentile(found[-times:], 50)


def _answer(network: UnitNetwork | ClipNetwork, rule: Rule) -> Callable[[Tensor], Tensor | None]:
    """Return what a network does when a frame, or a 3D network's clip, has come."""
    if isinstance(network, UnitNetwork) and rule.forward_shift:
        return make_pipeline(network, rule).infer
    return partial(answer_of_modules, network) if network.is_local else network
