"""MaskReLU: torch's ReLU and its gradient bit for bit, at one bit of an element."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_modules.layers.bit_packing import pack, unpack, unpack_flags
from lightning_modules.layers.mask_relu import MaskReLU, mask_relu
from lightning_modules.metrics.memory import SavedTensors

SPECIAL = [0.0, -0.0, float("nan"), -float("nan"), float("inf"), -float("inf"), 1e-45, -1e-45, 1.0, -1.0]


def bits_of(x):
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize])


def assert_same_bits(a, b):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    torch.testing.assert_close(bits_of(a), bits_of(b), rtol=0, atol=0)


def both(x, grad, compact=mask_relu, plain=F.relu):
    """Return (result, gradient) of the compact ReLU and of torch's."""
    leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2)]
    outs = [function(leaf) for function, leaf in zip((compact, plain), leaves, strict=True)]
    return [(out, torch.autograd.grad(out, leaf, grad)[0]) for out, leaf in zip(outs, leaves, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (3, 5, 7), (2, 3, 4, 5), (0, 4), (1025,)])
def test_result_and_gradient_are_torchs_bit_for_bit(dtype, shape):
    generator = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    (out, own), (want, theirs) = both(x, grad)
    assert_same_bits(out, want)
    assert_same_bits(own, theirs)


def test_special_values_in_input_and_gradient():
    x = torch.tensor([a for a in SPECIAL for _ in SPECIAL])
    grad = torch.tensor([b for _ in SPECIAL for b in SPECIAL])
    (out, own), (want, theirs) = both(x, grad)
    assert_same_bits(out, want)
    assert_same_bits(own, theirs)


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 3),
        lambda x: x[:, 1::2],
        lambda x: x[:, :1].expand(-1, 4, -1, -1),
    ],
    ids=["channels_last", "transposed", "strided", "expanded"],
)
def test_memory_formats(arrange):
    x = arrange(torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(0)))
    grad = torch.randn(x.shape)
    for g in (grad, grad.contiguous(memory_format=torch.channels_last)):
        results = []
        for function in (mask_relu, F.relu):
            leaf = x.detach().requires_grad_()
            out = function(leaf)
            results.append((out, torch.autograd.grad(out, leaf, g)[0]))
        (out, own), (want, theirs) = results
        assert out.stride() == want.stride()
        assert_same_bits(out, want)
        assert_same_bits(own, theirs)


@pytest.mark.parametrize("count", [8, 1001, 65536])
def test_one_bit_of_an_element_is_kept(count):
    x = torch.randn(count, requires_grad=True)
    with SavedTensors.measure(nn.ReLU()) as meter:
        out = MaskReLU()(x)
    assert meter.peak_bytes == -(-count // 8)
    del out
    assert meter.live_bytes == 0


def test_in_place_writes_over_its_input():
    x = torch.randn(33, requires_grad=True)
    grad = torch.randn(33)
    results = []
    for layer in (MaskReLU(inplace=True), nn.ReLU(inplace=True)):
        y = x * 2
        out = layer(y)
        assert out.data_ptr() == y.data_ptr()
        results.append((out, torch.autograd.grad(out.sin(), x, grad)[0]))
    assert_same_bits(results[0][0], results[1][0])
    assert_same_bits(results[0][1], results[1][1])
    with torch.no_grad():
        y = x * 2
        assert MaskReLU(inplace=True)(y) is y
    with pytest.raises(RuntimeError, match="leaf Variable"):
        MaskReLU(inplace=True)(x)


def test_without_a_graph_nothing_is_kept():
    x = torch.randn(9)
    assert MaskReLU()(x).grad_fn is None
    with torch.no_grad():
        assert MaskReLU()(x.requires_grad_()).grad_fn is None


def test_second_derivatives():
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: mask_relu(x).square(), x)
    assert torch.autograd.gradgradcheck(lambda x: mask_relu(x) ** 3, x)


def test_autocast_checkpoint_and_copies():
    net = nn.Sequential(nn.Linear(6, 8), MaskReLU(), nn.Linear(8, 2))
    plain = nn.Sequential(net[0], nn.ReLU(), net[2])
    x = torch.randn(4, 6)
    for network in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert list(network.state_dict()) == list(plain.state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            got = torch.autograd.grad(network(x).sum(), list(network.parameters()))
            want = torch.autograd.grad(plain(x).sum(), list(plain.parameters()))
        for a, b in zip(got, want, strict=True):
            assert_same_bits(a, b)
    out = checkpoint(net, x, use_reentrant=False)
    got = torch.autograd.grad(out.sum(), list(net.parameters()))
    want = torch.autograd.grad(plain(x).sum(), list(plain.parameters()))
    for a, b in zip(got, want, strict=True):
        assert_same_bits(a, b)


# torch's own compiler warns itself of its use of autograd functions.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled(backend):
    torch._dynamo.reset()
    x = torch.randn(3, 5, 7)
    compiled = torch.compile(lambda x: mask_relu(x * 2), backend=backend, fullgraph=True)
    (out, own), (want, theirs) = both(x, torch.randn(3, 5, 7), compiled, lambda x: F.relu(x * 2))
    assert_same_bits(out, want)
    assert_same_bits(own, theirs)


def test_flags_are_the_indices_of_one_bit():
    for count in (0, 1, 8, 77):
        flags = torch.randint(2, (count,), generator=torch.Generator().manual_seed(count))
        packed = pack(flags, 1)
        assert (unpack_flags(packed, count) > 0).long().tolist() == unpack(packed, 1, count).tolist() == flags.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_packing_starts_anywhere_in_memory(bits):
    indices = torch.randint(2**bits, (40,), dtype=torch.uint8)
    for start in range(9):
        assert (
            unpack(pack(indices[start : start + 24], bits), bits, 24).tolist() == indices[start : start + 24].tolist()
        )
