"""Costs of heads: against counts by hand, on networks of frames and of clips; nothing of the network changes."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from lightning_modules.metrics.head_cost import ModuleCost, cost_table, counted_macs, layer_macs, module_costs
from lightning_modules.networks import build_network
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules


def cut(name="small_cnn", modules=(2, 2, 2), **options):
    torch.manual_seed(0)
    head = {key: options.pop(key) for key in ("head", "head_width") if key in options}
    network = build_network(name, num_classes=10, **options)
    cut_into_modules(network, LocalModules(modules, **head))
    return network


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 8, 3, padding=1), (2, 4, 5, 6)),
        (nn.Conv2d(4, 8, 3, stride=2, groups=2), (1, 4, 9, 9)),
        (nn.Conv2d(6, 6, (1, 3), groups=6), (1, 6, 4, 4)),
        (nn.Conv3d(3, 4, (3, 1, 3)), (1, 3, 5, 6, 7)),
        (nn.Linear(7, 3), (4, 7)),
    ],
)
def test_macs_of_a_layer_are_its_weights_uses(layer, shape):
    """With weights of 1, inputs of 1 and no padding a convolution's output is its number of products."""
    with torch.no_grad():
        output = layer(torch.rand(shape))
        for p in layer.parameters():
            p.fill_(1.0)
        if layer.bias is not None:
            layer.bias.zero_()
        if isinstance(layer, nn.Linear):
            products = layer(torch.ones(shape)).sum()
        else:
            size = [(n + 1) * 10 for n in layer.kernel_size]
            products = layer(torch.ones(1, shape[1], *size)).flatten(2).amax(2)[0, 0] * output.numel()
    assert layer_macs(layer, output) == int(products)
    assert layer_macs(nn.ReLU(), output) == 0


def test_small_cnn_by_hand():
    """Three modules of two units on 32x32: conv maps of 16, 8 | 4, 4 | 4 pixels a side, 16 to 64 channels."""
    network = cut()
    sides, channels = [16, 8, 4, 4, 4], [3, 16, 32, 64, 64, 64]
    macs = [side**2 * 9 * a * b for side, a, b in zip(sides, channels[:-1], channels[1:], strict=True)]
    sizes = [9 * a * b + 2 * b for a, b in pairwise(channels)]
    costs = module_costs(network, (3, 32, 32))
    assert [list(c.units) for c in costs] == [[1, 2], [3, 4], [5, 6]]
    assert [c.macs for c in costs] == [macs[0] + macs[1], macs[2] + macs[3], macs[4] + 640]
    assert [c.parameters for c in costs] == [sizes[0] + sizes[1], sizes[2] + sizes[3], sizes[4] + 650]
    # mlp-sr after 32 channels of 8x8: maps of 2x2 in three 1x1 convolutions, then 128 -> 32 -> 32 -> 32 -> 10.
    assert costs[0].head_macs == 3 * 4 * 32**2 + 128 * 32 + 2 * 32**2 + 320
    assert costs[1].head_macs == 3 * 4 * 64**2 + 256 * 64 + 2 * 64**2 + 640
    assert (costs[2].head_macs, costs[2].head_parameters, costs[2].parameter_share, costs[2].mac_share) == (0, 0, 0, 0)
    assert costs[0].parameter_share == costs[0].head_parameters / costs[0].parameters
    assert costs[0].mac_share == costs[0].head_macs / costs[0].macs


@pytest.mark.parametrize("wiring", ["chain", "dense", "input"])
@pytest.mark.parametrize("modules", [1, 2, 6])
def test_parts_add_up_to_the_network(wiring, modules):
    network = cut(modules=modules, wiring=wiring, width=0.25)
    costs = module_costs(network, (3, 32, 32))
    assert sum(c.parameters + c.head_parameters for c in costs) == sum(p.numel() for p in network.parameters())
    with counted_macs(network) as macs:
        network(torch.rand(1, 3, 32, 32))
    assert sum(c.macs for c in costs) == macs.total()
    assert [c.head_macs > 0 for c in costs] == [True] * (modules - 1) + [False]


def test_macs_grow_with_the_frame_and_parameters_do_not():
    network = cut(head="cnn")
    small, large = module_costs(network, (3, 32, 32)), module_costs(network, (3, 64, 64))
    for a, b in zip(small[:-1], large[:-1], strict=True):
        assert b.macs == 4 * a.macs
        assert b.parameters == a.parameters
        assert 3.9 < b.head_macs / a.head_macs < 4


def test_a_clip_network_s_heads_see_one_frame():
    network = cut("cnn3d", modules=[2, 2, 1], width=0.25)
    short, long = module_costs(network, (4, 3, 32, 32)), module_costs(network, (8, 3, 32, 32))
    assert sum(c.parameters + c.head_parameters for c in short) == sum(p.numel() for p in network.parameters())
    with counted_macs(network) as macs:
        network(torch.rand(1, 4, 3, 32, 32))
    assert sum(c.macs for c in short) == macs.total()
    assert [c.head_macs for c in short] == [c.head_macs for c in long]
    assert long[0].macs == 2 * short[0].macs


def test_a_network_without_modules_has_no_costs():
    assert module_costs(build_network("small_cnn"), (3, 32, 32)) == []


def test_the_network_stays_as_it_is():
    network = cut(width=0.25)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    module_costs(network, (3, 32, 32))
    assert network.training
    assert all(torch.equal(t, before[name]) and not t.is_meta for name, t in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())


def test_a_head_of_the_papers_width_is_larger_than_its_module():
    paper, ours = (module_costs(cut(head_width=width), (3, 32, 32))[0] for width in (1.0, 0.25))
    assert paper.parameter_share > 5 > 3 > ours.parameter_share


def test_table():
    costs = [ModuleCost(range(1, 3), 1_000, 2_000_000, 1_500, 500_000), ModuleCost(range(3, 4), 4_000, 1_000, 0, 0)]
    assert [line.split() for line in cost_table(costs).splitlines()[1:]] == [
        ["1", "1-2", "1,000", "2.00", "1,500", "0.50", "150", "%", "25", "%"],
        ["2", "3", "4,000", "0.00", "0", "0.00", "0", "%", "0", "%"],
        ["all", "5,000", "2.00", "1,500", "0.50", "30", "%", "25", "%"],
    ]
    assert len({len(line) for line in cost_table(costs).splitlines()}) == 1


def test_a_head_on_a_module_without_parameters():
    assert ModuleCost(range(1, 2), 0, 0, 5, 5).parameter_share == float("inf")


@pytest.mark.parametrize(
    ("name", "shape", "message"), [("small_cnn", (4, 3, 32, 32), "a frame's"), ("cnn3d", (3, 32, 32), "a clip's")]
)
def test_errors_that_teach(name, shape, message):
    with pytest.raises(ValueError, match=message):
        module_costs(build_network(name, width=0.25), shape)
