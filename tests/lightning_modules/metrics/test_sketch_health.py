"""Errors, noise, AGE and suggestions, against variances that are known by hand; and in a task's log."""

import re
from math import prod, sqrt

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import nn
from toy_clips import ToyData

from lightning_modules.action_recognition import ActionRecognition
from lightning_modules.execution import clip_gradients
from lightning_modules.layers.probes import MODES, Probes
from lightning_modules.layers.vector_quantiser import VectorQuantiser
from lightning_modules.layers.xconv import draws_state, set_probes, to_xconv, xconv_layers
from lightning_modules.metrics.sketch_health import (
    GradientErrors,
    all_probes,
    left_as_it_is,
    minibatch_noise,
    most_probes,
    one_probe_error,
    relative_errors,
    sketch_figures,
    suggest_probes,
    suggest_share,
)

N = 64  # positions of an image below


def linear(probes=0.0):
    """A convolution whose weight's gradient is the inner product of its input and its output's gradient."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    to_xconv(network, probes, mode="independent", seed=1)
    return network


def gradient(network, x, d):
    """The gradient of <y, d>, by name."""
    loss = (network(x) * d).sum()
    return dict(zip(["0.weight"], torch.autograd.grad(loss, list(network.parameters())), strict=True))


def sketch_variance(x, d):
    """r times the variance of (x^T E E^T d) / r: |x|^2 |d|^2 + <x, d>^2 for Gaussian probes (Isserlis)."""
    return (x.square().sum() * d.square().sum() + (x * d).sum() ** 2).item()


def test_square_of_the_error_times_the_probes_is_the_known_variance():
    generator = torch.Generator().manual_seed(0)
    x, d = (torch.rand(1, 1, 8, 8, generator=generator) for _ in range(2))
    exact = gradient(linear(), x, d)
    assert exact["0.weight"].item() == pytest.approx((x * d).sum().item(), rel=1e-5)
    truth = sketch_variance(x, d) / (x * d).sum().item() ** 2
    for r in (4, 16, 60):
        network = linear(r)
        errors = [relative_errors(gradient(network, x, d), exact, ["0"])["0"] for _ in range(600)]
        assert r * sum(e**2 for e in errors) / len(errors) == pytest.approx(truth, rel=0.2)


def test_age_of_sketches_less_that_of_exact_gradients_is_the_sketches_variance():
    """Minibatches of a linear model: the floor is the variance of <x, d>, and r probes add the variance of a sketch."""
    generator = torch.Generator().manual_seed(0)
    network, errors, variances, r = linear(), GradientErrors(["0"]), [], 16
    for _ in range(1000):
        x, d = (torch.randn(1, 1, 8, 8, generator=generator) for _ in range(2))
        set_probes(network, 0)
        exact = gradient(network, x, d)
        set_probes(network, r)
        errors.update(exact, {r: gradient(network, x, d)})
        variances.append(sketch_variance(x, d) / r)
    assert errors.age() == pytest.approx(N, rel=0.12), "a sum of N products of independent numbers of variance 1"
    added = sum(variances) / len(variances)
    assert errors.age(r) - errors.age() == pytest.approx(added, rel=0.1)
    assert errors.error("0", r) == pytest.approx(sqrt(added / errors.norm_square("0")), rel=0.06)
    assert errors.noise("0") == pytest.approx(1, rel=0.01), "a gradient without a mean is all noise"


@pytest.mark.parametrize(("whole", "expected"), [(False, 1.0), (True, 0.75)])
def test_a_minibatch_has_itself_in_the_mean(whole, expected):
    """Of 4 minibatches drawn from more the distance is too small by (n - 1) / n; the sketch's own error is not."""
    generator = torch.Generator().manual_seed(0)
    size, floors, added = 100, [], []
    for _ in range(300):
        errors = GradientErrors(["layer"])
        for _ in range(4):
            exact = 3 + torch.randn(size, generator=generator)
            estimate = exact + 0.5 * torch.randn(size, generator=generator)
            errors.update({"layer.weight": exact}, {0.1: {"layer.weight": estimate}})
        floors.append(errors.age(whole=whole) / size)
        added.append((errors.age(0.1, whole=whole) - errors.age(whole=whole)) / size)
    assert sum(floors) / len(floors) == pytest.approx(expected, rel=0.03)
    assert sum(added) / len(added) == pytest.approx(0.25, rel=0.1)


