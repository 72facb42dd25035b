"""What a sketched convolution keeps for its backward pass, to the byte, and what it takes for a moment in it."""

import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules.layers.probes import MODES, Probes
from lightning_modules.layers.xconv import sketched_convolution, to_xconv
from lightning_modules.metrics.memory import SavedTensors, tensors_in

KEY_BYTES = 3 * 8


def saved_bytes(layer, x):
    with SavedTensors.measure(layer) as meter:
        layer(x).sum()
    return meter.peak_bytes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("probes", [5, 0.125])
def test_the_sketch_and_the_key_are_kept(dtype, mode, center, probes):
    layer, x = nn.Conv2d(4, 6, 3, stride=2).to(dtype), torch.randn(3, 4, 9, 8, dtype=dtype, requires_grad=True)
    exact = saved_bytes(layer, x)
    to_xconv(layer, probes, mode=mode, center=center, seed=0)
    floats = 3 * layer.sketch_of(x.shape).stored_bytes(4, 1)
    assert exact == x.nbytes
    assert saved_bytes(layer, x) == floats * x.element_size() + KEY_BYTES
    assert floats < x.numel() / 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sketches_of_single_precision_may_be_kept_in_half(mode, center, dtype):
    layer, x = nn.Conv2d(4, 6, 3).to(dtype), torch.randn(3, 4, 9, 8, dtype=dtype)
    to_xconv(layer, 5, mode=mode, center=center, half=True, seed=0)
    means = 3 * 4 * x.element_size() if center else 0
    numbers = 3 * layer.sketch_of(x.shape).stored_bytes(4, 1) - (12 if center else 0)
    assert saved_bytes(layer, x) == numbers * (8 if dtype == torch.float64 else 2) + means + KEY_BYTES
    assert saved_bytes(layer, x) == 3 * layer.sketch_of(x.shape).stored_bytes(4, x.element_size()) + KEY_BYTES


SETTINGS = [{"padding": "same", "padding_mode": mode} for mode in ("zeros", "reflect", "replicate", "circular")]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("settings", [*SETTINGS, {"padding": 2, "groups": 2, "dilation": 2, "bias": False}])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_padding_keeps_nothing_more(settings, layout):
    layer, x = nn.Conv2d(4, 6, (3, 4), **settings), torch.randn(3, 4, 9, 8, requires_grad=True)
    to_xconv(layer, 5, seed=0)
    assert saved_bytes(layer, x.to(memory_format=layout)) == 3 * 4 * 5 * 4 + KEY_BYTES


@pytest.mark.parametrize(("kind", "size"), [(nn.Conv1d, (30,)), (nn.Conv3d, (4, 3, 5)), (nn.ConvTranspose2d, (5, 6))])
def test_every_dimension_keeps_the_sketch_alone(kind, size):
    layer = kind(4, 6, 3, padding=1)
    to_xconv(layer, 5, mode="independent", seed=0)
    assert saved_bytes(layer, torch.randn(3, 4, *size, requires_grad=True)) == 3 * 4 * 5 * 4 + KEY_BYTES
    assert saved_bytes(layer, torch.randn(4, *size, requires_grad=True)) == 4 * 5 * 4 + KEY_BYTES


def test_frozen_weights_and_no_graph_keep_nothing():
    layer, x = nn.Conv2d(4, 6, 3), torch.randn(3, 4, 9, 8, requires_grad=True)
    to_xconv(layer, 5, seed=0)
    with torch.no_grad():
        assert saved_bytes(layer, x) == 0
    layer.weight.requires_grad_(False)
    assert saved_bytes(layer, x) == 0
    layer.bias.requires_grad_(False)
    assert saved_bytes(layer, x) == 0


def test_a_sketch_that_would_be_no_smaller_keeps_the_input():
    layer, x = nn.Conv2d(4, 6, 1), torch.randn(3, 4, 2, 2)
    to_xconv(layer, 4, seed=0)
    assert saved_bytes(layer, x) == x.nbytes


def test_a_chain_keeps_the_sum_of_its_sketches():
    chain = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(5)])
    x = torch.randn(2, 4, 8, 8)
    exact = saved_bytes(chain, x)
    to_xconv(chain, 0.125, seed=0)
    assert saved_bytes(chain, x) == exact // 8 + 5 * KEY_BYTES


class Live(TorchDispatchMode):
    """Bytes of the storages that operators made and that are alive, and their peak."""

    def __init__(self):
        super().__init__()
        self._made = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {tensor.untyped_storage()._cdata for tensor in tensors_in([args, kwargs or {}])}
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made | given:
                self._made.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, name, size):
        self._made.discard(name)
        self.now -= size


def live_peaks(x, layer, grad, probes):
    """Return the most that forward and backward have at one time, input and output gradient left out."""
    to_xconv(layer, 1, seed=0)
    prepared, geometry = layer._prepared(x)
    key = torch.tensor([0, 0, 0])
    with Live() as forward:
        y = sketched_convolution(prepared, layer.weight, layer.bias, geometry, probes, key)
    kept = probes.stored_bytes(x.shape[1], 1) * len(x) * x.element_size()
    with Live() as backward:
        torch.autograd.grad(y, layer.weight, grad)
    return forward.peak - y.nbytes - kept, backward.peak


LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("channels", "outputs"), [(8, 8), (2, 48), (16, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_what_there_is_for_a_moment_stays_within_the_budget(mode, channels, outputs, layout, center, dtype):
    layer = nn.Conv2d(channels, outputs, 3, padding=1).to(dtype)
    x = torch.randn(64, channels, 16, 16, dtype=dtype).to(memory_format=layout)
    grad = torch.randn(64, outputs, 16, 16, dtype=dtype)
    sample = max(channels, outputs) * 256 * x.element_size()
    count = 200 if mode == "independent" else 48
    # Room for a chunk of probes of a sample's size, and no more than a third of the input or output gradient.
    budget = 2 * 10 * sample
    sketch_bytes = Probes(count, mode, center=center).stored_bytes(channels, 1) * len(x) * x.element_size()
    small = 4 * layer.weight.numel() * 4 + 2**13
    forward, backward = live_peaks(x, layer, grad, Probes(count, mode, budget, center))
    # The sketch is there twice while its parts are put together, and three times where means are taken away.
    assert forward <= budget + (3 if center else 2) * sketch_bytes + small
    assert backward <= budget + small


def test_the_meter_of_live_bytes_sees_what_is_larger_than_the_budget():
    """It finds the whole input where the budget is large: the test above can fail."""
    layer, x = nn.Conv2d(8, 8, 3, padding=1), torch.randn(64, 8, 16, 16)
    _, backward = live_peaks(x, layer, torch.randn(64, 8, 16, 16), Probes(200, "independent", 2**30))
    assert backward > x.nbytes


@pytest.mark.parametrize("mode", MODES)
def test_after_the_backward_pass_nothing_is_left(mode):
    layer, x = nn.Conv2d(4, 6, 3), torch.randn(3, 4, 9, 8)
    to_xconv(layer, 5, mode=mode, seed=0)
    with Live() as live:
        y = layer(x)
        gradients = torch.autograd.grad(y.sum(), list(layer.parameters()))
        left = y.nbytes + sum(gradient.nbytes for gradient in gradients)
        assert live.now <= left + 64
