"""Who keeps what: against sequences whose truth is known by hand, and against the bytes that autograd really saves."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from lightning_modules.metrics.memory import SavedTensors
from lightning_modules.metrics.saved_by_layer import BATCH, FUNCTION, SavedByLayer, saved_by_layer
from lightning_modules.networks import build_network
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules

SIDE = 8
MAP = 4 * 2 * SIDE**2  # bytes of one channel of two samples


def conv(a, b, side=3):
    return nn.Conv2d(a, b, side, padding=side // 2, bias=False)


def by_name(network, shape, **options):
    return {row.name: row for row in saved_by_layer(network, shape, **options)}


def kept(rows):
    return {name: row.saved_bytes for name, row in rows.items()}


def pinned(rows, *kinds):
    return {name: row.pinned_by for name, row in rows.items() if row.kind in (kinds or ("Conv2d",))}


class Residual(nn.Module):
    """Two convolutions and a skip past them, or past the second alone."""

    def __init__(self, *, inner):
        super().__init__()
        self.first, self.second, self.last = conv(3, 3), conv(3, 3), conv(3, 5)
        self.inner = inner

    def forward(self, x):
        y = self.first(x)
        return self.last(self.second(y) + (y if self.inner else x))


def test_conv_relu_conv():
    """ReLU keeps its result, which is what the second convolution reads; the first reads the batch."""
    rows = by_name(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5)), (3, SIDE, SIDE))
    assert list(rows) == ["0", "1", "2"]
    assert kept(rows) == {"0": 3 * MAP, "1": 4 * MAP, "2": 0}
    assert pinned(rows) == {"0": (BATCH,), "2": ("1",)}
    assert rows["2"] == SavedByLayer("2", "Conv2d", (2, 4, SIDE, SIDE), 0, 4 * MAP, ("1",))
    assert rows["1"].pinned_by == ()


@pytest.mark.parametrize("inplace", [False, True])
def test_conv_norm_relu_pool_conv(inplace):
    """The norm keeps the convolution's output, ReLU its own, the pool places of 8 bytes; the last input is its own."""
    layers = [conv(3, 4), nn.GroupNorm(2, 4), nn.ReLU(inplace), nn.MaxPool2d(2), conv(4, 5)]
    rows = by_name(nn.Sequential(*layers), (3, SIDE, SIDE))
    statistics = 4 * 2 * 2 * 2  # mean and 1/std of 2 groups of 2 samples
    quarter = 4 * MAP // 4
    assert kept(rows) == {"0": 3 * MAP, "1": 4 * MAP + statistics, "2": 4 * MAP, "3": 2 * quarter, "4": quarter}
    assert pinned(rows) == {"0": (BATCH,), "4": ()}
    assert pinned(rows, "GroupNorm") == {"1": ()}


def test_layers_that_keep_nothing_pin_nothing():
    """Between convolutions alone, through views and an Identity, each input is one layer's alone."""
    layers = [conv(3, 4), nn.Identity(), conv(4, 4), nn.Flatten(), nn.Unflatten(1, (4, SIDE, SIDE)), conv(4, 5)]
    rows = by_name(nn.Sequential(*layers), (3, SIDE, SIDE))
    assert kept(rows) == {"0": 3 * MAP, "1": 0, "2": 4 * MAP, "3": 0, "4": 0, "5": 4 * MAP}
    assert pinned(rows) == {"0": (BATCH,), "2": (), "5": ()}


def test_a_skip_past_a_layer_keeps_nothing():
    """A sum keeps neither of its parts: the last convolution is the only one that keeps its input."""
    for inner in (False, True):
        rows = by_name(Residual(inner=inner), (3, SIDE, SIDE))
        assert kept(rows) == {"first": 3 * MAP, "second": 3 * MAP, "last": 3 * MAP}
        assert pinned(rows) == {"first": (BATCH,), "second": (), "last": ()}


def test_two_layers_that_read_one_tensor_keep_it_for_each_other():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left, self.right = conv(3, 4), conv(4, 5), conv(4, 5, side=1)

        def forward(self, x):
            y = self.stem(x)
            return self.left(y) + self.right(input=y)

    rows = by_name(Fork(), (3, SIDE, SIDE))
    assert pinned(rows) == {"stem": (BATCH,), "left": ("right",), "right": ("left",)}
    assert kept(rows) == {"stem": 3 * MAP, "left": 4 * MAP, "right": 0}


