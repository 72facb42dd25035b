"""Future frames inside Lightning's Trainer: exact gradients, no leak, one set of scored frames, exact resume."""

import pytest
import torch
from lightning import seed_everything
from moving_clips import MovingClips, MovingData
from test_action_recognition import SKETCHED, Losses, SaveAndStop, same, trainer, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from lightning_modules.execution import clip_gradients
from lightning_modules.execution.clip_loss import leading_targets
from lightning_modules.execution.pipelined import run_pipelined
from lightning_modules.execution.placement import cut
from lightning_modules.execution.slot_tick import SlotTick, run_slots
from lightning_modules.future_frames import FutureFrames
from lightning_modules.horizon import horizons
from lightning_modules.networks import PREDICTOR_WIRINGS
from tests.lightning_modules.execution.reference import relative_error
from tests.lightning_modules.execution.threads import in_stages

SMALL = {"network": "small_autoencoder", "width": 0.25, "in_channels": 1, "horizon": 2}
PIPELINED = {"rule": "sideways", "executor": "pipelined"}
METHODS = {
    "backprop_frame": {"rule": "backprop_frame"},
    "backprop_frame update frame": {"rule": "backprop_frame", "update": "frame", "lr": 3e-3},
    "backprop_shifted unet": {"rule": "backprop_shifted", "wiring": "unet"},
    "skip-sideways": {"rule": "sideways", "wiring": "dense", "lr": 3e-3},
    "backprop_shifted l1_gdl": {"rule": "backprop_shifted", "wiring": "concat", "loss": "l1_gdl"},
    "skip-sideways newest edges": {"rule": "sideways", "wiring": "concat", "gradient_edges": "newest"},
    "skip-sideways unet whole frames": {"rule": "sideways", "wiring": "unet", "predict": "frame"},
    "skip-sideways lead": {"rule": "sideways", "wiring": "unet", "lead": 2, "lr": 3e-3},
    "skip-sideways shortest edges lead": {**PIPELINED, "wiring": "unet", "gradient_edges": "shortest", "lead": 2},
    "pipelined dense": {**PIPELINED, "wiring": "dense"},
    "pipelined stash": {**PIPELINED, "wiring": "residual", "stash": "exact"},
    "pipelined stash shortest edges": {**PIPELINED, "wiring": "unet", "stash": "exact", "gradient_edges": "shortest"},
    "pipelined update frame": {**PIPELINED, "wiring": "input", "update": "frame", "lr": 3e-3},
    "auto-encoding": {"rule": "sideways", "horizon": 0},
    "frozen": {"rule": "backprop_shifted", "wiring": "dense", "train_units": "last"},
    "sketched backprop_shifted": {"rule": "backprop_shifted", "wiring": "unet", **SKETCHED},
    "sketched pipelined": {**PIPELINED, "wiring": "dense", **SKETCHED},
}
ROWS = [("sideways", w) for w in PREDICTOR_WIRINGS] + [("backprop_shifted", "dense"), ("backprop_frame", "chain")]


def model(**options):
    seed_everything(0, verbose=False)
    return FutureFrames(**{**SMALL, "lr": 1e-2, "schedule": "constant", **options})


def batch(clips=3, frames=18, channels=1):
    data = MovingClips(clips, frames, 16, channels)
    found = default_collate([data[0, index] for index in range(clips)])
    return {**found, "video": found["video"].double() / 255}


def figures_of(tmp_path, module):
    """Return the figures of a test, and the module."""
    (figures,) = trainer(tmp_path).test(module, MovingData(), verbose=False)
    return figures


