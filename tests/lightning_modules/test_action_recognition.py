"""The method contract: what every rule, wiring, executor, update and stash must do inside Lightning's Trainer."""

from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch.utils.data import default_collate
from toy_clips import ToyClips, ToyData

from lightning_modules.action_recognition import ActionRecognition
from lightning_modules.execution import clip_gradients

SMALL = {"network": "small_cnn", "depth": 4, "width": 0.5, "num_classes": 2, "in_channels": 1, "pool": "max"}
PIPELINED = {"rule": "sideways", "executor": "pipelined"}
SKETCHED = {"probes": 0.25, "compact": "norm"}
METHODS = {
    "backprop_frame": {"rule": "backprop_frame"},
    "backprop_frame update frame": {"rule": "backprop_frame", "update": "frame"},
    "backprop_shifted dense": {"rule": "backprop_shifted", "wiring": "dense"},
    "backprop cnn3d": {"rule": "backprop", "network": "cnn3d", "depth": None},
    **{f"sideways {w}": {"rule": "sideways", "wiring": w} for w in ("chain", "residual", "concat", "dense", "input")},
    "sideways newest edges": {"rule": "sideways", "wiring": "concat", "gradient_edges": "newest"},
    "sideways lag_scaling": {"rule": "sideways", "wiring": "dense", "lag_scaling": "lower", "lag_strength": 0.1},
    "sideways sgd clipped": {"rule": "sideways", "optimizer": "sgd", "lr": 0.1, "clip_norm": 1.0},
    "sideways pipelined": {**PIPELINED, "wiring": "dense"},
    "sideways stash vectorised": {"rule": "sideways", "stash": "exact", "wiring": "dense"},
    "sideways stash pipelined": {**PIPELINED, "stash": "exact", "wiring": "dense"},
    "sideways stash undrained": {**PIPELINED, "stash": "exact", "drain": False, "wiring": "residual"},
    "sideways update frame": {**PIPELINED, "update": "frame", "wiring": "dense", "lr": 1e-3},
    "sideways stash update frame": {**PIPELINED, "update": "frame", "stash": "exact", "lr": 1e-3},
    "greedy": {"rule": "greedy"},
    "greedy dense, two modules": {"rule": "greedy", "wiring": "dense", "modules": 2, "head": "mlp"},
    "greedy pipelined": {"rule": "greedy", "executor": "pipelined", "wiring": "residual"},
    "greedy update frame": {"rule": "greedy", "executor": "pipelined", "update": "frame", "lr": 1e-3},
    "greedy quantised": {"rule": "greedy", "wiring": "concat", "vq_groups": 2, "vq_codes": 16},
    "greedy cnn3d": {"rule": "greedy", "network": "cnn3d", "depth": None, "modules": 2, "head": "cnn"},
    "greedy_frame": {"rule": "greedy_frame"},
    "greedy replay": {"rule": "greedy", "replay": 2},
    "greedy replay slow": {"rule": "greedy", "replay": 3, "slow_down": [1, 1.5, 1], "vq_groups": 2, "vq_codes": 16},
    "frozen": {"rule": "backprop_shifted", "wiring": "dense", "train_units": "last"},
    "sketched backprop_shifted": {"rule": "backprop_shifted", "wiring": "dense", **SKETCHED},
    "sketched sideways": {"rule": "sideways", "wiring": "residual", **SKETCHED},
    "sketched sideways pipelined": {**PIPELINED, "wiring": "concat", "probe_mode": "multi", **SKETCHED},
    "sketched update frame": {**PIPELINED, "update": "frame", "wiring": "dense", "lr": 1e-3, **SKETCHED},
    "sketched greedy": {"rule": "greedy", "head": "cnn", **SKETCHED},
    "sketched greedy replay": {"rule": "greedy", "replay": 2, **SKETCHED},
    "sketched cnn3d": {"rule": "backprop", "network": "cnn3d", "depth": None, **SKETCHED},
}


def model(**options):
    seed_everything(0, verbose=False)
    return ActionRecognition(**{**SMALL, "lr": 1e-2, "schedule": "constant", **options})


