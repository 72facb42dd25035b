"""Errors, noise and AGE over minibatches, against variances that are known by hand."""

from math import sqrt

import pytest
import torch
from torch import nn

from lightning_modules.layers.xconv import set_probes, to_xconv
from lightning_modules.metrics.gradient_errors import GradientErrors
from lightning_modules.metrics.sketch_health import relative_errors

N = 64  # positions of an image below


def linear(probes=0.0):
    """A convolution whose weight's gradient is the inner product of its input and its output's gradient."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    to_xconv(network, probes, mode="independent", seed=1)
    return network


def gradient(network, x, d):
    """The gradient of <y, d>, by name."""
    loss = (network(x) * d).sum()
    return dict(zip(["0.weight"], torch.autograd.grad(loss, list(network.parameters())), strict=True))


def sketch_variance(x, d):
    """r times the variance of (x^T E E^T d) / r: |x|^2 |d|^2 + <x, d>^2 for Gaussian probes (Isserlis)."""
    return (x.square().sum() * d.square().sum() + (x * d).sum() ** 2).item()


def test_square_of_the_error_times_the_probes_is_the_known_variance():
    generator = torch.Generator().manual_seed(0)
    x, d = (torch.rand(1, 1, 8, 8, generator=generator) for _ in range(2))
    exact = gradient(linear(), x, d)
    assert exact["0.weight"].item() == pytest.approx((x * d).sum().item(), rel=1e-5)
    truth = sketch_variance(x, d) / (x * d).sum().item() ** 2
    for r in (4, 16, 60):
        network = linear(r)
        errors = [relative_errors(gradient(network, x, d), exact, ["0"])["0"] for _ in range(150)]
        assert r * sum(e**2 for e in errors) / len(errors) == pytest.approx(truth, rel=0.35)


def test_age_of_sketches_less_that_of_exact_gradients_is_the_sketches_variance():
    """Minibatches of a linear model: the floor is the variance of <x, d>, and r probes add the variance of a sketch."""
    generator = torch.Generator().manual_seed(0)
    network, errors, variances, r = linear(), GradientErrors(["0"]), [], 16
    for _ in range(250):
        x, d = (torch.randn(1, 1, 8, 8, generator=generator) for _ in range(2))
        set_probes(network, 0)
        exact = gradient(network, x, d)
        set_probes(network, r)
        errors.update(exact, {r: gradient(network, x, d)})
        variances.append(sketch_variance(x, d) / r)
    assert errors.age() == pytest.approx(N, rel=0.12), "a sum of N products of independent numbers of variance 1"
    added = sum(variances) / len(variances)
    assert errors.age(r) - errors.age() == pytest.approx(added, rel=0.1)
    assert errors.error("0", r) == pytest.approx(sqrt(added / errors.norm_square("0")), rel=0.06)
    assert errors.noise("0") == pytest.approx(1, rel=0.01), "a gradient without a mean is all noise"


@pytest.mark.parametrize(("whole", "expected"), [(False, 1.0), (True, 0.75)])
def test_a_minibatch_has_itself_in_the_mean(whole, expected):
    """Of 4 minibatches drawn from more the distance is too small by (n - 1) / n; the sketch's own error is not."""
    generator = torch.Generator().manual_seed(0)
    size, floors, added = 100, [], []
    for _ in range(300):
        errors = GradientErrors(["layer"])
        for _ in range(4):
            exact = 3 + torch.randn(size, generator=generator)
            estimate = exact + 0.5 * torch.randn(size, generator=generator)
            errors.update({"layer.weight": exact}, {0.1: {"layer.weight": estimate}})
        floors.append(errors.age(whole=whole) / size)
        added.append((errors.age(0.1, whole=whole) - errors.age(whole=whole)) / size)
    assert sum(floors) / len(floors) == pytest.approx(expected, rel=0.03)
    assert sum(added) / len(added) == pytest.approx(0.25, rel=0.1)


def test_sums_are_the_definition():
    generator = torch.Generator().manual_seed(0)
    sizes = {"a": (3, 2), "b": (5,)}
    exact = [{f"{n}.weight": 1 + torch.randn(s, generator=generator) for n, s in sizes.items()} for _ in range(5)]
    found = [{n: g + torch.randn(g.shape, generator=generator) for n, g in part.items()} for part in exact]
    errors = GradientErrors(["a", "b", "dead"])
    for one, estimate in zip(exact, found, strict=True):
        errors.update(one | {"dead.weight": torch.zeros(2)}, {8: estimate | {"dead.weight": torch.zeros(2)}})
    assert errors.layers == ["a", "b"]

    def distance(parts):
        means = {n: torch.stack([part[n] for part in exact]).double().mean(0) for n in exact[0]}
        return sum((part[n] - means[n]).square().sum().item() for part in parts for n in part) / len(parts)

    assert errors.age(whole=True) == pytest.approx(distance(exact), rel=1e-6)
    assert errors.age(8, whole=True) == pytest.approx(distance(found), rel=1e-6)
    assert errors.age() == pytest.approx(distance(exact) * 5 / 4, rel=1e-6)
    assert errors.age(8) == pytest.approx(distance(found) + distance(exact) / 4, rel=1e-6)
    assert errors.age() == pytest.approx(errors.age(layers=["a"]) + errors.age(layers=["b"]))
