"""Activation checkpointing and sketches together: a layer used once a step has the gradient that it has without."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_modules.layers.probes import MODES
from lightning_modules.layers.xconv import draws_state, to_xconv

REENTRANT = [False, True]


def network(mode="independent"):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 1)
    )
    to_xconv(module, 6, mode=mode, seed=3)
    return module


def step(module, reentrant=None, parts=1):
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = x
    for part in [module] if parts == 1 else [module[:2], module[2:]]:
        y = part(y) if reentrant is None else checkpoint(part, y, use_reentrant=reentrant)
    return torch.autograd.grad(y.square().sum(), list(module.parameters())) if not reentrant else backward(module, y)


def backward(module, y):
    """Reentrant checkpointing knows no torch.autograd.grad."""
    module.zero_grad()
    y.square().sum().backward()
    return [parameter.grad.clone() for parameter in module.parameters()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("reentrant", REENTRANT)
def test_gradients_are_those_without_checkpointing(mode, parts, reentrant):
    plain, checkpointed = network(mode), network(mode)
    for _ in range(3):
        for wanted, found in zip(step(plain), step(checkpointed, reentrant, parts), strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("reentrant", REENTRANT)
def test_every_step_draws_anew(reentrant):
    module = network()
    first, second = step(module, reentrant), step(module, reentrant)
    assert all(not torch.equal(one, other) for one, other in zip(first[::2], second[::2], strict=True))


def test_steps_with_and_without_may_alternate():
    plain, mixed = network(), network()
    for kind in (None, False, False, None, None, False):
        for wanted, found in zip(step(plain), step(mixed, kind), strict=True):
            assert torch.equal(found, wanted)
    assert [int(state[2]) for state in draws_state(mixed).values()] == [6, 6, 6]


@pytest.mark.parametrize("reentrant", REENTRANT)
def test_a_layer_used_twice_a_step_is_unbiased(reentrant):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 2, 3, padding=1)
    x = torch.randn(2, 2, 5, 5)

    def gradient(*segments):
        layer.zero_grad()
        sum(segment.square().sum() for segment in segments).backward()
        return layer.weight.grad.clone()

    exact = gradient(layer(x), layer(x + 1))
    to_xconv(layer, 12, seed=0)
    inputs = [x.clone().requires_grad_(), (x + 1).requires_grad_()]
    total = sum(gradient(*(checkpoint(layer, i, use_reentrant=reentrant) for i in inputs)) for _ in range(250))
    assert (total / 250 - exact).norm() / exact.norm() < 0.15
