"""The task LongMemory in the Trainer: every method learns, goes on where it stopped, and learns what it should."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_action_recognition import SaveAndStop, same, trainer
from toy_long_memory import (
    ALL,
    ENTROPY,
    FRAMES,
    METHODS,
    TRUNCATED,
    Bars,
    Figures,
    Snapshots,
    data_of,
    fitted,
    model,
    right_of,
    told,
    weights,
)
from toy_memory import CPU, Recall

from datamodules.copy_sequences import CopySequences
from lightning_modules.long_memory import LongMemory
from lightning_modules.memory.reading import read_run


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
        assert logged["test/top1"] == pytest.approx(right_of(module, data.made(range(16))))
        assert logged["test/loss"] > 0
        assert ("test/detector_precision" in logged) == (module.detector is not None)


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
    module, _ = fitted(tmp_path, {**ENTROPY, "select": select, "k": 12}, max_epochs=1)
    assert module.frames_seen > 0
    assert all(p.isfinite().all() for p in module.parameters())


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
    assert logged["test/top1"] == pytest.approx(right_of(module, data.made(range(10))))


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
    _, chosen_BK = module.choices(data.made(range(8)))
    assert [sorted(step for step in chosen if step >= 0) for chosen in chosen_BK[:4].tolist()] == [[3, 4]] * 4
    assert (chosen_BK[4:] >= 3).all(), "from the first moment on"
    assert logged["test/detector_recall"] == pytest.approx((chosen_BK[:, 0] == data.lengths - 1).float().mean().item())


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
    module, _ = fitted(tmp_path, {**TRUNCATED, "lr": 1e-12}, losses, data=data, max_epochs=1)
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


@pytest.mark.parametrize("method", ["entropy", "surprise", "truncated"])
def test_an_epoch_that_is_cut_short_gives_no_lane_the_memory_of_another_stream(method, tmp_path):
    """limit_train_batches 2 of 6: the next epoch's lanes stand elsewhere, and went on with what they held."""
    data, began, searched = Recall(), [], []
    module = model(data, **{**METHODS[method], "detector_updates": 0})
    detect = module._detect
    module._detect = lambda lanes: searched.append(lanes.ids) or detect(lanes)
    module.network.memory.register_forward_pre_hook(
        lambda _, given: began.append([not part.any() for part in given[1]["h"]])
        if torch.is_grad_enabled() else None
    )  # fmt: skip
    trainer(tmp_path, max_epochs=3, limit_train_batches=2).fit(module, told(data, module))
    rollouts, expected, to_search = data.train_dataloader().dataset, [], []
    places = [None] * 8
    for epoch, number in [(epoch, number) for epoch in range(3) for number in range(2)]:
        batch = rollouts[epoch, number]
        here = [*zip(batch["lanes"].ids, batch["start"].tolist(), strict=True)]
        expected.append([start == 0 or place != due for place, due, (_, start) in zip(here, places, here, strict=True)])
        places = [(name, start + 4) for name, start in here]
        to_search.append([name for (name, _), new in zip(here, expected[-1], strict=True) if new])
    assert began == expected
    assert searched == ([] if method == "truncated" else [names for names in to_search if names])
    assert any(any(new[lane] and rollouts[2, 0]["start"][lane] for lane in range(8)) for new in expected[2:])


REMEMBERING = {"rollout": 4, "k": 1, "predict_every": 1, "detector_updates": 20, "lr": 3e-2}


def recall(tmp_path, epochs=10, **options):
    """The share of right answers: a symbol 15 steps before the question, gradients through 4."""
    data = Recall((16,) * 32)
    module, _ = fitted(tmp_path, {**REMEMBERING, **options}, data=data, max_epochs=epochs)
    return trainer(tmp_path).test(module, data, verbose=False)[0]["test/top1"]


