"""Sketches inside a training: when they begin, what they leave alone, what a resume needs, and what is refused.

That each method learns, and continues bit for bit, is the method contract's (test_action_recognition.py).
"""

import re

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from moving_clips import MovingData
from test_action_recognition import METHODS, Losses, SaveAndStop, fitted, model, same, trainer, weights
from test_future_frames import model as predictor
from torch.utils.data import default_collate
from toy_clips import ToyClips, ToyData
from toy_streams import StreamData

from lightning_modules.action_recognition import ActionRecognition
from lightning_modules.execution.team import Team
from lightning_modules.layers.compact import LEVELS
from lightning_modules.layers.probes import MODES
from lightning_modules.layers.xconv import draws_state, kept_exact, set_probes, xconv_layers
from lightning_modules.networks.sketched import Sketching, sketch_network
from tests.lightning_modules.execution.reference import relative_error
from tests.lightning_modules.strategies.test_depth_parallel import staged
from tests.lightning_modules.strategies.test_depth_parallel import train as run

SHIFTED = {"rule": "backprop_shifted", "wiring": "concat"}
SKETCHED = {**SHIFTED, "probes": 0.25, "compact": "norm"}
PIPELINED = {"rule": "sideways", "executor": "pipelined", "wiring": "dense"}
CNN3D = METHODS["backprop cnn3d"]
SLOW = pytest.mark.slow


class SizedData(ToyData):
    """Tells its frames' size, as the project's own data do."""

    size = 16


class Probes(Callback):
    """What each batch was trained with: probes set, and how often the second unit has drawn."""

    def __init__(self):
        self.probes, self.uses = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        layer = xconv_layers(pl_module.network)["units.1.body.0"]
        self.probes.append(layer.probes)
        self.uses.append(int(layer.key[2]))


def uses(module):
    return {name: int(key[2]) for name, key in draws_state(module.network).items()}


def batch(frames=9, clips=4, ragged=True):
    data = ToyClips(clips, frames, 16, 2, ragged=ragged)
    found = default_collate([data[0, index] for index in range(clips)])
    return {**found, "video": found["video"].double()}


def gradients(module, of):
    _, inputs = module.read(of)
    return module._gradients(of, inputs).gradients


# What is there without sketches


@pytest.mark.parametrize(
    "options", [SHIFTED, CNN3D, {"rule": "greedy", "head": "cnn"}], ids=["units", "cnn3d", "greedy"]
)
def test_sketches_change_no_key_and_no_weight_of_an_untrained_network(options):
    plain = model(**options)
    for more in ({"probes": 0.25}, {"compact": "norm"}, {"probes": 8, "compact": "relu", "probe_layers": "all"}):
        changed = model(**options, **more)
        assert same(plain.network.state_dict(), changed.network.state_dict())
        assert [type(a) is type(b) for a, b in zip(plain.modules(), changed.modules(), strict=True)].count(False) >= 3
        assert all(isinstance(b, type(a)) for a, b in zip(plain.modules(), changed.modules(), strict=True))


@pytest.mark.parametrize("options", [SHIFTED, CNN3D], ids=["units", "cnn3d"])
def test_without_them_nothing_is_converted(options):
    for module in (model(**options), model(**options, probes=0, compact="none")):
        assert not xconv_layers(module.network)
        assert not any(".compact" in type(m).__module__ or "mask_relu" in type(m).__module__ for m in module.modules())


@pytest.mark.parametrize(
    "method",
    [
        "backprop_shifted dense",
        "backprop cnn3d",
        pytest.param("sideways stash pipelined", marks=SLOW),
        pytest.param("greedy", marks=SLOW),
    ],
)
def test_until_the_first_sketch_weights_are_bit_for_bit_the_exact_ones(method, tmp_path):
    """So are they with ReLUs and pools that keep bits."""
    plain, _ = fitted(tmp_path, METHODS[method], max_epochs=1)
    for more in ({"probes": 0.25, "probe_warmup": 3}, {"probe_schedule": {3: 8}}, {"compact": "relu"}):
        other, _ = fitted(tmp_path, {**METHODS[method], **more}, max_epochs=1)
        assert same(weights(plain), weights(other)), more
        assert not any(uses(other).values())
    other, _ = fitted(
        tmp_path, {**METHODS[method], "probes": 0.25, "probe_warmup": 2, "probe_layers": "all"}, max_epochs=1
    )
    assert not same(weights(plain), weights(other))


