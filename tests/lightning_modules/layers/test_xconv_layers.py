"""A converted network: what changes and what stays, its draws, what it refuses; half precision and autocast."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_modules.layers import sketched_convolution as estimator
from lightning_modules.layers import xconv
from lightning_modules.layers.probes import MODES
from lightning_modules.layers.xconv import (
    KINDS,
    draws_state,
    kept_exact,
    load_draws_state,
    set_probes,
    set_replica,
    to_xconv,
    xconv_layers,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )


def frames(seed=0, dtype=torch.float32):
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def weight_gradients(module, x=None):
    """Return the gradients of the weights for a loss that is not linear."""
    weights = [m.weight for m in module.modules() if hasattr(m, "kernel_size")]
    return torch.autograd.grad(module(frames() if x is None else x).square().sum(), weights)


def alike(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def none_alike(some, others):
    return not any((one == other).all() for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_changes_the_class_and_nothing_else(kind):
    layer = kind(2, 3, 3, padding=1, stride=2)
    before, weight, seen = copy.deepcopy(layer.state_dict()), layer.weight, []
    layer.register_forward_hook(lambda *args: seen.append(args))
    assert to_xconv(layer, 2, mode="independent") == [""]
    assert type(layer) is KINDS[kind]
    assert isinstance(layer, kind)
    assert type(layer).__name__ == f"X{kind.__name__}"
    assert layer.weight is weight
    assert list(layer.state_dict()) == list(before)
    layer(torch.randn(1, 2, *[5] * (weight.dim() - 2)))
    assert len(seen) == 1
    text = repr(layer)
    assert f"X{kind.__name__}(2, 3, kernel_size=" in text
    assert "padding=(1" in text
    assert "probes=2, mode=independent" in text


def test_state_dict_is_loadable_both_ways():
    plain, converted = network(), network()
    to_xconv(converted, 4)
    assert list(plain.state_dict()) == list(converted.state_dict())
    with torch.no_grad():
        plain[0].weight.add_(1)
    converted.load_state_dict(plain.state_dict())
    assert torch.equal(converted(frames()), plain(frames()))
    plain.load_state_dict(converted.state_dict())


def test_network_moves_and_changes_dtype():
    converted = network()
    to_xconv(converted, 4, seed=0)
    assert all(gradient.dtype == torch.float64 for gradient in weight_gradients(converted.double(), frames().double()))
    with torch.device("meta"):
        ghost = copy.deepcopy(converted).to("meta")
        assert ghost(torch.empty(2, 3, 6, 6, dtype=torch.float64)).shape == (2, 2, 6, 6)
        ghost(torch.empty(2, 3, 6, 6, dtype=torch.float64)).sum().backward()


def test_only_torchs_own_convolutions_are_converted():
    class Own(nn.Conv2d):
        pass

    module = nn.ModuleDict({"own": Own(1, 1, 1), "plain": nn.Conv2d(1, 1, 1), "linear": nn.Linear(1, 1)})
    assert to_xconv(module, 1) == ["plain"]
    assert type(module["own"]) is Own
    assert list(xconv_layers(module)) == ["plain"]


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [(("*",), ["0", "2", "4"]), (("2",), ["2"]), (("[02]",), ["0", "2"]), (("4", "0"), ["0", "4"]), ((), [])],
)
def test_only_chosen_layers_keep_sketches(layers, chosen):
    exact = weight_gradients(network())
    module = network()
    assert to_xconv(module, 2, layers=layers, seed=0) == chosen
    found = dict(zip("024", zip(weight_gradients(module), exact, strict=True), strict=True))
    for name, (estimate, right) in found.items():
        assert torch.equal(estimate, right) == (name not in chosen)


def test_a_layer_that_is_not_chosen_says_no_probes():
    module = network()
    to_xconv(module, 7, layers=("2",))
    assert [f"probes={n}," in repr(module[i]) for i, n in ((0, 0), (2, 7), (4, 0))] == [True] * 3


def test_converting_again_takes_the_new_settings():
    module = network()
    to_xconv(module, 4, layers=("0",), seed=1)
    assert to_xconv(module, 8, mode="multi", center=True, layers=("2", "4"), seed=2, budget_bytes=5) == ["2", "4"]
    again = network()
    to_xconv(again, 8, mode="multi", center=True, layers=("2", "4"), seed=2, budget_bytes=5)
    assert repr(module) == repr(again)
    assert alike(weight_gradients(module), weight_gradients(again))


@pytest.mark.parametrize("mode", MODES)
def test_probes_of_zero_are_exact_and_change_during_training(mode):
    module, plain = network(), network()
    to_xconv(module, 0, mode=mode, seed=0)
    exact = weight_gradients(plain)
    assert alike(weight_gradients(module), exact)
    set_probes(module, 2)
    assert none_alike(weight_gradients(module), exact)
    set_probes(module, 0)
    assert alike(weight_gradients(module), exact)


def test_exact_for_a_while_draws_nothing_and_gives_the_probes_back():
    module = network()
    exact = weight_gradients(module)
    to_xconv(module, 2, layers=("0", "2"), seed=0)
    module[2].probes = 3
    with kept_exact(module):
        assert alike(weight_gradients(module), exact)
    with pytest.raises(ZeroDivisionError), kept_exact(module):
        raise ZeroDivisionError
    assert [module[i].probes for i in (0, 2)] == [2, 3]
    assert not any(state[2] for state in draws_state(module).values())


@pytest.mark.parametrize(
    ("probes", "mode", "count"),
    [
        (0.125, "independent", 32),
        (0.125, "multi", 128),
        (0.125, "orthogonal", 128),
        (0.0001, "independent", 1),
        (0.0001, "multi", 1),
        (255, "independent", 255),
        (256, "independent", None),
        (1023, "multi", 1023),
        (1024, "multi", None),
        (0.9999, "independent", None),
    ],
)
def test_a_share_is_of_the_inputs_numbers_and_a_sketch_is_always_smaller(probes, mode, count):
    layer = nn.Conv2d(4, 4, 3)
    to_xconv(layer, probes, mode=mode)
    found = layer.sketch_of((9, 4, 16, 16))
    assert (found and found.count) == count


def test_a_sketch_with_means_is_always_smaller_too():
    layer = nn.Conv2d(4, 4, 3)
    for count, is_sketched in ((14, True), (15, False)):
        to_xconv(layer, count, center=True)
        assert (layer.sketch_of((9, 4, 4, 4)) is not None) is is_sketched


def test_same_seed_same_gradients_and_other_seed_others():
    modules = [network() for _ in range(3)]
    for module, seed in zip(modules, (3, 3, 4), strict=True):
        to_xconv(module, 4, seed=seed)
    for _ in range(2):
        one, same, other = (weight_gradients(module) for module in modules)
        assert alike(one, same)
        assert none_alike(one, other)
    assert none_alike(weight_gradients(modules[0]), one)


def test_without_a_seed_it_is_torchs():
    found = []
    for seed in (5, 5, 6):
        module = network()
        torch.manual_seed(seed)
        to_xconv(module, 4)
        found.append(weight_gradients(module))
    assert alike(found[0], found[1])
    assert none_alike(found[0], found[2])


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, 2**64 - 1])
def test_any_seed_is_taken(seed):
    module = network()
    to_xconv(module, 4, seed=seed)
    assert all(gradient.isfinite().all() for gradient in weight_gradients(module))


def test_gradients_do_not_depend_on_the_budget():
    found = []
    for budget in (1, 3000, 2**24):
        module = network().double()
        to_xconv(module, 20, mode="multi", seed=1, budget_bytes=budget)
        found.append(weight_gradients(module, frames(dtype=torch.float64)))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


@pytest.fixture
def keys(monkeypatch):
    """The keys of all sketches that are made."""
    seen, original = [], xconv.sketched_convolution

    def spied(x, weight, bias, geometry, probes, key):
        seen.append(tuple(key.tolist()))
        return original(x, weight, bias, geometry, probes, key)

    monkeypatch.setattr(xconv, "sketched_convolution", spied)
    return seen


def test_no_two_layers_or_uses_share_probes(keys):
    module = network()
    to_xconv(module, 4, seed=9)
    for _ in range(3):
        weight_gradients(module)
        module(module[2](module[2](torch.randn(2, 4, 6, 6)))[:, :3]).sum().backward()
    assert len(set(keys)) == len(keys) == 3 * 8


def test_probes_of_twins_differ():
    """Two layers with the same weights, input and output gradient."""
    twins = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)])
    twins[1].load_state_dict(twins[0].state_dict())
    to_xconv(twins, 4, seed=0)
    one, other = (torch.autograd.grad(layer(frames()).sum(), layer.weight)[0] for layer in twins)
    assert not torch.equal(one, other)


def test_resume_goes_on_with_the_same_draws():
    module = network()
    to_xconv(module, 4, seed=5)
    weight_gradients(module)
    state = pickle.loads(pickle.dumps(draws_state(module)))
    wanted = [weight_gradients(module) for _ in range(2)]

    resumed = network()
    to_xconv(resumed, 4, seed=77)
    load_draws_state(resumed, state)
    found = [weight_gradients(resumed) for _ in range(2)]
    assert all(alike(one, other) for one, other in zip(found, wanted, strict=True))


def test_state_of_draws_is_a_copy_on_both_ways():
    module = network()
    to_xconv(module, 4, seed=5)
    state = draws_state(module)
    before = copy.deepcopy(state)
    weight_gradients(module)
    assert alike(state.values(), before.values())
    load_draws_state(module, state)
    weight_gradients(module)
    assert alike(state.values(), before.values())


def test_state_of_some_layers_leaves_the_others():
    module = network()
    to_xconv(module, 4, seed=5)
    before = draws_state(module)
    load_draws_state(module, {"2.weight": torch.tensor([1, 2, 3, 0]), "nobody": torch.tensor([0, 0, 0, 0])})
    after = draws_state(module)
    assert after["2.weight"].tolist() == [1, 2, 3, 0]
    assert torch.equal(after["0.weight"], before["0.weight"])


@pytest.mark.parametrize("how", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_draw_the_same_and_apart_from_one_another(how):
    module = network()
    to_xconv(module, 4, seed=5)
    weight_gradients(module)
    twin = how(module)
    assert repr(twin) == repr(module)
    wanted = [weight_gradients(module) for _ in range(2)]
    assert all(alike(weight_gradients(twin), one) for one in wanted)


@pytest.mark.parametrize("mode", MODES)
def test_global_generator_is_left(mode):
    module = network()
    to_xconv(module, 4, mode=mode, seed=0)
    before = torch.get_rng_state()
    weight_gradients(module)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_graph_or_with_frozen_weights_nothing_is_drawn(keys, monkeypatch):
    module, plain = network(), network()
    to_xconv(module, 4, seed=0)
    with torch.no_grad():
        assert torch.equal(module(frames()), plain(frames()))
    with torch.inference_mode():
        module(frames())
    assert not keys
    for kind in (estimator.local_probes, estimator.shared_probes):
        monkeypatch.setattr(kind, "sketch", lambda *args: pytest.fail("sketched"))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    x = frames().requires_grad_()
    (found,) = torch.autograd.grad(module(x).square().sum(), x)
    assert torch.equal(found, torch.autograd.grad(plain(x).square().sum(), x)[0])
    assert not any(state[2] for state in draws_state(module).values())


def test_frozen_bias_and_learning_weight():
    layer = nn.Conv2d(3, 4, 3)
    to_xconv(layer, 4, seed=0)
    layer.bias.requires_grad_(False)
    layer(frames()).sum().backward()
    assert layer.bias.grad is None
    assert layer.weight.grad is not None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
@pytest.mark.parametrize("count", [8, 2])
def test_half_precision_is_single_precision_rounded(mode, dtype, tolerance, count):
    layer = nn.Conv2d(3, 4, 3, padding=1, stride=2)
    to_xconv(layer, count, mode=mode, seed=0)
    half = copy.deepcopy(layer).to(dtype)
    layer.load_state_dict(half.state_dict())
    x = frames().to(dtype)
    (wanted,), (found,) = weight_gradients(layer, x.float()), weight_gradients(half, x)
    assert found.dtype == dtype
    assert (found - wanted).norm() / wanted.norm() < tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_dtypes_and_exact_parts_are_torchs(dtype):
    plain = nn.Conv2d(3, 4, 3, padding=1)
    sketched = copy.deepcopy(plain)
    to_xconv(sketched, 4, seed=0)
    found = []
    for layer in (plain, sketched):
        x = frames().requires_grad_()
        with torch.autocast("cpu", dtype):
            y = layer(x)
        y.float().square().sum().backward()
        found.append((y.detach(), x.grad, layer.bias.grad, layer.weight.grad))
    for right, got in zip(*found, strict=True):
        assert (got.dtype, got.shape) == (right.dtype, right.shape)
    (y, of_x, of_bias, _), (right_y, right_x, right_bias, _) = found[1], found[0]
    assert y.dtype == dtype
    assert torch.equal(y, right_y)
    assert torch.equal(of_x, right_x)
    torch.testing.assert_close(of_bias, right_bias, rtol=0.01, atol=0.01)


def test_autocast_estimates_what_single_precision_does():
    layer = nn.Conv2d(3, 4, 3, padding=1)
    to_xconv(layer, 4, seed=0)
    (wanted,) = weight_gradients(copy.deepcopy(layer))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(frames())
    (found,) = torch.autograd.grad(y.float().square().sum(), layer.weight)
    assert (found - wanted).norm() / wanted.norm() < 0.03


def test_autocast_leaves_double_precision():
    plain = nn.Conv2d(3, 4, 3).double()
    sketched = copy.deepcopy(plain)
    to_xconv(sketched, 4, seed=0)
    x = frames(dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sketched(x), plain(x))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("center", [False, True])
def test_sketches_kept_in_half_precision_are_the_same_rounded(mode, center):
    found = []
    for half in (False, True):
        module = network()[0]
        to_xconv(module, 4, mode=mode, center=center, half=half, seed=0)
        found.append(weight_gradients(module)[0])
    single, half = found
    assert half.dtype == torch.float32
    assert 0 < (half - single).norm() / single.norm() < 0.01


@pytest.mark.parametrize("mode", MODES)
def test_channels_last_has_the_same_gradients(mode):
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        module = network().double()
        to_xconv(module, 6, mode=mode, seed=0)
        module.to(memory_format=layout)
        found.append(weight_gradients(module, frames(dtype=torch.float64).to(memory_format=layout)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_a_shared_layer_has_a_draw_for_each_use(keys):
    layer = nn.Conv2d(3, 3, 3, padding=1)
    module = nn.Sequential(layer, nn.Tanh(), layer)
    to_xconv(module, 4, seed=0)
    assert list(draws_state(module)) == ["0.weight"]
    weight_gradients(module)
    assert [key[2] for key in keys] == [1, 2]


@pytest.mark.parametrize("probes", [-1, -0.5, 1.5, 12.25, float("nan"), float("inf"), float("-inf")])
def test_no_number_of_probes_is_refused(probes):
    text = r"probes .*; expected 0 \(exact\), a whole number from 1, or a share of the input's numbers below 1"
    with pytest.raises(ValueError, match=text):
        to_xconv(network(), probes)
    module = network()
    to_xconv(module, 3)
    with pytest.raises(ValueError, match=f"probes {probes}"):
        set_probes(module, probes)
    assert module[0].probes == 3


def test_other_errors_and_nothing_is_converted():
    module = network()
    with pytest.raises(ValueError, match="mode 'several' of probes is unknown; expected one of local, indep"):
        to_xconv(module, 4, mode="several")
    with pytest.raises(ValueError, match=r"layer '1' fits no convolution; expected a name or pattern of 0, 2, 4"):
        to_xconv(module, 4, layers=("0", "1"))
    assert not xconv_layers(module)
    with pytest.raises(ValueError, match="pattern of none here"):
        to_xconv(nn.Linear(1, 1), 4, layers=("0",))
    assert to_xconv(nn.Linear(1, 1), 4) == []


@pytest.mark.parametrize("shape", [(2, 5, 6, 6), (2, 3), (1, 2, 3, 6, 6)])
def test_inputs_that_torch_refuses_are_refused_with_its_words(shape):
    plain = nn.Conv2d(3, 4, 3)
    sketched = copy.deepcopy(plain)
    to_xconv(sketched, 2)
    with pytest.raises(RuntimeError) as wanted:
        plain(torch.zeros(shape))
    with pytest.raises(RuntimeError) as found:
        sketched(torch.zeros(shape))
    assert str(found.value).splitlines()[0] == str(wanted.value).splitlines()[0]


def test_replicas_draw_probes_of_their_own():
    """So the mean over copies averages their errors; the first copy draws what one process draws."""
    x = torch.randn(4, 3, 9, 9)

    def gradient(replica, state=None):
        layer = nn.Conv2d(3, 5, 3, bias=False)
        nn.init.constant_(layer.weight, 0.5)
        to_xconv(layer, 0.25, seed=1)
        set_replica(layer, replica)
        if state is not None:
            load_draws_state(layer, state)
        found = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
        return found, draws_state(layer)

    first, state = gradient(0)
    second, other = gradient(1)
    assert not torch.allclose(first, second, rtol=0.01)
    assert torch.equal(state["weight"], other["weight"])  # one checkpoint serves all copies
    assert torch.equal(gradient(0, state)[0], gradient(0, other)[0])
    assert not torch.allclose(gradient(0, state)[0], gradient(1, state)[0], rtol=0.01)
