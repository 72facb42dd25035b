"""The task LongMemory in the Trainer: every method learns, goes on where it stopped, is scored; errors teach."""

from types import SimpleNamespace

import pytest
import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from test_action_recognition import SaveAndStop, same, trainer
from toy_memory import CPU, Held, HeldSource, Recall, seeded

from datamodules.add_sequences import AddSequences
from datamodules.copy_sequences import CopySequences
from datamodules.long_streams import LongStreamData
from lightning_modules import long_memory
from lightning_modules.long_memory import LongMemory
from lightning_modules.memory.reading import read_run

SMALL = {"hidden": 16, "context_width": 16, "predictor_width": 16, "lr": 1e-2, "rollout": 4, "k": 2}
TRUNCATED = {"rule": "truncated_backprop"}
ENTROPY = {"detector_updates": 5}
METHODS = {
    "entropy": ENTROPY,
    "entropy gru": {**ENTROPY, "memory": "gru", "chrono": 12, "layers": 2, "predict_every": 2, "context": 2},
    "gumbel": {**ENTROPY, "select": "gumbel_top_k"},
    "surprise": {"detector": "surprise", "ema_decay": 0.5},
    "oracle": {"detector": "oracle", "select": "top_k+current", "k": 1, "lr": 3e-2, "predict_every": 1, "chrono": 12},
    "current": {"select": "current", "detector_updates": 0},
    "memup transformer": {**ENTROPY, "memory": "transformer"},
    "truncated": {**TRUNCATED, "optimizer": "sgd", "lr": 0.1},
    "truncated transformer": {**TRUNCATED, "memory": "transformer"},
    "full": {"rule": "full_backprop", "memory": "gru"},
}


class Bars(LongStreamData):
    """Frames: a bar at the left or right at first, asked for at the bright last frame; noise in between."""

    dataset_name, split_name, input_kind, channels, size = "bars", "toy", "frames", 1, 8

    def __init__(self, steps=10, lengths=None, **options):
        self.lengths = torch.tensor(lengths or [steps] * 16)
        streams = dict.fromkeys(("train_streams", "val_streams", "test_streams"), len(self.lengths))
        super().__init__(steps, steps - 2, 1, **{"batch_size": 8, **streams} | options)
        self.class_names = ["left", "right", "dark"]

    def settings(self):
        return {}

    def source(self, split):
        return HeldSource(self.lengths.tolist(), self.made)

    def made(self, indices):
        sides = torch.tensor(indices) % 2
        x = torch.randint(40, (16, self.steps, 1, 8, 8), generator=seeded()).byte()[list(indices)]
        x[torch.arange(len(indices)), 0, 0, :, sides * 6] = 200
        lanes, lengths = torch.arange(len(indices)), self.lengths[list(indices)]
        x[lanes, lengths - 1] = 255
        y = torch.full((len(indices), self.steps), 2)
        y[:, 0] = y[lanes, lengths - 1] = sides
        return Held(x, y, lengths_B=lengths, ids=[f"bars-{index}" for index in indices])


FRAMES = {**ENTROPY, "encoder": "detached", "network": "small_cnn", "depth": 3, "width": 0.25, "projections": 4}
VIDEO_METHODS = {
    "detached": FRAMES,
    "frozen": {**FRAMES, "encoder": "frozen"},
    "joint": {**FRAMES, "encoder": "joint", "detector": "surprise"},
    "sideways": {**FRAMES, "encoder": "sideways", "wiring": "concat"},
    "sideways truncated": {**FRAMES, **TRUNCATED, "encoder": "sideways"},
}
ALL = {**METHODS, **VIDEO_METHODS}


def model(data, **options):
    seed_everything(0, verbose=False)
    facts = {"num_classes": data.num_classes, "in_channels": data.channels, "input_kind": data.input_kind}
    return LongMemory(**{**SMALL, **facts, **options})


def told(data, module):
    """Tell the data the rollout, as the command line does."""
    data.rollout = module.rollout
    return data


def fitted(tmp_path, options, *callbacks, data=None, **trainer_options):
    data = Recall() if data is None else data
    module = model(data, **options)
    fit = trainer(tmp_path, *callbacks, **{"max_epochs": 2, **trainer_options})
    fit.fit(module, told(data, module))
    return module, fit


