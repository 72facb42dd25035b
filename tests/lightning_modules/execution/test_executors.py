"""Vectorised and pipelined execution agree, a stash makes gradients exact, and the state of a pipeline is all of it."""

import io
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_modules.execution import PipelineState, clip_gradients, clip_logits
from lightning_modules.networks import WIRINGS, build_network
from lightning_modules.rules import make_rule
from tests.lightning_modules.execution.reference import moving_video, relative_error, shifted_output, tiny_network

LABELS = torch.tensor([0, 2, 1])
GOLDEN = Path(__file__).parent / "golden.json"
EDGES = [
    *((w, "all") for w in WIRINGS),
    *((w, "newest") for w in ("residual", "concat", "dense")),
    *((w, "shortest") for w in ("concat", "dense")),
]
RULES = {
    "sideways": make_rule("sideways"),
    "stash": make_rule("sideways", stash="exact"),
    "stash undrained": make_rule("sideways", stash="exact", drain=False),
}


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("depth", [2, 4, 6])
@pytest.mark.parametrize(("wiring", "edges"), EDGES)
def test_vectorised_equals_pipelined(wiring: str, edges: str, depth: int, rule: object, ragged: bool) -> None:
    network, frames = tiny_network(depth, wiring, gradient_edges=edges), 2 * depth + 3
    video = moving_video(3, frames)
    lengths = torch.tensor([frames, frames - 2, frames - 4]) if ragged else None
    one, other = (
        clip_gradients(network, video, LABELS, rule=rule, executor=e, lengths_B=lengths)  # type: ignore[arg-type]
        for e in ("vectorised", "pipelined")
    )
    assert relative_error(one.gradients, other.gradients) < 1e-11
    assert torch.equal(one.valid_BN, other.valid_BN)
    torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(one.logits_BNK, other.logits_BNK)


@pytest.mark.parametrize("rule", ["sideways", "backprop_shifted", "backprop_frame"])
def test_padding_never_reaches_a_gradient(rule: str) -> None:
    """A batch of ragged clips is the weighted mean of the clips alone, whatever stands in the padding."""
    network, video = tiny_network(3, "concat"), moving_video(2, 9)
    lengths = torch.tensor([9, 6])
    junk = video.clone()
    junk[1, 6:] = 100.0
    together = clip_gradients(network, junk, LABELS[:2], rule=rule, lengths_B=lengths)
    long = clip_gradients(network, video[:1], LABELS[:1], rule=rule)
    short = clip_gradients(network, video[1:, :6], LABELS[1:2], rule=rule)
    for unit in (1, 2, 3):
        first = {"sideways": 6 - unit, "backprop_shifted": 3, "backprop_frame": 1}[rule]
        ticks = [9 - first + 1, 6 - first + 1]
        names = network.unit_parameters(unit)
        expected = {n: (ticks[0] * long.gradients[n] + ticks[1] * short.gradients[n]) / sum(ticks) for n in names}
        assert relative_error({n: together.gradients[n] for n in names}, expected) < 1e-11


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
@pytest.mark.parametrize("depth", [2, 3, 4, 6])
@pytest.mark.parametrize(("wiring", "edges"), EDGES)
def test_a_drained_stash_gives_exact_shifted_backprop(wiring: str, edges: str, depth: int, executor: str) -> None:
    network, video = tiny_network(depth, wiring, gradient_edges=edges), moving_video(3, 2 * depth + 2)
    ours = clip_gradients(network, video, LABELS, rule=RULES["stash"], executor=executor)
    exact = clip_gradients(network, video, LABELS, rule="backprop_shifted")
    assert relative_error(ours.gradients, exact.gradients) < 1e-11
    torch.testing.assert_close(ours.loss, exact.loss)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_shifted_backprop_is_autograd_through_the_shifted_network(wiring: str) -> None:
    """The vectorised exact rule against plain autograd on a network written out frame by frame."""
    depth, frames = 4, 8
    network, video = tiny_network(depth, wiring), moving_video(3, frames)
    outputs = [shifted_output(network, video, depth, n) for n in range(1, frames - depth + 2)]
    loss = torch.stack([torch.nn.functional.cross_entropy(output, LABELS) for output in outputs]).mean()
    expected = torch.autograd.grad(loss, list(network.parameters()))
    ours = clip_gradients(network, video, LABELS, rule="backprop_shifted")
    names = [name for name, _ in network.named_parameters()]
    assert relative_error(ours.gradients, dict(zip(names, expected, strict=True))) < 1e-11
    torch.testing.assert_close(ours.loss, loss.detach())


def test_frame_backprop_is_autograd_on_each_frame() -> None:
    network, video = tiny_network(4, "dense"), moving_video(3, 5)
    loss = torch.nn.functional.cross_entropy(network(video.flatten(0, 1)), LABELS.repeat_interleave(5))
    names = [name for name, _ in network.named_parameters()]
    expected = dict(zip(names, torch.autograd.grad(loss, list(network.parameters())), strict=True))
    ours = clip_gradients(network, video, LABELS, rule="backprop_frame")
    assert relative_error(ours.gradients, expected) < 1e-12


