"""Time per training step and per frame at test time. Warm-up is dropped, and a device's work is waited for."""

import time
from collections.abc import Sequence

import torch

from lightning_modules.execution import Pipeline
from lightning_modules.execution.clip_loss import cross_entropy
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
    if isinstance(network, ClipNetwork):
        video_1TCHW = frame_1CHW.repeat(frames, 1, 1, 1)[None]
        run = lambda: network(video_1TCHW)  # noqa: E731
    elif rule.forward_shift:
        pipeline = Pipeline(network, rule, cross_entropy)
        run = lambda: pipeline.infer(frame_1CHW)  # type: ignore[assignment,return-value]  # noqa: E731
    else:
        run = lambda: network(frame_1CHW)  # noqa: E731
    times = []
    for i in range(network.depth + 2 + ticks):
        start = time.perf_counter()
        run()
        synchronise(device)
        if i >= network.depth + 2:
            times.append(1000 * (time.perf_counter() - start))
    return percentile(times, 50)