def test_a_seed_gives_the_weights_and_another_seed_other_probes(tmp_path):
    one, two = (weights(fitted(tmp_path, SKETCHED, max_epochs=1)[0]) for _ in range(2))
    assert same(one, two)
    other = model(**SKETCHED)
    for layer in xconv_layers(other.network).values():
        layer.key[0] += 1
    trainer(tmp_path, max_epochs=1).fit(other, ToyData())
    assert not same(one, weights(other))


# Gradients


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(SHIFTED, id="shifted"),
        pytest.param({"rule": "backprop_frame", "probe_mode": "orthogonal"}, id="frame", marks=SLOW),
        pytest.param({"rule": "sideways", "wiring": "residual", "probe_center": False}, id="sideways", marks=SLOW),
        pytest.param({**PIPELINED, "probe_mode": "multi"}, id="pipelined", marks=SLOW),
        pytest.param({"rule": "greedy", "head": "cnn", "modules": 2}, id="greedy", marks=SLOW),
        pytest.param(CNN3D, id="cnn3d", marks=SLOW),
    ],
)
def test_their_mean_is_the_rules_own_gradient(options):
    """The error of a mean of n draws is 1 / sqrt(n) of one's; what is no convolution's weight is exact in each."""
    module, of, n = model(**options, probes=0.25, probe_layers="all").double(), batch(), 25
    with kept_exact(module.network):
        exact = gradients(module, of)
    assert not any(uses(module).values())
    set_probes(module.network, 0.25)
    draws = [gradients(module, of) for _ in range(n)]
    sketched = [name for name, count in uses(module).items() if count]
    assert len(sketched) >= 2
    for name, expected in exact.items():
        errors = torch.stack([(draw[name] - expected) / expected.norm() for draw in draws])
        if name in sketched:
            one = errors.flatten(1).norm(dim=1).square().mean().sqrt().item()
            assert one > 0.01, name
            assert errors.mean(0).norm().item() < 1.6 * one / n**0.5, name
        else:
            assert errors.abs().max() < 1e-9, name


def test_frames_that_are_predicted():
    """FutureFrames asks for sketches by the same options."""
    module = predictor(**SHIFTED, probes=0.5, probe_layers="all").double()
    clips = MovingData().data
    of = default_collate([clips[0, i] for i in range(3)])
    of = {**of, "video": of["video"].double() / 255}
    torch.nn.init.normal_(list(module.network.parameters())[-2], std=0.1)  # it starts at zero: no gradient goes down
    with kept_exact(module.network):
        exact = gradients(module, of)
    set_probes(module.network, 0.5)
    found = [gradients(module, of) for _ in range(12)]
    mean = {name: torch.stack([f[name] for f in found]).mean(0) for name in exact}
    ones = [relative_error(f, exact) for f in found]
    assert min(ones) > 0.05
    assert relative_error(mean, exact) < 0.4 * max(ones)


@pytest.mark.parametrize("mode", ["independent", "multi"])
def test_channels_last(mode):
    """The same draws: memory's order changes gradients by rounding alone."""
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        module = model(**SKETCHED, probe_mode=mode).double()
        module.network.to(memory_format=layout)
        module._sketching.choose((1, 16, 16))
        set_probes(module.network, 0.25)
        of = batch()
        found.append(gradients(module, of))
        assert list(uses(module).values()) == [0, 1, 1]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_bfloat16_trains(level, tmp_path):
    losses = Losses()
    options = {**SHIFTED, "wiring": "dense", "probes": 0.25, "probe_layers": "all", "compact": level}
    module, _ = fitted(tmp_path, options, callbacks=[losses], max_epochs=4, precision="bf16-mixed")
    assert sum(losses.values[-3:]) < 0.8 * sum(losses.values[:3])
    assert set(uses(module).values()) == {12}
    assert all(p.dtype == torch.float32 for p in module.parameters())


