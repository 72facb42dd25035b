"""The Frechet distance: scipy's formula, Gaussians whose distance is known, pieces merged, extractors that are not."""

import pickle

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from lightning_modules.metrics.frechet import FrechetDistance, feature_extractor, frechet_distance, pixels


class Moves(nn.Module):
    """Mean and difference of the frames, as an extractor of one's own may be."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def forward(self, video: Tensor) -> Tensor:
        return self.dropout(torch.stack([video.mean((1, 2, 3, 4)), (video[:, -1] - video[:, 0]).mean((1, 2, 3))], 1))


def three_numbers(video: Tensor) -> Tensor:
    return video[:, 0, 0, 0, :3]


def whole(video: Tensor) -> Tensor:
    return video


def videos(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.rand(6, 20, 2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


PREDICTED, TRUE = videos(0, 0.8), videos(1)
SCORED = torch.rand(6, 20, generator=torch.Generator().manual_seed(2)) < 0.7


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    (m1, s1), (m2, s2) = ((x.mean(0), np.cov(x.T)) for x in (a, b))
    return float(((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * np.real(scipy.linalg.sqrtm(s1 @ s2))))


@pytest.mark.parametrize("name", [f"{__name__}.three_numbers", f"{__name__}.Moves"])
def test_against_scipy_in_pieces_and_merged(name: str) -> None:
    one, other = FrechetDistance(name), FrechetDistance(name)
    for b in range(6):
        (one, other)[b % 2].update(PREDICTED[b : b + 1], TRUE[b : b + 1], SCORED[b : b + 1])
    one.merge(pickle.loads(pickle.dumps(other)))
    extract = feature_extractor(name)
    expected = by_scipy(*(extract(x[SCORED].clamp(0, 1)).double().numpy() for x in (PREDICTED, TRUE)))
    assert one.compute() == pytest.approx(expected, rel=1e-6)
    assert one.about() == {"extractor": name, "samples": int(SCORED.sum())}


def test_gaussians_whose_distance_is_known() -> None:
    mean, eye = torch.zeros(3).double(), torch.eye(3).double()
    assert frechet_distance(mean, eye, mean + 2, eye) == pytest.approx(12)
    assert frechet_distance(mean, 4 * eye, mean, 9 * eye) == pytest.approx(3 * (2 - 3) ** 2)
    flat = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    assert frechet_distance(mean, flat, mean, flat) == pytest.approx(0, abs=1e-12)


def test_of_equal_videos_it_is_zero_and_of_pixels_it_sees_colour_and_place() -> None:
    def distance(predicted: Tensor) -> float:
        found = FrechetDistance("pixels")
        found.update(predicted, TRUE, SCORED)
        return found.compute()

    assert distance(TRUE) == pytest.approx(0, abs=1e-6)
    assert distance(TRUE.roll(4, -1) * torch.linspace(0.5, 1, 8)) > distance(0.98 * TRUE) > 1e-4
    assert pixels(TRUE[0]).shape == (20, 2 * 3 * 64)


def test_memory_does_not_grow() -> None:
    found, sizes = FrechetDistance(f"{__name__}.three_numbers"), []
    for _ in range(4):
        found.update(PREDICTED, TRUE, SCORED)
        sizes.append(len(pickle.dumps(found)))
    assert max(sizes) - min(sizes) <= 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pixel", "expected 'pixels', or a path such as"),
        ("no.such.module", "can't be imported .*No module named 'no'"),
        ("torch.nothing", "can't be imported"),
        ("math.pi", "is no function of videos"),
        (f"{__name__}.whole", r"gave \(\d+, 2, 3, 8, 8\) for \d+ videos of shape \(2, 3, 8, 8\); expected"),
    ],
)
def test_errors_that_teach(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrechetDistance(name).update(PREDICTED, TRUE, SCORED)


def test_one_sample_has_no_covariance() -> None:
    found = FrechetDistance("pixels")
    found.update(PREDICTED[:1, :1], TRUE[:1, :1], torch.ones(1, 1).bool())
    with pytest.raises(ValueError, match="of 1 samples; it needs at least 2"):
        found.compute()
