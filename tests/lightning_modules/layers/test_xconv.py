"""With probes whose E E^T is r I the estimate is autograd's weight gradient, for every convolution that torch has.

methods.md section 5, facts to test. Everything else that a layer gives is autograd's with any probes.
"""

import copy

import pytest
import torch
from torch import nn

from lightning_modules.layers import sketched_convolution as estimator
from lightning_modules.layers import xconv
from lightning_modules.layers.probes import MODES, Probes
from lightning_modules.layers.xconv import sketched_convolution, to_xconv

# Torch's own advice on its own way with even kernels; said once a process.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

C1, C2, C3 = nn.Conv1d, nn.Conv2d, nn.Conv3d
T1, T2, T3 = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d

# Kind, channels in and out, kernel, other settings, spatial size.
GEOMETRIES = {
    "one": (C2, 3, 4, 1, {}, (5, 4)),
    "one, stride 3": (C2, 2, 3, 1, {"stride": 3}, (7, 5)),
    "three": (C2, 3, 4, 3, {}, (6, 5)),
    "three, no bias": (C2, 3, 4, 3, {"padding": 1, "bias": False}, (6, 5)),
    "padding": (C2, 3, 4, 3, {"padding": 1}, (5, 6)),
    "wide padding": (C2, 2, 3, 3, {"padding": (3, 2)}, (4, 5)),
    "stride": (C2, 3, 4, 3, {"stride": 2, "padding": 1}, (6, 6)),
    "stride with a rest": (C2, 2, 3, 3, {"stride": (3, 2)}, (7, 6)),
    "dilation": (C2, 2, 3, 3, {"dilation": 2, "padding": 2}, (6, 5)),
    "all uneven": (C2, 2, 3, (3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}, (5, 7)),
    "flat kernel": (C2, 2, 3, (1, 5), {"padding": (0, 2)}, (3, 8)),
    "tall kernel": (C2, 2, 3, (4, 1), {"padding": (1, 0)}, (7, 3)),
    "even kernel": (C2, 2, 3, 2, {"stride": 2}, (5, 6)),
    "groups": (C2, 4, 6, 3, {"groups": 2, "padding": 1, "stride": 2}, (5, 4)),
    "depthwise": (C2, 4, 4, 3, {"groups": 4, "padding": 1}, (5, 4)),
    "depthwise, two each": (C2, 3, 6, (3, 2), {"groups": 3, "dilation": (1, 2)}, (5, 5)),
    "one channel": (C2, 1, 1, 3, {"padding": 1}, (6, 5)),
    "same": (C2, 2, 3, 3, {"padding": "same"}, (5, 6)),
    "same, even kernel": (C2, 2, 3, 4, {"padding": "same"}, (5, 6)),
    "same, uneven": (C2, 2, 3, (2, 3), {"padding": "same", "dilation": (3, 2)}, (5, 6)),
    "valid": (C2, 2, 3, (3, 2), {"padding": "valid", "stride": 2}, (5, 6)),
    "reflect": (C2, 2, 3, 3, {"padding": (1, 2), "padding_mode": "reflect"}, (4, 5)),
    "replicate": (C2, 2, 3, 3, {"padding": (2, 1), "padding_mode": "replicate", "stride": 2}, (4, 5)),
    "circular": (C2, 2, 3, 3, {"padding": (1, 2), "padding_mode": "circular"}, (4, 5)),
    "same reflect": (C2, 2, 3, (4, 3), {"padding": "same", "padding_mode": "reflect"}, (4, 5)),
    "same replicate": (C2, 2, 3, 2, {"padding": "same", "padding_mode": "replicate"}, (4, 5)),
    "same circular": (C2, 2, 3, (2, 4), {"padding": "same", "padding_mode": "circular"}, (4, 5)),
    "reflect without padding": (C2, 2, 3, 3, {"padding_mode": "reflect"}, (4, 5)),
    "1d": (C1, 3, 4, 3, {"padding": 1}, (9,)),
    "1d, all": (C1, 4, 6, 4, {"stride": 3, "padding": 2, "dilation": 2, "groups": 2}, (11,)),
    "1d, same": (C1, 2, 3, 4, {"padding": "same", "dilation": 3}, (9,)),
    "1d, reflect": (C1, 2, 3, 3, {"padding": 2, "padding_mode": "reflect"}, (7,)),
    "1d, replicate": (C1, 2, 3, 4, {"padding": "same", "padding_mode": "replicate"}, (7,)),
    "1d, circular": (C1, 2, 3, 3, {"padding": 1, "padding_mode": "circular"}, (7,)),
    "3d": (C3, 2, 3, 3, {"padding": 1}, (3, 4, 5)),
    "3d, all": (C3, 2, 4, (2, 3, 1), {"stride": (1, 2, 2), "padding": (1, 1, 0), "groups": 2}, (3, 5, 4)),
    "3d, dilation": (C3, 2, 3, (2, 2, 3), {"dilation": (1, 3, 2), "padding": (0, 2, 1)}, (3, 4, 5)),
    "3d, depthwise": (C3, 3, 3, (3, 1, 1), {"groups": 3, "padding": (1, 0, 0)}, (4, 3, 2)),
    "3d, same": (C3, 2, 3, (2, 3, 2), {"padding": "same"}, (3, 4, 3)),
    "3d, reflect": (C3, 1, 2, 2, {"padding": 1, "padding_mode": "reflect"}, (2, 3, 3)),
    "3d, replicate": (C3, 1, 2, 3, {"padding": (1, 2, 0), "padding_mode": "replicate"}, (2, 3, 4)),
    "3d, circular": (C3, 1, 2, 2, {"padding": (1, 0, 2), "padding_mode": "circular"}, (2, 3, 3)),
    "transposed": (T2, 3, 4, 3, {}, (4, 5)),
    "transposed, stride": (T2, 3, 4, 3, {"stride": 2, "padding": 1, "output_padding": 1}, (4, 5)),
    "transposed, uneven": (T2, 2, 3, (3, 2), {"stride": (2, 3), "padding": (1, 0), "output_padding": (0, 2)}, (4, 3)),
    "transposed, groups": (T2, 4, 6, 3, {"groups": 2, "dilation": 2, "padding": 1}, (4, 5)),
    "transposed, depthwise": (T2, 3, 3, 2, {"groups": 3, "stride": 2, "bias": False}, (4, 5)),
    "transposed 1d": (T1, 2, 3, 4, {"stride": 3, "padding": 1, "output_padding": 2}, (6,)),
    "transposed 3d": (T3, 2, 3, (2, 3, 3), {"stride": (1, 2, 2), "output_padding": (0, 1, 0)}, (2, 3, 4)),
}
# Batches: the second makes probes no more than samples, and `multi` contracts instead of expanding.
MANY = 260
WAYS = [*((mode, 2) for mode in MODES), ("multi", MANY)]


