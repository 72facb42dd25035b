"""Errors and noise of a minibatch, by hand and in a task's log; and that looking at them leaves no trace."""

import re
from functools import partial

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
from lightning_modules.layers.xconv import draws_state, set_probes, to_xconv
from lightning_modules.metrics.sketch_choice import choose_layers
from lightning_modules.metrics.sketch_health import (
    left_as_it_is,
    minibatch_noise,
    relative_errors,
    sketch_figures,
    sketches_now,
)


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
    figures = sketch_figures(exact, exact, [], {"a": Probes(3, MODES[0])})
    assert figures == {"sketch/error/a": 0.0, "sketch/probes/a": 3.0}


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


def test_frozen_layers_have_no_sketches():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3))
    to_xconv(network, 2)
    choices = choose_layers(network, (2, 12, 12), 2, auto=False)
    assert list(sketches_now(network, choices)) == ["0", "1"]
    network[0].weight.requires_grad_(False)
    assert list(sketches_now(network, choices)) == ["1"]


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


def test_exact_gradients_have_no_error_and_the_noise_of_halves():
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

    larger = {name: 1.5 * g for name, g in exact(slice(None)).items()}
    logged = task._gradient_logs.of_sketches(larger, inputs, partial(task.find_gradients, batch))
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
