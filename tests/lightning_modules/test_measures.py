"""Measurements: gradient health against hand-made gradients, saved bytes against a count by hand, times, peaks."""

import mmap

import pytest
import torch
from torch import nn

from lightning_modules.execution import clip_answers, clip_gradients
from lightning_modules.metrics.gradients import alignment, gradient_health, gradient_norm, weight_change, with_all_edges
from lightning_modules.metrics.latency import _answer, percentile, tick_ms
from lightning_modules.metrics.memory import SavedTensors, peak_mib, reset_peak
from lightning_modules.networks import build_network
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules
from lightning_modules.rules import make_rule


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network("small_cnn", wiring="dense", num_classes=3, width=0.25, in_channels=1)


def gradients_of(network):
    return {name: torch.randn_like(p) for name, p in network.named_parameters()}


def test_alignment_of_equal_opposite_and_scaled_gradients(network):
    exact = gradients_of(network)
    units = range(1, network.depth + 1)
    assert alignment(network, exact, exact) == pytest.approx(dict.fromkeys(units, 1.0), abs=1e-6)
    opposite = {name: -3 * g for name, g in exact.items()}
    assert alignment(network, opposite, exact) == pytest.approx(dict.fromkeys(units, -1.0), abs=1e-6)


def test_alignment_is_over_the_whole_unit(network):
    """One cosine over all parameters of a unit, not a mean of cosines."""
    a, b = gradients_of(network), gradients_of(network)
    names = list(network.unit_parameters(2))
    x, y = (torch.cat([g[name].flatten() for name in names]) for g in (a, b))
    assert alignment(network, a, b)[2] == pytest.approx((x @ y / (x.norm() * y.norm())).item(), abs=1e-6)


def test_units_without_gradients_are_absent(network):
    exact = gradients_of(network)
    some = {name: exact[name] for unit in (5, 6) for name in network.unit_parameters(unit)}
    assert set(alignment(network, some, exact)) == {5, 6}
    assert set(gradient_norm(network, some)) == {5, 6}


def test_health_names_every_figure_of_every_unit(network):
    exact, start = gradients_of(network), dict(network.named_parameters())
    some = {name: exact[name] for unit in (5, 6) for name in network.unit_parameters(unit)}
    health = gradient_health(network, some, exact, start)
    of_units = {"alignment": (5, 6), "grad_norm": (5, 6), "weight_change": range(1, 7)}
    assert set(health) == {f"{name}/unit_{unit}" for name, units in of_units.items() for unit in units}
    assert health["alignment/unit_5"] == pytest.approx(1, abs=1e-6)


def test_norm_and_weight_change(network):
    gradients = {name: torch.ones_like(p) for name, p in network.named_parameters()}
    sizes = {u: sum(p.numel() for p in network.unit_parameters(u).values()) for u in range(1, 7)}
    assert gradient_norm(network, gradients) == pytest.approx({u: n**0.5 for u, n in sizes.items()})
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    assert weight_change(network, start) == dict.fromkeys(range(1, 7), 0.0)
    with torch.no_grad():
        for p in network.unit_parameters(3).values():
            p.mul_(1.25)
    change = weight_change(network, start)
    assert change[3] == pytest.approx(0.25, rel=1e-5)
    assert change[2] == 0


def test_a_unit_that_started_at_zero_has_no_relative_change(network):
    start = {name: torch.zeros_like(p) for name, p in network.unit_parameters(6).items()}
    assert weight_change(network, start) == {}


def test_exact_gradients_go_over_all_edges():
    torch.manual_seed(0)
    newest = build_network("small_cnn", wiring="concat", num_classes=3, width=0.25, gradient_edges="newest")
    torch.manual_seed(0)
    everything = build_network("small_cnn", wiring="concat", num_classes=3, width=0.25)
    assert with_all_edges(everything) is everything
    twin, clip = with_all_edges(newest), (torch.rand(2, 12, 3, 16, 16), torch.tensor([0, 2]))
    assert newest.wiring.gradients == "newest"
    assert all(a is b for a, b in zip(twin.parameters(), newest.parameters(), strict=True))
    ours = clip_gradients(twin, *clip, rule="backprop_shifted").gradients
    theirs = clip_gradients(everything, *clip, rule="backprop_shifted").gradients
    truncated = clip_gradients(newest, *clip, rule="backprop_shifted").gradients
    assert all(torch.equal(ours[name], g) for name, g in theirs.items())
    assert any(not torch.allclose(truncated[name], g) for name, g in theirs.items())


def test_saved_bytes_counted_by_hand():
    """Linear saves its input (and its weight, left out); tanh its output; the second linear that same output."""
    layers = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 5))
    x = torch.rand(7, 10)
    with SavedTensors.measure(layers) as meter:
        y = layers(x).sum()
        held = meter.live_bytes
        y.backward()
    assert held == meter.peak_bytes == 4 * (7 * 10 + 7 * 20)
    del y
    assert meter.live_bytes == 0