def test_sums_are_the_definition():
    generator = torch.Generator().manual_seed(0)
    sizes = {"a": (3, 2), "b": (5,)}
    exact = [{f"{n}.weight": 1 + torch.randn(s, generator=generator) for n, s in sizes.items()} for _ in range(5)]
    found = [{n: g + torch.randn(g.shape, generator=generator) for n, g in part.items()} for part in exact]
    errors = GradientErrors(["a", "b", "dead"])
    for one, estimate in zip(exact, found, strict=True):
        errors.update(one | {"dead.weight": torch.zeros(2)}, {8: estimate | {"dead.weight": torch.zeros(2)}})
    assert errors.layers == ["a", "b"]

    def distance(parts):
        means = {n: torch.stack([part[n] for part in exact]).double().mean(0) for n in exact[0]}
        return sum((part[n] - means[n]).square().sum().item() for part in parts for n in part) / len(parts)

    assert errors.age(whole=True) == pytest.approx(distance(exact), rel=1e-6)
    assert errors.age(8, whole=True) == pytest.approx(distance(found), rel=1e-6)
    assert errors.age() == pytest.approx(distance(exact) * 5 / 4, rel=1e-6)
    assert errors.age(8) == pytest.approx(distance(found) + distance(exact) / 4, rel=1e-6)
    assert errors.age() == pytest.approx(errors.age(layers=["a"]) + errors.age(layers=["b"]))


def test_noise_from_halves_is_that_of_the_mean_over_the_minibatch():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(2000, 8, 20, generator=generator)  # gradients of eight clips, variance 1
    squares = []
    for part in samples:
        halves = [{"c.weight": half.mean(0)} for half in part.chunk(2)]
        exact = {"c.weight": part.mean(0)}
        squares.append((minibatch_noise(halves, exact, ["c"])["c"] * exact["c.weight"].norm().item()) ** 2)
    assert sum(squares) / len(squares) == pytest.approx(20 / 8, rel=0.03)


def test_what_cannot_be_told_is_left_out():
    exact = {"a.weight": torch.ones(2), "dead.weight": torch.zeros(2)}
    layers = ["a", "dead", "frozen"]
    assert relative_errors({n: g + 1 for n, g in exact.items()}, exact, layers) == {"a": 1.0}
    assert minibatch_noise([], exact, layers) == {}
    figures = sketch_figures(exact, exact, [], {"a": Probes(3)})
    assert figures == {"sketch/error/a": 0.0, "sketch/probes/a": 3.0}


@pytest.mark.parametrize(
    ("error", "noise", "expected"),
    [
        (sqrt(1 / 2), 1.0, 8),
        (1.0, 1.0, 16),
        (sqrt(2), 1.0, 32),
        (0.01, 1.0, 1),
        (0.3, 0.25, 24),  # 23.04
        (100.0, 1.0, 50),
        (1.0, 0.0, 50),
    ],
)
def test_suggested_probes_are_those_where_error_meets_noise(error, noise, expected):
    assert suggest_probes({"a": error}, {"a": noise}, {"a": 16}, {"a": 50}) == {"a": expected}


def test_one_probe_error_and_one_share_for_all():
    assert one_probe_error({4: 1.0, 16: 0.5, 64: 0.25}) == pytest.approx(2)
    assert suggest_share({"a": 0.1, "b": 0.3}, {"a": 1.0, "b": 3.0}) == pytest.approx(0.1)
    assert suggest_share({"a": 1.0}, {"a": 0.0}) == float("inf")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("center", [False, True])
def test_with_the_most_probes_a_sketch_is_just_smaller_than_its_input(mode, center):
    network, shape = nn.Sequential(nn.Conv2d(6, 2, 1)), (6, 4, 5)
    to_xconv(network, 1, mode=mode, center=center)
    (layer,) = xconv_layers(network).values()
    made = layer.sketch_of((1, *shape))
    most, numbers = most_probes(made, shape), all_probes(made, shape)
    assert numbers == prod(shape) / (6 if made.a_channel else 1)
    assert 1 <= most <= numbers
    if mode != "local":  # whose blocks are equal, so that not every number can be had
        layer.probes = most
        assert layer.sketch_of((1, *shape)) is not None
        layer.probes = most + 1
        assert most == numbers or layer.sketch_of((1, *shape)) is None


def test_what_is_only_looked_at_leaves_no_trace():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), VectorQuantiser(4, groups=2, codes=4))
    to_xconv(network, 2)

    def state():
        found = {**network.state_dict(), "key": draws_state(network)["0.weight"]}
        return {name: value.clone() for name, value in found.items()}

    def look():
        network[2](network[:2](torch.randn(3, 2, 8, 8)), learn=True)
        network[2].step()

    look()
    before = state()
    with left_as_it_is(network):
        look()
        changed = state()
    assert {"key", "1.running_mean"} < {name for name in before if not torch.equal(changed[name], before[name])}
    assert any(name.startswith("2.") and not torch.equal(changed[name], before[name]) for name in before)
    after = state()
    assert [name for name in before if not torch.equal(after[name], before[name])] == []


