"""torch.compile takes sketched convolutions whole: the same draws and gradients as without, and anew at every step."""

import pytest
import torch
from torch import nn

from lightning_modules.layers import sketched_convolution as estimator
from lightning_modules.layers.probes import MODES
from lightning_modules.layers.xconv import draws_state, set_probes, to_xconv

# The tracer instantiates the class itself, which torch then warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"
)

BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def _compiled_anew():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def network(mode="independent", budget_bytes=2**20, **settings):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, stride=2),
        nn.Tanh(),
        nn.Conv2d(4, 4, (3, 2), padding="same", padding_mode="reflect", groups=2),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1),
    )
    to_xconv(module, 6, mode=mode, seed=3, budget_bytes=budget_bytes, **settings)
    return module


def step(module, run, seed=0, batch=3, device="cpu"):
    x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).to(device).requires_grad_()
    y = run(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])]


def assert_equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["local", *(pytest.param(m, marks=pytest.mark.slow) for m in MODES[1:])])
def test_draws_and_gradients_are_those_without(mode, backend):
    plain, compiled = network(mode), network(mode)
    run = torch.compile(compiled, backend=backend, fullgraph=True)
    estimates = []
    for _ in range(3):
        wanted, found = step(plain, plain), step(compiled, run)
        assert_equal(found, wanted)
        estimates.append(found[2])
    assert not torch.allclose(estimates[0], estimates[1], rtol=0.01)
    assert not torch.allclose(estimates[1], estimates[2], rtol=0.01)
    assert all(torch.equal(draws_state(plain)[name], key) for name, key in draws_state(compiled).items())


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_in_small_pieces_and_without_means(backend):
    plain, compiled = (network("multi", 1, center=True) for _ in range(2))
    assert_equal(step(compiled, torch.compile(compiled, backend=backend, fullgraph=True)), step(plain, plain))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_once_for_all_steps_and_again_for_other_probes(backend):
    plain, compiled = network(), network()
    run = torch.compile(compiled, backend=backend, fullgraph=True)
    for _ in range(2):
        assert_equal(step(compiled, run), step(plain, plain))
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed in range(3):
            assert_equal(step(compiled, run, seed), step(plain, plain, seed))
    for probes in (0, 9):
        for module in (plain, compiled):
            set_probes(module, probes)
        assert_equal(step(compiled, run), step(plain, plain))
    assert_equal(step(compiled, run, batch=2), step(plain, plain, batch=2))


def test_without_gradients_nothing_is_drawn(monkeypatch):
    for kind in (estimator.local_probes, estimator.shared_probes):
        monkeypatch.setattr(kind, "sketch", lambda *args: pytest.fail("sketched"))
    module = network()
    run = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(run(x), module(x), rtol=1e-5, atol=1e-5)
    assert not any(key[2] for key in draws_state(module).values())


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_under_autocast(backend):
    plain, compiled = network(), network()
    run = torch.compile(compiled, backend=backend, fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = step(plain, plain), step(compiled, run)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= 0.02 * other.norm()
