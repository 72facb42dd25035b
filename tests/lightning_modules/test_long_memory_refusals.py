"""What LongMemory refuses, before any data is read or when it is found; errors teach."""

from types import SimpleNamespace

import pytest
import torch
from test_action_recognition import trainer
from toy_long_memory import FRAMES, METHODS, TRUNCATED, Bars, Figures, fitted, model, right_of, told
from toy_memory import Recall

from datamodules.add_sequences import AddSequences


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


def test_a_test_knows_no_rollouts_and_may_be_of_shorter_streams(tmp_path):
    """Streams of three steps: a rollout of 13, K of 9 and a context of 5 were for those of training."""
    data = Recall((3,) * 8)
    module = model(data, rollout=13, k=9, context=5, predict_every=2)
    logged = trainer(tmp_path).test(module, told(data, module), verbose=False)[0]
    assert logged["test/top1"] == pytest.approx(right_of(module, data.made(range(8))))
    with pytest.raises(ValueError, match="rollout is 13, and the longest stream has 3 steps"):
        module.check_data(data, alone(), training=True)


def test_a_sideways_encoder_needs_rollouts_in_which_its_lowest_unit_learns():
    data = Bars()
    sideways = {**FRAMES, "encoder": "sideways", "depth": 4}
    message = "rollout 3 with encoder 'sideways' of 4 units, .*; use --model.rollout 4 or more, or --model.depth 3"
    with pytest.raises(ValueError, match=message):
        model(data, **sideways, rollout=3).check_data(data, alone(), training=True)
    model(data, **sideways, rollout=3).check_data(data, alone(), training=False)
    model(data, **sideways, rollout=4).check_data(data, alone(), training=True)
    model(data, **{**sideways, "depth": 3}, rollout=3).check_data(data, alone(), training=True)


