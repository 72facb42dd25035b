"""LPIPS: torchmetrics' figure for each horizon, in pieces; what is said where its weights can't be had.

The image network's weights are random here: these tests need no download.
"""

import pickle
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

from lightning_modules.metrics.lpips import NETWORKS, Lpips


@pytest.fixture(scope="module")
def random_weights():
    torch.manual_seed(0)
    features = {name: getattr(torchvision.models, name)(weights=None).features for name in ("alexnet", "vgg16")}
    with pytest.MonkeyPatch.context() as patch:
        for name, layers in features.items():
            patch.setattr(torchvision.models, name, lambda weights, layers=layers: SimpleNamespace(features=layers))
        yield


def frames(seed, size=32, channels=3):
    return torch.rand(2, 3, 2, channels, size, size, generator=torch.Generator().manual_seed(seed))


SCORED = torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mean_over_scored_frames_of_each_horizon(random_weights, channels):
    said, true = 1.1 * frames(0, channels=channels), frames(1, channels=channels)
    one, other = Lpips("alex", [1, 2]), Lpips("alex", [1, 2])
    one.update(said[:1], true[:1], SCORED[:1])
    other.update(said[1:], true[1:], SCORED[1:])
    one.merge(pickle.loads(pickle.dumps(other)))
    expected = [
        float(
            learned_perceptual_image_patch_similarity(
                *(x[SCORED][:, k].clamp(0, 1).expand(-1, 3, -1, -1) for x in (said, true)), "alex", normalize=True
            )
        )
        for k in (0, 1)
    ]
    assert one.compute() == pytest.approx(
        {"lpips_1": expected[0], "lpips_2": expected[1], "lpips": sum(expected) / 2}, rel=1e-5
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_the_smallest_frames_pass(random_weights, network):
    found = Lpips(network, [1, 2])
    found.update(frames(0, NETWORKS[network]), frames(1, NETWORKS[network]), SCORED)
    assert found.compute()["lpips"] > 0
    with pytest.raises(ValueError, match=r"takes 1 or 3 channels and at least .*use --model.lpips none"):
        found.update(frames(0, NETWORKS[network] - 1), frames(1, NETWORKS[network] - 1), SCORED)


def test_what_is_said_without_weights(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no connection")

    monkeypatch.setattr(torchvision.models, "alexnet", offline)
    with pytest.raises(ValueError, match=r"needs torchvision and its weights.*no connection.*--model.lpips none"):
        Lpips("alex", [1])
    with pytest.raises(ValueError, match="expected one of none, alex, vgg"):
        Lpips("squeeze", [1])


def test_nothing_scored(random_weights):
    with pytest.raises(ValueError, match="every clip is too short"):
        Lpips("alex", [1]).compute()
