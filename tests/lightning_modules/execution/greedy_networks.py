"""Tiny networks in modules with losses of their own, and clips for them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.execution import clip_gradients
from lightning_modules.networks import ClipNetwork, UnitNetwork, build_frame_predictor
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules
from tests.lightning_modules.execution.reference import moving_video, tiny_network

LABELS = torch.tensor([0, 2, 1])
CUTS = [(1, 1, 1, 2), (2, 1, 2), (1, 4), (2, 3), (1, 1, 1, 1, 1)]
FAST_WIRINGS = ("chain", "dense")  # that a fast run takes
CLOCKS = {"greedy": 1, "greedy_frame": 0}
SIDE = 16  # of frames: the deepest maps keep some pixels


def local_network(
    sizes: Sequence[int], wiring: str = "chain", *, dtype: torch.dtype = torch.float64, **options: Any
) -> UnitNetwork:
    """A tiny network of as many units as `sizes` say, smooth, in modules."""
    network = tiny_network(sum(sizes), wiring)
    cut_into_modules(network, LocalModules(modules=list(sizes), head="mlp", activation="tanh", **options))
    return network.to(dtype)


def local_predictor(sizes: Sequence[int], wiring: str = "chain") -> UnitNetwork:
    """Frames in, frames of two channels out: modules with decoders."""
    torch.manual_seed(0)
    network = build_frame_predictor(
        "small_autoencoder",
        wiring=wiring,
        in_channels=2,
        out_channels=2,
        width=0.25,
        depth=sum(sizes),
        activation="tanh",
    )
    cut_into_modules(network, LocalModules(modules=list(sizes), head="decoder", activation="tanh"))
    return network.double()


def quantised_network(sizes: Sequence[int], wiring: str, *, dead: float = 0.0) -> UnitNetwork:
    """Codebooks that were started on some other clips."""
    network = local_network(sizes, wiring, vq_groups=2, vq_codes=8)
    for unit in range(1, network.depth + 1):
        if (quantiser := network.quantiser(unit)) is not None:
            quantiser.dead = dead
    clip_gradients(network, moving_video(3, 8, size=SIDE, seed=5), LABELS, rule="greedy")
    return network


def codebooks(network: UnitNetwork | ClipNetwork) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in network.named_buffers()}


def clips(frames: int) -> Tensor:
    return moving_video(3, frames, size=SIDE)


def frame_targets(frames: int) -> Tensor:
    return torch.rand(3, frames, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