class Losses(Callback):
    def __init__(self):
        self.values, self.steps = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if "train/loss" in trainer.callback_metrics:  # the highest of asynchronous modules has none at first
            self.values.append(trainer.callback_metrics["train/loss"].item())
        self.steps.append(trainer.global_step)


def trainer(tmp_path, *callbacks, **options):
    return Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{
            "max_epochs": 2,
            "enable_checkpointing": False,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            **options,
        },
    )


def fitted(tmp_path, options, data=None, callbacks=(), **trainer_options):
    module = model(**options)
    fit = trainer(tmp_path, *callbacks, **trainer_options)
    fit.fit(module, data or ToyData())
    return module, fit


def weights(module):
    return {name: p.detach().clone() for name, p in module.network.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", METHODS)
class TestMethodContract:
    """One class that every method passes."""

    def test_learns(self, method, tmp_path):
        """The loss falls on a toy clip set."""
        losses = Losses()
        fitted(tmp_path, METHODS[method], callbacks=[losses], max_epochs=4)
        assert sum(losses.values[-3:]) < 0.8 * sum(losses.values[:3])

    def test_continued_equals_uninterrupted(self, method, tmp_path):
        """Stopped in the middle of an epoch, saved, loaded into a fresh module: the same bits. So a seed gives them."""
        options, losses = {**METHODS[method], "schedule": "onecycle"}, Losses()
        whole, whole_trainer = fitted(tmp_path, options, callbacks=[losses])
        assert losses.steps == [1, 2, 3, 4, 5, 6], "one step a batch"
        stopped, _ = fitted(tmp_path, options, callbacks=[SaveAndStop(4, tmp_path / "mid.ckpt")])
        assert not same(weights(stopped), weights(whole))
        continued = model(**options)
        assert not same(weights(continued), weights(whole))
        torch.manual_seed(1)
        going_on = trainer(tmp_path)
        going_on.fit(continued, ToyData(), ckpt_path=tmp_path / "mid.ckpt", weights_only=True)
        assert same(weights(continued), weights(whole))
        assert going_on.global_step == whole_trainer.global_step == 6
        assert continued.frames_seen == whole.frames_seen == 2 * 12 * 9

    def test_predicts(self, method, tmp_path):
        data = ToyData(views=2, ragged=True)
        found = trainer(tmp_path).predict(model(**METHODS[method]), data)
        scores = torch.cat([part["scores"] for part in found])
        assert scores.shape == (24, 2)
        torch.testing.assert_close(scores.sum(-1), torch.ones(24))
        assert found[0]["clip_id"][:3] == ["clip0@0", "clip0@1", "clip1@0"]

    def test_checkpoint_loads_weights_only(self, method, tmp_path):
        options = {**METHODS[method], "log_gradients_every": 1}
        module, fit = fitted(tmp_path, options, max_epochs=1, limit_train_batches=1)
        fit.save_checkpoint(tmp_path / "one.ckpt")
        content = torch.load(tmp_path / "one.ckpt", weights_only=True)
        assert content["hyper_parameters"]["rule"] == METHODS[method]["rule"]
        loaded = ActionRecognition.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
        assert same(weights(loaded), weights(module))


class SaveAndStop(Callback):
    """Saves where Lightning's own checkpoint callback does, after a number of batches, and ends the fit."""

    def __init__(self, batches, path):
        self.left, self.path = batches, path

    def on_train_batch_end(self, trainer, *_):
        self.left -= 1
        if self.left == 0:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def test_frozen_moves_only_the_last_unit(tmp_path):
    start, (module, _) = weights(model(train_units="last")), fitted(tmp_path, {"train_units": "last"})
    moved = {name for name, p in weights(module).items() if not torch.equal(p, start[name])}
    assert moved == set(module.network.unit_parameters(4))


def test_every_unit_moves_otherwise(tmp_path):
    start, (module, _) = weights(model()), fitted(tmp_path, {})
    assert all(not torch.equal(p, start[name]) for name, p in weights(module).items())


def test_short_clips_leave_the_lower_units_alone(tmp_path):
    """D = 4: clips of 5 frames give gradients to units 3 and 4 only; weight decay must not move the others."""
    start = weights(model(weight_decay=0.5))
    module, _ = fitted(tmp_path, {"weight_decay": 0.5}, ToyData(frames=5))
    moved = {name.split(".")[1] for name, p in weights(module).items() if not torch.equal(p, start[name])}
    assert moved == {"2", "3"}


def test_accumulation_equals_a_big_batch(tmp_path):
    """Two batches of 4 and one of 8 give one weight change, to rounding in float64."""
    changes = []
    for batch_size, accumulate in ((4, 2), (8, 1)):
        options = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "accumulate": accumulate, "wiring": "dense"}
        data = ToyData(clips=16, batch_size=batch_size)
        module, fit = fitted(tmp_path, options, data, precision="64-true")
        assert fit.global_step == 4
        changes.append(weights(module))
    for name, p in changes[0].items():
        torch.testing.assert_close(p, changes[1][name], rtol=1e-10, atol=1e-12)
    assert not same(changes[0], weights(model(wiring="dense").double()))


