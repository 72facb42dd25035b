"""Compact pools: torch's outputs bit for bit, its gradients, and the bytes that they keep."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.layers.compact import to_compact
from lightning_modules.layers.compact_pool import CompactAdaptiveMaxPool2d, CompactMaxPool2d, average_pool
from lightning_modules.metrics.memory import SavedTensors

MAX_2D = [
    {"kernel_size": 2},
    {"kernel_size": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0), "dilation": (2, 3)},
    {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True},
    {"kernel_size": 1},
    {"kernel_size": (5, 9), "padding": (2, 4), "stride": 1},
    {"kernel_size": 3, "stride": 4},
]
MAX_3D = [
    {"kernel_size": 2},
    {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)},
    {"kernel_size": (3, 2, 2), "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": 2, "dilation": (1, 2, 3), "stride": 1},
]


def noise(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def assert_as_torchs(layer, x):
    """The compact layer's result, its strides and its gradient are those of torch's layer."""
    compact = copy.deepcopy(layer)
    assert to_compact(compact, "relu"), "the layer was not changed"
    leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2)]
    out, want = compact(leaves[0]), layer(leaves[1])
    torch.testing.assert_close(out, want, rtol=0, atol=0, equal_nan=True)
    assert (out.dtype, out.stride()) == (want.dtype, want.stride())
    grad = noise(*want.shape, dtype=want.dtype)
    got, expected = (torch.autograd.grad(o, leaf, grad)[0] for o, leaf in zip((out, want), leaves, strict=True))
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    assert got.stride() == expected.stride()
    with torch.no_grad():
        assert torch.equal(compact(x).nan_to_num(), layer(x).nan_to_num())


@pytest.mark.parametrize("options", MAX_2D, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 9, 11), (3, 10, 9)], ids=["batch", "map"])
def test_max_pool_2d(options, shape):
    assert_as_torchs(nn.MaxPool2d(**options), noise(*shape))


@pytest.mark.parametrize("options", MAX_3D, ids=str)
def test_max_pool_3d(options):
    assert_as_torchs(nn.MaxPool3d(**options), noise(2, 3, 5, 8, 7))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 1)])
def test_windows_wider_than_the_map(size):
    # Offsets of two places are equal here; one of them always lies in the padding.
    assert_as_torchs(nn.MaxPool2d(3, 1, padding=1), noise(2, 2, *size))


@pytest.mark.parametrize("size", [1, 3, (4, 7), (None, 2), (9, 11)])
def test_adaptive_max_pool(size):
    assert_as_torchs(nn.AdaptiveMaxPool2d(size), noise(2, 3, 9, 11))


@pytest.mark.parametrize(
    "layer", [nn.MaxPool2d(3, 2, 1), nn.AdaptiveMaxPool2d(4), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_channels_last_types_and_no_frames(layer, dtype):
    x = noise(2, 4, 9, 11, dtype=dtype)
    assert_as_torchs(layer, x.contiguous(memory_format=torch.channels_last))
    assert_as_torchs(layer, x.transpose(2, 3))
    assert_as_torchs(layer, x[:0])


@pytest.mark.parametrize("channels_last", [False, True])
def test_ties_and_values_that_are_no_numbers(channels_last):
    x = torch.zeros(2, 3, 8, 8)
    x[0, 0, :4] = float("nan")
    x[0, 1] = -float("inf")
    x[1, 0, ::3] = 1
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for layer in (nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AdaptiveMaxPool2d(3)):
        assert_as_torchs(layer, x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d((2, 3), ceil_mode=True, count_include_pad=False, padding=1),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((3, 5)),
        nn.AdaptiveAvgPool2d((None, 4)),
    ],
    ids=str,
)
def test_average_pools(layer):
    assert_as_torchs(layer, noise(2, 3, 9, 11))


@pytest.mark.parametrize(
    "layer",
    [nn.AvgPool3d(2), nn.AvgPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.AdaptiveAvgPool3d((2, 3, 4))],
    ids=str,
)
def test_average_pools_3d(layer):
    assert_as_torchs(layer, noise(2, 3, 4, 7, 8))


@pytest.mark.parametrize("size", [1, 4, (3, 5), [2, None]])
def test_average_pool(size):
    a, b = (noise(2, 3, 9, 11).requires_grad_() for _ in range(2))
    got, want = average_pool(a, size), F.adaptive_avg_pool2d(b, size)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    grad = noise(*want.shape)
    torch.testing.assert_close(*(torch.autograd.grad(o, i, grad)[0] for o, i in ((got, a), (want, b))), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layer", "bytes_kept"),
    [
        (nn.MaxPool2d(2), 2 * 3 * 8 * 8 * 2 // 8),
        (nn.MaxPool2d(3, 2, 1), 2 * 3 * 8 * 8 * 4 // 8),
        (nn.AdaptiveMaxPool2d(1), 2 * 3 * 8 // 8),
        (nn.AvgPool2d(2), 0),
        (nn.AdaptiveAvgPool2d(3), 0),
    ],
    ids=str,
)
def test_bytes_kept(layer, bytes_kept):
    to_compact(layer, "relu")
    x = noise(2, 3, 16, 16).requires_grad_()
    with SavedTensors.measure(layer) as meter:
        out = layer(x)
    assert meter.peak_bytes == bytes_kept
    del out
    assert meter.live_bytes == 0


def test_asked_for_indices_it_is_torchs():
    x = noise(2, 3, 8, 8).requires_grad_()
    for compact, plain in (
        (CompactMaxPool2d(2, return_indices=True), nn.MaxPool2d(2, return_indices=True)),
        (CompactAdaptiveMaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool2d(2, return_indices=True)),
    ):
        for got, want in zip(compact(x), plain(x), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("layer", [nn.MaxPool2d((20, 19), 11), nn.AdaptiveMaxPool2d(1)], ids=str)
def test_more_places_than_a_byte_counts(layer):
    assert_as_torchs(layer, noise(3, 8, 41, 40))


def test_a_window_of_more_places_than_bits_can_count_is_torchs():
    assert_as_torchs(nn.MaxPool2d((257, 256)), noise(1, 1, 257, 256))


@pytest.mark.parametrize(
    "layer", [nn.MaxPool2d(2), nn.MaxPool3d(2), nn.AvgPool2d(2), nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(2)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(layer, dtype):
    # Some of torch's pools compute in float32 under autocast, by device.
    with torch.autocast("cpu", torch.bfloat16):
        assert_as_torchs(
            layer, noise(2, 3, 4, 8, 8, dtype=dtype) if "3d" in str(layer) else noise(2, 3, 4, 8, dtype=dtype)
        )


def test_gradients_of_gradients():
    x = noise(1, 2, 5, 6, dtype=torch.float64).requires_grad_()
    for layer in (nn.MaxPool2d(3, 2, 1), nn.AdaptiveMaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(4)):
        to_compact(layer, "relu")
        assert torch.autograd.gradcheck(layer, x)
        assert torch.autograd.gradgradcheck(lambda x, layer=layer: layer(x) ** 2, x)


# torch's own compiler warns itself of its use of autograd functions.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled(backend):
    torch._dynamo.reset()
    x = noise(2, 3, 9, 8).requires_grad_()
    net = nn.Sequential(
        nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d((2, 3)), nn.AdaptiveMaxPool2d(2)
    )
    want = net(x)
    expected = torch.autograd.grad(want.square().sum(), x)
    to_compact(net, "relu")
    out = torch.compile(net, backend=backend, fullgraph=True)(x)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), x), expected)


def test_copies():
    net = nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2))
    to_compact(net, "relu")
    x = noise(1, 2, 8, 8)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert isinstance(other[0], CompactMaxPool2d)
        assert torch.equal(other(x), net(x))