SMALL = {"network": "small_cnn", "depth": 4, "width": 0.5, "num_classes": 2, "in_channels": 1, "pool": "max"}
METHODS = {
    "backprop_frame": {"rule": "backprop_frame"},
    "pipelined": {"rule": "sideways", "executor": "pipelined"},
    "update frame": {"rule": "sideways", "executor": "pipelined", "update": "frame", "lr": 1e-3},
    "greedy": {"rule": "greedy", "vq_groups": 2, "vq_codes": 8, "probe_layers": "all"},
    "replay": {"rule": "greedy", "replay": 2, "probe_layers": "all"},
    "cnn3d": {"rule": "backprop", "network": "cnn3d", "depth": None},
    "x3d": {"rule": "backprop", "network": "x3d", "depth": None, "probe_layers": "all"},
}


def made(**options):
    seed_everything(0, verbose=False)
    return ActionRecognition(**{**SMALL, "schedule": "constant", "probes": 0.25, "compact": "relu", **options})


class Logged(Callback):
    def __init__(self):
        self.figures = []

    def on_train_batch_end(self, trainer, *_):
        found = {name: value.item() for name, value in trainer.callback_metrics.items() if "sketch" in name}
        self.figures.append(found)


def fitted(folder, data=None, batches=2, **options):
    task, logged = made(**options), Logged()
    trainer = Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False, callbacks=[logged],
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0, max_epochs=1,
        limit_train_batches=batches,
    )  # fmt: skip
    trainer.fit(task, data or ToyData(ragged=True))
    return task, logged.figures


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m == "x3d")) for m in METHODS])
def test_a_run_logs_its_sketches_and_trains_as_without(method, tmp_path):
    """Weights, statistics, codebooks and the next draws are the same bits."""
    states = []
    for every in (0, 2):
        task, figures = fitted(tmp_path, **METHODS[method], log_gradients_every=every)
        states.append({**task.network.state_dict(), **{f"key of {n}": k for n, k in draws_state(task.network).items()}})
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
    first, second = figures
    assert first == {}, "every second batch"
    assert all(re.fullmatch(r"[\w./-]+", name) for name in second)
    kinds = {kind: [n for n in second if n.startswith(f"sketch/{kind}/")] for kind in ("error", "noise", "probes")}
    assert len(kinds["probes"]) >= 2
    for name in kinds["error"]:
        assert 0.01 < second[name] < 20
        assert second[name.replace("error", "noise")] > 0
        assert second[name.replace("error", "probes")] >= 1
    assert len(kinds["error"]) >= 2


def test_exact_gradients_have_no_error_and_the_noise_of_halves(monkeypatch):
    """What is logged of gradients that are half as large again: an error of 0.5, whatever the sketches are."""
    task = made(rule="backprop_frame")
    generator = torch.Generator().manual_seed(0)
    batch = {"video": torch.rand(5, 6, 1, 16, 16, generator=generator), "label": torch.tensor([0, 1, 0, 1, 1])}
    batch["length"] = torch.tensor([6, 5, 6, 4, 6])
    inputs = task.inputs(batch)
    task._sketching.choose((1, 16, 16))
    set_probes(task.network, 0.25)

    def exact(part):
        network = made(rule="backprop_frame", probes=0, compact="none").network
        clips, labels, lengths = batch["video"][part], batch["label"][part], batch["length"][part]
        return clip_gradients(network, clips, labels, rule="backprop_frame", lengths_B=lengths).gradients

    logged = {}
    monkeypatch.setattr(task, "log_dict", logged.update)
    task._log_sketches(batch, inputs, {name: 1.5 * g for name, g in exact(slice(None)).items()})
    layers = [name.removeprefix("sketch/error/") for name in logged if "error" in name]
    assert layers == ["units.1.body.0", "units.2.body.0"]
    expected = minibatch_noise([exact(slice(0, 2)), exact(slice(2, 5))], exact(slice(None)), layers)
    for layer in layers:
        assert logged[f"sketch/error/{layer}"] == pytest.approx(0.5, abs=1e-5)
        assert logged[f"sketch/noise/{layer}"] == pytest.approx(expected[layer], rel=1e-4)


def test_nothing_is_logged_before_the_first_sketch_nor_noise_of_one_clip(tmp_path):
    options = {"rule": "backprop_frame", "log_gradients_every": 1}
    _, figures = fitted(tmp_path, batches=3, probe_warmup=2, **options)
    assert figures[:2] == [{}, {}]
    assert any("noise" in name for name in figures[2])
    _, figures = fitted(tmp_path, ToyData(batch_size=1), **options)
    assert any("error" in name for name in figures[0])
    assert not any("noise" in name for name in figures[0])
    _, figures = fitted(tmp_path, probes=0, **options)
    assert figures == [{}, {}]