def test_an_epochs_last_update_is_the_mean_of_what_is_left(tmp_path):
    """3 batches, accumulate 2: the last update has one batch, and counts it fully; the schedule ends with the fit."""
    options = {"optimizer": "sgd", "lr": 0.1, "accumulate": 2, "schedule": "onecycle"}
    _, fit = fitted(tmp_path, options, max_epochs=4)
    assert fit.global_step == 8
    assert fit.optimizers[0].param_groups[0]["lr"] < 0.001
    gradients = []

    class Seen(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            gradients.append({name: p.grad.clone() for name, p in pl_module.network.named_parameters()})

    class Batches(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.last = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            self.expected = clip_gradients(pl_module.network, self.last["video"], self.last["label"]).gradients

    batches = Batches()
    fitted(tmp_path, {"optimizer": "sgd", "lr": 0.0, "accumulate": 2}, callbacks=[Seen(), batches], max_epochs=1)
    assert len(gradients) == 2
    for name, gradient in gradients[-1].items():
        torch.testing.assert_close(gradient, batches.expected[name])


def test_continued_inside_an_accumulation(tmp_path):
    options = {"accumulate": 3, "schedule": "constant"}
    data = {"clips": 24}
    whole, _ = fitted(tmp_path, options, ToyData(**data), max_epochs=1)
    fitted(tmp_path, options, ToyData(**data), callbacks=[SaveAndStop(4, tmp_path / "mid.ckpt")], max_epochs=1)
    assert torch.load(tmp_path / "mid.ckpt", weights_only=True)["video_task"]["gradients"]
    continued = model(**options)
    trainer(tmp_path, max_epochs=1).fit(continued, ToyData(**data), ckpt_path=tmp_path / "mid.ckpt", weights_only=True)
    assert same(weights(continued), weights(whole))


def test_update_frame_moves_weights_at_every_tick(tmp_path, monkeypatch):
    """D = 4, T = 9: 6 ticks with gradients in a clip, one counted step a batch."""
    steps = []
    original = torch.optim.AdamW.step

    def counting(self, *args, **kwargs):
        steps.append(sum(p.grad is not None for g in self.param_groups for p in g["params"]))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counting)
    module, fit = fitted(tmp_path, {**PIPELINED, "update": "frame"}, max_epochs=1)
    assert fit.global_step == 3
    per_batch = len(steps) // 3
    assert per_batch == 7  # six ticks, then the counted step
    every = len(weights(module))
    parameters = [len(module.network.unit_parameters(unit)) for unit in (4, 3, 2, 1)]
    ramp = [sum(parameters[: n + 1]) for n in range(4)]
    assert steps[:per_batch] == [*ramp, every, every, 0], "the counted step moves nothing"


def test_views_of_one_video_are_averaged(tmp_path):
    module, data = model(), ToyData(clips=6, views=2)
    logged = trainer(tmp_path).test(module, data, verbose=False)[0]
    clips = ToyClips(6, 9, 16, 2, views=2)
    batch = default_collate([clips[(0, i)] for i in range(12)])
    module.eval()
    scores = module.scores(batch).view(6, 2, 2).mean(1)
    labels = batch["label"].view(6, 2)[:, 0]
    assert logged["test/loss"] == pytest.approx(torch.nn.functional.nll_loss(scores.log(), labels).item(), rel=1e-5)
    assert logged["test/top1"] == pytest.approx((scores.argmax(-1) == labels).float().mean().item())
    matrix = module.confusion.compute()
    assert matrix.sum() == 6, "one count a video, not a view"
    expected = torch.zeros(2, 2, dtype=torch.long)
    for label, guess in zip(labels, scores.argmax(-1), strict=True):
        expected[label, guess] += 1
    assert torch.equal(matrix, expected)


@pytest.mark.parametrize("batch_size", [1, 4, 12])
def test_figures_do_not_depend_on_the_batch_size(tmp_path, batch_size):
    values = trainer(tmp_path).test(model(), ToyData(views=3, clips=4, batch_size=batch_size), verbose=False)[0]
    again = trainer(tmp_path).test(model(), ToyData(views=3, clips=4, batch_size=5), verbose=False)[0]
    assert values == pytest.approx(again, rel=1e-5)


def test_padding_does_not_change_scores():
    clips = ToyClips(4, 9, 16, 2, ragged=True)
    batch = default_collate([clips[(0, i)] for i in range(4)])
    for method in ("backprop_frame", "sideways dense", "sideways pipelined", "backprop cnn3d"):
        module = model(**METHODS[method]).eval()
        before = module.scores(batch)
        noisy = batch["video"].clone()
        for clip, length in zip(noisy, batch["length"], strict=True):
            clip[length:] = torch.rand_like(clip[length:])
        torch.testing.assert_close(module.scores({**batch, "video": noisy}), before)


@pytest.mark.parametrize(("classes", "top5"), [(2, 1.0), (4, 1.0), (8, None)])
def test_top5_with_few_classes(tmp_path, classes, top5):
    module = model(num_classes=classes)
    values = trainer(tmp_path).test(module, ToyData(clips=16, classes=classes), verbose=False)[0]
    assert values["test/top1"] <= values["test/top5"] <= 1
    assert top5 is None or values["test/top5"] == top5


@pytest.mark.parametrize("options", [{"wiring": "dense"}, {**PIPELINED, "update": "frame"}])
def test_gradient_health_is_logged(tmp_path, options):
    class Logged(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            self.last = dict(trainer.callback_metrics)

    logged = Logged()
    fitted(tmp_path, {**options, "log_gradients_every": 1}, callbacks=[logged])
    for unit in range(1, 5):
        assert -1 <= logged.last[f"alignment/unit_{unit}"] <= 1
        assert logged.last[f"grad_norm/unit_{unit}"] > 0
        assert logged.last[f"weight_change/unit_{unit}"] > 0
    assert logged.last["alignment/unit_4"] == pytest.approx(1, abs=1e-5), "the last unit's gradient is exact"
    assert logged.last["alignment/unit_1"] < 0.9999


def test_alignment_of_exact_backprop_is_one(tmp_path):
    class Logged(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            for unit in range(1, 5):
                assert trainer.callback_metrics[f"alignment/unit_{unit}"] == pytest.approx(1, abs=1e-5)

    for method in ("backprop_shifted dense", "sideways stash pipelined"):
        fitted(tmp_path, {**METHODS[method], "log_gradients_every": 1}, callbacks=[Logged()])


def test_logging_gradients_changes_nothing(tmp_path):
    plain, logged = (weights(fitted(tmp_path, {"log_gradients_every": every})[0]) for every in (0, 1))
    assert same(plain, logged)


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ({"rule": "sideways"}, 7),
        ({"rule": "backprop_shifted"}, 7),
        ({"rule": "backprop_frame"}, 1),
        (METHODS["backprop cnn3d"], 1),
    ],
)
def test_fewest_frames(options, frames):
    assert model(**options).min_frames == frames


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "sidways"}, "did you mean 'sideways'"),
        ({"executor": "pipeline"}, "expected one of vectorised, pipelined"),
        ({"rule": "backprop_shifted", "executor": "pipelined"}, "use executor 'vectorised'"),
        ({"rule": "backprop_shifted", "update": "frame"}, "use update='clip'"),
        ({"update": "frame"}, "use 'pipelined'"),
        ({"rule": "backprop_frame", "stash": "exact"}, "leave stash out"),
        ({"rule": "backprop"}, "use rule 'backprop_frame'"),
        ({"network": "cnn3d", "depth": None}, "use rule 'backprop'"),
        ({"train_units": "first"}, "'all' or 'last'"),
        ({**METHODS["backprop cnn3d"], "train_units": "last"}, "is one unit; use 'all'"),
        ({"accumulate": 0}, "at least 1"),
        ({**PIPELINED, "update": "frame", "accumulate": 2}, "use update 'clip'"),
        ({"optimizer": "adam"}, "expected one of adamw, sgd"),
        ({"schedule": "linear"}, "expected one of onecycle, cosine, constant"),
        ({"lag_scaling": "linear"}, "expected one of off, lower, inverse, exponential"),
    ],
)
def test_errors_that_teach(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum 0.5 with optimizer 'adamw'.* use optimizer 'sgd'"),
        ({"lag_strength": 0.1}, "lag_strength 0.1 with lag_scaling 'off'.* use lag_scaling 'lower'"),
        ({"rule": "sideways", "drain": False}, "drain=False with stash 'none'.* use stash='exact'"),
        ({"rule": "backprop_shifted", "drain": False}, "leave drain out"),
        ({**METHODS["backprop cnn3d"], "lag_scaling": "inverse"}, "has no lag; leave lag_scaling out"),
    ],
)
def test_a_chosen_setting_without_an_effect_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "momentum": 0.9},
        {"lag_scaling": "off", "lag_strength": 1.0},
        {"rule": "backprop_frame", "lag_scaling": "inverse", "lag_strength": 0.1},
        {**PIPELINED, "stash": "exact", "drain": False},
        {**METHODS["backprop cnn3d"], "optimizer": "sgd", "momentum": 0.5},
    ],
)
def test_defaults_written_out_and_settings_with_an_effect_are_accepted(options):
    model(**options)


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("fit", {"world_size": 2, "precision": "32-true"}, "2 processes .* use --trainer.strategy depth_parallel"),
        ("test", {"world_size": 2, "precision": "32-true"}, "2 processes .* use --trainer.strategy depth_parallel"),
        ("fit", {"world_size": 1, "precision": "16-mixed"}, "use 'bf16-mixed'"),
    ],
)
def test_trainers_that_would_compute_something_else_are_refused(stage, settings, message):
    module = model()
    module._trainer = SimpleNamespace(strategy=None, **settings)
    with pytest.raises(ValueError, match=message):
        module.setup(stage)