def data_of(method):
    return Bars() if method in VIDEO_METHODS else Recall()


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class Figures(Callback):
    """What was logged at every step, by name."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_end(self, trainer, *_):
        for name, value in trainer.callback_metrics.items():
            self.seen.setdefault(name, []).append((trainer.global_step, value.item()))


@pytest.mark.parametrize("method", ALL)
class TestMethodContract:
    """One class that every method passes."""

    def test_learns(self, method, tmp_path):
        figures = Figures()
        fitted(tmp_path, ALL[method], figures, data=data_of(method), max_epochs=7)
        losses = [value for _, value in figures.seen["train/loss"]]
        assert sum(losses[-6:]) < 0.8 * sum(losses[:6])

    def test_continued_equals_uninterrupted(self, method, tmp_path):
        """Stopped while the detector learns, and in the middle of streams: the same bits."""
        options = {**ALL[method], "schedule": "onecycle"}
        whole, fit = fitted(tmp_path, options, data=data_of(method))
        batches = fit.num_training_batches
        for stop in (batches // 2, batches + batches // 2):
            path = tmp_path / f"{stop}.ckpt"
            stopped, _ = fitted(tmp_path, options, SaveAndStop(stop, path), data=data_of(method))
            assert not same(weights(stopped), weights(whole))
            data = data_of(method)
            continued, going_on = model(data, **options), trainer(tmp_path)
            torch.manual_seed(1)
            going_on.fit(continued, told(data, continued), ckpt_path=path, weights_only=True)
            assert same(weights(continued), weights(whole)), stop
            assert going_on.global_step == fit.global_step == 2 * batches
            assert continued.frames_seen == whole.frames_seen

    def test_is_scored(self, method, tmp_path):
        data = data_of(method)
        module = model(data, **ALL[method])
        logged = trainer(tmp_path).test(module, told(data, module), verbose=False)[0]
        assert 0 <= logged["test/top1"] <= 1
        assert logged["test/loss"] > 0
        assert ("test/detector_precision" in logged) == (module.detector is not None)


class Snapshots(Callback):
    """The weights after every update."""

    def __init__(self):
        self.taken = []

    def on_train_start(self, trainer, pl_module):
        self.taken.append(weights(pl_module))

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.taken.append(weights(pl_module))

    def moves(self, prefix):
        """Updates that changed a weight whose name begins so, counted from 1."""
        return [
            update
            for update, (before, after) in enumerate(zip(self.taken, self.taken[1:], strict=False), start=1)
            if any(not torch.equal(after[name], before[name]) for name in after if name.startswith(prefix))
        ]


def test_the_local_model_learns_first_and_is_then_frozen(tmp_path):
    """Weight decay would move it too, were it given a gradient of zeros."""
    taken, figures = Snapshots(), Figures()
    fitted(tmp_path, {"detector_updates": 4, "weight_decay": 0.1}, taken, figures)
    assert taken.moves("local_model") == [1, 2, 3, 4]
    assert taken.moves("network") == list(range(5, 13))
    assert figures.seen["train/loss"][0][0] == 5


@pytest.mark.parametrize("encoder", ["detached", "sideways"])
def test_an_encoder_learns_as_long_as_it_is_told_and_the_local_model_with_it(encoder, tmp_path):
    taken, options = Snapshots(), {**FRAMES, "encoder": encoder, "detector_updates": 2, "encoder_updates": 4}
    fitted(tmp_path, options, taken, data=Bars())
    assert taken.moves("encoder") == taken.moves("local_model") == [1, 2, 3, 4]
    assert taken.moves("network") == list(range(3, 13))


@pytest.mark.parametrize("encoder", ["frozen", "joint"])
def test_an_encoder_that_does_not_learn_alone_stays_or_learns_with_memory(encoder, tmp_path):
    taken = Snapshots()
    fitted(tmp_path, {**FRAMES, "encoder": encoder, "detector_updates": 2}, taken, data=Bars())
    assert taken.moves("encoder") == ([] if encoder == "frozen" else list(range(3, 13)))
    assert taken.moves("local_model") == ([1, 2] if encoder == "frozen" else list(range(1, 13))), (
        "it goes with its input"
    )


def test_followers_follow_at_every_update(tmp_path):
    taken = Snapshots()
    fitted(tmp_path, {"detector": "surprise", "ema_decay": 0.75}, taken)
    for before, after in zip(taken.taken, taken.taken[1:], strict=False):
        for name in after:
            if name.startswith("network."):
                copy = name.replace("network.", "followers.copy.", 1)
                torch.testing.assert_close(after[copy], 0.75 * before[copy] + 0.25 * after[name])
    assert taken.moves("followers.copy") == list(range(1, 13))


def test_current_steps_need_no_detector_and_wait_for_none(tmp_path):
    """select current looks nowhere: memory learns from the first update on, whatever detector_updates says."""
    taken = Snapshots()
    fitted(tmp_path, {"select": "current", "detector_updates": 300}, taken)
    assert taken.moves("network") == list(range(1, 13))


def test_current_steps_are_the_moments_alone():
    """prediction without looking ahead: with moments at every step, the rule is truncated backprop's."""
    data = Recall()
    rows = torch.arange(8)
    losses = []
    for options in ({"select": "current", "predict_every": 1, "detector_updates": 0}, TRUNCATED):
        module = model(data, **options)
        batch = {"lanes": data.made(rows.tolist()), "new": torch.ones(8, dtype=torch.bool)}
        losses.append(loss_of(module, batch, start=0, length=4))
    assert losses[0] == pytest.approx(losses[1])