# When


def test_a_warm_up_ends_after_its_updates(tmp_path):
    """Three batches an epoch; accumulating two the second update has one batch, the third two."""
    for accumulate, expected in ((1, [0, 0, 0.25, 0.25, 0.25, 0.25]), (2, [0, 0, 0, 0.25, 0.25, 0.25])):
        seen = Probes()
        options = {**SKETCHED, "probe_warmup": 2, "accumulate": accumulate}
        fitted(tmp_path, options, callbacks=[seen])
        assert seen.probes == expected
        assert seen.uses == [sum(p > 0 for p in expected[: n + 1]) for n in range(6)]


def test_a_schedule_counts_updates_also_when_continued(tmp_path):
    """Stopped between the two batches of an update."""
    schedule = {1: 0.5, 3: 8, 4: 0}
    options = {**SHIFTED, "compact": "norm", "probe_schedule": schedule, "accumulate": 2, "schedule": "onecycle"}
    expected = [0, 0, 0.5, 0.5, 0.5, 8, 8, 0, 0, 0]  # five batches an epoch: its third update has one batch
    data, seen = {"clips": 20}, Probes()
    whole, _ = fitted(tmp_path, options, ToyData(**data), callbacks=[seen])
    assert seen.probes == expected
    assert seen.uses[-1] == 5
    early, late = Probes(), Probes()
    fitted(tmp_path, options, ToyData(**data), callbacks=[early, SaveAndStop(6, tmp_path / "mid.ckpt")])
    continued = model(**options)
    trainer(tmp_path, late).fit(continued, ToyData(**data), ckpt_path=tmp_path / "mid.ckpt", weights_only=True)
    assert early.probes + late.probes == expected
    assert early.uses + late.uses == seen.uses
    assert same(weights(continued), weights(whole))


def test_a_step_at_every_tick_counts_batches(tmp_path):
    seen = Probes()
    options = {**PIPELINED, "update": "frame", "lr": 1e-3, "probe_schedule": {2: 0.25}, "probe_layers": "all"}
    fitted(tmp_path, options, callbacks=[seen], max_epochs=1)
    assert seen.probes == [0, 0, 0.25]
    assert seen.uses[:2] == [0, 0]
    assert seen.uses[2] == 4  # a draw at each tick whose output a loss is about


@pytest.mark.parametrize(
    "method",
    [
        "backprop_shifted dense",
        pytest.param("sideways update frame", marks=SLOW),
        pytest.param("greedy replay", marks=SLOW),
    ],
)
def test_logging_gradients_changes_nothing(method, tmp_path):
    """A logged batch trains with the probes of an unlogged one; and the logs themselves are there."""
    options = {**METHODS[method], "probes": 0.25, "compact": "norm"}
    (plain, _), (logged, fit) = (fitted(tmp_path, {**options, "log_gradients_every": n}, max_epochs=1) for n in (0, 1))
    assert same(weights(plain), weights(logged))
    assert uses(plain) == uses(logged)
    assert any(uses(logged).values())
    assert "alignment/unit_1" in fit.callback_metrics


def test_the_logs_reference_is_exact(tmp_path):
    """Sketches of an exact rule are noise around it: alignment below 1 with few probes, 1 without."""
    found = []
    for probes in (0, 2):
        options = {**SHIFTED, "probes": probes, "probe_layers": "all" if probes else "auto", "log_gradients_every": 1}
        _, fit = fitted(tmp_path, options, max_epochs=1)
        found.append([fit.callback_metrics[f"alignment/unit_{unit}"].item() for unit in (1, 2, 3, 4)])
    assert found[0] == pytest.approx([1] * 4, abs=1e-5)
    assert max(found[1][:2]) < 0.999
    assert found[1][3] == pytest.approx(1, abs=1e-5)  # the head is no convolution


# Which


