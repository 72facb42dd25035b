"""What LongMemory says at the scored steps of whole streams, and how it is scored."""

import pytest
import torch
from test_action_recognition import trainer
from toy_long_memory import FRAMES, Bars, fitted, model, told
from toy_memory import Recall

from datamodules.add_sequences import AddSequences
from datamodules.copy_sequences import CopySequences
from lightning_modules.memory import answering
from lightning_modules.memory.questions import Classes
from lightning_modules.metrics.long_answers import LongAnswers


@pytest.mark.parametrize("memory", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize("context", [1, 3])
def test_whole_streams_are_answered_as_in_one_pass(memory, context, monkeypatch):
    """In pieces of five steps, and lane by lane; the answers stand anywhere, and lanes have different numbers."""
    data = CopySequences(gap=9, symbols=3)
    module = model(data, memory=memory, context=context, window=4 if memory == "transformer" else None)
    lanes = data.source("test").lanes([(0, index) for index in range(4)])
    lanes.answers_BA = torch.tensor([[0, 7, 14], [13, 14, -1], [5, -1, -1], [4, 5, 9]])
    whole, targets = module.answers(lanes)
    monkeypatch.setattr(answering, "PIECE", 5)
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
    monkeypatch.setattr(answering, "PIECE", 3)
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
    commonest = targets.flatten().bincount().max().item() / 60
    assert logged["test/chance"] == pytest.approx(commonest)
    assert commonest > 1 / 8, "answers that are not balanced: who always says the commonest is right more often"
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


def scores_of(*targets):
    scores = LongAnswers(Classes(5))
    for each in targets:
        targets_BA = torch.tensor([each])
        scores.update(torch.randn(1, len(each), 5), targets_BA, torch.ones_like(targets_BA, dtype=torch.bool))
    return scores


def test_chance_is_the_share_of_the_commonest_answer():
    """It was 1 of the answers' classes, which who always says the commonest beats."""
    assert scores_of([0, 1], [2, 3]).figures(chance=True)["chance"] == pytest.approx(1 / 4)
    assert scores_of([4, 4, 4, 0], [1, 4, 4, -100]).figures(chance=True)["chance"] == pytest.approx(5 / 7)


def test_scored_steps_without_a_target_are_said_once_a_stage():
    scores = scores_of([4, -100, -100], [1, 2, 3])
    said = "2 of 6 scored steps of the {} streams have no target: figures are of the others alone"
    for stage in ("validation", "test"):
        with pytest.warns(UserWarning, match=said.format(stage)):
            assert scores.has_figures(stage, required=True)
        assert scores.has_figures(stage, required=True)
    assert scores_of([1, 2]).has_figures("test", required=True)


def test_scored_steps_none_of_which_has_a_target_are_refused():
    scores = scores_of([-100, -100])
    with pytest.raises(ValueError, match="test has nothing to score: none of 2 scored steps has a target"):
        scores.has_figures("test", required=True)
    scores.reset()
    with pytest.raises(ValueError, match=r"its streams name no step as an answer, .* \(--trainer.limit_test_batches\)"):
        scores.has_figures("test", required=True)


class AskedLate(Recall):
    """The scored steps of the first streams have no target."""

    def made(self, indices):
        lanes = super().made(indices)
        lanes.y_BT[torch.tensor(indices) < 8] = -100
        return lanes


def test_a_part_of_a_validation_that_has_nothing_to_score_ends_no_training(tmp_path):
    """It did, by an error that belongs to a test."""
    data = AskedLate()
    module = model(data)
    said = "validation has nothing to score: none of 8 scored steps has a target.* It has no figures"
    fit = trainer(tmp_path, limit_val_batches=1, num_sanity_val_steps=1)
    with pytest.warns(UserWarning, match=said):
        fit.fit(module, told(data, module))
    assert fit.global_step == 12
    assert not [name for name in fit.callback_metrics if name.startswith("val/")]
    with pytest.raises(ValueError, match="test has nothing to score: none of 8 scored steps"):
        trainer(tmp_path, limit_test_batches=1).test(module, data, verbose=False)


class AskedHalf(Recall):
    """Of every second stream the scored step has no target."""

    def made(self, indices):
        lanes = super().made(indices)
        lanes.y_BT[torch.tensor(indices) % 2 > 0] = -100
        return lanes


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_an_evaluation_says_what_it_left_out(stage, tmp_path):
    data = AskedHalf(lengths=(12,) * 8 + (9,) * 8, stagger=False)
    module = model(data)
    evaluate = trainer(tmp_path, limit_val_batches=1.0)
    with pytest.warns(UserWarning, match=f"8 of 16 scored steps of the {stage} streams have no target"):
        (evaluate.test if stage == "test" else evaluate.validate)(module, told(data, module), verbose=False)
    assert module.confusion.compute().sum() == 8


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


def test_what_is_counted_enters_no_checkpoint(tmp_path):
    """Before an evaluation as after it."""
    module = model(data := CopySequences(gap=5, symbols=3, test_streams=8, batch_size=8))
    before = [*module.state_dict()]
    trainer(tmp_path).test(module, told(data, module), verbose=False)
    assert module.confusion.update_called
    assert [*module.state_dict()] == before
    assert {name.split(".")[0] for name in before} == {"network", "local_model"}
