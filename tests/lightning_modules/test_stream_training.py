"""Streams inside the Trainer: the state goes from piece to piece, is in the checkpoint, and ends with a video."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_action_recognition import SMALL, Losses, SaveAndStop, model, same, trainer, weights
from torch.utils.data import DataLoader
from toy_streams import FRAMES, StreamData

from lightning_modules.batch import in_unit_range
from lightning_modules.execution import PipelineState, clip_gradients, clip_logits
from lightning_modules.stream_state import StreamState

STREAMED = {
    "sideways": {"rule": "sideways", "executor": "pipelined", "wiring": "dense"},
    "stash": {"rule": "sideways", "executor": "pipelined", "wiring": "dense", "stash": "exact", "drain": False},
    "update frame": {"rule": "sideways", "executor": "pipelined", "update": "frame", "lr": 1e-3},
    "accumulated": {"rule": "sideways", "executor": "pipelined", "wiring": "concat", "accumulate": 2},
    "backprop_frame": {"rule": "backprop_frame"},
}
ANSWERING = {**STREAMED, "backprop_shifted": {"rule": "backprop_shifted", "wiring": "dense"}}


def fitted(tmp_path, options, *callbacks, data=None, **trainer_options):
    module = model(**options)
    fit = trainer(tmp_path, *callbacks, **trainer_options)
    fit.fit(module, data or StreamData())
    return module, fit


@pytest.mark.parametrize("method", STREAMED)
def test_stopped_inside_a_video_and_continued_is_uninterrupted(method, tmp_path):
    """Ten batches an epoch; every place from the first piece of a video to the last is tried in the second epoch."""
    options = {**STREAMED[method], "schedule": "onecycle"}
    whole, fit = fitted(tmp_path, options)
    batches = fit.num_training_batches
    assert batches == sum(-(-n // 4) for n in sorted(FRAMES, reverse=True)[::3])
    for stop in (1, batches + 2, batches + 3):
        path = tmp_path / f"{stop}.ckpt"
        stopped, _ = fitted(tmp_path, options, SaveAndStop(stop, path))
        assert not same(weights(stopped), weights(whole))
        continued, going_on = model(**options), trainer(tmp_path)
        going_on.fit(continued, StreamData(), ckpt_path=path, weights_only=True)
        assert same(weights(continued), weights(whole)), stop
        assert going_on.global_step == fit.global_step
        assert continued.frames_seen == whole.frames_seen == 2 * sum(FRAMES)


def test_two_loader_processes_give_the_same_stream(tmp_path):
    one, two = (weights(fitted(tmp_path, STREAMED["sideways"], data=StreamData(num_workers=n))[0]) for n in (0, 2))
    assert same(one, two)


def test_the_state_matters_and_ends_with_the_group(tmp_path):
    """With weights that stay, each batch's loss is that of the functional form with the state handed on by hand."""
    losses = Losses()
    data = StreamData()
    module, _ = fitted(tmp_path, {**STREAMED["sideways"], "lr": 0.0}, losses, data=data, max_epochs=1)
    expected, state = [], PipelineState()
    for batch in data.train_dataloader():
        state = PipelineState() if batch["piece"] == 0 else state
        found = clip_gradients(
            module.network,
            in_unit_range(batch)["video"],
            batch["label"],
            rule="sideways",
            executor="pipelined",
            lengths_B=batch["length"],
            state=state,
        )
        expected.append(found.loss.item() if found.valid_BN.any() else expected[-1])  # nothing is logged: the last
    assert losses.values == pytest.approx(expected, rel=1e-6)
    assert len(set(expected)) > 5


@pytest.mark.parametrize("method", ANSWERING)
def test_a_video_is_scored_by_all_its_ticks(method, tmp_path):
    lengths = [n for n in FRAMES if n > 3]
    data, module = StreamData(lengths=lengths), model(**ANSWERING[method]).eval()
    expected = []
    for video in data.videos:
        logits, _ = clip_logits(module.network, whole(data, video)[None] / 255, rule=ANSWERING[method]["rule"])
        expected.append(logits.softmax(-1).mean(1)[0])
    scores, labels = torch.stack(expected), torch.tensor([video.label for video in data.videos])
    logged = trainer(tmp_path).test(module, data, verbose=False)[0]
    assert logged["test/loss"] == pytest.approx(torch.nn.functional.nll_loss(scores.log(), labels).item(), rel=1e-5)
    assert logged["test/top1"] == pytest.approx((scores.argmax(-1) == labels).float().mean().item())
    found = {}
    for part in trainer(tmp_path).predict(module, data):
        found.update(zip(part["clip_id"], part["scores"], strict=True))
    assert [name.split("@")[0] for name in sorted(found)] == [video.video_id for video in data.videos]
    ordered = torch.stack([found[name] for name in sorted(found)])
    torch.testing.assert_close(ordered, scores, rtol=1e-5, atol=1e-6)