def identity(key, block, first, count, elements, dtype, device):
    return (torch.eye(elements, dtype=dtype, device=device) * elements**0.5)[first : first + count]


def local_identity(key, block, first, count, elements, dtype, device):
    """The same for local probes: three blocks, as many probes as positions in each."""
    size = round((elements / 3) ** 0.5)
    return (torch.eye(size, dtype=dtype, device=device) * size**0.5).flatten().repeat(count, 3)


def with_identity_probes(monkeypatch, layer, mode, budget=2**20, center=False):
    """Return a copy of the layer, converted, whose probes are the identity's."""
    layer = copy.deepcopy(layer)
    to_xconv(layer, 1, mode=mode, seed=0)

    def sketched(x, weight, bias, geometry, probes, key):
        shape = geometry.bordered(x).shape
        if mode == "local":
            count = 3 * -(-shape[2:].numel() // 3)
            probes = Probes(count, mode, budget, center, blocks=3)
            return sketched_convolution(x, weight, bias, geometry, probes, key, draw=local_identity)
        count = shape[1:].numel() // (shape[1] if mode == "independent" else 1)
        return sketched_convolution(x, weight, bias, geometry, Probes(count, mode, budget, center), key, draw=identity)

    monkeypatch.setattr(xconv, "sketched_convolution", sketched)
    return layer


def made(name, batch, dtype=torch.float64):
    kind, channels, outputs, kernel, settings, size = GEOMETRIES[name]
    torch.manual_seed(0)
    layer = kind(channels, outputs, kernel, **settings).to(dtype)
    return layer, torch.randn(batch, channels, *size, dtype=dtype)


def outcome(layer, x, grad=None, **sizes):
    """Return the output and the gradients of input, weight and bias."""
    x = x.detach().requires_grad_()
    y = layer(x, **sizes)
    if grad is None:
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], grad)]


