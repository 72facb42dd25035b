"""Everything that an evaluation of predicted frames reports: the network's scores, the loss, and two baselines'.

    clips --update--> sums of this process --merge--> sums of all --figures--> `mse_1`, `copy_last/psnr_db`, `loss`, ...

Copying the newest frame, and the mean of the last four, are scored on the same frames as the network is: a network that
is no better than these has learnt nothing of motion (methods.md section 3, "Future frames" [D]).

Shape legend: B clips, T frames, N outputs, K horizons, C channels, H and W height and width.
"""

from typing import Any

from torch import Tensor

from lightning_modules.horizon import copy_last, horizons, mean_last
from lightning_modules.metrics.frame_scores import PROTOCOLS, FrameScores
from lightning_modules.metrics.frechet import PROTOCOL as FRECHET_PROTOCOL
from lightning_modules.metrics.frechet import FrechetDistance
from lightning_modules.metrics.lpips import PROTOCOL as LPIPS_PROTOCOL
from lightning_modules.metrics.lpips import Lpips
from lightning_modules.predicted_clips import PredictedClips

NONE = "none"
VALIDATION = ("loss", "mse", "psnr_db", "ssim", "copy_last/mse")


def protocols(lpips: str = NONE, frechet: str = NONE) -> dict[str, str]:
    """Return how each metric of a test is measured, by name: of those in use, see `FrameEvaluation`."""
    found = dict(PROTOCOLS)
    if lpips != NONE:
        found["lpips"] = LPIPS_PROTOCOL.format(network=lpips)
    if frechet != NONE:
        found["frechet"] = FRECHET_PROTOCOL
    return found


class _Row:
    """Every score of what one forecaster says, the network or a baseline."""

    def __init__(self, frames: FrameScores, lpips: Lpips | None, frechet: FrechetDistance | None) -> None:
        self.frames, self.lpips, self.frechet = frames, lpips, frechet

    def empty_like(self) -> "_Row":
        """Return another forecaster's, with the same metrics."""
        return _Row(
            FrameScores(self.frames.ahead),
            None if self.lpips is None else self.lpips.empty_like(),
            None if self.frechet is None else self.frechet.empty_like(),
        )

    def update(self, prediction_BNKCHW: Tensor, target_BNKCHW: Tensor, scored_BN: Tensor) -> None:
        """Add a batch."""
        for scores in (self.frames, self.lpips, self.frechet):
            if scores is not None:
                scores.update(prediction_BNKCHW, target_BNKCHW, scored_BN)

    def merge(self, other: "_Row") -> None:
        """Add what another process has seen."""
        self.frames.merge(other.frames)
        if self.lpips is not None and other.lpips is not None:
            self.lpips.merge(other.lpips)
        if self.frechet is not None and other.frechet is not None:
            self.frechet.merge(other.frechet)

    def compute(self) -> dict[str, float]:
        """Return the figures by name."""
        found = self.frames.compute()
        if self.lpips is not None:
            found |= self.lpips.compute()
        if self.frechet is not None:
            found["frechet"] = self.frechet.compute()
        return found


class FrameEvaluation:
    """Sums over scored frames, whose number does not grow with the test set.

    Args:
        horizon: K; 0 for auto-encoding, which has no baselines: they know the frame that is asked for.
        every_baseline: score both baselines by all metrics; otherwise the copy's MSE alone, for validations.
        lpips: none, or the network of `Lpips`.
        frechet: none, or the extractor of `FrechetDistance`.

    Raises:
        ValueError: no such network or extractor, or its weights can't be had.
    """

    def __init__(self, horizon: int, *, every_baseline: bool, lpips: str = NONE, frechet: str = NONE) -> None:
        self.horizon, self.every_baseline = horizon, every_baseline
        ahead = horizons(horizon)
        self.scores = _Row(
            FrameScores(ahead),
            None if lpips == NONE else Lpips(lpips, ahead),
            None if frechet == NONE else FrechetDistance(frechet),
        )
        names = ("copy_last", "mean_last") if every_baseline and horizon else ()
        self.baselines = {name: self.scores.empty_like() for name in names}
        self.clips = 0
        self._loss = self._copy_mse = 0.0

    @property
    def frames(self) -> int:
        """Number of scored frames, each with all its horizons."""
        return self.scores.frames.frames

    def update(self, clips: PredictedClips, video_BTCHW: Tensor, losses_BN: Tensor) -> None:
        """Add a batch.

        Args:
            clips: with targets and predictions.
            video_BTCHW: the whole clips, floats in [0, 1].
            losses_BN: of each output.
        """
        scored_BN = clips.scored_BN
        self.clips += int(scored_BN.any(1).sum())
        self._loss += float(losses_BN[scored_BN].double().sum())
        self.scores.update(clips.prediction_BNKCHW, clips.target_BNKCHW, scored_BN)
        copied = copy_last(video_BTCHW, clips.newest_N, self.horizon)
        if not self.every_baseline:
            errors = (copied - clips.target_BNKCHW)[scored_BN].square().flatten(1).mean(1)
            self._copy_mse += float(errors.double().sum())
        if self.baselines:
            self.baselines["copy_last"].update(copied, clips.target_BNKCHW, scored_BN)
            mean = mean_last(video_BTCHW, clips.newest_N, self.horizon)
            self.baselines["mean_last"].update(mean, clips.target_BNKCHW, scored_BN)

    def merge(self, other: "FrameEvaluation") -> None:
        """Add what another process has counted on other clips."""
        self.clips += other.clips
        self._loss += other._loss
        self._copy_mse += other._copy_mse
        self.scores.merge(other.scores)
        for name, baseline in self.baselines.items():
            baseline.merge(other.baselines[name])

    def figures(self) -> dict[str, float]:
        """Return every figure by name, means over scored frames.

        Raises:
            ValueError: no frame was scored.
        """
        found = {**self.scores.compute(), "loss": self._loss / self.frames}
        for name, baseline in self.baselines.items():
            found |= {f"{name}/{key}": value for key, value in baseline.compute().items()}
        if not self.every_baseline and self.horizon:
            found["copy_last/mse"] = self._copy_mse / self.frames
        return found

    def about(self) -> dict[str, Any]:
        """Return what the figures are means over, and what the Frechet distance was measured with."""
        distance = self.scores.frechet
        return {"clips": self.clips, "frames": self.frames, "frechet": None if distance is None else distance.about()}
