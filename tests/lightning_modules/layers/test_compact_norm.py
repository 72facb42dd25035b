"""Compact norms: torch's results bit for bit, gradients of the input in few bits; and whole networks made compact."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.layers.compact import LEVELS, to_compact
from lightning_modules.layers.compact_norm import (
    CompactBatchNorm2d,
    CompactGroupNorm,
    CompactLayerNorm,
    _as_under_autocast,
    quantise,
    restore,
)
from lightning_modules.metrics.memory import SavedTensors

SHAPES = {
    nn.GroupNorm(4, 16): (3, 16, 6, 7),
    nn.GroupNorm(1, 8): (3, 8, 20),
    nn.GroupNorm(4, 16, affine=False): (1, 16, 2, 3, 4),
    nn.LayerNorm(32): (5, 4, 32),
    nn.LayerNorm((4, 6), elementwise_affine=False): (5, 4, 6),
    nn.LayerNorm(16, bias=False): (7, 16),
    nn.BatchNorm1d(8): (9, 8),
    nn.BatchNorm1d(8, momentum=None): (3, 8, 10),
    nn.BatchNorm2d(8): (3, 8, 6, 7),
    nn.BatchNorm2d(8, affine=False): (3, 8, 6, 7),
    nn.BatchNorm2d(8, track_running_stats=False): (3, 8, 6, 7),
    nn.BatchNorm3d(8): (2, 8, 3, 4, 5),
}
PAIRS = [pytest.param(layer, shape, id=str(layer)) for layer, shape in SHAPES.items()]


def noise(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(layer):
    """Return a copy of torch's layer with weights that are not 1 and 0, and the same made compact."""
    plain = copy.deepcopy(layer)
    with torch.no_grad():
        for i, parameter in enumerate(plain.parameters()):
            parameter.add_(noise(*parameter.shape, seed=i) / 4)
    compact = copy.deepcopy(plain)
    assert to_compact(compact, "norm"), "the layer was not changed"
    return compact, plain


def error(got, want):
    return ((got - want).norm() / want.norm()).item()


def gradients(layer, x, grad):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = layer(x)
    return out, torch.autograd.grad(out, [x, *layer.parameters()], grad)