@pytest.mark.parametrize(
    ("layers", "drawn"),
    [
        ("auto", {"units.1.body.0", "units.2.body.0"}),
        ("all", {"units.0.body.0", "units.1.body.0", "units.2.body.0"}),
        (["units.1.*"], {"units.1.body.0"}),
        (["units.0.body.0", "units.[12].body.0"], {"units.0.body.0", "units.1.body.0", "units.2.body.0"}),
        ("units.2.body.0", {"units.2.body.0"}),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
@pytest.mark.parametrize("data", [ToyData, SizedData])
def test_layers_that_are_chosen_draw(data, layers, drawn, tmp_path):
    """Whether the data tells its size or the first batch does."""
    module, _ = fitted(tmp_path, {**SKETCHED, "probe_layers": layers}, data(), max_epochs=1)
    assert {name.removesuffix(".weight") for name, count in uses(module).items() if count} == drawn
    assert set(uses(module).values()) <= {0, 3}


@pytest.mark.parametrize("data", [ToyData, SizedData])
def test_a_table_is_said_once_before_training(data, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("lightning_modules.sketched_training.rank_zero_info", said.append)
    fitted(tmp_path, SKETCHED, data())
    assert [text.splitlines() for text in said] == [
        [
            "what convolutions keep of a frame for their weights' gradients:",
            "layer           input    probes  input KiB  kept KiB  kept as  why",
            "units.0.body.0  1x16x16       -        1.0       1.0  input    the batch keeps it too",
            "units.1.body.0  8x8x8        16        2.0       0.3  sketch",
            "units.2.body.0  24x4x4        4        1.5       0.3  sketch",
            "all                                    4.5       1.6",
        ]
    ]
    fitted(tmp_path, {**SHIFTED, "wiring": "chain", "probes": 0.25}, data(), max_epochs=1)
    assert said[1].splitlines()[-1].startswith("no convolution keeps a sketch")
    later = {"probes": 0, "probe_schedule": {0: 0, 5: 0.25, 9: 8}}
    fitted(tmp_path, {**SKETCHED, **later}, data(), max_epochs=1)
    assert said.pop().splitlines()[-1] == (
        "from update 0: exact; from update 5: probes 0.25; from update 9: probes 8 (the table is for 0.25)"
    )
    fitted(tmp_path, {**SKETCHED, "probe_warmup": 7}, data(), max_epochs=1)
    assert said.pop().splitlines()[-1] == ("from update 0: exact; from update 7: probes 0.25 (the table is for 0.25)")
    fitted(tmp_path, {**CNN3D, "probes": 0.25, "compact": "norm"}, data(), max_epochs=1)
    assert said[2].startswith("what convolutions keep of a clip for their weights' gradients:\n")
    fitted(tmp_path, SHIFTED, data(), max_epochs=1)
    assert len(said) == 3


def test_stages_that_draw_from_buffers_need_the_frames_size_first(tmp_path, monkeypatch):
    """Those that never see a frame would never choose: every stage stops before it trains, `all` needs no size."""
    monkeypatch.setattr(Team, "is_asynchronous", True)
    with pytest.raises(ValueError, match=r"probe_layers auto needs the frame's size before .*--model.probe_layers all"):
        fitted(tmp_path, SKETCHED, max_epochs=1)
    sized = model(**SKETCHED)._sketching
    sized.choose((1, 16, 16), sees_batches=False)
    assert [c.sketched for c in sized.choices] == [False, True, True]
    model(**{**SKETCHED, "probe_layers": "all"})._sketching.choose(None, sees_batches=False)
    model(**SHIFTED)._sketching.choose(None, sees_batches=False)


# Streams, checkpoints, stages


def test_a_stream_continues_bit_for_bit(tmp_path):
    options = {**PIPELINED, "probes": 0.25, "compact": "norm", "schedule": "onecycle"}

    def fit(module, *callbacks, **more):
        trainer(tmp_path, *callbacks).fit(module, StreamData(), **more)
        return module

    whole = fit(model(**options))
    assert any(uses(whole).values())
    fit(model(**options), SaveAndStop(7, tmp_path / "mid.ckpt"))
    continued = fit(model(**options), ckpt_path=tmp_path / "mid.ckpt", weights_only=True)
    assert same(weights(continued), weights(whole))
    assert uses(continued) == uses(whole)


def test_a_checkpoint_holds_the_draws_and_fits_a_task_with_or_without_them(tmp_path):
    paths, tasks = {}, {"sketched": SKETCHED, "exact": SHIFTED}
    for name, options in tasks.items():
        paths[name] = tmp_path / f"{name}.ckpt"
        fitted(tmp_path, options, callbacks=[SaveAndStop(2, paths[name])])
    draws = torch.load(paths["sketched"], weights_only=True)["video_task"]["probes"]
    assert {name: key[2].item() for name, key in draws.items()} == {
        "units.0.body.0.weight": 0,
        "units.1.body.0.weight": 2,
        "units.2.body.0.weight": 2,
    }
    assert torch.load(paths["exact"], weights_only=True)["video_task"]["probes"] == {}
    for name, options in tasks.items():
        other = paths["exact" if name == "sketched" else "sketched"]
        module, going_on = model(**options), trainer(tmp_path)
        going_on.fit(module, ToyData(), ckpt_path=other, weights_only=True)
        assert going_on.global_step == 6
        assert set(uses(module).values()) == ({0, 4} if name == "sketched" else set())
        loaded = ActionRecognition.load_from_checkpoint(other, weights_only=True)
        given = model(**options)
        given.load_state_dict(loaded.state_dict())
        assert same(weights(given), weights(loaded))
    loaded = ActionRecognition.load_from_checkpoint(paths["sketched"], weights_only=True)
    assert torch.equal(draws_state(loaded.network)["units.1.body.0.weight"], draws["units.1.body.0.weight"])


def test_one_of_before_there_were_sketches_loads(tmp_path):
    path = tmp_path / "old.ckpt"
    fitted(tmp_path, SHIFTED, callbacks=[SaveAndStop(2, path)])
    content = torch.load(path, weights_only=True)
    del content["video_task"]["probes"]
    for name in ("probes", "compact", *(n for n in content["hyper_parameters"] if n.startswith("probe_"))):
        content["hyper_parameters"].pop(name, None)
    torch.save(content, path)
    loaded = ActionRecognition.load_from_checkpoint(path, weights_only=True)
    assert not xconv_layers(loaded.network)
    trainer(tmp_path).fit(model(**SKETCHED), ToyData(), ckpt_path=path, weights_only=True)


STAGED = {"wiring": "concat", "activation": "relu", "probes": 0.25, "compact": "norm"}


def check_stages(folder, *models):
    """Weights after a few updates, and the draws in a checkpoint, of some stages and of one process."""
    trained = {"trainer": {"max_steps": 12, "precision": "64-true"}}
    configs = [{**trained, "model": m, "save": str(folder / f"one{n}.ckpt")} for n, m in enumerate(models)]
    (expected,) = run(folder, *configs)
    several = [staged({**c, "save": str(folder / f"all{n}.ckpt")}, 2) for n, c in enumerate(configs)]
    for results in run(folder, *several, processes=2):
        for result, one in zip(results, expected, strict=True):
            assert same(result["weights"], one["weights"]), "the same probes, and so the same bits"
            assert result["metrics"]["train/loss"] == pytest.approx(one["metrics"]["train/loss"])
    for n in range(len(models)):
        one, several = (
            torch.load(folder / f"{name}{n}.ckpt", weights_only=True)["video_task"]["probes"] for name in ("one", "all")
        )
        assert same(one, several)
        assert sum(key[2] > 0 for key in one.values()) >= 2


@SLOW
def test_two_stages_draw_what_one_process_draws(tmp_path):
    """The same bits of every weight (in wiring dense gradients are added in another order, exact ones too)."""
    check_stages(tmp_path, STAGED)


@SLOW
def test_stages_of_every_rule_draw_what_one_process_draws(tmp_path):
    check_stages(
        tmp_path,
        {**STAGED, "rule": "backprop_shifted", "executor": "vectorised"},
        {**STAGED, "rule": "greedy", "head": "cnn"},
        {**STAGED, "update": "frame", "optimizer": "sgd", "probe_mode": "multi"},
        {**STAGED, "stash": "exact", "probe_layers": "all", "probe_warmup": 4},
    )


@SLOW
def test_a_checkpoint_goes_from_stages_to_one_process_and_back(tmp_path):
    config = {"model": STAGED, "trainer": {"max_steps": 20, "precision": "32-true"}}
    path = str(tmp_path / "ten.ckpt")
    whole, _ = run(tmp_path, staged({**config, "save": path}, 2), processes=2)
    ((one,),) = run(tmp_path, {**config, "ckpt_path": path})
    assert relative_error(one["weights"], whole[0]["weights"]) < 1e-5
    ((alone,),) = run(tmp_path, {**config, "save": path})
    for (result,) in run(tmp_path, staged({**config, "ckpt_path": path}, 2), processes=2):
        assert relative_error(result["weights"], alone["weights"]) < 1e-5


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"probes": -1},
            "probes -1; expected 0 (exact), a whole number from 1, or a share of the input's numbers below 1",
        ),
        ({"probes": 2.5}, "probes 2.5; expected 0 (exact), a whole number from 1"),
        ({"probes": float("nan")}, "probes nan; expected 0"),
        ({"probe_schedule": {0: 1.5}}, "probes 1.5; expected 0"),
        (
            {"probe_schedule": {0: 8}, "probes": 4},
            "probe_schedule {0: 8} with probes 4, which it stands for; use --model.probes 0 beside it, or leave",
        ),
        ({"probes": 0.25, "probe_layers": ["auto", "units.1.*"]}, "auto and all stand alone"),
        (
            {"probe_schedule": {0: 8}, "probe_warmup": 4},
            "with probe_warmup 4, which it stands for; use --model.probe_warmup 0 beside it",
        ),
        ({"probe_schedule": {-1: 8}}, "probe_schedule {-1: 8}; updates are counted from 0"),
        ({"probes": 8, "probe_warmup": -1}, "probe_warmup is -1; it must be at least 0"),
        (
            {"probes": 8, "probe_mode": "single"},
            f"probe_mode 'single' is unknown; expected one of {', '.join(MODES)}",
        ),
        ({"probes": 8, "probe_budget_mib": 0}, "probe_budget_mib is 0; it must be above 0"),
        (
            {"probes": 8, "probe_layers": []},
            "probe_layers [] names no convolution; use 'auto', 'all', or names or patterns",
        ),
        (
            {"probes": 8, "probe_layers": ["units.1.conv"]},
            "layer 'units.1.conv' fits no convolution; expected a name or pattern of units.0.body.0, units.1.body.0",
        ),
        ({"compact": "norms"}, "compact 'norms' is unknown; expected one of none, relu, norm"),
        (
            {"probe_warmup": 9},
            "probe_warmup 9 without probes; give probes a number, such as 0.125, or leave probe_warmup",
        ),
        ({"probe_center": False}, "probe_center False without probes"),
        ({"probe_layers": "all"}, "probe_layers 'all' without probes"),
        ({"probe_schedule": {0: 0}}, "probe_schedule {0: 0} without probes"),
        (
            {"probes": 8, "executor": "cuda_graph", "rule": "sideways"},
            "probes 8 with executor 'cuda_graph', whose replays would repeat the same probes; use executor 'pipelined' "
            "or 'vectorised', or probes 0",
        ),
    ],
    ids=str,
)
def test_errors_that_teach(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**options)


@pytest.mark.parametrize("options", [{"probes": 0.125}, {"probe_schedule": {5: 0.125}}], ids=str)
@pytest.mark.parametrize("layers", ["auto", "all"])
def test_a_network_without_convolutions_is_refused(options, layers):
    given = vars(Sketching()) | options | {"probe_layers": layers}
    with pytest.raises(ValueError, match=r"probes 0.125, but this network has no convolution; use --model.probes 0"):
        sketch_network(torch.nn.Sequential(torch.nn.Linear(2, 2)), given, "vectorised")
