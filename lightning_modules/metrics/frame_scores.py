"""How near predicted frames come to the true ones: sums over frames, so that memory does not grow with the test set.

Protocols, each for every horizon k, a mean over scored (clip, newest frame) pairs, and as a mean over k:

    mse_k       per pixel: mean over channels and pixels of a frame
    mse_sum_k   the same error summed over channels and pixels of a frame
    psnr_db_k   mean over frames of 10 log10(1 / mse); a frame with mse below 1e-10 counts 100 dB
    ssim_k      of each frame (2-D): Gaussian 11 x 11 window, sigma 1.5, data range 1 (torchmetrics)

Predictions are clamped to [0, 1], the range of data, before all of them.

Shape legend: B clips, N outputs, K horizons, M scored outputs, F frames, C channels, H and W height and width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

METRICS = ("mse", "mse_sum", "psnr_db", "ssim")
PROTOCOLS = {
    "mse": "mean squared error per pixel, over channels and pixels, data range [0, 1], predictions clamped to it",
    "mse_sum": "squared error summed over channels and pixels of a frame, data range [0, 1]",
    "psnr_db": "mean over frames of 10 log10(1 / mse), data range 1; a frame with mse below 1e-10 counts 100 dB",
    "ssim": "SSIM of each frame, Gaussian window 11 x 11, sigma 1.5, data range 1 (torchmetrics)",
}
EXACT_MSE, EXACT_DB = 1e-10, 100.0
SSIM_WINDOW = 11
FRAMES_AT_ONCE = 256  # of SSIM, whose maps take ten times a frame's memory


class FrameScores:
    """Adds up the scores of predicted frames for each horizon.

    Args:
        ahead: k of each column, `horizon.horizons(K)`.
    """

    def __init__(self, ahead: Sequence[int]) -> None:
        self.ahead = list(ahead)
        self.frames = 0
        self._sums = torch.zeros(len(METRICS), len(self.ahead), dtype=torch.float64)

    def update(self, prediction_BNKCHW: Tensor, target_BNKCHW: Tensor, scored_BN: Tensor) -> None:
        """Add a batch of predicted frames where `scored_BN`; both in [0, 1], predictions clamped to it.

        Raises:
            ValueError: frames smaller than SSIM's window.
        """
        prediction_MKCHW, target_MKCHW = prediction_BNKCHW[scored_BN], target_BNKCHW[scored_BN]
        if len(prediction_MKCHW):
            self._sums += scores_of(prediction_MKCHW, target_MKCHW).sum(1).cpu()
            self.frames += len(prediction_MKCHW)

    def merge(self, other: "FrameScores") -> None:
        """Add what another process has counted on other frames."""
        self._sums += other._sums
        self.frames += other.frames

    def compute(self) -> dict[str, float]:
        """Return the means by name: `mse_1`, `psnr_db_4`, ... and over all horizons `mse`, `psnr_db`, ...

        Raises:
            ValueError: no frame was scored.
        """
        if not self.frames:
            raise ValueError(
                "no predicted frame could be scored: every clip is too short; give clips of at least 2D - 1 + K frames "
                "(D units, K horizons), or use a network of fewer units, or a smaller --model.horizon"
            )
        means = self._sums / self.frames
        found = {
            f"{name}_{k}": means[row, column].item()
            for row, name in enumerate(METRICS)
            for column, k in enumerate(self.ahead)
        }
        return {**found, **{name: means[row].mean().item() for row, name in enumerate(METRICS)}}


def check_window(height: int, width: int) -> None:
    """Refuse frames smaller than SSIM's window.

    Raises:
        ValueError: with the fewest pixels.
    """
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"frames of {height} x {width} pixels; SSIM's window needs at least {SSIM_WINDOW} x {SSIM_WINDOW}: "
            "use a larger --data.size"
        )


def scores_of(prediction_MKCHW: Tensor, target_MKCHW: Tensor) -> Tensor:
    """Return each frame's scores, (4, M, K) in the order of `METRICS`, float64; predictions are clamped to [0, 1].

    Raises:
        ValueError: frames smaller than SSIM's window.
    """
    check_window(*prediction_MKCHW.shape[-2:])
    prediction, target = prediction_MKCHW.float().clamp(0, 1), target_MKCHW.float()
    mse_MK = (prediction - target).square().flatten(2).mean(2).double()
    psnr_MK = torch.where(mse_MK < EXACT_MSE, EXACT_DB, -10 * mse_MK.clamp_min(EXACT_MSE).log10())
    pairs = zip(prediction.flatten(0, 1).split(FRAMES_AT_ONCE), target.flatten(0, 1).split(FRAMES_AT_ONCE), strict=True)
    ssim_MK = torch.cat([_ssim(*pair) for pair in pairs]).view_as(mse_MK)
    return torch.stack([mse_MK, mse_MK * prediction[0, 0].numel(), psnr_MK, ssim_MK.double()])


def _ssim(prediction_FCHW: Tensor, target_FCHW: Tensor) -> Tensor:
    found = structural_similarity_index_measure(
        prediction_FCHW, target_FCHW, sigma=1.5, kernel_size=SSIM_WINDOW, reduction="none", data_range=1.0
    )
    assert isinstance(found, Tensor)
    return found.view(-1)
