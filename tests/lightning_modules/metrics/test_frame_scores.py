"""Scores of frames: by loops and torchmetrics, in any batches, merged, in memory that does not grow."""

import math
import pickle

import pytest
import torch
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from lightning_modules.metrics.frame_scores import METRICS, PROTOCOLS, FrameScores


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


TARGET = frames(3, 5, 2, 3, 16, 20)
PREDICTION = 1.3 * (TARGET + 0.2 * frames(3, 5, 2, 3, 16, 20, seed=1)) - 0.1  # some of it outside [0, 1]
SCORED = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()


def found() -> dict[str, float]:
    scores = FrameScores([1, 2])
    scores.update(PREDICTION, TARGET, SCORED)
    assert scores.frames == 4
    return scores.compute()


def test_against_loops_and_torchmetrics() -> None:
    ours, pairs = found(), SCORED.nonzero().tolist()
    for column, k in enumerate((1, 2)):
        said = [PREDICTION[b, n, column].clamp(0, 1) for b, n in pairs]
        true = [TARGET[b, n, column] for b, n in pairs]
        errors = [float(((p - t) ** 2).double().mean()) for p, t in zip(said, true, strict=True)]
        assert ours[f"mse_{k}"] == pytest.approx(sum(errors) / 4, rel=1e-5)
        assert ours[f"mse_sum_{k}"] == pytest.approx(960 * sum(errors) / 4, rel=1e-5)
        assert ours[f"psnr_db_{k}"] == pytest.approx(sum(10 * math.log10(1 / e) for e in errors) / 4, rel=1e-5)
        psnr = PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
        ssim = StructuralSimilarityIndexMeasure(data_range=1.0)
        assert ours[f"psnr_db_{k}"] == pytest.approx(float(psnr(torch.stack(said), torch.stack(true))), rel=1e-5)
        assert ours[f"ssim_{k}"] == pytest.approx(float(ssim(torch.stack(said), torch.stack(true))), rel=1e-5)
    assert set(ours) == {f"{name}{suffix}" for name in METRICS for suffix in ("", "_1", "_2")}
    assert all(ours[name] == pytest.approx((ours[f"{name}_1"] + ours[f"{name}_2"]) / 2) for name in METRICS)
    assert set(PROTOCOLS) == set(METRICS)


def test_any_batches_in_any_process_give_the_same_means() -> None:
    one, other = FrameScores([1, 2]), FrameScores([1, 2])
    for b in (2, 0):
        one.update(PREDICTION[b : b + 1], TARGET[b : b + 1], SCORED[b : b + 1])
    other.update(PREDICTION[1:2], TARGET[1:2], SCORED[1:2])
    size = len(pickle.dumps(other))
    one.merge(pickle.loads(pickle.dumps(other)))
    assert one.compute() == pytest.approx(found())
    for _ in range(5):
        other.update(PREDICTION, TARGET, SCORED)
    assert len(pickle.dumps(other)) == size


def test_exact_frames_count_100_db() -> None:
    scores = FrameScores([0])
    scores.update(TARGET[:, :, :1], TARGET[:, :, :1], SCORED)
    assert scores.compute() == pytest.approx(
        {n + s: v for n, v in zip(METRICS, (0, 0, 100, 1), strict=True) for s in ("", "_0")}
    )


def test_nan_is_not_hidden() -> None:
    scores = FrameScores([1, 2])
    scores.update(torch.full_like(TARGET, math.nan), TARGET, SCORED)
    assert all(math.isnan(value) for value in scores.compute().values())


def test_errors_that_teach() -> None:
    with pytest.raises(ValueError, match=r"at least 2D - 1 \+ K frames"):
        FrameScores([1]).compute()
    small = torch.zeros(1, 1, 1, 1, 8, 32)
    with pytest.raises(ValueError, match=r"8 x 32 pixels; SSIM's window needs at least 11 x 11"):
        FrameScores([1]).update(small, small, torch.ones(1, 1).bool())