def test_functions_outside_of_layers():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = conv(3, 4), conv(4, 5)

        def forward(self, x):
            return self.second(F.relu(self.first(x))).sigmoid()

    rows = by_name(Plain(), (3, SIDE, SIDE))
    assert pinned(rows) == {"first": (BATCH,), "second": (FUNCTION,)}
    assert rows[FUNCTION] == SavedByLayer(FUNCTION, "", (), 4 * MAP + 5 * MAP, 0, ())
    assert list(rows)[-1] == FUNCTION


def test_a_layer_that_runs_twice_is_one_row():
    """ReLU's second result is what it reads itself; the shared convolution's two inputs are the batch and ReLU's."""
    shared, relu = conv(4, 4), nn.ReLU()
    rows = by_name(nn.Sequential(shared, relu, shared, relu), (4, SIDE, SIDE))
    assert list(rows) == ["0", "1"]
    assert kept(rows) == {"0": 4 * MAP, "1": 2 * 4 * MAP}
    assert rows["0"].pinned_by == (BATCH, "1")
    assert (rows["0"].input_bytes, rows["0"].input_shape) == (8 * MAP, (2, 4, SIDE, SIDE))


def test_a_layer_that_gives_up_its_input_is_seen_to():
    """As a sketch does: it saves another tensor, and only then does the input's memory depend on the others."""

    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x[:, :, ::2].clone(), weight)
            return F.conv2d(x, weight, padding=1)

        @staticmethod
        def backward(ctx, grad):
            raise NotImplementedError

    class HalvedConv(nn.Conv2d):
        def forward(self, x):
            return Halved.apply(x, self.weight)

    rows = by_name(nn.Sequential(conv(3, 4), nn.ReLU(), HalvedConv(4, 5, 3)), (3, SIDE, SIDE))
    assert (rows["2"].kind, rows["2"].saved_bytes, rows["2"].pinned_by) == ("HalvedConv", 2 * MAP, ("1",))
    rows = by_name(nn.Sequential(conv(3, 4), HalvedConv(4, 5, 3)), (3, SIDE, SIDE))
    assert (rows["1"].saved_bytes, rows["1"].pinned_by) == (2 * MAP, ())


def test_a_part_of_a_tensor_keeps_all_of_it():
    """What is saved is a view; the memory that it holds is the whole tensor's, kept by the other half's reader too."""

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left, self.right = conv(3, 8), conv(4, 5), conv(4, 5)

        def forward(self, x):
            left, right = self.stem(x).unflatten(0, (2, 1)).unbind()
            return self.left(left[:, :4]) + self.right(right[:, 4:])

    rows = by_name(Halves(), (3, SIDE, SIDE))
    assert kept(rows) == {"stem": 3 * MAP, "left": 8 * MAP, "right": 0}
    assert (rows["left"].input_bytes, rows["left"].pinned_by) == (2 * MAP, ("right",))


def test_graphs_that_end_midway_leave_no_addresses_behind():
    """A result thrown away frees its memory, which the next one may get: it is another tensor all the same."""

    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(conv(4, 4) for _ in range(6))

        def forward(self, x):
            for layer in self.convs:
                layer(x * 2).sum()

    rows = by_name(Tries(), (4, 32, 32))
    assert {row.saved_bytes for row in rows.values()} == {4 * 2 * 4 * 32**2}
    assert {row.pinned_by for row in rows.values()} == {()}

    class Powers(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            for _ in range(6):
                (self.scale * (x * 2)).sum()

    (only,) = saved_by_layer(Powers(), (4, 32, 32))
    assert only.saved_bytes == 6 * 4 * 2 * 4 * 32**2


def test_frozen_layers_keep_less():
    network = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5)).requires_grad_(False)
    assert set(kept(by_name(network, (3, SIDE, SIDE))).values()) == {0}
    network[2].requires_grad_(True)
    assert kept(by_name(network, (3, SIDE, SIDE))) == {"0": 0, "1": 0, "2": 4 * MAP}