@pytest.mark.parametrize("method", METHODS)
class TestMethodContract:
    """One class that every method passes."""

    def test_learns(self, method, tmp_path):
        losses = Losses()
        fit = trainer(tmp_path, losses, max_epochs=5)
        fit.fit(model(**METHODS[method]), MovingData())
        assert losses.steps[-1] == 10
        assert sum(losses.values[-4:]) < 0.95 * sum(losses.values[:4])  # two epochs each

    def test_continued_equals_uninterrupted(self, method, tmp_path):
        """Stopped in the middle of an epoch, saved, loaded into a fresh module: the same bits."""
        options = {**METHODS[method], "schedule": "onecycle"}
        whole, stopped, continued = (model(**options) for _ in range(3))
        trainer(tmp_path).fit(whole, MovingData())
        trainer(tmp_path, SaveAndStop(3, tmp_path / "mid.ckpt")).fit(stopped, MovingData())
        assert not same(weights(stopped), weights(whole))
        torch.manual_seed(1)
        trainer(tmp_path).fit(continued, MovingData(), ckpt_path=tmp_path / "mid.ckpt", weights_only=True)
        assert same(weights(continued), weights(whole))
        # Frames that the network read: of 8 clips of 18, 17 and 16 frames all but the last K.
        assert continued.frames_seen == whole.frames_seen == 2 * (3 * 18 + 3 * 17 + 2 * 16 - 8 * whole.horizon)

    def test_scores_and_predicts(self, method, tmp_path):
        module = model(**METHODS[method])
        figures = figures_of(tmp_path, module)
        ahead, parts = horizons(module.horizon), ["mse", "mse_sum", "psnr_db", "ssim"]
        own = {f"test/{part}{k}" for part in parts for k in ["", *(f"_{k}" for k in ahead)]}
        bases = {name.replace("test/", f"test/{b}/") for name in own for b in ("copy_last", "mean_last")}
        assert figures.keys() == {"test/loss"} | own | (bases if module.horizon else set())
        first = trainer(tmp_path).predict(module, MovingData())[0]
        n = first.newest_N.shape[0]
        assert first.prediction_BNKCHW.shape == first.target_BNKCHW.shape == (4, n, len(ahead), 1, 16, 16)
        assert first.labels == ["slow", "fast", "slow", "fast"]
        (checked,) = trainer(tmp_path, limit_val_batches=1.0).validate(module, MovingData(), verbose=False)
        assert checked["val/mse"] == pytest.approx(figures["test/mse"])
        if module.horizon:
            assert checked["val/copy_last/mse"] == pytest.approx(figures["test/copy_last/mse"])


def unrolled_loss(module: FutureFrames, of: dict) -> Tensor:
    """Return the loss as the definition says it, tick by tick and clip by clip: nothing of the executors or horizons.

    Unit i at tick t reads its sources' outputs of tick t - 1; the video's frame is there at its own tick.
    """
    network, losses = module.network, []
    depth, shortest = network.depth, min(network.wiring.path_lengths(network.depth))
    for video, length in zip(of["video"], of["length"].tolist(), strict=True):
        sent: dict[tuple[int, int], Tensor] = {(0, t): video[None, t] for t in range(length)}
        for t in range(length - module.horizon):
            for unit in range(1, depth + 1):
                reads = [(j, t if j == 0 else t - 1) for j in network.wiring.sources_of(unit)]
                if all(read in sent for read in reads):
                    sent[unit, t] = network.unit(unit)([sent[read] for read in reads])
            if (depth, t) in sent:
                newest = t - shortest + 1
                ahead = [video[newest + k] - video[newest] for k in range(1, module.horizon + 1)]
                losses.append((sent[depth, t][0] - torch.cat(ahead)).square().mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("wiring", PREDICTOR_WIRINGS)
@pytest.mark.parametrize(
    "options", [{"rule": "backprop_shifted"}, {**PIPELINED, "stash": "exact"}], ids=["shifted", "stash"]
)
def test_exact_rules_equal_autograd_through_the_unrolled_network(wiring, options):
    module, of = model(wiring=wiring, activation="silu", **options).double(), batch()
    nn.init.normal_(list(module.network.parameters())[-2], std=0.1)  # it starts at zero, which stops all gradients
    _, inputs = module.read(of)
    found = clip_gradients(
        module.network, inputs.video_BTCHW, inputs.targets, rule=module.rule, executor=module.executor,
        lengths_B=inputs.lengths_B, loss=module.loss,
    )  # fmt: skip
    loss = unrolled_loss(module, of)
    parameters = dict(module.network.named_parameters())
    expected = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    torch.testing.assert_close(found.loss, loss.detach())
    assert relative_error(found.gradients, expected) < 1e-10


@pytest.mark.parametrize("wiring", PREDICTOR_WIRINGS)
def test_every_executor_finds_the_same(wiring):
    """Targets of their own for each frame, ragged clips: vectorised, pipelined, and the slots of a CUDA graph."""
    module, of = model(wiring=wiring, predict="frame").double(), batch()
    _, inputs = module.read(of)
    given = (module.network, inputs.video_BTCHW, inputs.targets)
    options = {"rule": module.rule, "lengths_B": inputs.lengths_B, "loss": module.loss}
    first, second = (clip_gradients(*given, executor=e, **options) for e in ("vectorised", "pipelined"))
    assert relative_error(first.gradients, second.gradients) < 1e-10
    slots = SlotTick(module.network, module.loss, inputs.video_BTCHW[:, 0], inputs.targets[:, 0])
    ours = run_slots(slots, slots, *given[1:], module.rule, inputs.lengths_B)
    theirs, _ = run_pipelined(*given, module.rule, inputs.lengths_B, module.loss)
    assert relative_error(ours.gradients, theirs.gradients) < 1e-10
    torch.testing.assert_close(ours.logits_BNK, theirs.logits_BNK)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 3, 2)], ids=str)
