"""The Frechet distance between predicted and true videos, in the features of an extractor of one's choice.

    K predicted frames of each scored output  --extractor-->  features  -->  m1, S1
    K true frames of the same                 --extractor-->  features  -->  m2, S2     means and covariances

    d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

With features of a network trained on videos this is FVD (Unterthiner et al. 2018, arXiv 1812.01717 [P]); whatever the
extractor, a figure says nothing without its name and the number of samples: fewer samples give larger distances, and
with fewer than F the covariances are of no full rank. Both stand in the run's artifact. Here an output's K frames are a
sample [D]: neighbouring outputs of a clip share frames, so that samples are not independent.

Shape legend: B clips, N outputs, K horizons, n samples, F features, C channels, H and W height and width.
"""

from collections.abc import Callable
from copy import copy
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F_
from torch import Tensor, nn

Extractor = Callable[[Tensor], Tensor]
PIXELS = "pixels"
PROTOCOL = (
    "squared Frechet distance between predicted and true frames in the features named under `frechet`; an output's "
    "frames are a sample, predictions clamped to [0, 1]"
)
_GRID = 8


def pixels(video_nKCHW: Tensor) -> Tensor:
    """Return the means of an 8 x 8 grid over each frame, (n, K * C * 64): colours and their places, nothing learned."""
    return F_.adaptive_avg_pool2d(video_nKCHW.flatten(0, 1), _GRID).view(len(video_nKCHW), -1)


def feature_extractor(name: str) -> Extractor:
    """Return an extractor, from videos (n, K, C, H, W) in [0, 1] to features (n, F).

    Args:
        name: `pixels`, or the import path of a function, or of a class that is made without arguments.

    Raises:
        ValueError: the path leads nowhere, or to something else.
    """
    if name == PIXELS:
        return pixels
    module, _, attribute = name.rpartition(".")
    try:
        found: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"feature extractor {name!r} can't be imported ({error}); expected 'pixels', or a path such as "
            "mypackage.features.I3D"
        ) from error
    extractor = found() if isinstance(found, type) else found
    if not callable(extractor):
        raise ValueError(f"feature extractor {name!r} is no function of videos (n, K, C, H, W) but {extractor!r}")
    if isinstance(extractor, nn.Module):
        extractor = extractor.eval()
    return extractor


class _Moments:
    """Sums of features and of their products, float64."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | float = 0.0
        self.products: Tensor | float = 0.0

    def add(self, features_nF: Tensor) -> None:
        """Add a batch of features."""
        features = features_nF.detach().cpu().double()
        self.count += len(features)
        self.sums = self.sums + features.sum(0)
        self.products = self.products + features.T @ features

    def merge(self, other: "_Moments") -> None:
        self.count += other.count
        self.sums = self.sums + other.sums
        self.products = self.products + other.products

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Return the mean (F,) and the covariance (F, F), divided by n - 1."""
        assert isinstance(self.sums, Tensor)
        assert isinstance(self.products, Tensor)
        mean_F = self.sums / self.count
        return mean_F, (self.products - self.count * mean_F.outer(mean_F)) / (self.count - 1)


class FrechetDistance:
    """Collects means and covariances of predicted and true videos; its size is the square of F, whatever it is shown.

    Args:
        extractor: see `feature_extractor`.

    Raises:
        ValueError: no such extractor.
    """

    def __init__(self, extractor: str) -> None:
        self.extractor = extractor
        self._extract: Extractor | None = feature_extractor(extractor)
        self._predicted, self._true = _Moments(), _Moments()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_extract": None}  # the sums travel to other processes, a network need not

    def empty_like(self) -> "FrechetDistance":
        """Return one that has seen nothing and shares the extractor."""
        twin = copy(self)
        twin._extract = self._extract  # which a copy, as what travels, is without
        twin._predicted, twin._true = _Moments(), _Moments()
        return twin

    @property
    def samples(self) -> int:
        """Number of predicted videos seen."""
        return self._predicted.count

    @torch.no_grad()
    def update(self, prediction_BNKCHW: Tensor, target_BNKCHW: Tensor, scored_BN: Tensor) -> None:
        """Add a batch's videos where `scored_BN`; predictions are clamped to [0, 1].

        Raises:
            ValueError: the extractor gives no (n, F) features.
        """
        if not bool(scored_BN.any()):
            return
        pairs = (self._predicted, prediction_BNKCHW[scored_BN].clamp(0, 1)), (self._true, target_BNKCHW[scored_BN])
        for moments, video_nKCHW in pairs:
            moments.add(self._features(video_nKCHW))

    def _features(self, video_nKCHW: Tensor) -> Tensor:
        extract = self._extract = self._extract or feature_extractor(self.extractor)
        if isinstance(extract, nn.Module):
            extract.to(video_nKCHW.device)
        features = extract(video_nKCHW.float())
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(video_nKCHW):
            given = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"feature extractor {self.extractor!r} gave {given} for {len(video_nKCHW)} videos of shape "
                f"{tuple(video_nKCHW.shape[1:])}; expected ({len(video_nKCHW)}, F)"
            )
        return features

    def merge(self, other: "FrechetDistance") -> None:
        """Add what another process has seen."""
        self._predicted.merge(other._predicted)
        self._true.merge(other._true)

    def compute(self) -> float:
        """Return d^2, at least 0.

        Raises:
            ValueError: fewer than two samples.
        """
        if self.samples < 2:
            raise ValueError(f"a Frechet distance of {self.samples} samples; it needs at least 2, and better thousands")
        return frechet_distance(*self._predicted.mean_and_covariance(), *self._true.mean_and_covariance())

    def about(self) -> dict[str, Any]:
        """Return what a figure is nothing without: `extractor` and `samples`."""
        return {"extractor": self.extractor, "samples": self.samples}


def frechet_distance(mean_F: Tensor, covariance_FF: Tensor, other_mean_F: Tensor, other_covariance_FF: Tensor) -> float:
    """Return d^2 of two Gaussians.

    tr (S1 S2)^(1/2) is the sum of the square roots of the eigenvalues of R S2 R with R = S1^(1/2), which is symmetric.
    """
    values, vectors = torch.linalg.eigh(covariance_FF)
    root_FF = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root_FF @ other_covariance_FF @ root_FF).clamp_min(0).sqrt().sum()
    apart = (mean_F - other_mean_F).square().sum()
    return max(0.0, float(apart + covariance_FF.trace() + other_covariance_FF.trace() - 2 * shared))