def loss_of(module, batch, *, start, length):
    """The loss of one rollout outside the Trainer."""
    lanes = len(batch["new"])
    start_B, length_B = torch.full((lanes,), start), torch.full((lanes,), length)
    module._trainer = SimpleNamespace(global_step=10**6)
    module.manual_backward = lambda loss: None
    run = read_run(module.encoder, batch["lanes"], start_B, 4, CPU)
    return module._teach_memory(batch, run, start_B, length_B)["train/loss"].item()


@pytest.mark.parametrize("select", ["top_k", "gumbel_top_k", "top_k+current"])
def test_k_may_be_all_of_the_stream(select, tmp_path):
    """With top_k+current too, where K + 1 steps are asked for."""
    fitted(tmp_path, {**ENTROPY, "select": select, "k": 12}, max_epochs=1)


@pytest.mark.parametrize("method", ["entropy", "surprise", "full", "truncated transformer"])
def test_streams_of_different_lengths(method, tmp_path):
    """Lanes go together, and end one after the other; the shortest stream ends in its first rollout."""
    lengths = (3, 5, 9, 14, 7, 6, 11, 4, 13, 10)
    options = {**METHODS[method], "k": 2}
    taken = Snapshots()
    data = Recall(lengths, batch_size=4, stagger=False)
    module, _ = fitted(tmp_path, options, taken, data=data)
    assert module.frames_seen == 2 * sum(lengths)
    assert all(p.isfinite().all() for p in taken.taken[-1].values())
    assert taken.moves("network")
    logged = trainer(tmp_path).test(module, data, verbose=False)[0]
    assert 0 <= logged["test/top1"] <= 1


@pytest.mark.parametrize("encoder", ["detached", "sideways", "joint"])
def test_videos_of_different_lengths(encoder, tmp_path):
    """Some end before the pipeline's first answer, some lanes are over while the others go on."""
    taken, data = Snapshots(), Bars(lengths=(2, 9, 10, 5, 3, 7, 1, 6), batch_size=4, stagger=False)
    module, _ = fitted(tmp_path, {**FRAMES, "encoder": encoder, "k": 1}, taken, data=data)
    assert module.frames_seen == 2 * 43
    assert all(p.isfinite().all() for p in taken.taken[-1].values())
    assert taken.moves("encoder")
    assert taken.moves("network")


@pytest.mark.parametrize("method", ["entropy", "surprise"])
def test_a_group_of_streams_shorter_than_k(method, tmp_path):
    """K is more than the four shortest streams have, and not more than the longest has: all their steps are chosen."""
    data = Recall((5, 5, 5, 5, 14, 14, 14, 14), batch_size=4, stagger=False)
    module, _ = fitted(tmp_path, {**METHODS[method], "k": 8}, data=data)
    logged = trainer(tmp_path).test(module, data, verbose=False)[0]
    assert 0 <= logged["test/detector_recall"] <= 1