def test_three_stages_equal_one_process(sizes):
    """Skips over a whole stage, shortest edges, a lead, targets of each frame, ragged clips; stages are threads."""
    options = {"wiring": "unet", "gradient_edges": "shortest", "lead": 2, **PIPELINED}
    module, of = model(**options).double(), batch()
    nn.init.normal_(list(module.network.parameters())[-2], std=0.1)  # it starts at zero, which stops all gradients
    _, inputs = module.read(of)
    given = {"rule": module.rule, "executor": "pipelined", "lengths_B": inputs.lengths_B, "loss": module.loss}
    one = clip_gradients(module.network, inputs.video_BTCHW, inputs.targets, **given)

    def work(mine, stage):
        video = inputs.video_BTCHW if stage.has_video else inputs.video_BTCHW.to("meta")
        targets = inputs.targets if stage.has_output else inputs.targets.to("meta")
        return clip_gradients(mine, video, targets, stage=stage, **given)

    results = [found for _, found in in_stages(module.network, cut(module.network.wiring, sizes), work)]
    assert relative_error({n: g for found in results for n, g in found.gradients.items()}, one.gradients) < 1e-12
    torch.testing.assert_close(results[-1].loss, one.loss)
    torch.testing.assert_close(results[-1].logits_BNK, one.logits_BNK)


class Newest(nn.Module):
    """Stands for a unit's merge: hands on the message that has seen the newest frame."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, messages: list[Tensor]) -> Tensor:
        return messages[self.place]


class Copies(nn.Module):
    """Stands for the last unit's function: says its input at every horizon."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.repeat(1, SMALL["horizon"], 1, 1)


def copying(**options) -> FutureFrames:
    """Return a task whose network can do nothing but copy the newest frame that reaches its output."""
    module = model(predict="frame", **options)
    wiring = module.network.wiring
    for unit in range(1, wiring.depth + 1):
        lengths = [min(wiring.path_lengths(j)) for j in wiring.sources_of(unit)]
        made = module.network.unit(unit)
        made.merge, made.body = Newest(lengths.index(min(lengths))), nn.Identity()
    made.body = Copies()
    made.register_parameter("unused", nn.Parameter(torch.zeros(1)))  # tells the type of weights
    return module


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
@pytest.mark.parametrize(("rule", "wiring"), ROWS)
def test_a_copy_of_the_newest_input_scores_as_copy_last(rule, wiring, executor, tmp_path):
    """No leak: whatever the skips bring, a network that copies it is no better than copying the last frame."""
    if executor == "pipelined" and rule != "sideways":
        pytest.skip("this rule waits for the whole clip")
    figures = figures_of(tmp_path, copying(rule=rule, wiring=wiring, executor=executor))
    scores = {name: value for name, value in figures.items() if name.count("/") == 1 and name != "test/loss"}
    assert len(scores) == 12
    for name, value in scores.items():
        assert value == figures[name.replace("test/", "test/copy_last/")], name