@pytest.mark.parametrize("memory", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_memup_remembers_beyond_its_rollout_and_truncated_backprop_does_not(memory, tmp_path):
    """One half is chance."""
    assert recall(tmp_path, memory=memory, chrono=16) == 1.0
    assert recall(tmp_path, memory=memory, chrono=16, **TRUNCATED) <= 0.75


@pytest.mark.slow
def test_the_transformer_forgets_what_its_window_no_longer_holds(tmp_path):
    assert recall(tmp_path, memory="transformer", detector="oracle") == 0.5
    assert recall(tmp_path, memory="transformer", rule="full_backprop", window=16, lr=1e-2, epochs=60) == 1.0


def test_the_shortest_rollout_that_is_allowed_teaches_every_unit(tmp_path):
    taken, options = Snapshots(), {**FRAMES, "encoder": "sideways", "rollout": FRAMES["depth"]}
    fitted(tmp_path, options, taken, data=Bars(12), max_epochs=1)
    for unit in range(FRAMES["depth"]):
        assert taken.moves(f"encoder.network.units.{unit}."), unit


class AskedOnce(Recall):
    """Nothing is asked but at the last step."""

    def made(self, indices):
        lanes = super().made(indices)
        lanes.y_BT[:, :-1] = -100
        return lanes


@pytest.mark.parametrize("method", ["entropy", "surprise", "oracle", "current", "truncated", "full"])
def test_steps_that_ask_nothing_are_left_out(method, tmp_path):
    """Most rollouts have nothing to predict of their own: they teach memory what lies ahead, or nothing."""
    taken = Snapshots()
    fitted(tmp_path, {**METHODS[method], "k": 1}, taken, data=AskedOnce())
    assert taken.moves("network")
    assert all(p.isfinite().all() for p in taken.taken[-1].values())


def test_a_rollout_that_asks_nothing_logs_no_loss_of_the_local_model(tmp_path, monkeypatch):
    """It was 0.0, which reads as a local model that has learnt everything."""
    logged, log_dict = [], LongMemory.log_dict
    monkeypatch.setattr(LongMemory, "log_dict", lambda self, figures: logged.append(figures) or log_dict(self, figures))
    fitted(tmp_path, {"detector_updates": 6}, data=AskedOnce(stagger=False), max_epochs=1)
    losses = [figures.get("train/local_loss") for figures in logged]
    assert [loss is None for loss in losses] == [True, True, False] * 2
    assert all(loss > 0 for loss in losses[2::3])


@pytest.fixture
def given(tmp_path):
    """Options with a checkpoint of an encoder's weights, and these weights."""
    options = {**FRAMES, "encoder": "frozen"}
    giver = model(Bars(), **options).encoder.network
    with torch.no_grad():
        for p in giver.parameters():
            p.add_(1)
    file = tmp_path / "given.ckpt"
    torch.save({"state_dict": {f"network.{name}": p for name, p in giver.state_dict().items()}}, file)
    return {**options, "encoder_ckpt": str(file)}, weights(giver)


def test_a_fit_begins_with_an_encoders_checkpoint_and_nothing_else_asks_for_the_file(given, tmp_path):
    """A resume asked for it: the guard read a path that Lightning sets later, and that an earlier fit may leave."""
    options, wanted = given
    path, data = tmp_path / "stopped.ckpt", Bars()
    module, _ = fitted(tmp_path, options, SaveAndStop(4, path), data=data)
    assert same(weights(module.encoder.network), wanted)
    Path(options["encoder_ckpt"]).unlink()
    continued, going_on = model(data, **options), trainer(tmp_path)
    going_on.fit(continued, told(data, continued), ckpt_path=path, weights_only=True)
    assert going_on.global_step == 12
    assert same(weights(continued.encoder.network), wanted)
    trainer(tmp_path).test(model(data, **options), data, verbose=False)
    with pytest.raises(ValueError, match="there is no such file"):
        fitted(tmp_path / "anew", options, data=Bars())


def test_a_trainer_that_has_resumed_a_fit_begins_another_with_the_encoders_checkpoint(given, tmp_path):
    options, wanted = given
    path, data = tmp_path / "stopped.ckpt", Bars()
    fitted(tmp_path, options, SaveAndStop(4, path), data=data)
    again = trainer(tmp_path)
    again.fit(model(data, **options), told(data, model(data, **options)), ckpt_path=path, weights_only=True)
    anew = model(data, **options)
    assert not same(weights(anew.encoder.network), wanted)
    again.fit(anew, data)
    assert same(weights(anew.encoder.network), wanted)


def test_half_precision_beside_full_trains(tmp_path):
    figures = Figures()
    fitted(tmp_path, METHODS["entropy"], figures, precision="bf16-mixed", max_epochs=7)
    losses = [value for _, value in figures.seen["train/loss"]]
    assert sum(losses[-6:]) < sum(losses[:6])


def test_a_checkpoint_has_what_is_known_of_a_detectors_findings():
    module, other, checkpoint = model(Recall()), model(Recall()), {}
    module._findings.judge(torch.full((8, 12), 5e-4))
    module.on_save_checkpoint(checkpoint)
    assert other._findings.state_dict() != module._findings.state_dict()
    other.on_load_checkpoint(checkpoint)
    assert other._findings.state_dict() == module._findings.state_dict()
