"""Networks: sizes, channels, widths, units; frames never mix; 3D networks and padding; options that cannot be."""

import pytest
import torch
from torch import nn

from lightning_modules.execution import clip_gradients
from lightning_modules.networks import (
    CLIP_NETWORKS,
    FRAME_NETWORKS,
    WIRINGS,
    UnitNetwork,
    UnitSpec,
    build_network,
    make_wiring,
)
from lightning_modules.networks.blocks import conv_unit, group_norm, head_unit, scaled

DEPTHS = {"small_cnn": 6, "vgg8": 8, "resnet18": 10}
NARROW = 0.125


def wired(name, wiring, **options):
    torch.manual_seed(0)
    return build_network(name, wiring=wiring, num_classes=5, width=NARROW, **options)


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("name", FRAME_NETWORKS)
@pytest.mark.parametrize("size", [32, 45, 112])
def test_any_size(name, wiring, size):
    logits = wired(name, wiring)(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()
    assert (logits[0] - logits[1]).abs().max() > 0


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("name", FRAME_NETWORKS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_channels(name, wiring, channels):
    network = wired(name, wiring, in_channels=channels)
    assert network(torch.rand(1, channels, 32, 40)).shape == (1, 5)


@pytest.mark.parametrize("name", FRAME_NETWORKS)
def test_units(name):
    network = wired(name, "dense")
    assert network.depth == DEPTHS[name]
    names = [n for unit in range(1, network.depth + 1) for n in network.unit_parameters(unit)]
    assert names == [n for n, _ in network.named_parameters()]


@pytest.mark.parametrize("name", FRAME_NETWORKS)
def test_width_scales_parameters(name):
    counts = [sum(p.numel() for p in build_network(name, width=width).parameters()) for width in (0.25, 0.5, 1.0)]
    assert 2.5 < counts[1] / counts[0] < 4.5
    assert 2.5 < counts[2] / counts[1] < 4.5


def test_scaled_channels_are_multiples_of_four():
    assert [scaled(64, w) for w in (1.0, 0.5, 0.3, 0.01)] == [64, 32, 20, 4]
    assert all(c % group_norm(c).num_groups == 0 for c in (4, 12, 20, 64))


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("name", FRAME_NETWORKS)
def test_nothing_mixes_across_frames(name, wiring):
    network = wired(name, wiring).double()
    frames = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    alone = torch.cat([network(frame[None]) for frame in frames])
    torch.testing.assert_close(network(frames), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 4, 9])
def test_small_cnn_takes_a_depth(depth):
    assert build_network("small_cnn", depth=depth).depth == depth


@pytest.mark.parametrize("activation", ["relu", "silu", "softplus", "tanh"])
@pytest.mark.parametrize("name", [*FRAME_NETWORKS, "cnn3d"])
def test_activation_and_pool_change_the_answer(name, activation):
    def answer(**options):
        torch.manual_seed(0)
        network = build_network(name, width=NARROW, **options)
        frames = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)
        return network(frames[None] if name == "cnn3d" else frames)

    assert not torch.equal(answer(activation=activation), answer(activation=activation, pool="max"))
    if activation != "relu":
        assert not torch.equal(answer(activation=activation), answer())


