"""LPIPS, how unlike predicted frames look (Zhang et al. 2018, arXiv 1801.03924 [P]), from torchmetrics.

Distances between the features of an image network; lower is better. A mean over scored frames, of each horizon and over
all. The network's weights are torchvision's: they are downloaded once, or must be in torch's cache already.

Shape legend: B clips, N outputs, K horizons, M scored outputs, C channels, H and W height and width.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

NETWORKS = {"alex": 32, "vgg": 16}  # the fewest pixels that pass
PROTOCOL = "LPIPS of each frame, network {network}, predictions clamped to [0, 1], mean over frames (torchmetrics)"


def _network(name: str) -> Any:
    """Return torchmetrics' metric.

    Raises:
        ValueError: no such network, or its weights can't be had.
    """
    if name not in NETWORKS:
        raise ValueError(f"lpips {name!r} is unknown; expected one of none, {', '.join(NETWORKS)}")
    try:
        from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(
            net_type=name,  # type: ignore[arg-type]
            reduction="sum",
            normalize=True,
            sync_on_compute=False,
        )
    except (ImportError, OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError: a broken download
        raise ValueError(
            f"lpips {name!r} needs torchvision and its weights of that network, which could not be loaded "
            f"({type(error).__name__}: {error}); load them once with a connection to the internet "
            f"(they stay in {torch.hub.get_dir()}), or use --model.lpips none"
        ) from error


def check_pictures(network: str, channels: int, height: int, width: int) -> None:
    """Refuse frames that the network can't take.

    Raises:
        ValueError: frames that are too small, or of other colours than grey and RGB.
    """
    least = NETWORKS[network]
    if channels not in (1, 3) or min(height, width) < least:
        raise ValueError(
            f"frames of {channels} channels and {height} x {width} pixels; lpips {network!r} takes 1 or 3 "
            f"channels and at least {least} x {least} pixels: use --model.lpips none"
        )


class Lpips:
    """Adds up LPIPS of predicted frames for each horizon.

    Args:
        network: `alex` or `vgg`.
        ahead: k of each column.

    Raises:
        ValueError: no such network, or its weights can't be had.
    """

    def __init__(self, network: str, ahead: Sequence[int]) -> None:
        self.network, self.ahead = network, list(ahead)
        self.frames = 0
        self._sums_K = torch.zeros(len(self.ahead), dtype=torch.float64)
        self._metric: Any = _network(network)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_metric": None}  # the sums travel to other processes, the network need not

    def empty_like(self) -> "Lpips":
        """Return one that has counted nothing and shares the image network."""
        twin = copy(self)
        twin._metric = self._metric  # which a copy, as what travels, is without
        twin.frames, twin._sums_K = 0, torch.zeros_like(self._sums_K)
        return twin

    @torch.no_grad()
    def update(self, prediction_BNKCHW: Tensor, target_BNKCHW: Tensor, scored_BN: Tensor) -> None:
        """Add a batch of predicted frames where `scored_BN`; predictions are clamped to [0, 1].

        Raises:
            ValueError: frames that are too small, or of other colours than grey and RGB.
        """
        check_pictures(self.network, *prediction_BNKCHW.shape[-3:])
        prediction_MKCHW = prediction_BNKCHW[scored_BN].float().clamp(0, 1)
        target_MKCHW = target_BNKCHW[scored_BN].float()
        if not len(target_MKCHW):
            return
        metric = self._metric = (self._metric or _network(self.network)).to(target_MKCHW.device)
        for column in range(len(self.ahead)):
            pair = (x[:, column].expand(-1, 3, -1, -1) for x in (prediction_MKCHW, target_MKCHW))
            self._sums_K[column] += float(metric(*pair))
            metric.reset()
        self.frames += len(target_MKCHW)

    def merge(self, other: "Lpips") -> None:
        """Add what another process has counted on other frames."""
        self._sums_K += other._sums_K
        self.frames += other.frames

    def compute(self) -> dict[str, float]:
        """Return the means by name, `lpips_1`, ... and over all horizons `lpips`.

        Raises:
            ValueError: no frame was scored.
        """
        if not self.frames:
            raise ValueError("no predicted frame could be scored by lpips: every clip is too short")
        means = (self._sums_K / self.frames).tolist()
        found = {f"lpips_{k}": mean for k, mean in zip(self.ahead, means, strict=True)}
        return {**found, "lpips": sum(means) / len(means)}
