"""The tick at which a frame's own loss reaches each unit: what the schedule says, and what a run shows.

D = 3 units on a chain, the loss of frame 1 alone switched on:

    tick      1   2   3   4   5
    unit 3    .   .   x              its own output: tick D
    unit 2    .   .   .   x
    unit 1    .   .   .   .   x      tick 2D - 1
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lightning_modules.execution import clip_gradients
from lightning_modules.execution.placement import whole
from lightning_modules.execution.schedule import first_gradient_tick, shortest_clip
from lightning_modules.execution.stage import Stage
from lightning_modules.networks import UnitNetwork
from lightning_modules.networks.wiring import Wiring
from lightning_modules.rules import make_rule


def scheduled_ticks(wiring: Wiring) -> dict[int, int]:
    """Return for each unit the tick at which frame 1's own loss first changes it: 2D - i on the chain."""
    return {unit: first_gradient_tick(wiring, unit) for unit in range(1, wiring.depth + 1)}


def _weighted_square(outputs_NK: Tensor, weights_N: Tensor) -> Tensor:
    return outputs_NK.square().sum(-1) * weights_N


def measured_ticks(
    network: UnitNetwork, video_BTCHW: Tensor, stage: Stage | None = None, frame: int = 1
) -> dict[int, int]:
    """Run a clip whose loss counts at one frame only, and return the tick of each unit's first gradient that is not 0.

    Args:
        network: no weight is changed.
        video_BTCHW: at least 2D - 1 frames.
        stage: these units only; all stages call this at the same time. The video may be on the meta device above.
        frame: the frame whose loss counts, from 1.

    Raises:
        ValueError: the clip is too short for the loss to reach every unit.
    """
    shortest = shortest_clip(network.wiring) + frame - 1
    if video_BTCHW.shape[1] < shortest:
        raise ValueError(
            f"a clip of {video_BTCHW.shape[1]} frames; the loss of frame {frame} reaches every one of "
            f"{network.depth} units in a clip of at least {shortest}"
        )
    now, found = 0, dict[int, int]()

    def on_tick_start(tick: int) -> None:
        nonlocal now
        now = tick

    def on_tick(gradients: Mapping[str, Tensor]) -> None:
        for unit in range(1, network.depth + 1):
            names = network.unit_parameters(unit).keys() & gradients.keys()
            if any(bool(gradients[name].any()) for name in names):
                found.setdefault(unit, now)

    weights_BT = torch.zeros(video_BTCHW.shape[:2])
    weights_BT[:, frame - 1] = 1
    clip_gradients(
        network,
        video_BTCHW,
        weights_BT,
        rule=make_rule("sideways", update="frame"),
        executor="pipelined",
        loss=_weighted_square,
        on_tick=on_tick,
        stage=replace(stage or Stage(whole(network.wiring)), on_tick_start=on_tick_start),
    )
    return found