def test_a_parametrised_convolution_is_a_layer_still():
    class Squared(nn.Module):
        def forward(self, weight):
            return weight * weight

    network = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5))
    parametrize.register_parametrization(network[2], "weight", Squared())
    rows = by_name(network, (3, SIDE, SIDE))
    weight_bytes = 4 * 5 * 4 * 9
    assert rows["2"] == SavedByLayer("2", "ParametrizedConv2d", (2, 4, SIDE, SIDE), weight_bytes, 4 * MAP, ("1",))
    assert FUNCTION not in rows


NETWORKS = {
    "small_cnn": ({"width": 0.25}, (3, 32, 32)),
    "vgg8": ({"width": 0.125}, (3, 32, 32)),
    "cnn3d": ({"width": 0.25}, (4, 3, 32, 32)),
    "x3d": ({}, (4, 3, 32, 32)),
}


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        pytest.param(name, batch, marks=[pytest.mark.slow] * ((name, batch) == ("x3d", 2)))
        for name in NETWORKS
        for batch in (1, 2)
    ],
)
def test_the_sum_is_what_autograd_saves(name, batch):
    options, shape = NETWORKS[name]
    network = build_network(name, **options)
    total = sum(row.saved_bytes for row in saved_by_layer(network, shape, batch))
    with SavedTensors.measure(network) as meter:
        answer = network(torch.rand(batch, *shape))
    assert total == meter.live_bytes > 0
    del answer


def test_small_cnn():
    """conv, norm, ReLU in units of their own: each convolution but the first reads what the ReLU below keeps."""
    rows = by_name(build_network("small_cnn", width=0.25), (3, 32, 32))
    relus = [name for name, row in rows.items() if row.kind == "ReLU"]
    assert list(pinned(rows).values()) == [(BATCH,), *((relu,) for relu in relus[:-1])]
    assert [row.input_shape[1:] for row in rows.values() if row.kind == "Conv2d"][:2] == [(3, 32, 32), (4, 16, 16)]
    assert all(row.saved_bytes == 0 for row in rows.values() if row.kind == "Conv2d" and BATCH not in row.pinned_by)


def test_vgg8_pools_free_what_follows_them():
    """A convolution behind a pool is the only one to keep its input; behind a ReLU it is not."""
    rows = list(by_name(build_network("vgg8", width=0.125), (3, 32, 32)).values())
    convs = [i for i, row in enumerate(rows) if row.kind == "Conv2d"]
    before = {rows[i].name: rows[i - 1] for i in convs[1:]}
    assert {"ReLU", "MaxPool2d"} <= {row.kind for row in before.values()}
    for i in convs[1:]:
        read = before[rows[i].name]
        assert rows[i].pinned_by == ((read.name,) if read.kind == "ReLU" else ())
        assert rows[i].saved_bytes == (0 if read.kind == "ReLU" else rows[i].input_bytes)


def test_cnn3d_reads_clips():
    rows = by_name(build_network("cnn3d", width=0.25), (4, 3, 32, 32))
    convs = pinned(rows, "Conv3d")
    assert list(convs.values()) == [(BATCH,), ("features.2",), ("features.5",), ("features.8",), ("features.11",)]
    assert rows["features.0"].input_shape == (2, 3, 4, 32, 32)
    assert list(rows)[-1] == "head"


def test_resnet18_s_projections_read_what_the_block_s_first_convolution_reads():
    rows = by_name(build_network("resnet18", width=0.125), (3, 32, 32))
    pairs = {
        (row.name, other)
        for row in rows.values()
        for other in row.pinned_by
        if row.kind == "Conv2d" and other in rows and rows[other].kind == "Conv2d"
    }
    assert len(pairs) == 2 * 3
    assert all((b, a) in pairs and rows[a].input_shape == rows[b].input_shape for a, b in pairs)