def test_a_context_beyond_the_stream_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"context is 500, and the longest stream has .* --model.context"):
        fitted(tmp_path, {"context": 500})


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
    "short chrono": ({"chrono": 2}, "chrono is 2; expected the longest gap in steps, .* --model.chrono 3"),
    "negative chrono": ({"chrono": -5}, "chrono is -5"),
    "detector_updates": ({"detector_updates": -1}, "must not be negative"),
    "ema_decay": ({"detector": "surprise", "ema_decay": 1.0}, "ema_decay is 1.0"),
    "ema_decay of no use": ({"ema_decay": -0.1}, "ema_decay is -0.1; expected 0 .* --model.ema_decay 0.999"),
    "lr": ({"lr": -1.0}, "lr is -1.0; expected a finite number above 0, such as --model.lr 0.001"),
    "memory_lr": ({"memory_lr": 0.0}, "memory_lr is 0.0; expected a finite number above 0"),
    "local_lr": ({"local_lr": float("nan")}, "local_lr is nan; expected a finite number above 0"),
    "width": ({"width": 0.0}, "width is 0.0; expected a finite number above 0, such as --model.width 1.0"),
    "weight_decay": ({"weight_decay": -1.0}, "weight_decay is -1.0; expected 0 or more: --model.weight_decay 0"),
    "temperature": (
        {"select": "gumbel_top_k", "temperature": 0.0},
        "temperature is 0.0; expected a finite number above 0",
    ),
    "heads": ({"memory": "transformer", "hidden": 130}, "hidden is 130 .* whose 4 heads .* use --model.hidden 128"),
    "more heads": ({"memory": "transformer", "hidden": 3}, "use --model.hidden 4"),
    "encoder_ckpt": ({"encoder_ckpt": "x.ckpt"}, "encoder_ckpt with symbols"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_make_no_sense_are_refused_at_once(case):
    options, message = SETTINGS[case]
    with pytest.raises(ValueError, match=message):
        model(Recall(), **options)


UNUSED = {
    "all": ({"detector": "surprise", "ema_decay": 0.9}, []),
    "another rule": ({**TRUNCATED, "k": 3, "detector": "oracle", "select": "current"}, ["select", "detector"]),
    "another detector": ({"detector": "oracle", "ema_decay": 0.9, "detector_updates": 5, "local_lr": 0.1},
                         ["ema_decay", "detector_updates", "local_lr"]),
    "another selector": ({"temperature": 0.5}, ["temperature"]),
    "no detector": ({"select": "current", "k": 3, "detector": "oracle"}, ["detector"]),
    "no frames": ({"encoder": "joint", "width": 0.5}, ["encoder", "width"]),
    "another encoder": ({**FRAMES, "encoder": "joint", "encoder_updates": 9}, ["encoder_updates"]),
    "whole streams": ({"rule": "full_backprop", "rollout": 5}, ["rollout"]),
    "whole streams by a window": ({"rule": "full_backprop", "rollout": 5, "memory": "transformer"}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSED)
def test_a_fit_says_which_options_mean_nothing(case, tmp_path, monkeypatch):
    """Those of `SMALL` that are given and unused too."""
    said, (options, unused) = [], UNUSED[case]
    monkeypatch.setattr("lightning_modules.long_memory.rank_zero_info", said.append)
    fitted(tmp_path, {"k": 4, "rollout": 8, **options}, data=Bars() if "network" in options else Recall(), max_steps=1)
    named = [name for text in said for name in text.partition(": ")[2].split(", ")]
    assert [name for name in named if name != "k"] == unused
    assert ("k" in named) == (options.get("k") == 3)


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_other_precisions_are_refused(precision, tmp_path):
    """Of most torch said that a matrix was of another type."""
    said = f"precision '{precision}'.* expected one of 32-true, bf16-mixed: --trainer.precision 32-true"
    with pytest.raises(ValueError, match=said):
        fitted(tmp_path, {}, precision=precision)


def test_a_fit_whose_gradients_nobody_scales_is_refused():
    module = model(Recall())
    module._trainer = alone(precision="16-mixed")
    with pytest.raises(ValueError, match="gradients are not scaled; expected one of 32-true, bf16-mixed"):
        module.setup("fit")


class NothingAsked(Recall):
    def made(self, indices):
        lanes = super().made(indices)
        lanes.y_BT[:] = -100
        return lanes


@pytest.mark.parametrize("method", ["entropy", "surprise"])
def test_streams_that_ask_nothing_are_said_in_training(method, tmp_path):
    with pytest.raises(ValueError, match=r"finds nothing: no step of \d\d streams has a target"):
        fitted(tmp_path, METHODS[method], data=NothingAsked(), max_epochs=12)


class AskedSeldom(Recall):
    """Three streams of four have no target, and are not scored."""

    def made(self, indices):
        lanes = super().made(indices)
        silent = torch.tensor(indices) % 4 != 1
        lanes.y_BT[silent] = -100
        lanes.answers_BA[silent] = -1
        return lanes


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("method", ["entropy", "surprise", "gumbel", "oracle", "current"])
def test_streams_without_targets_may_begin_alone(method, batch_size, tmp_path):
    """One that did ended the run, in training and in the test."""
    data, figures = AskedSeldom(batch_size=batch_size), Figures()
    module, fit = fitted(tmp_path, {**METHODS[method], "detector_updates": 0}, figures, data=data, max_epochs=1)
    assert fit.global_step == 48 // batch_size
    assert figures.seen["train/loss"]
    logged = trainer(tmp_path).test(module, data, verbose=False)[0]
    assert logged["test/top1"] == pytest.approx(right_of(module, data.made(range(16))))
    assert module.confusion.compute().sum() == 4


def test_an_oracle_whose_steps_have_no_target_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"targets are missing at .*--model\.detector entropy"):
        fitted(tmp_path, METHODS["oracle"], data=NothingAsked())


def test_targets_that_need_no_memory_are_said(tmp_path):
    class Blank(Recall):
        def made(self, indices):
            lanes = super().made(indices)
            lanes.y_BT[:] = 2
            return lanes

    with pytest.raises(ValueError, match="the detector finds nothing: after its training the local model is sure"):
        fitted(tmp_path, {"detector_updates": 60, "lr": 0.1}, data=Blank(), max_epochs=24)


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
