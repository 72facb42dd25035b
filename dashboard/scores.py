"""What a page can compare runs by, for each task: the metric, its name, which way is better. No Streamlit."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Score:
    """A test metric: `metric` its key, `title` for an axis, `short` for a column, `lower` whether less is better.

    `decimals` to print; None: about three figures of the values themselves.
    """

    metric: str
    title: str
    short: str
    explanation: str
    lower: bool = False
    decimals: int | None = 3

    @property
    def relative(self) -> bool:
        """Return whether a difference is said in per cent too: a score whose size depends on the data."""
        return self.decimals is None

    def at(self, horizon: int) -> Score:
        """Return the same score of predictions `horizon` frames ahead alone."""
        words = f"{horizon} frame{'' if horizon == 1 else 's'} ahead"
        return Score(
            f"{self.metric}_{horizon}",
            f"{self.title}, {words}",
            f"{self.short} k={horizon}",
            f"{self.explanation}, {words}",
            self.lower,
            self.decimals,
        )


TOP1 = Score("test/top1", "Top-1 accuracy (test)", "Top-1", "Test accuracy, fraction of videos")
TOP5 = Score("test/top5", "Top-5 accuracy (test)", "Top-5", "Fraction of test videos with the class in the first five")
LOSS = Score("test/loss", "Loss (test)", "Loss", "Loss on the test set", lower=True)
PSNR = Score(
    "test/psnr_db",
    "PSNR (test, dB)",
    "PSNR (dB)",
    "Peak signal-to-noise ratio, data range 1: mean of each frame's dB, so nearly still frames weigh most",
    False,
    2,
)
MSE = Score("test/mse", "MSE per pixel (test)", "MSE", "Squared error, mean over pixels and frames", True, None)
SSIM = Score("test/ssim", "SSIM (test)", "SSIM", "Structural similarity, 2-D, mean over frames")
MSE_SUM = Score("test/mse_sum", "MSE per frame (test)", "MSE/frame", "Squared error summed over a frame", True, None)
LPIPS = Score("test/lpips", "LPIPS (test)", "LPIPS", "Learned perceptual distance", True)
FRECHET = Score("test/frechet", "Frechet distance (test)", "Frechet", "Frechet distance of clip features", True, None)
ANSWERS = Score("test/top1", "Share of right answers (test)", "Top-1", "Share of the scored steps answered right")
ANSWER_MSE = Score("test/mse", "MSE of the answers (test)", "MSE", "Squared error, mean over scored steps", True, None)
OF_TASK = {
    "action_recognition": (TOP1, TOP5, LOSS),
    "future_frames": (MSE, PSNR, SSIM, MSE_SUM, LPIPS, FRECHET),
    "long_memory": (ANSWERS, ANSWER_MSE, LOSS),
}
TASKS = {"action_recognition": "Action recognition", "future_frames": "Future frames", "long_memory": "Long memory"}
BASELINES = {"copy_last": "copy the last frame", "mean_last": "mean of the last frames"}


def scores_of(task: str, runs: pd.DataFrame) -> list[Score]:
    """Return the scores of a task that some run has, the main one first; that one alone where none has any."""
    known = OF_TASK.get(task) or _of_any_task()
    return [score for score in known if runs[score.metric].notna().any()] or [known[0]]


def _of_any_task() -> tuple[Score, ...]:
    """Return the scores of all tasks, each metric once, as its first task calls it."""
    found: dict[str, Score] = {}
    for scores in OF_TASK.values():
        for score in scores:
            found.setdefault(score.metric, score)
    return tuple(found.values())


def horizons_of(score: Score, runs: pd.DataFrame) -> list[int]:
    """Return the horizons at which some run has the score by itself; empty for a score that knows none."""
    found = [re.fullmatch(re.escape(score.metric) + r"_([0-9]{1,3})", str(name)) for name in runs]
    return sorted(int(match[1]) for match in found if match and runs[match[0]].notna().any())
