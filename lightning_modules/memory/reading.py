"""Reads steps of long streams as features: a run of them for the memory, any others for the predictor.

    a run        start ... start + n - 1, and `before` steps for the local context of the first
    pieces       runs that follow on each other, from the first step of the streams to the last
    anywhere     for each step the window k - w + 1 ... k

Nothing between is read. Steps outside a stream have features 0, and ask nothing.

Shape legend: B lanes, N steps of a run, J steps anywhere, W window, F features.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_modules.memory.encoders import Encoder

PIECE = 64  # steps of a stream that are read at a time


class Steps(NamedTuple):
    """What is read of some steps.

    Args:
        features: (..., F), 0 outside the stream.
        targets: of the steps themselves.
        inside: which steps are steps of their stream.
    """

    features: Tensor
    targets: Tensor
    inside: Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return what a stream gave on the device."""
    return values.to(device, non_blocking=True)


def read_run(encoder: Encoder, lanes: Any, start_B: Tensor, steps: int, device: torch.device, before: int = 0) -> Steps:
    """Return a run of steps of each lane: features (B, before + N, F), targets and inside (B, N).

    Args:
        encoder: gives the features.
        lanes: streams side by side, read by `lanes.read(steps_BN)`.
        start_B: first step of the run in each lane, int64 on the CPU.
        steps: N.
        device: where to work.
        before: steps before the run that are read too.
    """
    steps_BN = start_B[:, None] + torch.arange(-before, steps + encoder.ahead)
    x, y = lanes.read(steps_BN)
    end = before + steps
    inside = lanes.inside(steps_BN)
    features = encoder(to_device(x, device)) * to_device(inside[:, :end, None], device)
    return Steps(features, to_device(y[:, before:end], device), to_device(inside[:, before:end], device))


def spans(lanes: Any, piece: int) -> Iterator[tuple[int, int]]:
    """Yield the first step of each piece of the longest stream, and its number of steps, at most `piece`."""
    end = int(lanes.lengths_B.max())
    for start in range(0, end, piece):
        yield start, min(piece, end - start)


def read_pieces(
    encoder: Encoder, lanes: Any, piece: int, device: torch.device, before: int = 0
) -> Iterator[tuple[int, Steps]]:
    """Yield the first step of each piece of the streams, and what is read of it; see `read_run` and `spans`."""
    for start, steps in spans(lanes, piece):
        yield start, read_run(encoder, lanes, torch.full_like(lanes.lengths_B, start), steps, device, before)


def read_windows(encoder: Encoder, lanes: Any, steps_BJ: Tensor, window: int, device: torch.device) -> Steps:
    """Return windows that end at any steps: features (B * J, W, F), targets and inside (B, J).

    Args:
        encoder: gives the features.
        lanes: streams side by side.
        steps_BJ: int64 on the CPU.
        window: W.
        device: where to work.
    """
    lane_count, chosen = steps_BJ.shape
    steps = steps_BJ[..., None] + torch.arange(1 - window, 1 + encoder.ahead)
    x, y = lanes.read(steps.flatten(1))
    inside = lanes.inside(steps.flatten(1)).view_as(steps)
    x = to_device(x, device).unflatten(1, (chosen, -1)).flatten(0, 1)
    features = encoder(x) * to_device(inside[..., :window].flatten(0, 1)[..., None], device)
    targets = y.view(lane_count, chosen, -1)[..., window - 1]
    return Steps(features, to_device(targets, device), to_device(inside[..., window - 1], device))