@pytest.mark.parametrize("memory", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize("context", [1, 3])
def test_whole_streams_are_answered_as_in_one_pass(memory, context, monkeypatch):
    """In pieces of five steps, and lane by lane; the answers stand anywhere, and lanes have different numbers."""
    data = CopySequences(gap=9, symbols=3)
    module = model(data, memory=memory, context=context, window=4 if memory == "transformer" else None)
    lanes = data.source("test").lanes([(0, index) for index in range(4)])
    lanes.answers_BA = torch.tensor([[0, 7, 14], [13, 14, -1], [5, -1, -1], [4, 5, 9]])
    whole, targets = module.answers(lanes)
    monkeypatch.setattr(long_memory, "PIECE", 5)
    pieces, again = module.answers(lanes)
    torch.testing.assert_close(pieces, whole)
    assert torch.equal(again, targets)
    x, y = lanes.read(torch.arange(15).expand(4, 15))
    features = torch.nn.functional.one_hot(x, data.channels).float()
    features = torch.nn.functional.pad(features, (0, 0, context - 1, 0))
    said, *_ = module.network.at_each_step(features, module.network.memory.initial(4, features))
    for lane, answers in enumerate(lanes.answers_BA.tolist()):
        for j, answer in enumerate(answers):
            if answer >= 0:
                torch.testing.assert_close(whole[lane, j], said[lane, answer])
                assert targets[lane, j] == y[lane, answer]
            else:
                assert targets[lane, j] == -100


@pytest.mark.parametrize("encoder", ["detached", "sideways"])
def test_frames_are_answered_in_pieces_as_in_one_pass(encoder, monkeypatch):
    data = Bars()
    module = model(data, **{**FRAMES, "encoder": encoder, "wiring": "dense"})
    lanes = data.made(range(6))
    whole, _ = module.answers(lanes)
    monkeypatch.setattr(long_memory, "PIECE", 3)
    torch.testing.assert_close(module.answers(lanes)[0], whole, rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_the_answers(tmp_path):
    data = CopySequences(gap=5, symbols=3, test_streams=20, batch_size=8)
    module = model(data)
    lanes = data.source("test").lanes([(0, index) for index in range(20)])
    outputs, targets = module.answers(lanes)
    logged = trainer(tmp_path).test(module, told(data, module), verbose=False)[0]
    loss = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
    assert logged["test/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert logged["test/top1"] == pytest.approx((outputs.argmax(-1) == targets).float().mean().item())
    assert logged["test/chance"] == pytest.approx(1 / 8), "no blank is asked for at a scored step"
    rows = trainer(tmp_path).predict(module, data)
    names = [name for part in rows for name in part["clip_id"]]
    assert sorted(names) == sorted(f"test-0-{i}@{step}" for i in range(20) for step in (8, 9, 10))
    scores = dict(zip(names, torch.cat([part["scores"] for part in rows]), strict=True))
    torch.testing.assert_close(scores["test-0-13@9"], outputs[13, 1].softmax(-1))
    labels = dict(zip(names, torch.cat([part["label"] for part in rows]).tolist(), strict=True))
    assert labels["test-0-13@9"] == targets[13, 1]


@pytest.mark.parametrize(("detector", "share"), [("oracle", 1.0), ("surprise", None)])
def test_the_detectors_precision_and_recall_are_of_the_scored_steps(detector, share, tmp_path):
    """K = 2 of three scored steps: precision is of what was chosen, recall of what is scored."""
    data = CopySequences(gap=5, symbols=3, test_streams=8, batch_size=8)
    module = model(data, detector=detector)
    logged = trainer(tmp_path).test(module, told(data, module), verbose=False)[0]
    lanes = data.source("test").lanes([(0, index) for index in range(8)])
    _, chosen = module.choices(lanes)
    hits = sum(
        step in row for row, steps in zip(lanes.answers_BA.tolist(), chosen.tolist(), strict=True) for step in steps
    )
    assert logged["test/detector_precision"] == pytest.approx(hits / 16)
    assert logged["test/detector_recall"] == pytest.approx(hits / 24)
    assert share is None or hits == 16


def test_validation_in_the_middle_of_streams_changes_nothing(tmp_path):
    plain, validated = (
        weights(fitted(tmp_path, ENTROPY, limit_val_batches=limit, val_check_interval=2)[0]) for limit in (0, 1.0)
    )
    assert same(plain, validated)


def test_a_seed_gives_the_same_bits_and_loader_processes_change_nothing(tmp_path):
    options = METHODS["gumbel"]
    one, again, two = (
        weights(
            fitted(
                tmp_path, options, data=CopySequences(gap=6, symbols=2, train_streams=16, batch_size=8, num_workers=n)
            )[0]
        )
        for n in (0, 0, 2)
    )
    assert same(one, again)
    assert same(one, two)


def test_full_backprop_is_truncated_backprop_over_rollouts_of_whole_streams(tmp_path):
    """The same streams a batch: 12 steps in one rollout, or in a rollout that is as long."""
    full, long = (
        weights(fitted(tmp_path, {"rule": rule, "rollout": 12})[0]) for rule in ("full_backprop", "truncated_backprop")
    )
    short = weights(fitted(tmp_path, {**TRUNCATED, "rollout": 4})[0])
    assert same(full, long)
    assert not same(full, short)


def test_what_is_carried_is_what_the_rollouts_before_left(tmp_path):
    """With weights that stay, each batch's loss is that of whole streams: the state goes on till they end."""
    losses = Figures()
    data = Recall((11,) * 16)
    module, _ = fitted(tmp_path, {**TRUNCATED, "lr": 0.0}, losses, data=data, max_epochs=1)
    expected, state = [], {}
    batches = iter(told(data, module).train_dataloader())
    for batch in batches:
        steps, losses_here = batch["start"][:, None] + torch.arange(4), []
        for lane in range(8):
            one = batch["lanes"].only(torch.tensor([lane]))
            if batch["new"][lane]:
                state[lane] = module.network.memory.initial(1, torch.zeros(1))
            for step in steps[lane, : batch["length"][lane]].tolist():
                x, y = one.read(torch.tensor([[step]]))
                outputs, _, state[lane] = module.network.at_each_step(module.encoder(x), state[lane])
                losses_here.append(torch.nn.functional.cross_entropy(outputs[0], y[0]))
        expected.append(torch.stack(losses_here).mean().item())
    assert [value for _, value in losses.seen["train/loss"]] == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) > 3


def test_numbers_are_learnt_and_scored_by_their_squared_error(tmp_path):
    data = AddSequences(gap=6, train_streams=64, val_streams=32, test_streams=32, batch_size=16)
    module, _ = fitted(
        tmp_path, {"detector_updates": 60, "rollout": 7, "k": 1}, data=data, max_epochs=40, limit_val_batches=1.0
    )
    assert (module.score_metric, module.score_mode) == ("val/mse", "min")
    logged = trainer(tmp_path).test(module, data, verbose=False)[0]
    outputs, targets = module.answers(data.source("test").lanes([(0, index) for index in range(32)]))
    assert logged["test/mse"] == pytest.approx((outputs[..., 0] - targets).square().mean().item(), rel=1e-4)
    assert logged["test/mse"] < 0.12, "1 / 6 is what the mean scores"
    assert "test/top1" not in logged
    assert logged["test/detector_precision"] == 1.0


class SmallSums(AddSequences):
    """Sums of a hundredth: what is left open is a spread of 0.004, whose differential entropy is far below 0."""

    def source(self, split):
        made = super().source(split)
        lanes_of = made.lanes

        def lanes(keys):
            lanes = lanes_of(keys)
            lanes.sum_B = lanes.sum_B / 100
            return lanes

        made.lanes = lanes
        return made


def test_small_numbers_are_not_taken_for_certain_ones(tmp_path):
    """A differential entropy has no zero: it says nothing of certainty without the numbers' scale."""
    data = SmallSums(gap=6, train_streams=64, val_streams=0, batch_size=16)
    module = model(data, rollout=7, k=1, detector_updates=2)
    with torch.no_grad():
        module.local_model.head.bias[1] = -11.0  # as training ends: the log of 0.004 squared
    trainer(tmp_path, max_epochs=1).fit(module, told(data, module))
    assert module.trainer.global_step == 4


REMEMBERING = {"rollout": 4, "k": 1, "predict_every": 1, "detector_updates": 20, "lr": 3e-2}


def recall(tmp_path, epochs=10, **options):
    """The share of right answers: a symbol 15 steps before the question, gradients through 4."""
    data = Recall((16,) * 32)
    module, _ = fitted(tmp_path, {**REMEMBERING, **options}, data=data, max_epochs=epochs)
    return trainer(tmp_path).test(module, data, verbose=False)[0]["test/top1"]


@pytest.mark.parametrize("memory", ["lstm", "gru"])
def test_memup_remembers_beyond_its_rollout_and_truncated_backprop_does_not(memory, tmp_path):
    """One half is chance."""
    assert recall(tmp_path, memory=memory, chrono=16) == 1.0
    assert recall(tmp_path, memory=memory, chrono=16, **TRUNCATED) <= 0.75


@pytest.mark.slow
def test_the_transformer_forgets_what_its_window_no_longer_holds(tmp_path):
    assert recall(tmp_path, memory="transformer", detector="oracle") == 0.5
    assert recall(tmp_path, memory="transformer", rule="full_backprop", window=16, lr=1e-2, epochs=60) == 1.0


def alone(**trainer_facts):
    return SimpleNamespace(**{"strategy": SimpleNamespace(), "world_size": 1, **trainer_facts})


CHECKS = {
    "rollout beyond the stream": (
        {"rollout": 13},
        {},
        "rollout is 13, and the longest stream has 12 steps; use --model.rollout 12 or less",
    ),
    "k beyond the stream": ({"k": 13}, {}, "k is 13, and the longest stream has 12 steps; use --model.k 12 or less"),
    "two processes": (
        {},
        {"world_size": 2},
        "with 2 processes; leave --trainer.strategy out, with --trainer.devices 1",
    ),
    "stages": ({}, {"strategy": SimpleNamespace(makes_a_team=True)}, "works in one process, given strategy Simple"),
}


@pytest.mark.parametrize("case", CHECKS)
def test_what_does_not_fit_the_data_says_so_before_any_is_read(case):
    options, facts, message = CHECKS[case]
    data = Recall()
    with pytest.raises(ValueError, match=message):
        model(data, **options).check_data(data, alone(**facts), training=True)


def test_clips_are_refused():
    with pytest.raises(ValueError, match="read anywhere, and SimpleNamespace gives clips"):
        model(Recall()).check_data(SimpleNamespace(), alone(), training=True)


@pytest.mark.parametrize(
    "options", [{"rule": "full_backprop", "rollout": 99}, {"select": "current", "k": 99}, {"rollout": 12, "k": 12}]
)
def test_what_fits_is_not_refused(options):
    data = Recall()
    model(data, **options).check_data(data, alone(), training=True)


def test_a_sideways_encoder_needs_rollouts_in_which_its_lowest_unit_learns():
    data = Bars()
    sideways = {**FRAMES, "encoder": "sideways", "depth": 4}
    message = "rollout 3 with encoder 'sideways' of 4 units, .*; use --model.rollout 4 or more, or --model.depth 3"
    with pytest.raises(ValueError, match=message):
        model(data, **sideways, rollout=3).check_data(data, alone(), training=True)
    model(data, **sideways, rollout=3).check_data(data, alone(), training=False)
    model(data, **sideways, rollout=4).check_data(data, alone(), training=True)
    model(data, **{**sideways, "depth": 3}, rollout=3).check_data(data, alone(), training=True)


def test_the_shortest_rollout_that_is_allowed_teaches_every_unit(tmp_path):
    taken, options = Snapshots(), {**FRAMES, "encoder": "sideways", "rollout": FRAMES["depth"]}
    fitted(tmp_path, options, taken, data=Bars(12), max_epochs=1)
    for unit in range(FRAMES["depth"]):
        assert taken.moves(f"encoder.network.units.{unit}."), unit


SETTINGS = {
    "rule": ({"rule": "magic"}, "rule 'magic' is unknown; expected one of memup, truncated_backprop, full_backprop"),
    "detector": ({"detector": "magic"}, "detector 'magic' is unknown; expected one of entropy, surprise, oracle"),
    "select": ({"select": "magic"}, "select 'magic' is unknown"),
    "memory": ({"memory": "magic"}, "memory 'magic' is unknown; expected one of lstm, gru, transformer"),
    "encoder": ({"encoder": "magic"}, "encoder 'magic' is unknown; expected one of frozen, detached, sideways, joint"),
    "network": ({"network": "magic"}, "network 'magic' is unknown"),
    "input_kind": ({"input_kind": "magic"}, "input_kind 'magic' is unknown; expected one of symbols, vectors, frames"),
    "rollout": ({"rollout": 0}, "rollout is 0; expected 1 or more: --model.rollout 1"),
    "k": ({"k": 0}, "k is 0; expected 1 or more: --model.k 1"),
    "context": ({"context": 0}, "context is 0; expected 1 or more"),
    "predict_every": ({"predict_every": 0}, "predict_every"),
    "window of none": ({"window": 0, "memory": "transformer"}, "window"),
    "window": ({"window": 4}, "window 4 with memory 'lstm', which has none; leave --model.window out"),
    "chrono": ({"chrono": 9, "memory": "transformer"}, "leave --model.chrono out"),
    "short chrono": ({"chrono": 2}, "chrono biases for 2 steps, expected at least 3"),
    "detector_updates": ({"detector_updates": -1}, "must not be negative"),
    "ema_decay": ({"detector": "surprise", "ema_decay": 1.0}, "ema_decay is 1.0"),
    "temperature": ({"select": "gumbel_top_k", "temperature": 0.0}, "temperature=0.0, expected a finite number above"),
    "heads": ({"memory": "transformer", "hidden": 6}, "4 heads for 6 hidden features"),
    "encoder_ckpt": ({"encoder_ckpt": "x.ckpt"}, "encoder_ckpt with symbols"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_make_no_sense_are_refused_at_once(case):
    options, message = SETTINGS[case]
    with pytest.raises(ValueError, match=message):
        model(Recall(), **options)


class NothingAsked(Recall):
    def made(self, indices):
        lanes = super().made(indices)
        lanes.y_BT[:] = -100
        return lanes


class AskedOnce(Recall):
    """Nothing is asked but at the last step."""

    def made(self, indices):
        lanes = super().made(indices)
        lanes.y_BT[:, :-1] = -100
        return lanes


@pytest.mark.parametrize("method", ["entropy", "surprise"])
def test_streams_that_ask_nothing_are_said_in_training(method, tmp_path):
    with pytest.raises(ValueError, match=r"finds nothing: none of the 12 steps of \d streams has a target"):
        fitted(tmp_path, METHODS[method], data=NothingAsked())


def test_targets_that_need_no_memory_are_said(tmp_path):
    class Blank(Recall):
        def made(self, indices):
            lanes = super().made(indices)
            lanes.y_BT[:] = 2
            return lanes

    with pytest.raises(ValueError, match="the detector finds nothing: after its training the local model is sure"):
        fitted(tmp_path, {"detector_updates": 60, "lr": 0.1}, data=Blank(), max_epochs=12)


def test_an_oracle_whose_steps_have_no_target_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"targets are missing at .*--model\.detector entropy"):
        fitted(tmp_path, METHODS["oracle"], data=NothingAsked())


@pytest.mark.parametrize("method", ["entropy", "surprise", "oracle", "current", "truncated", "full"])
def test_steps_that_ask_nothing_are_left_out(method, tmp_path):
    """Most rollouts have nothing to predict of their own: they teach memory what lies ahead, or nothing."""
    taken = Snapshots()
    fitted(tmp_path, {**METHODS[method], "k": 1}, taken, data=AskedOnce())
    assert taken.moves("network")
    assert all(p.isfinite().all() for p in taken.taken[-1].values())


def test_a_fit_begins_with_an_encoders_checkpoint_and_nothing_else_asks_for_the_file(tmp_path):
    options = {**FRAMES, "encoder": "frozen"}
    giver = model(Bars(), **options).encoder.network
    with torch.no_grad():
        for p in giver.parameters():
            p.add_(1)
    file = tmp_path / "given.ckpt"
    torch.save({"state_dict": {f"network.{name}": p for name, p in giver.state_dict().items()}}, file)
    module, _ = fitted(tmp_path, {**options, "encoder_ckpt": str(file)}, data=Bars())
    for name, p in module.encoder.network.named_parameters():
        assert torch.equal(p, dict(giver.named_parameters())[name]), name
    file.unlink()
    model(Bars(), **{**options, "encoder_ckpt": str(file)}).load_state_dict(module.state_dict())
    with pytest.raises(ValueError, match="there is no such file"):
        fitted(tmp_path / "anew", {**options, "encoder_ckpt": str(file)}, data=Bars())


def test_a_context_beyond_the_stream_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"context is 500, and the longest stream has .* --model.context"):
        fitted(tmp_path, {"context": 500})