def test_x3d():
    """Swish keeps its input and BatchNorm its own: a convolution behind a Swish alone keeps what it reads."""
    rows = by_name(build_network("x3d"), (4, 3, 32, 32))
    order = list(rows.values())
    convs = pinned(rows, "Conv3d")
    assert len(convs) > 50
    assert [name for name, names in convs.items() if BATCH in names] == [order[0].name]
    behind_swish = [b for a, b in pairwise(order) if (a.kind, b.kind) == ("SiLU", "Conv3d")]
    assert behind_swish
    assert all(row.pinned_by == () and row.saved_bytes == row.input_bytes for row in behind_swish)
    relus = [b for a, b in pairwise(order) if (a.kind, b.kind) == ("ReLU", "Conv3d")]
    assert relus
    assert all(any(rows[p].kind == "ReLU" for p in row.pinned_by if p in rows) for row in relus)


@pytest.mark.parametrize("wiring", ["residual", "concat", "dense", "input"])
def test_the_sum_holds_for_every_wiring(wiring):
    network = build_network("small_cnn", width=0.25, wiring=wiring)
    rows = saved_by_layer(network, (3, 32, 32))
    with SavedTensors.measure(network) as meter:
        answer = network(torch.rand(2, 3, 32, 32))
    assert sum(row.saved_bytes for row in rows) == meter.live_bytes
    del answer


@pytest.mark.parametrize(("name", "modules"), [("small_cnn", (2, 2, 2)), ("cnn3d", [2, 2, 1])])
def test_heads_run_behind_their_modules(name, modules):
    options, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = build_network(name, **options)
    uncut = by_name(network, shape)
    cut_into_modules(network, LocalModules(modules))
    rows = by_name(network, shape)
    heads = [name for name in rows if name not in uncut and name != FUNCTION]
    assert heads
    assert [name for name in rows if name in uncut] == list(uncut)
    first_head, last = list(rows).index(heads[0]), list(rows).index(next(reversed(uncut)))
    assert first_head < last
    assert {name for name, _ in network.named_modules()} > set(heads)
    for name, row in uncut.items():
        assert rows[name].input_shape == row.input_shape


def test_what_a_quantiser_sends_is_a_tensor_of_its_own():
    """Behind a quantiser a module's first convolution does not read what the ReLU below keeps."""
    network = build_network("small_cnn", width=0.25)
    cut_into_modules(network, LocalModules((2, 4), vq_groups=1, vq_codes=4))
    rows = by_name(network, (3, 32, 32))
    first, above = "units.2.body.0", "units.3.body.0"
    assert not any(rows[p].kind == "ReLU" for p in rows[first].pinned_by)
    assert [rows[p].kind for p in rows[above].pinned_by] == ["ReLU"]


def test_the_network_and_torch_s_draws_stay_as_they_are():
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Dropout(0.5), conv(4, 5))
    network[0].key = torch.arange(4)
    network[0].register_forward_pre_hook(lambda layer, _: layer.key.add_(1).storage_offset() or None)
    before, drawn = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    rows = by_name(network, (3, SIDE, SIDE))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert network.training
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert torch.equal(network[0].key, torch.arange(4))
    assert len(network[0]._forward_pre_hooks) == 1
    assert not any(m._forward_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())
    assert rows["2"].saved_bytes == 4 * MAP


def test_modes_dtypes_and_graphs():
    """Evaluation keeps no statistics of the batch, float64 twice the bytes; a caller without gradients has the same."""
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Dropout(0.5), conv(4, 5))
    train = kept(by_name(network, (3, SIDE, SIDE)))
    with torch.no_grad():
        assert kept(by_name(network, (3, SIDE, SIDE))) == train
    assert kept(by_name(network.double(), (3, SIDE, SIDE)))["0"] == 2 * train["0"]
    assert kept(by_name(network.float().eval(), (3, SIDE, SIDE)))["2"] == 0
    assert kept(by_name(nn.Sequential(nn.ReLU()), (3,))) == {"0": 0}


@pytest.mark.parametrize(
    ("name", "shape", "batch", "message"),
    [
        ("small_cnn", (4, 3, 32, 32), 2, r"\(4, 3, 32, 32\).*\(C, H, W\), a frame's"),
        ("cnn3d", (3, 32, 32), 2, r"\(3, 32, 32\).*\(T, C, H, W\), a clip's"),
        ("small_cnn", (3, 32, 32), 0, "batch is 0; give 1"),
    ],
)
def test_errors_that_teach(name, shape, batch, message):
    with pytest.raises(ValueError, match=message):
        saved_by_layer(build_network(name, width=0.25), shape, batch)