def test_a_second_graph_adds_to_the_peak_only_while_the_first_lives():
    layer, x = nn.Linear(10, 20), torch.rand(7, 10)
    with SavedTensors.measure(layer) as meter:
        for _ in range(3):
            layer(x.clone()).sum().backward()
    assert meter.peak_bytes == 4 * 7 * 10
    with SavedTensors.measure(layer) as meter:
        kept = [layer(x.clone()) for _ in range(3)]
    assert meter.peak_bytes == 3 * 4 * 7 * 10
    del kept
    assert meter.live_bytes == 0


def saved_bytes(network, frames, batch=1, **options):
    with SavedTensors.measure(network) as meter:
        clip_gradients(network, torch.rand(batch, frames, 1, 32, 32), torch.zeros(batch, dtype=torch.long), **options)
    return meter.peak_bytes


@pytest.mark.parametrize("wiring", ["chain", "residual", "concat", "dense", "input"])
@pytest.mark.parametrize("stash", ["none", "exact"])
def test_pipelined_memory_is_flat_in_the_length_of_the_clip(wiring, stash):
    network = build_network("small_cnn", wiring=wiring, num_classes=3, width=0.25, in_channels=1)
    for batch in (1, 3):
        options = {"rule": make_rule("sideways", stash=stash), "executor": "pipelined", "batch": batch}
        assert saved_bytes(network, 64, **options) <= 1.01 * saved_bytes(network, 16, **options)


@pytest.mark.parametrize("rule", ["backprop_frame", "backprop_shifted", "sideways"])
def test_vectorised_memory_grows_with_the_clip(network, rule):
    short, long = saved_bytes(network, 16, rule=rule), saved_bytes(network, 64, rule=rule)
    assert 3.5 < long / short < 7
    assert long > 20 * saved_bytes(network, 64, rule="sideways", executor="pipelined")


def test_vectorised_sideways_saves_no_more_than_backprop(network):
    for frames in (12, 16, 24, 64):
        assert saved_bytes(network, frames, rule="sideways") <= 1.01 * saved_bytes(
            network, frames, rule="backprop_shifted"
        )


def test_percentiles():
    assert percentile([3.0], 95) == 3.0
    assert percentile([1.0, 2.0, 3.0, 10.0], 50) == 2.5
    assert percentile(list(map(float, range(101))), 95) == pytest.approx(95)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("small_cnn", "sideways"),
        ("small_cnn", "backprop_shifted"),
        ("small_cnn", "backprop_frame"),
        ("cnn3d", "backprop"),
    ],
)
def test_tick_ms_of_each_kind(name, rule):
    network = build_network(name, num_classes=3, width=0.25).eval()
    assert 0 < tick_ms(network, make_rule(rule), (3, 16, 16), frames=8, ticks=3) < 10_000


@pytest.mark.parametrize(
    ("name", "rule"), [("small_cnn", "greedy_frame"), ("cnn3d", "greedy"), ("cnn3d", "greedy_frame")]
)
def test_what_is_timed_is_what_the_modules_answer(name, rule):
    """With what goes from module to module quantised, as it is when the network is scored; heads do not answer."""
    torch.manual_seed(0)
    network = build_network(name, num_classes=3, width=0.25).eval()
    cut_into_modules(network, LocalModules(modules=3, vq_groups=1, vq_codes=2))
    heads = [network.module_head(j) for j in (1, 2)]
    for head in heads:
        head.register_forward_hook(lambda *_: answered.append(1))
    answered = []
    video = torch.rand(1, 4, 3, 32, 32)
    found = _answer(network, make_rule(rule))(video[0] if name == "small_cnn" else video)
    assert answered == []
    expected = clip_answers(network, video, rule=rule).logits_BNK[0]
    torch.testing.assert_close(found, expected)
    assert (found - network(video[0] if name == "small_cnn" else video)).abs().max() > 1e-3
    shape = (3, 32, 32)
    assert 0 < tick_ms(network, make_rule(rule), shape, frames=4, ticks=2) < 10_000


def test_a_3d_networks_tick_costs_its_whole_clip():
    network = build_network("cnn3d", num_classes=3, width=0.5).eval()
    short, long = (tick_ms(network, make_rule("backprop"), (3, 32, 32), frames=t, ticks=7) for t in (2, 32))
    assert long > 2 * short


def test_peak_follows_an_allocation():
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_mib(cpu)
    # Pages of its own: a tensor may be given pages that the process has freed and still holds.
    with mmap.mmap(-1, 64 * 2**20) as block:
        block.write(b"x" * len(block))
        assert before > 0
        assert peak_mib(cpu) >= before + 48