def test_a_new_network_is_one_function(monkeypatch):
    def two_units(num_classes, *, width=1.0, depth=None, pool="avg", activation="relu"):
        return [conv_unit(scaled(8, width), act=activation), head_unit(num_classes, pool)]

    monkeypatch.setitem(FRAME_NETWORKS, "two_units", two_units)
    network = build_network("two_units", wiring="input", num_classes=3)
    assert network.depth == 2
    result = clip_gradients(network, torch.rand(2, 5, 3, 16, 16), torch.tensor([0, 2]))
    assert set(result.gradients) == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "small_cn"}, "did you mean 'small_cnn'"),
        ({"name": "nothing"}, "expected one of small_cnn"),
        ({"name": "vgg8", "depth": 5}, "vgg8 has 8 units, given depth=5"),
        ({"name": "resnet18", "depth": 5}, "resnet18 has 10 units, given depth=5"),
        ({"name": "small_cnn", "depth": 1}, "at least 2 units"),
        ({"name": "small_cnn", "activation": "gelu"}, "expected one of relu, silu"),
        ({"name": "small_cnn", "pool": "mean"}, "expected 'avg' or 'max'"),
        ({"name": "small_cnn", "wiring": "concat", "reach": 2}, "belongs to wiring 'dense' only"),
        ({"name": "cnn3d", "wiring": "dense"}, "leave wiring, depth, reach, gradient_edges out"),
        ({"name": "cnn3d", "depth": 6}, "has no units to wire"),
        ({"name": "cnn3d", "gradient_edges": "newest"}, "has no units to wire"),
        ({"name": "cnn3d", "pool": "mean"}, "expected 'avg' or 'max'"),
        ({"name": "cnn3d", "activation": "gelu"}, "expected one of relu, silu"),
        ({"name": "x3d", "activation": "tanh"}, "use network 'cnn3d'"),
    ],
)
def test_errors_that_teach(options, message):
    name = options.pop("name")
    with pytest.raises(ValueError, match=message):
        build_network(name, **options)


def test_specs_and_wiring_must_have_one_depth():
    specs = [UnitSpec(4, lambda c: nn.Conv2d(c, 4, 1)), head_unit(2, "avg")]
    with pytest.raises(ValueError, match="has 3 units, the network 2"):
        UnitNetwork(specs, make_wiring("chain", 3), 3)


@pytest.fixture(scope="module")
def clip_networks():
    torch.manual_seed(0)
    return {name: build_network(name, num_classes=4, width=0.5).eval() for name in CLIP_NETWORKS}


@pytest.mark.parametrize("name", CLIP_NETWORKS)
def test_3d_network_takes_any_length_and_size(clip_networks, name):
    for frames, size in ((5, 32), (8, 45)):
        assert clip_networks[name](torch.rand(2, frames, 3, size, size)).shape == (2, 4)


@pytest.mark.parametrize("name", CLIP_NETWORKS)
def test_padding_never_changes_a_3d_network(clip_networks, name):
    """A clip's answer is what it is alone and unpadded: also through normalisation and convolutions over time."""
    network = clip_networks[name].double()
    lengths = torch.tensor([8, 5, 8, 6])
    video = torch.rand(4, 8, 3, 32, 32, dtype=torch.float64)
    alone = torch.cat([network(clip[None, :n]) for clip, n in zip(video, lengths, strict=True)])
    torch.testing.assert_close(network(video, lengths), alone, rtol=1e-10, atol=1e-10)
    padded = torch.where(torch.arange(8)[:, None, None, None] < lengths[:, None, None, None, None], video, 0.0)
    torch.testing.assert_close(network(padded, lengths), alone, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(network(padded), alone), "the test must be able to see padding"
    clip_networks[name].float()


def test_3d_network_sees_order_in_time(clip_networks):
    video = torch.rand(1, 8, 3, 32, 32)
    assert not torch.allclose(clip_networks["cnn3d"](video), clip_networks["cnn3d"](video.flip(1)))


@pytest.mark.parametrize("name", CLIP_NETWORKS)
def test_3d_network_gives_every_parameter_a_gradient(clip_networks, name):
    network = clip_networks[name].train()
    result = clip_gradients(
        network, torch.rand(2, 6, 3, 32, 32), torch.tensor([0, 1]), rule="backprop", lengths_B=torch.tensor([6, 4])
    )
    assert set(result.gradients) == {n for n, _ in network.named_parameters()} == set(network.unit_parameters(1))
    network.eval()
    with pytest.raises(ValueError, match="it has 1, numbered from 1"):
        network.unit_parameters(2)