def assert_equal(found, wanted, tolerance=1e-12):
    """Output bit for bit; gradients relative to their largest number."""
    assert torch.equal(found[0], wanted[0])
    assert len(found) == len(wanted)
    for got, right in zip(found[1:], wanted[1:], strict=True):
        assert (got.shape, got.dtype) == (right.shape, right.dtype)
        assert (got - right).abs().max() <= tolerance * right.abs().max()


@pytest.mark.parametrize(("mode", "batch"), WAYS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_identity_probes_give_autograds_gradients(monkeypatch, name, mode, batch):
    layer, x = made(name, batch)
    assert_equal(outcome(with_identity_probes(monkeypatch, layer, mode), x), outcome(layer, x))


@pytest.mark.parametrize(("mode", "batch"), WAYS)
@pytest.mark.parametrize("name", ["all uneven", "groups", "same, even kernel", "reflect", "3d, all", "transposed 3d"])
@pytest.mark.parametrize("budget", [1, 5000])
def test_in_small_pieces_too(monkeypatch, name, mode, batch, budget):
    layer, x = made(name, batch)
    assert_equal(outcome(with_identity_probes(monkeypatch, layer, mode, budget), x), outcome(layer, x))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["all uneven", "groups", "same, even kernel", "reflect", "3d, all", "transposed 3d"])
@pytest.mark.parametrize("budget", [1, 2**20])
def test_without_the_channels_means_too(monkeypatch, name, mode, budget):
    layer, x = made(name, 2)
    x += 3
    assert_equal(outcome(with_identity_probes(monkeypatch, layer, mode, budget, center=True), x), outcome(layer, x))


@pytest.mark.parametrize(("mode", "batch"), WAYS)
@pytest.mark.parametrize(("name", "size"), [("transposed, stride", (7, 10)), ("transposed 1d", (18,))])
@pytest.mark.parametrize("positional", [False, True])
def test_transposed_with_an_output_size(monkeypatch, name, size, mode, batch, positional):
    layer, x = made(name, batch)
    sketched = with_identity_probes(monkeypatch, layer, mode)
    wanted = outcome(layer, x, output_size=list(size))
    assert wanted[0].shape[2:] == size
    assert layer(x).shape[2:] != size
    if positional:
        assert torch.equal(sketched(x, list(size)), wanted[0])
    assert_equal(outcome(sketched, x, output_size=list(size)), wanted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["all uneven", "1d, all", "3d, all", "same, even kernel", "circular", "transposed"])
def test_one_sample_without_a_batch(monkeypatch, name, mode):
    layer, x = made(name, 1)
    sketched = with_identity_probes(monkeypatch, layer, mode)
    wanted = outcome(layer, x[0])
    assert wanted[0].dim() == x.dim() - 1
    assert_equal(outcome(sketched, x[0]), wanted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("name", ["stride", "groups", "reflect", "3d, all", "transposed, stride"])
def test_batch_of_one_and_of_none(monkeypatch, name, mode, batch):
    layer, x = made(name, batch)
    found, wanted = outcome(with_identity_probes(monkeypatch, layer, mode), x), outcome(layer, x)
    if batch:
        assert_equal(found, wanted)
    else:
        assert [t.shape for t in found] == [t.shape for t in wanted]
        assert not any(t.any() for t in found)


def layouts(x):
    yield x.to(memory_format=torch.channels_last)
    yield x.transpose(2, 3).contiguous().transpose(2, 3)
    yield torch.stack([x, x], -1).flatten(3)[..., ::2]
    yield x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    yield x[:1].expand(x.shape)


@pytest.mark.parametrize(("mode", "batch"), WAYS)
@pytest.mark.parametrize("budget", [pytest.param(1, marks=pytest.mark.slow), 2**20])
@pytest.mark.parametrize("name", ["all uneven", "groups", "replicate", "transposed, stride"])
def test_every_layout_of_input_and_gradient(monkeypatch, name, mode, batch, budget):
    layer, x = made(name, batch)
    sketched = with_identity_probes(monkeypatch, layer, mode, budget)
    for other in layouts(x):
        wanted = outcome(layer, other)
        assert_equal(outcome(sketched, other), wanted)
        for grad in layouts(torch.randn_like(wanted[0], memory_format=torch.contiguous_format)):
            assert_equal(outcome(sketched, x, grad), outcome(layer, x, grad))


def test_output_keeps_the_memory_format():
    layer, x = nn.Conv2d(4, 8, 3, padding=1), torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)
    wanted = layer(x)
    to_xconv(layer, 4, seed=0)
    found = layer(x)
    assert torch.equal(found, wanted)
    assert found.stride() == wanted.stride()