def whole(data, video):
    side = data.store.options.margin // 2
    return data.store.frames(video, slice(None))[..., side : side + 16, side : side + 16]


def test_a_video_that_gives_no_answer_is_refused(tmp_path):
    """D = 4: the video of three frames ends before the first output."""
    with pytest.raises(ValueError, match="1 of 7 videos end before the network's first output, first video 3"):
        trainer(tmp_path).test(model(**STREAMED["sideways"]), StreamData(), verbose=False)


def test_validation_between_two_pieces_changes_nothing(tmp_path):
    plain, validated = (
        weights(fitted(tmp_path, STREAMED["sideways"], data=data, limit_val_batches=limit, val_check_interval=2)[0])
        for limit, data in ((0, StreamData(lengths=[9, 8, 7, 6])), (1.0, StreamData(lengths=[9, 8, 7, 6])))
    )
    assert same(plain, validated)


def test_training_goes_on_where_a_video_breaks_and_says_which(tmp_path):
    data = StreamData()
    data.store.broken = {"2"}
    module, _ = fitted(tmp_path, STREAMED["sideways"], data=data, max_epochs=1)
    assert set(data.faults) == {("2", "2 is broken")}
    assert module.frames_seen == sum(FRAMES) - FRAMES[2]


class Emptied(StreamData):
    """Clips instead of streams, and the second batch has lost all of them."""

    stream = False

    def train_dataloader(self):
        batches = list(super().train_dataloader())
        del batches[1]["video"]
        batches[1] |= {"label": torch.empty(0), "length": torch.empty(0)}
        clips = [{k: v for k, v in batch.items() if k not in ("piece", "start")} for batch in batches]
        return DataLoader(clips, batch_size=None, collate_fn=dict)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_that_lost_all_its_clips_is_a_step_that_moves_nothing(tmp_path, accumulate):
    seen = []

    class Weights(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append((trainer.global_step, weights(pl_module)))

    options = {"rule": "backprop_frame", "accumulate": accumulate, "optimizer": "sgd"}
    fitted(tmp_path, options, Weights(), data=Emptied(), max_epochs=1)
    assert [step for step, _ in seen][:4] == ([1, 2, 3, 4] if accumulate == 1 else [0, 1, 1, 2])
    assert same(seen[0][1], seen[1][1]) == (accumulate == 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "vectorised"}, "keeps no state; use --model.executor pipelined"),
        ({"rule": "backprop_shifted"}, "goes back through time over the whole clip"),
        ({"network": "cnn3d", "rule": "backprop", "depth": None}, "network that takes whole clips"),
        ({"executor": "pipelined", "stash": "exact"}, "use --model.drain false"),
        ({"executor": "pipelined", "log_gradients_every": 1}, "use --model.log_gradients_every 0"),
    ],
)
def test_what_cannot_train_on_streams_says_so_before_any_data_is_read(options, message):
    alone = SimpleNamespace(strategy=None)
    module = model(**{**SMALL, **options})
    with pytest.raises(ValueError, match=message):
        module.check_data(StreamData(), alone, training=True)
    module.check_data(StreamData(), alone, training=False)
    module.check_data(SimpleNamespace(stream=False), alone, training=True)


def test_stages_are_refused():
    strategy = SimpleNamespace(makes_a_team=True)
    with pytest.raises(ValueError, match="depth_parallel: the state kept between clips belongs to one process"):
        model(**STREAMED["sideways"]).check_data(StreamData(), SimpleNamespace(strategy=strategy), training=False)


def test_a_checkpoint_without_a_state_is_said():
    with pytest.raises(ValueError, match="piece 3 of a stream whose first pieces were not seen here"):
        StreamState().at(3, torch.device("cpu"))