def test_every_row_is_scored_on_the_same_frames(tmp_path):
    """And an untrained network that says a change says none: it is copy-last, before any training."""
    rows = {}
    for rule, wiring in ROWS:
        module = model(rule=rule, wiring=wiring)
        figures = figures_of(tmp_path, module)
        baselines = {name: value for name, value in figures.items() if "_last/" in name}
        found = trainer(tmp_path).predict(module, MovingData())
        frames = [(clip.clip_id, clip.frames) for part in found for clip in part]
        rows[rule, wiring] = (baselines, frames, module.scored)
        assert figures["test/mse"] == figures["test/copy_last/mse"]
    first = rows[ROWS[0]]
    assert all(row == first for row in rows.values())
    # D = 6, K = 2: newest frames 5 to T - K - D, T = 18, 17, 16.
    assert first[1][:3] == [("clip0@0", [5, 6, 7, 8, 9, 10]), ("clip1@0", [5, 6, 7, 8, 9]), ("clip2@0", [5, 6, 7, 8])]
    assert first[2] == {"clips": 8, "frames": 3 * 6 + 3 * 5 + 2 * 4, "frechet": None}


def test_auto_encoding_is_asked_for_the_newest_frame_itself(tmp_path):
    module = model(horizon=0, wiring="concat")
    part = trainer(tmp_path).predict(module, MovingData())[0]
    for n, m in enumerate(part.newest_N.tolist()):
        assert torch.equal(part.target_BNKCHW[:, n, 0], part.context_BTCHW[:, m])
    assert module.artifact()["predict"] == "frame"


def test_the_frechet_distance_is_of_a_named_extractor(tmp_path):
    module = model(frechet="pixels")
    figures = figures_of(tmp_path, module)
    # It starts as a copy of the last frame, and both are asked the same.
    assert figures["test/frechet"] == pytest.approx(figures["test/copy_last/frechet"])
    assert 0 < figures["test/frechet"] != pytest.approx(figures["test/mean_last/frechet"])
    about = module.artifact()
    assert about["frechet"] == {"extractor": "pixels", "samples": 41}
    assert about["protocols"].keys() == {"mse", "mse_sum", "psnr_db", "ssim", "frechet"}
    assert about["scored_frames"] == "newest frames D-1 to l-K-D of each clip of l frames, counted from 0"


class FakeLpips(nn.Module):
    """Stands for torchmetrics' metric, whose weights would have to be downloaded: a sum of mean absolute errors."""

    def forward(self, said: Tensor, true: Tensor) -> Tensor:
        return (said - true).abs().flatten(1).mean(1).sum()

    def reset(self) -> None:
        """Keep nothing."""