def test_contraction_is_taken_where_probes_are_no_more_than_samples(monkeypatch):
    layer, x = nn.Conv2d(2, 3, 3), torch.randn(6, 2, 5, 5)
    expansions = []
    original = estimator._expanded
    monkeypatch.setattr(estimator, "_expanded", lambda *args: expansions.append(args) or original(*args))
    for mode, count, expected in [("multi", 6, 0), ("multi", 7, 1), ("independent", 6, 1), ("orthogonal", 6, 1)]:
        expansions.clear()
        to_xconv(layer, count, mode=mode, seed=0)
        layer(x).sum().backward()
        assert len(expansions) == expected, (mode, count)


def test_both_ways_give_the_same_number_for_the_same_draws(monkeypatch):
    layer, x = nn.Conv2d(3, 4, 3, stride=2, padding=1).double(), torch.randn(9, 3, 6, 6, dtype=torch.float64)
    to_xconv(layer, 8, mode="multi", seed=3)
    contracted = outcome(layer, x)
    parts = torch.zeros_like(layer.weight)
    for one, part in zip(torch.split(x, 5), torch.split(torch.ones(9, 4, 3, 3, dtype=torch.float64), 5), strict=True):
        to_xconv(layer, 8, mode="multi", seed=3)
        parts += outcome(layer, one, part)[2]
    to_xconv(layer, 8, mode="multi", seed=3)
    torch.testing.assert_close(parts, outcome(layer, x, torch.ones_like(contracted[0]))[2], rtol=0, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["all uneven", "depthwise", "same, even kernel", "circular", "3d, all"])
def test_output_and_gradients_of_input_and_bias_are_exact_with_few_probes(name, mode):
    layer, x = made(name, 3)
    wanted = outcome(layer, x)
    to_xconv(layer, 2, mode=mode, seed=0)
    found = outcome(layer, x)
    assert layer.sketch_of(x.shape) is not None
    assert_equal([found[0], found[1], *found[3:]], [wanted[0], wanted[1], *wanted[3:]])
    assert (found[2] - wanted[2]).abs().max() > 0.01 * wanted[2].abs().max()


@pytest.mark.parametrize("name", ["all uneven", "groups", "reflect", "replicate", "circular", "1d, same", "3d, all"])
def test_gradcheck_of_input_and_bias(name):
    layer, x = made(name, 2)
    to_xconv(layer, 2, seed=0)

    def output(x, bias):
        return torch.func.functional_call(layer, {"bias": bias}, (x,))

    assert torch.autograd.gradcheck(output, (x.requires_grad_(), layer.bias))


@pytest.mark.parametrize(
    "name",
    ["transposed, stride", *(pytest.param(n, marks=pytest.mark.slow) for n in ("transposed, groups", "transposed 3d"))],
)
def test_gradcheck_of_input_and_bias_transposed(name):
    test_gradcheck_of_input_and_bias(name)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_of_an_input_of_zeros_and_an_output_gradient_of_zeros(mode):
    layer, x = made("padding", 2)
    to_xconv(layer, 2, mode=mode, seed=0)
    assert not outcome(layer, torch.zeros_like(x))[2].any()
    assert not any(gradient.any() for gradient in outcome(layer, x, torch.zeros(2, 4, 5, 6, dtype=x.dtype))[1:])


def test_output_that_is_not_used_has_no_gradient():
    layer, x = made("padding", 2)
    to_xconv(layer, 2, seed=0)
    layer(x)
    (x.requires_grad_() * 2).sum().backward()
    assert layer.weight.grad is None


def test_gradient_of_an_input_that_needs_none_is_not_made(monkeypatch):
    layer, x = made("padding", 2)
    to_xconv(layer, 2, seed=0)
    monkeypatch.setattr(xconv.Geometry, "input_gradient", lambda *args: pytest.fail("of the input"))
    layer(x).sum().backward()


def test_second_backward_of_one_graph_gives_the_same():
    layer, x = made("padding", 2)
    to_xconv(layer, 2, seed=0)
    loss = layer(x).square().sum()
    first, second = (torch.autograd.grad(loss, layer.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_derivative_of_a_derivative_is_refused():
    layer, x = made("padding", 2)
    to_xconv(layer, 2, seed=0)
    (slope,) = torch.autograd.grad(layer(x.requires_grad_()).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_weight_changed_before_backward_is_noticed():
    layer, x = made("padding", 2)
    to_xconv(layer, 2, seed=0)
    loss = layer(x.requires_grad_()).sum()
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
