"""Heads: sizes in closed form, any size of map, no mixing across frames, clips, decoders, options that cannot be."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules.networks.blocks import group_norm, scaled
from lightning_modules.networks.heads import DECODER, HEADS, QuarterPool, make_head

ALL = [*HEADS, DECODER]


def head(kind, channels=8, answers=5, **options):
    torch.manual_seed(0)
    return make_head(kind, channels, answers, **options)


def count(module):
    return sum(p.numel() for p in module.parameters())


def linears(sizes):
    """Parameters of linear layers; each but the last has a norm of two numbers per feature."""
    hidden = sum(a * b + 3 * b for a, b in pairwise(sizes[:-1]))
    return hidden + sizes[-2] * sizes[-1] + sizes[-1]


@pytest.mark.parametrize("width", [1.0, 0.25])
@pytest.mark.parametrize("channels", [16, 64])
def test_parameters_in_closed_form(channels, width):
    hidden, inner = int(4 * channels * width), int(channels * width)
    mlp = linears([4 * channels, hidden, hidden, hidden, 10])
    convs = 3 * (channels**2 + 2 * channels)
    cnn = 9 * channels * inner + 9 * inner**2 + 6 * inner + 4 * inner * 10 + 10
    decoder = 9 * channels * inner + 2 * inner + 9 * inner * 3 + 3
    assert count(head("mlp", channels, 10, width=width)) == mlp
    assert count(head("mlp-sr", channels, 10, width=width)) == mlp + convs
    assert count(head("cnn", channels, 10, width=width)) == cnn
    assert count(head("decoder", channels, 3, width=width)) == decoder


def test_the_paper_s_hidden_size_is_four_times_the_channels():
    answer = head("mlp-sr", 24, 10, width=1.0).get_submodule("answer")
    assert answer.in_features == 96
    assert head("mlp-sr", 24, 10).get_submodule("answer").in_features == scaled(96, 0.25) == 24


def test_mlp_sr_by_hand():
    """Written out, with the averages by reshaping: a 16x16 map goes to 4x4, then to 2x2."""
    net, x = head("mlp-sr", width=1.0).double(), torch.randn(3, 8, 16, 16, dtype=torch.float64)
    y = x.reshape(3, 8, 4, 4, 4, 4).mean((3, 5))
    for conv, norm, _ in net.convs:
        y = torch.einsum("nchw,dc->ndhw", y, conv.weight[:, :, 0, 0])
        groups = y.reshape(3, 2, -1)
        centred = groups - groups.mean(-1, keepdim=True)
        y = (centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()).view(3, 8, 4, 4).relu()
    y = y.reshape(3, 8, 2, 2, 2, 2).mean((3, 5)).flatten(1)
    for linear, norm, _ in net.linears:
        y = y @ linear.weight.T + linear.bias
        y = y - y.mean(-1, keepdim=True)
        y = (y / (y.square().mean(-1, keepdim=True) + norm.eps).sqrt()).relu()
    torch.testing.assert_close(net(x), y @ net.answer.weight.T + net.answer.bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2), (5, 4), (7, 9), (32, 32)])
@pytest.mark.parametrize("kind", ALL)
def test_any_size(kind, size):
    net = head(kind)
    for frames in (1, 2):
        answer = net(torch.randn(frames, 8, *size))
        assert answer.shape == ((frames, 5, *size) if kind == DECODER else (frames, 5))
        assert answer.isfinite().all()


@pytest.mark.parametrize(("side", "expected"), [(1, 1), (2, 2), (3, 2), (8, 2), (9, 3), (16, 4), (30, 8)])
def test_a_quarter_of_the_side(side, expected):
    """The authors' code goes down to one pixel; nothing in a network of theirs is that small."""
    assert QuarterPool()(torch.rand(1, 4, side, 2 * side)).shape == (1, 4, expected, max(-(-side // 2), 2))


@pytest.mark.parametrize("channels", [4, 5, 6, 8, 11, 20])
@pytest.mark.parametrize("kind", ALL)
def test_a_map_of_one_pixel_is_seen(kind, channels):
    """Groups of one channel would turn every map of one pixel to the same values."""
    pixels = torch.randn(3, channels, 1, 1, dtype=torch.float64)
    if channels == 4:
        assert group_norm(4).double()(pixels).abs().max() < 1e-10, "why heads have groups of their own"
    answers = head(kind, channels, act="tanh").double()(pixels).flatten(1)
    assert min((answers[i] - answers[j]).abs().max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3


@pytest.mark.parametrize("kind", ALL)
def test_nothing_mixes_across_frames(kind):
    net, x = head(kind).double(), torch.randn(4, 8, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(net(x), torch.cat([net(one[None]) for one in x]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", HEADS)
def test_a_clip_is_averaged_over_time(kind):
    x = torch.randn(2, 8, 6, 7, 7)
    torch.testing.assert_close(head(kind, clip=True)(x), head(kind)(x.mean(2)))
    still = x[:, :, :1].expand(-1, -1, 6, -1, -1)
    torch.testing.assert_close(head(kind, clip=True)(still), head(kind)(x[:, :, 0]))


@pytest.mark.parametrize("kind", ALL)
def test_every_parameter_has_a_gradient(kind):
    net = head(kind, act="silu")
    net(torch.randn(4, 8, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_learns_what_its_module_knows(kind):
    """Classes that only the place of the bright quarter tells: a head with one global average could not."""
    torch.manual_seed(1)
    labels = torch.arange(32) % 4
    x = 0.3 * torch.randn(32, 8, 8, 8)
    for i, k in enumerate(labels.tolist()):
        x[i, :, 4 * (k // 2) : 4 * (k // 2) + 4, 4 * (k % 2) : 4 * (k % 2) + 4] += 1
    net = head(kind, answers=4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
    assert (net(x).argmax(-1) == labels).float().mean() >= 0.95


def test_a_decoder_that_starts_at_zero_says_zero_and_learns():
    net, x = head("decoder", zero=True), torch.randn(2, 8, 6, 6)
    assert net(x).abs().max() == 0
    (net(x) - 1).square().mean().backward()
    assert net.answer.weight.grad.abs().max() > 0
    assert head("decoder")(x).abs().max() > 0


@pytest.mark.parametrize("kind", ALL)
def test_names_tell_what_a_parameter_does(kind):
    names = {name.split(".")[0] for name, _ in head(kind).named_parameters()}
    expected = {"mlp-sr": "convs linears answer", "mlp": "linears answer", "cnn": "convs norm answer"}
    assert names == set(expected.get(kind, "conv answer").split())


def test_the_activation_is_the_network_s():
    assert any(isinstance(m, nn.Tanh) for m in head("mlp", act="tanh").modules())
    assert not any(isinstance(m, nn.ReLU) for m in head("mlp-sr", act="tanh").modules())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("mlp_sr", {}, "did you mean 'mlp-sr'"),
        ("decode", {}, "did you mean 'decoder'"),
        ("transformer", {}, "unknown; expected one of mlp-sr, mlp, cnn, decoder"),
        ("mlp", {"act": "gelu"}, "expected one of relu, silu"),
        ("mlp", {"width": 0.0}, "width is 0.0; give a positive number"),
        ("mlp", {"zero": True}, "belongs to head 'decoder' only"),
        ("decoder", {"clip": True}, "for clips give one of mlp-sr"),
    ],
)
def test_errors_that_teach(kind, options, message):
    with pytest.raises(ValueError, match=message):
        head(kind, **options)
