"""Local losses inside a training: what heads are asked by each task, what is scored, and what logging leaves alone."""

from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from torch import Tensor
from toy_clips import ToyData
from toy_streams import StreamData

from lightning_modules.action_recognition import ActionRecognition
from lightning_modules.batch import in_unit_range
from lightning_modules.execution import clip_answers
from lightning_modules.future_frames import FutureFrames
from lightning_modules.rules import LOCAL, RULES
from tests.lightning_modules.execution.greedy_reference import Cut, frames_reached

SMALL: dict[str, Any] = {"network": "small_cnn", "depth": 4, "width": 0.5, "num_classes": 2, "in_channels": 1}
FRAMES: dict[str, Any] = {"network": "small_autoencoder", "width": 0.25, "in_channels": 1}


def recognition(**options: Any) -> ActionRecognition:
    seed_everything(0, verbose=False)
    return ActionRecognition(**{**SMALL, "lr": 1e-2, "schedule": "constant", **options})


def trainer(tmp_path: Any, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    given = {"logger": False, "num_sanity_val_steps": 0, "max_epochs": 1, **quiet, **options}
    return Trainer(accelerator="cpu", default_root_dir=tmp_path, **given)


@pytest.mark.parametrize("wiring", ["chain", "dense"])
def test_a_seed_gives_the_same_network_under_every_rule(wiring: str) -> None:
    """Heads are drawn after it: rows of a comparison start from the same weights."""
    networks = {
        rule: recognition(rule=rule, wiring=wiring).network.state_dict() for rule in RULES if rule != "backprop"
    }
    cut = recognition(rule="greedy", wiring=wiring, modules=2, head="cnn", vq_groups=2).network.state_dict()
    plain = networks["sideways"]
    assert not any(name.split(".")[2] in ("head", "quantiser") for name in plain)
    for rule, found in (*networks.items(), ("greedy", cut)):
        assert all(torch.equal(value, found[name]) for name, value in plain.items())
        assert (found.keys() > plain.keys()) == (rule in LOCAL)


def test_a_seed_gives_the_same_predictor_under_every_rule() -> None:
    found = {}
    for rule in ("sideways", "backprop_frame", "greedy"):
        seed_everything(0, verbose=False)
        found[rule] = FutureFrames(**FRAMES, rule=rule, wiring="unet").network.state_dict()
    for other in ("backprop_frame", "greedy"):
        assert all(torch.equal(value, found[other][name]) for name, value in found["sideways"].items())


@pytest.mark.parametrize("predict", ["frame", "change"])
@pytest.mark.parametrize("horizon", [0, 1, 3])
@pytest.mark.parametrize(
    ("wiring", "modules"), [("chain", [1] * 6), ("dense", [1, 1, 2, 2]), ("unet", [1] * 6), ("unet", [2, 2, 2])]
)
@pytest.mark.parametrize("rule", LOCAL)
def test_heads_are_asked_for_the_frames_after_the_newest_that_they_have_seen(
    rule: str, wiring: str, modules: list[int], horizon: int, predict: str
) -> None:
    """Frame f of a clip is f everywhere, so that a target says which frame it is, and each module's newest is counted.

    An answer whose newest frame is older than that of the last unit's first output has no target, and none may reach
    into the frames that the network does not read but as targets.
    """
    task = FutureFrames(**FRAMES, rule=rule, wiring=wiring, modules=modules, horizon=horizon, predict=predict)
    lengths, shape = [17, 15], (2, 17, 1, 16, 16)
    batch = {
        "video": torch.arange(17.0).view(1, -1, 1, 1, 1).expand(shape).clone(),
        "length": torch.tensor(lengths),
        "label": torch.zeros(2, dtype=torch.long),
    }
    inputs, network, cut = task.inputs(batch), task.network, Cut(modules)
    assert inputs.video_BTCHW.shape[1] == 17 - horizon
    now, found = {"module": 0}, dict[int, list[tuple[Tensor, Tensor]]]()
    forward = network.module_forward

    def watched(module: int, *given: Any, **options: Any) -> Any:
        now["module"] = module
        return forward(module, *given, **options)

    def loss(answer: Tensor, target: Tensor) -> Tensor:
        found.setdefault(now["module"], []).append((answer, target))
        return task.loss(answer, target)

    network.module_forward = watched  # type: ignore[method-assign]
    result = task._gradients(batch, inputs, loss=loss)
    pipelined = rule == "greedy"
    ks = range(1, horizon + 1) or range(1)
    last = max(frames_reached(network.wiring, modules, network.depth, len(modules))) if pipelined else 1
    for module, answer in result.answers.items():
        top, first = cut.top(module), module if pipelined else 1
        ((output, target),) = found[module]
        target_SB = target.unflatten(0, (-1, 2))
        assert output.shape == target.shape == (target.shape[0], len(ks), *output.shape[-2:])
        for index, tick in enumerate(range(first, 17 - horizon + 1)):
            newest = max(frames_reached(network.wiring, modules, top, tick)) if pipelined else tick
            counts = [newest >= last and tick <= length - horizon for length in lengths]
            assert answer.valid_BN[:, index].tolist() == counts
            for clip in (clip for clip in range(2) if counts[clip]):
                base = newest - 1 if predict == "change" and horizon else 0
                expected = [newest - 1 + k - base for k in ks]  # frame numbers from 0
                assert target_SB[index, clip].mean((-2, -1)).tolist() == expected
                assert target_SB[index, clip].flatten(1).std(1).max() == 0
                assert newest - 1 + max(ks) < lengths[clip]


def test_scores_of_modules_and_of_all_together(tmp_path: Any) -> None:
    """By hand: the mean softmax over a clip's own ticks and over views, weights 2, 4, 8 for modules 1, 2, 3."""
    data, task = ToyData(views=2, ragged=True, clips=7, classes=4), recognition(rule="greedy", num_classes=4)
    fit = trainer(tmp_path)
    fit.fit(task, data)
    (figures,) = fit.validate(task, data, verbose=False)
    scores = torch.zeros(3, 7, 4)
    for index in range(14):
        clip = data.held_out[0, index]
        video = clip["video"][None, : clip["length"]]
        for module, answer in clip_answers(task.network, video, rule="greedy").modules.items():
            scores[module - 1, clip["video_index"]] += answer.logits_BNK[0].softmax(-1).mean(0) / 2
    labels = torch.arange(7) % 4
    right = [(scores[j].argmax(-1) == labels).float().mean().item() for j in range(3)]
    together = (scores * torch.tensor([2.0, 4.0, 8.0]).view(3, 1, 1)).sum(0)
    assert [figures[f"val/top1/module_{j}"] for j in (1, 2, 3)] == pytest.approx(right)
    assert figures["val/top1"] == pytest.approx(right[2])
    assert figures["val/top1/ensemble"] == pytest.approx((together.argmax(-1) == labels).float().mean().item())


@pytest.mark.parametrize(
    "options",
    [
        {"update": "frame", "executor": "pipelined", "lr": 1e-3},
        {"replay": 2},
    ],
    ids=str,
)
def test_logging_gradients_changes_nothing(options: dict[str, Any], tmp_path: Any) -> None:
    """Weights, heads and codebooks are the same bits with and without: the comparison learns no codebook."""
    states = []
    for every in (0, 1):
        task = recognition(rule="greedy", wiring="dense", vq_groups=2, vq_codes=8, log_gradients_every=every, **options)
        trainer(tmp_path, limit_val_batches=0, limit_train_batches=2).fit(task, ToyData())
        states.append(task.network.state_dict())
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []


def test_modules_losses_are_logged_where_the_last_module_has_not_worked() -> None:
    """With buffers module j begins at step j: the network's own figures wait for the last one, the losses do not."""
    task = recognition(rule="greedy", modules=3, replay=2)
    batch = {"video": torch.rand(2, 8, 1, 16, 16), "label": torch.tensor([0, 1]), "length": torch.tensor([8, 8])}
    for step in (1, 2, 3):
        result = task._gradients(batch, task.inputs(batch), on_tick=lambda gradients: None)
        figures = task._training_figures(result, batch)
        losses = {f"train/loss/module_{j}": result.answers[j].loss.item() for j in range(1, step + 1)}
        assert {name: x.item() for name, x in figures.items() if "module" in name} == pytest.approx(losses)
        assert ("train/loss" in figures) == (step == 3)


@pytest.mark.parametrize("rule", LOCAL)
def test_networks_of_whole_clips_are_scored_on_streams(rule: str, tmp_path: Any) -> None:
    """Each piece is a clip of its own: a video's scores are the mean of its pieces'."""
    seed_everything(0, verbose=False)
    task = ActionRecognition(
        network="cnn3d", width=0.25, num_classes=2, in_channels=1, rule=rule, modules=2, vq_groups=2, vq_codes=8
    ).eval()
    data = StreamData(lengths=[9, 8])
    scores = torch.zeros(2, 2)
    pieces = torch.zeros(2)
    for batch in data.test_dataloader():
        video = in_unit_range(batch)["video"]
        found = clip_answers(task.network, video, rule=rule, lengths_B=batch["length"])
        for clip, index in enumerate(batch["video_index"].tolist()):
            if batch["length"][clip]:
                scores[index] += found.logits_BNK[clip, 0].softmax(-1)  # type: ignore[index]
                pieces[index] += 1
    assert pieces.min() > 1
    (figures,) = trainer(tmp_path).test(task, data, verbose=False)
    labels = torch.tensor([video.label for video in data.videos])
    expected = torch.nn.functional.nll_loss((scores / pieces[:, None]).log(), labels)
    assert figures["test/loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_frozen_unit_s_head_and_weights_stay(tmp_path: Any) -> None:
    """train_units 2: unit 2 and its head learn, by its own loss; nothing else moves."""
    task = recognition(rule="greedy", wiring="dense", train_units=[2])
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    trainer(tmp_path, limit_val_batches=0).fit(task, ToyData())
    moved = {name for name, value in task.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("units.1.")}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "sideways", "modules": 2}, "use rule 'greedy', or leave modules out"),
        ({"rule": "backprop_frame", "head": "mlp"}, "use rule 'greedy', or leave head out"),
        ({"rule": "sideways", "head_width": 0.5}, "use rule 'greedy', or leave head_width out"),
        ({"rule": "backprop_shifted", "vq_groups": 2}, "use rule 'greedy', or leave vq_groups out"),
        ({"rule": "sideways", "vq_codes": 16}, "use rule 'greedy', or leave vq_codes out"),
        ({"rule": "sideways", "vq_decay": 0.9}, "use rule 'greedy', or leave vq_decay out"),
        ({"rule": "greedy", "head": "decoder"}, "does not give what this task asks for; expected one of mlp-sr, mlp"),
        ({"rule": "greedy", "head": "mlp-s"}, "head 'mlp-s' is unknown; did you mean 'mlp-sr'"),
        ({"rule": "greedy", "head": "decodr"}, "is unknown; expected one of mlp-sr, mlp, cnn$"),
        ({"rule": "greedy", "modules": 1, "replay": 2}, "use replay 0, or modules 2 or more"),
        ({"rule": "greedy", "modules": 1, "vq_groups": 2}, "leave vq_groups out, or use modules 2 or more"),
        ({"rule": "greedy", "wiring": "dense", "gradient_edges": "newest"}, "leave gradient_edges out"),
        ({"rule": "greedy", "lag_scaling": "inverse"}, "leave lag_scaling out"),
        ({"rule": "greedy_frame", "update": "frame"}, "use update 'clip', or rule 'greedy' with executor 'pipelined'"),
        ({"rule": "greedy", "update": "frame"}, "use 'pipelined'"),
        ({"rule": "greedy", "executor": "cuda_graph"}, "use executor 'vectorised' or 'pipelined'"),
        ({"rule": "greedy", "replay": 2, "accumulate": 2}, "accumulate"),
        ({"rule": "greedy", "replay": 2, "slow_down": [1.0, 2.0]}, "such as"),
    ],
)
def test_settings_without_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        recognition(**options)


def test_a_predictor_refuses_other_heads() -> None:
    with pytest.raises(ValueError, match="expected one of decoder"):
        FutureFrames(**FRAMES, rule="greedy", head="mlp")


@pytest.mark.parametrize("options", [{}, {"executor": "pipelined"}, {"replay": 2}], ids=str)
def test_bfloat16_trains_with_quantised_messages(options: dict[str, Any], tmp_path: Any) -> None:
    task = recognition(rule="greedy", vq_groups=2, vq_codes=8, **options)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    trainer(tmp_path, precision="bf16-mixed", limit_val_batches=1).fit(task, ToyData())
    after = task.network.state_dict()
    assert all(bool(value.double().isfinite().all()) for value in after.values())
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert {name for name in still if not name.endswith("started")} == set()