def test_bfloat16_trains(tmp_path):
    losses = Losses()
    fitted(tmp_path, {"wiring": "dense"}, callbacks=[losses], max_epochs=4, precision="bf16-mixed")
    assert sum(losses.values[-3:]) < 0.8 * sum(losses.values[:3])


@pytest.mark.filterwarnings("ignore:`max_epochs` was not set")
def test_a_schedule_needs_an_end(tmp_path):
    with pytest.raises(ValueError, match="set max_epochs or max_steps"):
        fitted(tmp_path, {"schedule": "onecycle"}, max_epochs=-1)


def test_alignment_is_against_exact_gradients_over_all_edges(tmp_path):
    """With `newest` edges even backprop's gradient is cut; the measure must say so."""
    seen = []

    class Logged(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append(trainer.callback_metrics["alignment/unit_1"].item())

    options = {"rule": "backprop_shifted", "wiring": "concat", "gradient_edges": "newest", "depth": 5}
    fitted(tmp_path, {**options, "log_gradients_every": 1}, ToyData(frames=12), callbacks=[Logged()], max_epochs=1)
    assert max(seen) < 0.9999


@pytest.mark.parametrize("method", ["sideways chain", "sideways update frame", "backprop_frame"])
def test_gradients_are_clipped_per_unit_before_every_step(method, tmp_path, monkeypatch):
    norms = []
    original = torch.optim.SGD.step

    def watching(self, *args, **kwargs):
        for group in self.param_groups:
            parts = [p.grad.flatten() for p in group["params"] if p.grad is not None]
            norms.extend([torch.cat(parts).norm().item()] if parts else [])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", watching)
    fitted(tmp_path, {**METHODS[method], "optimizer": "sgd", "clip_norm": 1e-3}, max_epochs=1)
    assert max(norms) == pytest.approx(1e-3, rel=1e-2)