@pytest.mark.parametrize(("layer", "shape"), PAIRS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_results_are_torchs_and_gradients_close(layer, shape, training):
    compact, plain = (net.train(training) for net in pair(layer))
    for step in range(2):  # running statistics of the first call enter the second
        x = 3 * noise(*shape, seed=step) + 5
        (out, own), (want, theirs) = (gradients(net, x, noise(*shape, seed=9)) for net in (compact, plain))
        assert torch.equal(out, want)
        assert error(own[0], theirs[0]) < 0.005
        for got, exact in zip(own[1:], theirs[1:], strict=True):
            assert error(got, exact) < 0.03
    for (name, got), (_, exact) in zip(compact.state_dict().items(), plain.state_dict().items(), strict=True):
        assert torch.equal(got, exact), name


@pytest.mark.parametrize(("layer", "shape"), PAIRS)
def test_the_gradients_are_torchs_own_of_the_restored_input(layer, shape):
    # In float64, by the formula: dx = (g' - mean(g') - x^ mean(g' x^)) / std, with x^ from the input in 8 bits.
    compact, plain = (net.double() for net in pair(layer))
    x, grad = noise(*shape, dtype=torch.float64), noise(*shape, dtype=torch.float64, seed=1)
    _, own = gradients(compact, x, grad)
    weight = getattr(plain, "weight", None)
    grouped, dims, of_weight = x, tuple(d for d in range(x.dim()) if d != 1), (1, -1, *(1,) * (x.dim() - 2))
    if isinstance(plain, nn.GroupNorm):
        grouped, dims = x.unflatten(1, (plain.num_groups, -1)), tuple(range(2, x.dim() + 1))
    elif isinstance(plain, nn.LayerNorm):
        dims, of_weight = tuple(range(-len(plain.normalized_shape), 0)), plain.normalized_shape
    g = (grad if weight is None else grad * weight.detach().view(of_weight)).view(grouped.shape)
    rstd = (grouped.var(dims, correction=0, keepdim=True) + plain.eps).rsqrt()
    kept = quantise(grouped, dims, 8)
    rough = (restore(*kept, grouped.shape, 8) - grouped.mean(dims, keepdim=True)) * rstd
    want = (g - g.mean(dims, keepdim=True) - rough * (g * rough).mean(dims, keepdim=True)) * rstd
    torch.testing.assert_close(own[0], want.view(shape), rtol=1e-9, atol=1e-12)
    if weight is not None:
        sums = (grad * rough.view(shape)).sum_to_size(weight.view(of_weight).shape)
        torch.testing.assert_close(own[1], sums.view(weight.shape), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bits", range(1, 9))
def test_restored_to_half_a_step(bits):
    x = 4 * noise(6, 50) - 7
    codes, low, step = quantise(x, (1,), bits)
    assert codes.nbytes == 300 * bits // 8 + (300 * bits % 8 > 0)
    back = restore(codes, low, step, x.shape, bits)
    assert ((back - x).abs() <= step / 2 * 1.0001 + 1e-6).all()
    assert torch.equal(back.amin(1), x.amin(1))
    span = x.amax(1) - x.amin(1)
    torch.testing.assert_close(step[:, 0], span / (2**bits - 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_in_single(dtype):
    x = (noise(4, 200) + 3).to(dtype)
    codes, low, step = quantise(x, (1,), 8)
    assert low.dtype == step.dtype == torch.float32
    assert ((restore(codes, low, step, x.shape, 8) - x.float()).abs() <= step / 2 * 1.0001).all()


def test_equal_values_huge_values_and_no_numbers():
    x = torch.stack([torch.full((8,), 3.0), 1e30 * torch.arange(8.0), 1e-40 * torch.arange(8.0), torch.zeros(8)])
    codes, low, step = quantise(x, (1,), 8)
    assert codes[0].tolist() == codes[3].tolist() == [0] * 8
    back = restore(codes, low, step, x.shape, 8)
    torch.testing.assert_close(back, x, rtol=0.02, atol=1e-37)
    for bad in (float("nan"), float("inf")):
        layer = CompactGroupNorm(2, 8)
        x = noise(2, 8, 5)
        x[0, 0, 0] = bad
        _, (grad, *_) = gradients(layer, x, noise(2, 8, 5, seed=1))
        assert grad[0, :4].isnan().all(), "the group's gradient is no number, as torch's"
        assert grad[0, 4:].isfinite().all()
        assert grad[1].isfinite().all()


def test_error_of_the_input_gradient_at_8_bits():
    x = noise(8, 16, 16, 16) * 2 + 1
    compact, plain = pair(nn.GroupNorm(8, 16))
    out, (_, *_) = gradients(plain, x, x)
    errors = {}
    for name, grad in (("noise", noise(8, 16, 16, 16, seed=1)), ("correlated", torch.relu(out.detach()))):
        errors[name] = error(*(gradients(net, x, grad)[1][0] for net in (compact, plain)))
    assert errors["noise"] < 0.001
    assert 0.001 < errors["correlated"] < 0.02


def test_a_network_s_gradients_at_8_bits():
    torch.manual_seed(0)
    plain = nn.Sequential(
        *[nn.Conv2d(3, 16, 3), nn.GroupNorm(8, 16), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(16, 32, 3), nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Flatten(), nn.Linear(32 * 36, 5)],
    )
    relu, norm = copy.deepcopy(plain), copy.deepcopy(plain)
    to_compact(relu, "relu")
    to_compact(norm, "norm")
    x, y = noise(8, 3, 32, 32), torch.arange(8) % 5
    want, exact, rough = (
        torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters())) for net in (plain, relu, norm)
    )
    assert all(torch.equal(a, b) for a, b in zip(exact, want, strict=True))
    # A convolution's bias before a norm has no gradient but rounding: GroupNorm subtracts it, in part.
    weights = [i for i, (name, _) in enumerate(plain.named_parameters()) if name.endswith("weight")]
    assert max(error(rough[i], want[i]) for i in weights) < 0.01


def unit_bytes(level):
    """Return the bytes kept of an element of a unit behind its convolution."""
    net = nn.Sequential(nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(2))
    to_compact(net, level)
    x = noise(4, 32, 32, 32).requires_grad_()
    with SavedTensors.measure(net) as meter:
        out = net(x)
    assert out.grad_fn is not None
    return meter.peak_bytes / x.numel()


def test_bytes_kept_of_a_unit():
    statistics = 4 * 8 * 2 * 4 / (4 * 32 * 32 * 32)  # mean and 1/std
    assert unit_bytes("none") == 4 + 4 + 8 / 4 + statistics
    assert unit_bytes("relu") == 4 + 1 / 8 + 1 / 16 + statistics
    assert unit_bytes("norm") == 1 + 1 / 8 + 1 / 16 + 2 * statistics


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_bytes_kept_by_bits(bits):
    x = noise(2, 16, 8, 8).requires_grad_()
    for layer, groups in ((CompactGroupNorm(4, 16, bits=bits), 8), (CompactBatchNorm2d(16, bits=bits), 16)):
        with SavedTensors.measure(layer) as meter:
            out = layer(x)
        assert out.grad_fn is not None
        assert meter.peak_bytes == x.numel() * bits // 8 + groups * 16


def test_0_bits_and_small_groups_are_torchs():
    for layer, shape in ((CompactGroupNorm(4, 16, bits=0), (2, 16, 8)), (CompactGroupNorm(8, 16), (2, 16, 1))):
        plain = nn.GroupNorm(layer.num_groups, 16)
        (_, own), (_, theirs) = (gradients(net, noise(*shape), noise(*shape, seed=1)) for net in (layer, plain))
        assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))
    x = noise(2, 6, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(CompactGroupNorm(2, 6, bits=0).double(), x)


def test_a_second_derivative_says_that_there_is_none():
    x = noise(2, 6, 5).requires_grad_()
    (grad,) = torch.autograd.grad(CompactGroupNorm(2, 6)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("frozen", ["input", "parameters"])
def test_what_is_frozen_gets_no_gradient(frozen):
    for layer, shape in ((nn.GroupNorm(2, 8), (3, 8, 9)), (nn.LayerNorm(8), (9, 8)), (nn.BatchNorm1d(8), (3, 8, 9))):
        nets = pair(layer)
        results = []
        for net in nets:
            net.requires_grad_(frozen == "input")
            x = noise(*shape).requires_grad_(frozen == "parameters")
            net(x).backward(noise(*shape, seed=1))
            results.append([t.grad for t in (x, *net.parameters())])
        for got, want in zip(*results, strict=True):
            assert (got is None) == (want is None)
            assert want is None or error(got, want) < 0.03


@pytest.mark.parametrize("layer", [nn.GroupNorm(4, 16), nn.BatchNorm2d(16), nn.LayerNorm(12)], ids=str)
def test_channels_last_half_precision_and_autocast(layer):
    compact, plain = pair(layer)
    base, grad = noise(3, 16, 10, 12), noise(3, 16, 10, 12, seed=1)
    for x in (base.contiguous(memory_format=torch.channels_last), base.transpose(0, 1).contiguous().transpose(0, 1)):
        (out, own), (want, theirs) = (gradients(net, x, grad) for net in (compact, plain))
        assert torch.equal(out, want)
        assert out.stride() == want.stride()
        assert error(own[0], theirs[0]) < 0.005
    for x, autocast in ((base.bfloat16(), False), (base.bfloat16(), True), (base, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            (out, own), (want, theirs) = (gradients(net, x, grad.to(x.dtype)) for net in (compact, plain))
        assert out.dtype == want.dtype
        assert torch.equal(out, want)
        assert (own[0].dtype, own[1].dtype) == (theirs[0].dtype, theirs[1].dtype)
        assert error(own[0].float(), theirs[0].float()) < 0.01


def test_what_autocast_computes_in_single_precision_gets_single_precision():
    # No norm on a CPU does; a pool stands for a CUDA device's norms.
    x = noise(2, 3).bfloat16()
    for enabled, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert _as_under_autocast(x, (1, 1, 1, 1), lambda small: F.avg_pool3d(small, 1)).dtype == dtype


def test_two_forwards_then_two_backwards():
    compact, plain = pair(nn.BatchNorm2d(8))
    grads = []
    for net in (compact, plain):
        a, b = (noise(3, 8, 5, 5, seed=s).requires_grad_() for s in (0, 1))
        first, second = net(a), net(b)
        second.square().mul(noise(3, 8, 5, 5, seed=2)).sum().backward()
        first.square().mul(noise(3, 8, 5, 5, seed=3)).sum().backward()
        grads.append((a.grad, b.grad))
    for got, want in zip(*grads, strict=True):
        assert error(got, want) < 0.01


def test_torchs_own_errors_stay():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        CompactBatchNorm2d(4)(noise(1, 4, 1, 1))
    with pytest.raises(ValueError, match="expected 4D input"):
        CompactBatchNorm2d(4)(noise(3, 4))
    with pytest.raises(RuntimeError, match="running_mean"):
        CompactBatchNorm2d(4)(noise(3, 5, 2, 2))
    with pytest.raises(RuntimeError, match="Expected weight"):
        CompactGroupNorm(2, 4)(noise(3, 6, 2))
    with pytest.raises(RuntimeError, match="normalized_shape"):
        CompactLayerNorm(4)(noise(3, 5))


def test_bits_are_checked():
    for layer in (lambda: CompactGroupNorm(2, 4, bits=9), lambda: CompactLayerNorm(2, bits=-1)):
        with pytest.raises(ValueError, match="bits of a norm's input; expected 1 to 8, or 0 to keep the input itself"):
            layer()
    layer = CompactBatchNorm2d(4)
    layer.bits = 16
    with pytest.raises(ValueError, match="16 bits"):
        layer(noise(2, 4, 3, 3))


# torch's own compiler warns itself of its use of autograd functions.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 8), nn.BatchNorm2d(8), nn.LayerNorm(6)], ids=str)
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled(layer, backend):
    torch._dynamo.reset()
    (net, _), (other, _) = pair(layer), pair(layer)
    x, grad = noise(3, 8, 5, 6), noise(3, 8, 5, 6, seed=1)
    out, own = gradients(torch.compile(net, backend=backend, fullgraph=True), x, grad)
    want, theirs = gradients(other, x, grad)
    torch.testing.assert_close(out, want)
    # A code may be rounded the other way.
    assert all(error(a, b) < 0.005 for a, b in zip(own, theirs, strict=True))
    torch.testing.assert_close(net.state_dict(), other.state_dict())


def test_conversion_keeps_everything_but_the_class():
    class Own(nn.ReLU):
        pass

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), Own(), nn.GroupNorm(2, 8))
    keys, parameters, calls = list(net.state_dict()), list(net.parameters()), []
    net[2].register_forward_hook(lambda *_: calls.append("relu"))
    assert to_compact(net, "none") == {}
    assert to_compact(net, "relu") == {"2": "MaskReLU", "3": "CompactMaxPool2d"}
    assert to_compact(net, "norm") == {"1": "CompactBatchNorm2d", "5": "CompactGroupNorm"}
    assert to_compact(net, "norm") == {}
    assert type(net[4]) is Own
    assert isinstance(net[1], nn.BatchNorm2d)
    assert list(net.state_dict()) == keys
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    x = noise(2, 3, 9, 9)
    want = net(x)
    assert calls == ["relu"]
    net.load_state_dict(net.state_dict())
    net[2]._forward_hooks.clear()
    del net[4]
    want = net.eval()(x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), want)
        assert type(other[1]) is CompactBatchNorm2d


def test_one_layer_and_shared_layers():
    layer = nn.ReLU()
    assert to_compact(layer, "relu") == {"": "MaskReLU"}
    shared = nn.ReLU()
    assert to_compact(nn.Sequential(shared, nn.Linear(2, 2), shared), "norm") == {"0": "MaskReLU"}


def test_unknown_level():
    with pytest.raises(ValueError, match="compact level 'all' is unknown; expected one of none, relu, norm"):
        to_compact(nn.ReLU(), "all")
    assert LEVELS == ("none", "relu", "norm")