def test_lpips_of_the_network_and_of_the_baselines(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("lightning_modules.metrics.lpips._network", lambda name: made.append(name) or FakeLpips())
    module = model(lpips="vgg")
    figures = figures_of(tmp_path, module)
    for name in ("lpips_1", "lpips_2", "lpips"):
        assert figures[f"test/{name}"] == pytest.approx(figures[f"test/copy_last/{name}"])
        assert figures[f"test/mean_last/{name}"] > figures[f"test/{name}"] > 0
    assert made == ["vgg"], "the baselines share the image network"
    assert "network vgg" in module.artifact()["protocols"]["lpips"]


def test_lpips_weights_are_looked_for_before_the_training(tmp_path, monkeypatch):
    def offline(name):
        raise ValueError("no connection")

    monkeypatch.setattr("lightning_modules.metrics.lpips._network", offline)
    module = model(lpips="vgg")
    monkeypatch.setattr(module, "training_step", lambda *_: pytest.fail("trained first"))
    with pytest.raises(ValueError, match="no connection"):
        trainer(tmp_path).fit(module, MovingData())
    trainer(tmp_path).predict(module, MovingData(clips=1))  # which needs none


def test_backprop_frame_is_compared_with_what_the_pipeline_may_be_asked_for(tmp_path):
    """The reference's output i has seen frame i + D - Lmin: the targets of frame i would be frames that it has seen."""
    module = model(rule="backprop_frame", wiring="unet", log_gradients_every=1)
    _, inputs = module.read(of := batch())
    seen = []

    def watching(*given, rule, **options):
        seen.append((rule.name, given[2]))
        return clip_gradients(*given, rule=rule, **options)

    with pytest.MonkeyPatch.context() as patch:
        for file in ("video_task", "gradient_logs"):
            patch.setattr(f"lightning_modules.{file}.clip_gradients", watching)
        trainer(tmp_path, max_epochs=1, limit_train_batches=1).fit(module, MovingData())
    (own, own_targets), (reference, targets) = seen
    assert (own, reference) == ("backprop_frame", "backprop_shifted")
    pipelined = model(rule="backprop_shifted", wiring="unet")
    assert not torch.equal(own_targets, targets)
    # Six units, Lmin 2: the first output has seen frame 4.
    assert torch.equal(pipelined.read(of)[1].targets[:, 0], inputs.targets[:, 4])
    assert torch.equal(targets[:, :8], own_targets[:, 4:12])


@pytest.mark.filterwarnings("ignore:predict returned None")
def test_a_batch_without_clips_is_not_scored(tmp_path):
    class Emptied(MovingData):
        def test_dataloader(self):
            first, second = super().test_dataloader()
            none = {"video": second["video"][:0], "label": second["label"][:0], "length": second["length"][:0]}
            return DataLoader([first, {**none, "clip_id": []}], batch_size=None, collate_fn=dict)

        val_dataloader = predict_dataloader = test_dataloader

    module = model()
    (figures,) = trainer(tmp_path).test(module, Emptied(), verbose=False)
    assert module.scored["clips"] == 4
    assert figures["test/mse"] > 0
    trainer(tmp_path, limit_val_batches=1.0).validate(module, Emptied(), verbose=False)
    assert [found and len(found) for found in trainer(tmp_path).predict(module, Emptied())] == [4, None]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"stream": True}, "--data.stream false"),
        ({"frames": 12}, r"2 x 6 - 1 \+ 2 = 13 .* --data.frames 13 or more"),
        ({"size": 18}, r"18 x 18 pixels.*--data.size 16"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_any_is_read(data, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        trainer(tmp_path).fit(model(), MovingData(**data))


@pytest.mark.parametrize(
    ("options", "data", "says"),
    [
        ({}, {"size": 8}, r"8 x 8 pixels; SSIM's window needs at least 11 x 11"),
        ({"lpips": "alex"}, {}, r"16 x 16 pixels; lpips 'alex' takes 1 or 3 channels and at least 32 x 32"),
        ({"lpips": "vgg", "in_channels": 2}, {"channels": 2}, r"frames of 2 channels .* lpips 'vgg' takes 1 or 3"),
        # 18 - 2 frames are read. On the chain the first target is that of frame 0, the last that of frame 15.
        ({"lead": 15}, {}, r"is 15 frames newer than the first .*use --model.lead 14 or less"),
        ({"lead": 11, "wiring": "unet"}, {}, r"is 11 frames newer than the first .*use --model.lead 10 or less"),
    ],
)
def test_what_a_metric_or_a_lead_needs_of_the_data_is_checked_before_any_is_read(options, data, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        trainer(tmp_path).fit(model(**options), MovingData(**data))


def test_the_largest_lead_has_a_first_message_of_its_own(tmp_path):
    """As `lead` is counted where it is used: the message of the first output is not about the last target yet."""
    module, of = model(lead=10, wiring="unet"), batch(clips=1)
    module.check_data(MovingData(), trainer(tmp_path), training=True)
    _, inputs = module.read(of)
    last = inputs.targets[:, -1]
    assert not torch.equal(leading_targets(inputs.targets, 1, 10), last)
    assert torch.equal(leading_targets(inputs.targets, 1, 11), last)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lpips": "squeeze"}, "none, alex, vgg"),
        ({"frechet": "nowhere.Net"}, "can't be imported"),
        ({"saved_clips": -1}, "0 for none"),
        ({"loss": "l2"}, "mse, l1_gdl"),
        ({"predict": "delta"}, "change, frame"),
        ({"rule": "backprop"}, "'backprop_frame', 'backprop_shifted' or 'sideways'"),
    ],
)
def test_options_that_do_not_exist(options, says):
    with pytest.raises(ValueError, match=says):
        model(**options)


def test_a_checkpoint_loads_weights_only(tmp_path):
    module = model(wiring="unet")
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(module, MovingData())
    fit.save_checkpoint(tmp_path / "one.ckpt")
    loaded = FutureFrames.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert same(weights(loaded), weights(module))
    assert loaded.hparams == module.hparams