def test_an_undrained_stash_lacks_the_last_contributions() -> None:
    network, video = tiny_network(4, "chain"), moving_video(3, 10)
    part = clip_gradients(network, video, LABELS, rule=RULES["stash undrained"]).gradients
    exact = clip_gradients(network, video, LABELS, rule="backprop_shifted").gradients
    top = {n: exact[n] for n in network.unit_parameters(4)}
    assert relative_error({n: part[n] for n in top}, top) < 1e-12
    lowest = {n: exact[n] for n in network.unit_parameters(1)}
    assert relative_error({n: part[n] for n in lowest}, lowest) > 0.05


@pytest.mark.parametrize("rule", ["sideways", "stash undrained"])
@pytest.mark.parametrize("wiring", ["chain", "concat"])
def test_a_stream_in_two_pieces_is_the_stream(wiring: str, rule: str) -> None:
    """State kept between clips: sums over the pieces' ticks equal the whole, also through a checkpoint's bytes."""
    network, video = tiny_network(3, wiring), moving_video(3, 14)
    options = {"rule": RULES[rule], "executor": "pipelined"}
    whole = clip_gradients(network, video, LABELS, **options)  # type: ignore[arg-type]
    first = clip_gradients(network, video[:, :8], LABELS, **options)  # type: ignore[arg-type]
    assert first.state is not None
    buffer = io.BytesIO()
    torch.save(first.state.state_dict(), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    # Going on changes a state in place, but never what it was loaded from: a checkpoint serves twice.
    clip_gradients(network, video[:, 8:], LABELS, state=PipelineState.from_state_dict(saved), **options)  # type: ignore[arg-type]
    state = PipelineState.from_state_dict(saved)
    second = clip_gradients(network, video[:, 8:], LABELS, state=state, **options)  # type: ignore[arg-type]
    for unit in (1, 2, 3):
        start = 6 - unit if rule == "sideways" else 3
        counts = (8 - start + 1, 6)
        for name in network.unit_parameters(unit):
            joined = counts[0] * first.gradients[name] + counts[1] * second.gradients[name]
            torch.testing.assert_close(joined / sum(counts), whole.gradients[name], rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(torch.cat([first.logits_BNK, second.logits_BNK], 1), whole.logits_BNK)


def test_update_frame_changes_the_very_next_forward() -> None:
    network, video = tiny_network(2, "chain"), moving_video(3, 6)
    before, _ = clip_logits(network, video, rule="sideways", executor="pipelined")

    def step(gradients: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in network.named_parameters():
                if name in gradients:
                    p -= 0.1 * gradients[name]

    rule = make_rule("sideways", update="frame")
    result = clip_gradients(network, video, LABELS, rule=rule, executor="pipelined", on_tick=step)  # type: ignore[arg-type]
    torch.testing.assert_close(result.logits_BNK[:, 0], before[:, 0])
    assert not torch.allclose(result.logits_BNK[:, 1], before[:, 1])
    assert result.gradients == {}


@pytest.mark.parametrize("stash", ["none", "exact"])
def test_a_clip_that_ended_has_no_part_in_later_ticks(stash: str) -> None:
    """With update frame each tick's gradient is a mean over clips that go on; nothing is handed over after the last."""
    network, video = tiny_network(3, "concat"), moving_video(2, 9)

    def ticks(clips: int, lengths: Tensor | None) -> list[dict[str, Tensor]]:
        seen: list[dict[str, Tensor]] = []
        rule = make_rule("sideways", update="frame", stash=stash)  # type: ignore[arg-type]
        options = {
            "rule": rule,
            "executor": "pipelined",
            "lengths_B": lengths,
            "on_tick": lambda g: seen.append(dict(g)),
        }
        clip_gradients(network, video[:clips], LABELS[:clips], **options)  # type: ignore[arg-type]
        return seen

    together, alone = ticks(2, torch.tensor([9, 6])), ticks(1, None)
    assert len(together) == len(alone) == 7  # ticks D = 3 to 9
    for ours, theirs in zip(together[4:], alone[4:], strict=True):
        assert relative_error(ours, theirs) < 1e-12


def test_frame_backprop_with_update_frame_steps_once_a_frame() -> None:
    network, video = tiny_network(3, "chain"), moving_video(3, 5)
    steps: list[dict[str, Tensor]] = []
    rule = make_rule("backprop_frame", update="frame")
    clip_gradients(network, video, LABELS, rule=rule, on_tick=lambda g: steps.append(dict(g)))
    assert len(steps) == 5
    last = clip_gradients(network, video[:, 4:], LABELS, rule="backprop_frame").gradients
    assert relative_error(steps[-1], last) < 1e-13


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_lower_precision_stays_close(precision: str) -> None:
    network, video = tiny_network(3, "concat"), moving_video(3, 8)
    exact = clip_gradients(network, video, LABELS, rule="sideways").gradients
    single = network.float()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        results = [
            clip_gradients(single, video.float(), LABELS, rule="sideways", executor=e).gradients
            for e in ("vectorised", "pipelined")
        ]
    bound = 1e-4 if precision == "float32" else 0.1
    for gradients in results:
        assert relative_error({k: g.double() for k, g in gradients.items()}, exact) < bound


def test_gradients_leave_the_network_untouched() -> None:
    network = tiny_network(3, "dense")
    clip_gradients(network, moving_video(3, 7), LABELS, rule="sideways", executor="pipelined")
    assert all(p.grad is None for p in network.parameters())


def golden_vectors() -> dict[str, dict[str, object]]:
    """Loss and gradient norms of a network and clip written out by formula, under two rules."""
    network = tiny_network(4, "concat")
    with torch.no_grad():
        for index, p in enumerate(network.parameters()):
            p.copy_(0.3 * torch.sin(torch.arange(p.numel(), dtype=torch.float64) + index).view_as(p))
    ticks = torch.arange(10, dtype=torch.float64).view(1, 10, 1, 1, 1)
    grid = torch.arange(2 * 2 * 64, dtype=torch.float64).view(2, 1, 2, 8, 8)
    video = torch.sin(0.37 * grid + 0.2 * ticks)
    found = {rule: clip_gradients(network, video, LABELS[:2], rule=rule) for rule in ("sideways", "backprop_shifted")}
    return {
        rule: {"loss": result.loss.item(), "norms": {k: g.norm().item() for k, g in result.gradients.items()}}
        for rule, result in found.items()
    }


def test_golden_vectors() -> None:
    """Fixed at the first release: a change of meaning must be seen."""
    golden = json.loads(GOLDEN.read_text())
    for rule, found in golden_vectors().items():
        assert found["loss"] == pytest.approx(golden[rule]["loss"], rel=1e-9)
        assert found["norms"] == pytest.approx(golden[rule]["norms"], rel=1e-8)


@pytest.mark.parametrize(
    ("network", "options", "says"),
    [
        ("small_cnn", {"rule": "backprop"}, "per-frame units"),
        ("cnn3d", {"rule": "sideways"}, "takes whole clips"),
        ("small_cnn", {"rule": "backprop_shifted", "executor": "pipelined"}, "stash 'exact'"),
        ("small_cnn", {"rule": "sideways", "executor": "vectorized"}, "vectorised"),
        ("small_cnn", {"rule": "sidewise"}, "did you mean 'sideways'"),
        ("small_cnn", {"rule": "backprop_frame", "on_tick": print}, "update 'frame'"),
    ],
)
def test_combinations_without_sense_are_refused(network: str, options: dict[str, object], says: str) -> None:
    net = build_network(network, in_channels=2, num_classes=3, width=0.25)
    video = moving_video(1, 12, size=32).float()
    with pytest.raises(ValueError, match=says):
        clip_gradients(net, video, LABELS[:1], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"video_BTCHW": torch.zeros(9, 2, 8, 8)}, r"video\[None\]"),
        ({"targets": LABELS[:2]}, r"expected labels \(3,\), or a target for each frame \(3, 9, ...\)"),
        ({"targets": torch.zeros(3, 8)}, r"targets of shape \(3, 8\)"),
        ({"lengths_B": torch.tensor([9, 9, 10])}, "a number of frames from 0 to 9, 3 times"),
        ({"lengths_B": torch.tensor([9, 9])}, "a number of frames from 0 to 9, 3 times"),
        ({"state": PipelineState()}, "use executor 'pipelined'"),
        ({"state": PipelineState(), "executor": "pipelined", "rule": RULES["stash"]}, "use drain=False"),
    ],
)
def test_arguments_that_would_be_misread_are_refused(options: dict[str, object], says: str) -> None:
    given = {"video_BTCHW": moving_video(3, 9), "targets": LABELS, **options}
    with pytest.raises(ValueError, match=says):
        clip_gradients(tiny_network(3, "concat"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
def test_a_clip_that_ends_before_the_first_output_is_refused(executor: str) -> None:
    with pytest.raises(ValueError, match=r"2 frames gives no output in a pipeline of 3 units; give at least 5"):
        clip_logits(tiny_network(3, "chain"), moving_video(1, 2), rule="sideways", executor=executor)


def test_inference_is_the_same_whenever_weights_change() -> None:
    network, video = tiny_network(3, "concat"), moving_video(2, 6)
    clip, frame = (clip_logits(network, video, rule=make_rule("sideways", update=u))[0] for u in ("clip", "frame"))
    assert torch.equal(clip, frame)


def test_vectorised_execution_refuses_update_frame() -> None:
    rule = make_rule("sideways", update="frame")
    with pytest.raises(ValueError, match="use 'pipelined'"):
        clip_gradients(tiny_network(2, "chain"), moving_video(3, 5), LABELS, rule=rule, on_tick=print)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "backprop_frame", "stash": "exact"},
        {"name": "backprop_shifted", "update": "frame"},
        {"name": "sideways", "update": "tick"},
        {"name": "sideways", "stash": "some"},
    ],
)
def test_rules_refuse_options_that_make_no_sense(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"'frame'|leave stash out|expected"):
        make_rule(**options)  # type: ignore[arg-type]
