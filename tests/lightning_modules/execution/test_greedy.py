"""Local losses: what methods.md section 4 demands, against references written out in greedy_reference.py."""

import copy
import io
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.execution import PipelineState, check_stream, clip_answers, clip_gradients, make_pipeline
from lightning_modules.execution.schedule import frames_read
from lightning_modules.layers.vector_quantiser import VectorQuantiser
from lightning_modules.networks import WIRINGS, ClipNetwork, UnitNetwork, build_frame_predictor, build_network
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules, module_sizes
from lightning_modules.rules import LOCAL, Rule, make_rule
from tests.lightning_modules.execution.greedy_reference import (
    Cut,
    GreedyReference,
    frames_reached,
    nearest_codes,
    one_clip_graph,
    one_graph,
    squared,
)
from tests.lightning_modules.execution.reference import moving_video, relative_error, tiny_network

LABELS = torch.tensor([0, 2, 1])
CUTS = [(1, 1, 1, 2), (2, 1, 2), (1, 4), (2, 3), (1, 1, 1, 1, 1)]
FAST_WIRINGS = ("chain", "dense")  # that a fast run takes
CLOCKS = {"greedy": 1, "greedy_frame": 0}
SIDE = 16  # of frames: the deepest maps keep some pixels


def local_network(
    sizes: Sequence[int], wiring: str = "chain", *, dtype: torch.dtype = torch.float64, **options: Any
) -> UnitNetwork:
    """A tiny network of as many units as `sizes` say, smooth, in modules."""
    network = tiny_network(sum(sizes), wiring)
    cut_into_modules(network, LocalModules(modules=list(sizes), head="mlp", activation="tanh", **options))
    return network.to(dtype)


def local_predictor(sizes: Sequence[int], wiring: str = "chain") -> UnitNetwork:
    """Frames in, frames of two channels out: modules with decoders."""
    torch.manual_seed(0)
    network = build_frame_predictor(
        "small_autoencoder",
        wiring=wiring,
        in_channels=2,
        out_channels=2,
        width=0.25,
        depth=sum(sizes),
        activation="tanh",
    )
    cut_into_modules(network, LocalModules(modules=list(sizes), head="decoder", activation="tanh"))
    return network.double()


def clips(frames: int) -> Tensor:
    return moving_video(3, frames, size=SIDE)


def frame_targets(frames: int) -> Tensor:
    return torch.rand(3, frames, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


# What each module learns from


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_loss_reaches_its_own_module_alone(wiring: str, executor: str) -> None:
    """From the very answers that the executor compares: no parameter of another module has a gradient, nor a zero."""
    network, reached = local_network((2, 1, 2), wiring), list[set[int]]()
    cut = Cut((2, 1, 2))
    module_of = {name: cut.module(1 + int(name.split(".")[1])) for name, _ in network.named_parameters()}

    def loss(answer: Tensor, labels: Tensor) -> Tensor:
        found = torch.autograd.grad(answer.sum(), list(network.parameters()), allow_unused=True, retain_graph=True)
        reached.append({module_of[name] for name, g in zip(module_of, found, strict=True) if g is not None})
        return torch.nn.functional.cross_entropy(answer, labels, reduction="none")

    result = clip_gradients(network, clips(4), LABELS, rule="greedy", executor=executor, loss=loss)
    # Module j answers at 5 - j of the ticks, or at all of them at once.
    expected = {"vectorised": [1, 2, 3], "pipelined": [1, 1, 2, 1, 2, 3, 1, 2, 3]}
    assert reached == [{module} for module in expected[executor]]
    assert result.gradients.keys() == module_of.keys()


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("rule", CLOCKS)
@pytest.mark.parametrize("sizes", CUTS, ids=str)
def test_the_loop_is_one_graph_of_detached_modules(sizes: tuple[int, ...], rule: str, wiring: str) -> None:
    """Bit for bit, in double and single precision, with clips of different lengths: the second never reaches tick 4."""
    for dtype in (torch.float64, torch.float32):
        network, lengths = local_network(sizes, wiring, dtype=dtype), torch.tensor([7, 3, 6])
        video = clips(7).to(dtype)
        ours = clip_gradients(network, video, LABELS, rule=rule, lengths_B=lengths)
        gradients, losses = one_graph(network, sizes, video, LABELS, lengths, CLOCKS[rule])
        assert ours.gradients.keys() == gradients.keys() == dict(network.named_parameters()).keys()
        assert [n for n, g in gradients.items() if not torch.equal(ours.gradients[n], g)] == []
        assert {j: a.loss.item() for j, a in ours.answers.items()} == {j: x.item() for j, x in losses.items()}
        assert ours.loss is not None
        assert torch.equal(ours.loss, losses[len(sizes)])


@pytest.mark.parametrize(("wiring", "sizes"), [("residual", (2, 1, 2)), ("dense", (1, 1, 1, 2)), ("input", (1, 4))])
@pytest.mark.parametrize(
    ("rule", "executor"), [("greedy", "vectorised"), ("greedy", "pipelined"), ("greedy_frame", "vectorised")]
)
def test_gradients_are_those_of_the_recursion(rule: str, executor: str, wiring: str, sizes: tuple[int, ...]) -> None:
    """Tick by tick and unit by unit, each clip alone in the loss: the meaning of `one_graph` too."""
    network, lengths = local_network(sizes, wiring), torch.tensor([6, 2, 5])
    reference = GreedyReference(network, sizes, clips(6), LABELS, lengths, clock=CLOCKS[rule])
    ours = clip_gradients(network, clips(6), LABELS, rule=rule, executor=executor, lengths_B=lengths)
    assert relative_error(ours.gradients, reference.gradients()) < 1e-12
    for module, loss in reference.losses().items():
        assert ours.answers[module].loss.item() == pytest.approx(loss.item(), rel=1e-12)
        assert int(ours.answers[module].valid_BN.sum()) == len(reference.pairs(module))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rule", CLOCKS)
@pytest.mark.parametrize("wiring", WIRINGS)
def test_one_module_is_frame_backprop(wiring: str, rule: str, dtype: torch.dtype) -> None:
    """J = 1, bit for bit: gradients, loss and outputs, at every tick."""
    lengths, video = torch.tensor([5, 2, 4]), clips(5).to(dtype)
    exact = clip_gradients(tiny_network(5, wiring).to(dtype), video, LABELS, rule="backprop_frame", lengths_B=lengths)
    ours = clip_gradients(local_network((5,), wiring, dtype=dtype), video, LABELS, rule=rule, lengths_B=lengths)
    assert ours.gradients.keys() == exact.gradients.keys()
    assert [name for name, g in exact.gradients.items() if not torch.equal(ours.gradients[name], g)] == []
    assert torch.equal(ours.loss, exact.loss)  # type: ignore[arg-type]
    assert torch.equal(ours.logits_BNK, exact.logits_BNK)
    assert torch.equal(ours.valid_BN, exact.valid_BN)


def test_one_module_of_a_predictor_is_frame_backprop() -> None:
    """The same with a target for each frame, on the wiring that only predictors have."""
    torch.manual_seed(0)
    plain = build_frame_predictor("small_autoencoder", wiring="unet", in_channels=2, out_channels=2, width=0.25)
    given = {"video_BTCHW": clips(4), "targets": frame_targets(4), "loss": squared}
    exact = clip_gradients(plain.double(), rule="backprop_frame", **given)  # type: ignore[arg-type]
    cut_into_modules(plain, LocalModules(modules=1, head="decoder"))
    ours = clip_gradients(plain, rule="greedy", **given)  # type: ignore[arg-type]
    assert ours.gradients.keys() == exact.gradients.keys()
    assert all(torch.equal(ours.gradients[name], g) for name, g in exact.gradients.items())


# The two executors, and streams


@pytest.mark.parametrize("lengths", [None, [8, 2, 5]], ids=["whole", "ragged"])
@pytest.mark.parametrize(
    ("sizes", "wiring"),
    [
        pytest.param(sizes, wiring, marks=[pytest.mark.slow] * (sizes not in CUTS[:3] or wiring not in FAST_WIRINGS))
        for sizes in CUTS
        for wiring in WIRINGS
    ],
)
def test_vectorised_equals_pipelined(sizes: tuple[int, ...], wiring: str, lengths: list[int] | None) -> None:
    """Gradients, losses, answers and masks of every module; the second clip ends before most modules' first tick."""
    network, video = local_network(sizes, wiring), clips(8)
    options = {"rule": "greedy", "lengths_B": None if lengths is None else torch.tensor(lengths)}
    one, other = (clip_gradients(network, video, LABELS, executor=e, **options) for e in ("vectorised", "pipelined"))  # type: ignore[arg-type]
    assert relative_error(one.gradients, other.gradients) < 1e-12
    assert one.answers.keys() == other.answers.keys() == set(range(1, len(sizes) + 1))
    for module, answer in one.answers.items():
        assert answer.logits_BNK.shape[1] == 8 - module + 1
        for ours, theirs in zip(answer, other.answers[module], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    asked_one, asked_other = (
        clip_answers(network, video, executor=e, **options)  # type: ignore[arg-type]
        for e in ("vectorised", "pipelined")
    )
    assert torch.equal(asked_one.valid_BN, asked_other.valid_BN)
    torch.testing.assert_close(asked_one.logits_BNK, asked_other.logits_BNK, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(asked_one.logits_BNK, one.logits_BNK, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("wiring", "sizes"), [("unet", (1, 1, 1, 1, 1, 1)), ("unet", (2, 2, 2)), ("dense", (2, 3, 1))])
def test_predictors_learn_the_recursion_s_targets(wiring: str, sizes: tuple[int, ...]) -> None:
    """Each decoder is asked about the frame found by the independent count, averaged down to its own resolution."""
    network, video, targets = local_predictor(sizes, wiring), clips(9), frame_targets(9)
    lengths = torch.tensor([9, 4, 7])
    reference = GreedyReference(network, sizes, video, targets, lengths, squared)
    expected, losses = reference.gradients(), reference.losses()
    for executor in ("vectorised", "pipelined"):
        ours = clip_gradients(
            network, video, targets, rule="greedy", executor=executor, lengths_B=lengths, loss=squared
        )
        assert relative_error(ours.gradients, expected) < 1e-12
        for module, loss in losses.items():
            assert ours.answers[module].loss.item() == pytest.approx(loss.item(), rel=1e-12)
            assert int(ours.answers[module].valid_BN.sum()) == len(reference.pairs(module))


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
def test_the_frame_that_each_head_is_asked_about(executor: str) -> None:
    """Written out for six units on the dense wiring: unit 1 sees frame t, all others over it frame t - 1.

    Frame f is f everywhere, the targets are the second frames after the newest. Nominal frame n of the last unit, tick
    n + 5, has seen frame n + 4: so target n is n + 6, and an answer of tick t is asked for t + 2 or, above, t + 1.
    """
    sizes, frames, asked_of = (1,) * 6, 9, list[tuple[int, int, float]]()
    network = local_predictor(sizes, "dense")
    numbers = torch.arange(1.0, frames + 1, dtype=torch.float64).view(1, -1, 1, 1, 1)
    video, targets = ((numbers + more).expand(3, frames, 2, SIDE, SIDE) for more in (0, 6))
    now = {"module": 0}
    forward = network.module_forward

    def watched(module: int, messages: Any, **options: Any) -> Any:
        now["module"] = module
        return forward(module, messages, **options)

    def loss(answer: Tensor, target: Tensor) -> Tensor:
        assert answer.shape == target.shape
        assert all(row.unique().numel() == 1 for row in target)
        asked_of.extend((now["module"], answer.shape[-1], row.mean().item()) for row in target[::3])
        return squared(answer, target)

    network.module_forward = watched  # type: ignore[method-assign]
    result = clip_gradients(network, video, targets, rule="greedy", executor=executor, loss=loss)
    for module in range(1, 7):
        newest = [tick if module == 1 else tick - 1 for tick in range(module, frames + 1)]
        expected = [number + 2.0 for number in newest if number >= 5]  # what has seen less is not asked
        assert [value for n, _, value in asked_of if n == module][-len(expected) :] == expected
        assert result.answers[module].valid_BN.tolist() == [[number >= 5 for number in newest]] * 3
    sides = {module: {side for n, side, _ in asked_of if n == module} for module in range(1, 7)}
    assert sides == {1: {16}, 2: {8}, 3: {4}, 4: {8}, 5: {16}, 6: {16}}


@pytest.mark.parametrize("wiring", ["chain", "dense", "input"])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 2), (2, 2, 1)], ids=str)
def test_a_stream_in_pieces_is_the_stream(sizes: tuple[int, ...], wiring: str) -> None:
    """Pieces shorter than the pipeline too, and through a checkpoint's bytes; the third clip ends in the last piece."""
    network, video, ends = local_network(sizes, wiring), clips(12), (0, 2, 3, 8, 12)
    lengths = torch.tensor([12, 12, 10])
    options: dict[str, Any] = {"rule": "greedy", "executor": "pipelined"}
    whole = clip_gradients(network, video, LABELS, lengths_B=lengths, **options)
    saved = PipelineState().state_dict()
    sums = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    pairs, logits = dict.fromkeys(range(1, len(sizes) + 1), 0), {j: list[Tensor]() for j in range(1, len(sizes) + 1)}
    for begin, end in pairwise(ends):
        state = PipelineState.from_state_dict(saved)
        piece_lengths = (lengths - begin).clamp(0, end - begin)
        part = clip_gradients(network, video[:, begin:end], LABELS, lengths_B=piece_lengths, state=state, **options)
        asked_for = clip_answers(
            network, video[:, begin:end], state=PipelineState.from_state_dict(saved), lengths_B=piece_lengths, **options
        )
        for module, answer in part.answers.items():
            count = int(answer.valid_BN.sum())
            pairs[module] += count
            if answer.logits_BNK.shape[1]:
                logits[module].append(answer.logits_BNK)
                assert torch.equal(asked_for.modules[module].logits_BNK, answer.logits_BNK)
            for unit in network.module_units(module):
                for name in network.unit_parameters(unit).keys() & part.gradients.keys():
                    sums[name] += count * part.gradients[name]
        assert part.state is not None
        buffer = io.BytesIO()
        torch.save(part.state.state_dict(), buffer)
        buffer.seek(0)
        saved = torch.load(buffer, weights_only=True)
    for module, answer in whole.answers.items():
        assert pairs[module] == int(answer.valid_BN.sum())
        assert torch.equal(torch.cat(logits[module], 1), answer.logits_BNK)
        names = [name for unit in network.module_units(module) for name in network.unit_parameters(unit)]
        means = {name: sums[name] / pairs[module] for name in names}
        assert relative_error(means, {name: whole.gradients[name] for name in names}) < 1e-12


@pytest.mark.parametrize("wiring", ["chain", "dense", "unet"])
def test_a_stream_with_targets_for_frames_is_the_stream(wiring: str) -> None:
    """A head may be asked about a frame that came long ago: the targets kept from piece to piece reach as far back."""
    sizes = (1,) * 6
    network, video, targets = local_predictor(sizes, wiring), clips(14), frame_targets(14)
    options: dict[str, Any] = {"rule": "greedy", "executor": "pipelined", "loss": squared}
    whole = clip_gradients(network, video, targets, **options)
    state, sums, pairs = PipelineState(), dict[int, float](), dict[int, int]()
    for begin, end in ((0, 5), (5, 9), (9, 10), (10, 14)):
        part = clip_gradients(network, video[:, begin:end], targets[:, begin:end], state=state, **options)
        assert part.state is not None
        state = part.state
        for module, answer in part.answers.items():
            count = int(answer.valid_BN.sum())
            sums[module] = sums.get(module, 0.0) + count * answer.loss.item()
            pairs[module] = pairs.get(module, 0) + count
    for module, answer in whole.answers.items():
        assert pairs[module] == int(answer.valid_BN.sum())
        assert sums[module] / pairs[module] == pytest.approx(answer.loss.item(), rel=1e-12)


@pytest.mark.parametrize("wiring", ["chain", "dense"])
def test_frame_by_frame_inference_needs_no_heads(wiring: str) -> None:
    """Live, one frame at a time, with quantised messages: the clip's answers, also where the heads are gone."""
    network, video = quantised_network((1, 1, 1, 2), wiring), clips(7)
    expected = clip_answers(network, video, rule="greedy").logits_BNK
    assert expected is not None
    for unit in range(1, 6):
        network.unit(unit).head = None
    pipeline = make_pipeline(network, make_rule("greedy"))
    with torch.no_grad():
        answers = [pipeline.infer(video[:, tick]) for tick in range(7)]
    assert answers[:3] == [None] * 3
    for ours, theirs in zip(answers[3:], expected.unbind(1), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def reads(network: UnitNetwork, video: Tensor, module: int) -> dict[int, set[int]]:
    """Frames that change a module's answer of a tick, found by changing one frame after the other."""

    def answers(changed: Tensor) -> Tensor:
        return clip_answers(network, changed, rule="greedy").modules[module].logits_BNK[0]

    before, found = answers(video), dict[int, set[int]]()
    for frame in range(video.shape[1]):
        changed = video.clone()
        changed[:, frame] += 0.5 + video[:, frame].flip(-1)
        for tick, differs in enumerate((answers(changed) != before).any(-1).tolist(), start=module):
            found.setdefault(tick, set())
            if differs:
                found[tick].add(frame + 1)
    return found


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 2), (2, 1, 2), (5,)], ids=str)
def test_skips_bring_newer_frames(sizes: tuple[int, ...], wiring: str) -> None:
    """The frames that an answer depends on, measured, counted independently, and as the schedule says."""
    network, video = local_network(sizes, wiring), clips(6)[:1]
    for module in range(1, len(sizes) + 1):
        top = Cut(sizes).top(module)
        for tick, frames in reads(network, video, module).items():
            assert frames == frames_reached(network.wiring, sizes, top, tick) == frames_read(network.wiring, top, tick)


def test_frames_that_reach_modules_written_out() -> None:
    """Units 1 | 2 | 3 | 4, 5, tick 5: over unit 1 the dense wiring brings module 4 frame 4; the chain only frame 2."""
    video = clips(5)[:1]
    seen = {w: reads(local_network((1, 1, 1, 2), w), video, 4)[5] for w in ("chain", "residual", "dense", "input")}
    assert seen == {"chain": {2}, "residual": {2, 3}, "dense": {2, 3, 4}, "input": {2, 3, 4, 5}}
    inside = {w: reads(local_network((5,), w), video, 1)[5] for w in WIRINGS}
    assert inside == {w: {5} for w in WIRINGS}  # within a module there is no time


# Weights that change at every tick


@pytest.mark.parametrize(("wiring", "sizes"), [("chain", (1, 1, 1, 2)), ("dense", (2, 1, 2))])
def test_update_frame_is_a_step_at_every_tick(wiring: str, sizes: tuple[int, ...]) -> None:
    """Written out: each module does its tick on messages made by the weights of the tick before, then all step."""
    ours, plain = local_network(sizes, wiring), local_network(sizes, wiring)
    video, lengths, rate, cut = clips(7), [7, 4, 6], 0.5, Cut(sizes)

    def on_tick(gradients: Any) -> None:
        with torch.no_grad():
            for name, gradient in gradients.items():
                ours.get_parameter(name).sub_(rate * gradient)

    rule = make_rule("greedy", update="frame")
    given: dict[str, Any] = {"executor": "pipelined", "lengths_B": torch.tensor(lengths)}
    result = clip_gradients(ours, video, LABELS, rule=rule, on_tick=on_tick, **given)

    sent: dict[int, Tensor] = {}
    totals = dict.fromkeys(range(1, len(sizes) + 1), 0.0)
    for tick in range(1, 8):
        alive = [clip for clip in range(3) if tick <= lengths[clip]]
        outputs: dict[int, Tensor] = {0: video[:, tick - 1]}
        steps: dict[str, Tensor] = {}
        for module in range(1, min(len(sizes), tick) + 1):
            units = [u for u in range(1, 6) if cut.module(u) == module]
            for unit in units:
                read = [outputs[j] if j == 0 or j in units else sent[j] for j in plain.wiring.sources_of(unit)]
                outputs[unit] = plain.unit(unit)(read)
            head = plain.unit(units[-1]).head
            answer = outputs[units[-1]] if head is None else head(outputs[units[-1]])
            loss = torch.nn.functional.cross_entropy(answer[alive], LABELS[alive])
            totals[module] += loss.item() * len(alive)
            names = [n for u in units for n in plain.unit_parameters(u)]
            found = torch.autograd.grad(loss, [plain.get_parameter(n) for n in names])
            steps.update(zip(names, found, strict=True))
        with torch.no_grad():
            for name, gradient in steps.items():
                plain.get_parameter(name).sub_(rate * gradient)
        sent = {unit: output.detach() for unit, output in outputs.items() if unit}
    assert relative_error(dict(ours.named_parameters()), dict(plain.named_parameters())) < 1e-12  # type: ignore[arg-type]
    assert result.gradients == {}
    for module, answers in result.answers.items():
        assert answers.loss.item() == pytest.approx(totals[module] / int(answers.valid_BN.sum()), rel=1e-12)


def test_update_frame_hands_over_none_after_the_last_clip() -> None:
    """As often as there are ticks, whatever the lengths: replicas of other lengths wait at each of them."""
    network, steps = local_network((2, 1, 2)), list[set[str]]()
    given: dict[str, Any] = {"rule": make_rule("greedy", update="frame"), "executor": "pipelined"}
    clip_gradients(
        network, clips(6), LABELS, lengths_B=torch.tensor([4, 2, 0]), on_tick=lambda g: steps.append(set(g)), **given
    )
    modules = [{Cut((2, 1, 2)).module(1 + int(name.split(".")[1])) for name in names} for names in steps]
    # From its first tick on; at ticks 5 and 6 no clip is left, and none are handed over.
    assert modules == [{1}, {1, 2}, {1, 2, 3}, {1, 2, 3}, set(), set()]


# Networks of whole clips


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("sizes", "layers"), [((2, 2, 1), (6, 12, 15)), ((1, 4), (3, 15)), ((1, 1, 3), (3, 6, 15))])
def test_modules_of_a_3d_network_are_one_graph(
    sizes: tuple[int, ...], layers: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Five blocks of three layers; the classifier is with the last. Bit for bit."""
    torch.manual_seed(0)
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25, activation="tanh")
    assert isinstance(network, ClipNetwork)
    cut_into_modules(network, LocalModules(modules=list(sizes), head="cnn", activation="tanh"))
    video = clips(4).to(dtype)
    ours = clip_gradients(network.to(dtype), video, LABELS, rule="greedy")
    runs = [range(*ends) for ends in zip((0, *layers), layers, strict=False)]
    expected = one_clip_graph(network, runs, video, LABELS)
    assert ours.gradients.keys() == expected.keys()
    assert [name for name, g in expected.items() if not torch.equal(ours.gradients[name], g)] == []


def test_clips_of_different_lengths_go_through_a_3d_network_without_padding() -> None:
    torch.manual_seed(0)
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25)
    cut_into_modules(network, LocalModules(modules=3, head="mlp"))
    network.double()
    video, lengths = clips(6), torch.tensor([3, 6, 3])
    video[0, 3:] = 1e3
    together = clip_gradients(network, video, LABELS, rule="greedy", lengths_B=lengths)
    short = clip_gradients(network, video[[0, 2], :3], LABELS[[0, 2]], rule="greedy")
    long = clip_gradients(network, video[1:2], LABELS[1:2], rule="greedy")
    expected = {n: (2 * short.gradients[n] + long.gradients[n]) / 3 for n in short.gradients}
    assert relative_error(together.gradients, expected) < 1e-12
    for module, answer in together.answers.items():
        parts = short.answers[module].logits_BNK, long.answers[module].logits_BNK
        torch.testing.assert_close(answer.logits_BNK, torch.stack([parts[0][0], parts[1][0], parts[0][1]]))


def test_one_module_of_a_3d_network_is_backprop() -> None:
    torch.manual_seed(0)
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25)
    exact = clip_gradients(network, clips(4).float(), LABELS, rule="backprop")
    cut_into_modules(network, LocalModules(modules=1))
    ours = clip_gradients(network, clips(4).float(), LABELS, rule="greedy")
    assert ours.gradients.keys() == exact.gradients.keys()
    assert all(torch.equal(ours.gradients[name], g) for name, g in exact.gradients.items())


def test_modules_of_x3d_are_one_graph_with_one_batch_of_statistics() -> None:
    """The published 3D network in two modules; its BatchNorms see each batch once."""
    torch.manual_seed(0)
    network = build_network("x3d", in_channels=2, num_classes=3, width=0.5)
    assert isinstance(network, ClipNetwork)
    cut_into_modules(network, LocalModules(modules=[2, 3], head="mlp"))
    video = moving_video(2, 4, size=32).float()
    ours = clip_gradients(network, video, LABELS[:2], rule="greedy")
    steps = {int(m.num_batches_tracked) for m in network.modules() if isinstance(m, torch.nn.BatchNorm3d)}  # type: ignore[arg-type]
    assert steps == {1}
    expected = one_clip_graph(network, [range(2), range(2, len(network.blocks))], video, LABELS[:2])
    assert ours.gradients.keys() == expected.keys()
    assert [name for name, g in expected.items() if not torch.equal(ours.gradients[name], g)] == []


# Memory


class SavedBytes:
    """Counts what autograd keeps for backward: now, and at most so far; parameters are not counted."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.now = self.peak = 0
        self._own = {p.data_ptr() for p in network.parameters()}

    @contextmanager
    def counted(self) -> Iterator["SavedBytes"]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor):
            yield self

    def _pack(self, tensor: Tensor) -> "_Kept":
        kept = _Kept(tensor)
        if tensor.data_ptr() not in self._own:
            self._count(tensor.nbytes)
            weakref.finalize(kept, self._count, -tensor.nbytes)
        return kept

    def _count(self, number: int) -> None:
        self.now += number
        self.peak = max(self.peak, self.now)


class _Kept:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def peak_of(network: UnitNetwork | ClipNetwork, work: Callable[[], object]) -> int:
    with SavedBytes(network).counted() as saved:
        work()
    assert saved.now == 0
    return saved.peak


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
@pytest.mark.parametrize("wiring", ["chain", "dense"])
def test_memory_is_that_of_the_largest_module(wiring: str, executor: str) -> None:
    """Each module's own graph, made by hand, is weighed; greedy's peak is their maximum, frame backprop's their sum."""
    sizes, frames = (2, 1, 2), 6
    network, video = local_network(sizes, wiring), clips(frames)
    peak = peak_of(network, lambda: clip_gradients(network, video, LABELS, rule="greedy", executor=executor))
    alone = {}
    together = {0: video.transpose(0, 1)} if executor == "vectorised" else {0: video.transpose(0, 1)[:1]}
    for module in (1, 2, 3):
        first = module
        ticks = frames - first + 1 if executor == "vectorised" else 1
        messages = {j: together[j][-ticks - (j > 0) :][:ticks].flatten(0, 1) for j in network.module_sources(module)}

        def work(module: int = module, messages: dict[int, Tensor] = messages, ticks: int = ticks) -> None:
            outputs, answer = network.module_forward(module, messages)
            together.update({unit: output.detach().unflatten(0, (ticks, 3)) for unit, output in outputs.items()})
            losses = torch.nn.functional.cross_entropy(answer, LABELS.repeat(ticks), reduction="none")
            total = (losses * torch.ones_like(losses)).sum()
            torch.autograd.grad(total, [p for _, p in network.named_parameters()], allow_unused=True)

        if executor == "pipelined":
            messages = {j: m[:3] for j, m in messages.items()}
        alone[module] = peak_of(network, work)
    assert peak == max(alone.values())
    assert peak < 0.75 * sum(alone.values())


def test_a_module_s_memory_does_not_grow_with_the_number_of_modules() -> None:
    """Ten units of one size in 2, 5 and 10 modules: the peak falls with the module's share; backprop holds all."""
    peaks = {}
    for modules in (1, 2, 5, 10):
        torch.manual_seed(0)
        network = build_network("small_cnn", in_channels=2, num_classes=3, width=0.25, depth=11)
        assert isinstance(network, UnitNetwork)
        cut_into_modules(network, LocalModules(modules=modules, head="mlp", head_width=0.01))
        video = moving_video(2, 10, size=64).float()
        peaks[modules] = peak_of(network, partial(clip_gradients, network, video, LABELS[:2], rule="greedy"))
    assert peaks[10] < peaks[5] < peaks[2] < peaks[1]


# Quantised messages


def quantised_network(sizes: Sequence[int], wiring: str, *, dead: float = 0.0) -> UnitNetwork:
    """Codebooks that were started on some other clips."""
    network = local_network(sizes, wiring, vq_groups=2, vq_codes=8)
    for unit in range(1, network.depth + 1):
        if (quantiser := network.quantiser(unit)) is not None:
            quantiser.dead = dead
    clip_gradients(network, moving_video(3, 8, size=SIDE, seed=5), LABELS, rule="greedy")
    return network


def codebooks(network: UnitNetwork | ClipNetwork) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in network.named_buffers()}


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
@pytest.mark.parametrize(("wiring", "sizes"), [("chain", (1, 1, 1, 2)), ("residual", (2, 1, 2)), ("dense", (1, 4))])
def test_quantised_messages_are_nearest_codes(wiring: str, sizes: tuple[int, ...], executor: str) -> None:
    """Gradients by brute-force codes from the codebook before the batch; the codebook moves once, after the batch."""
    network = quantised_network(sizes, wiring)
    expected = GreedyReference(network, sizes, clips(7), LABELS).gradients()
    before = codebooks(network)
    ours = clip_gradients(network, clips(7), LABELS, rule="greedy", executor=executor)
    assert relative_error(ours.gradients, expected) < 1e-12
    versions = [name for name in before if name.endswith("version")]
    assert versions
    assert all(int(network.get_buffer(name)) == int(before[name]) + 1 for name in versions)
    answers_BNK = clip_answers(network, clips(7), rule="greedy", executor=executor).logits_BNK
    assert answers_BNK is not None
    again = GreedyReference(network, sizes, clips(7), LABELS)  # of the codebooks that the batch has left
    for tick in range(len(sizes), 8):
        last = again.answer(len(sizes), tick)
        torch.testing.assert_close(answers_BNK[:, tick - len(sizes)], last, rtol=1e-10, atol=1e-12)


def test_codebooks_learn_alike_in_both_executors() -> None:
    networks = [quantised_network((1, 1, 1, 2), "dense") for _ in range(2)]
    for network, executor in zip(networks, ("vectorised", "pipelined"), strict=True):
        for seed in (1, 2, 3):
            clip_gradients(network, moving_video(3, 6, size=SIDE, seed=seed), LABELS, rule="greedy", executor=executor)
    one, other = (codebooks(network) for network in networks)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("started", [False, True])
def test_where_codebooks_of_the_two_executors_differ(started: bool) -> None:
    """Written out for the lowest module: the first codes, and those that begin anew, follow the calls.

    Vectorised there is one call with all ticks: it gives the first codes, and one draw for dead codes. Pipelined there
    is a call a tick: the first gives the first codes, and each draws for dead ones.
    """
    first = local_network((1, 1, 1, 2), vq_groups=2, vq_codes=8)
    if started:
        first = quantised_network((1, 1, 1, 2), "chain", dead=0.9)
    video, found = clips(5), {}
    for executor in ("vectorised", "pipelined"):
        network = copy.deepcopy(first)
        expected = network.quantiser(1)
        assert isinstance(expected, VectorQuantiser)
        expected = copy.deepcopy(expected)
        with torch.no_grad():
            ticks = [network.unit(1)([video[:, t]]) for t in range(5)]
        for call in [torch.cat(ticks)] if executor == "vectorised" else ticks:
            expected(call, learn=True)
        expected.step()
        clip_gradients(network, video, LABELS, rule="greedy", executor=executor)
        found[executor] = codebooks(network)
        for name, value in expected.named_buffers():
            torch.testing.assert_close(found[executor][f"units.0.quantiser.{name}"], value, rtol=1e-9, atol=1e-11)
    one, other = (found[executor]["units.0.quantiser.codebook"] for executor in found)
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
def test_padding_never_reaches_a_codebook(executor: str) -> None:
    """Whatever stands behind a clip's end, codebooks are those of its own frames; so are gradients.

    A network that starts its codebooks with this batch too: pipelined, from the first tick.
    """
    found = []
    for network in (quantised_network((1, 1, 1, 2), "dense"), local_network((2, 3), vq_groups=2, vq_codes=8)):
        for junk in (0.0, 100.0):
            ours, video, lengths = copy.deepcopy(network), clips(7), torch.tensor([7, 3, 5])
            for clip, length in enumerate(lengths.tolist()):
                video[clip, length:] = junk
            result = clip_gradients(ours, video, LABELS, rule="greedy", executor=executor, lengths_B=lengths)
            found.append(codebooks(ours) | result.gradients)
    for one, other in (found[:2], found[2:]):
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_codebook_learns_the_mean_of_its_vectors() -> None:
    """Written out for the lowest module: averages of counts and sums over all ticks, then one step."""
    network, video = quantised_network((1, 1, 1, 2), "chain"), clips(5)
    quantiser, decay = network.quantiser(1), LocalModules.vq_decay
    assert quantiser is not None
    old_book, old_count, old_sum = (x.clone() for x in (quantiser.codebook, quantiser.ema_count, quantiser.ema_sum))
    output = torch.cat([network.unit(1)([video[:, t]]) for t in range(5)]).detach()
    coded = nearest_codes(old_book, output)
    clip_gradients(network, video, LABELS, rule="greedy")
    vectors, codes = (x.movedim(1, -1).reshape(-1, 2, 2) for x in (output, coded))
    for group in range(2):
        for code in range(8):
            mine = (codes[:, group] == old_book[group, code]).all(-1)
            count = decay * old_count[group, code] + (1 - decay) * mine.sum()
            total = decay * old_sum[group, code] + (1 - decay) * vectors[mine, group].sum(0)
            torch.testing.assert_close(quantiser.ema_count[group, code], count)
            torch.testing.assert_close(quantiser.ema_sum[group, code], total)


def test_answers_change_no_codebook() -> None:
    network = quantised_network((2, 1, 2), "concat", dead=0.01)
    before = codebooks(network)
    for executor in ("vectorised", "pipelined"):
        clip_answers(network, clips(6), rule="greedy", executor=executor)
        clip_answers(network, clips(6), rule="greedy", executor="pipelined", state=PipelineState())
    after = codebooks(network)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(q.gathered() == 0 for u in (1, 2, 3) if (q := network.quantiser(u)) is not None)


def test_a_checkpoint_goes_on_with_its_codebooks() -> None:
    """Weights, heads and codebooks through a file; the next batches give the same bits, dead codes revived too."""
    first = quantised_network((1, 1, 1, 2), "dense", dead=0.01)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = local_network((1, 1, 1, 2), "dense", vq_groups=2, vq_codes=8)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for seed in (1, 2):
        found = [
            clip_gradients(n, moving_video(3, 6, size=SIDE, seed=seed), LABELS, rule="greedy").gradients
            for n in (first, second)
        ]
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    one, other = codebooks(first), codebooks(second)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_a_module_reads_of_its_own_units_is_not_quantised() -> None:
    """Units 1 and 2 are one module, read by unit 3: unit 2 reads unit 1 as it is, unit 3 reads codes of both."""
    network = quantised_network((2, 3), "residual")
    assert [unit for unit in range(1, 6) if network.quantiser(unit) is not None] == [1, 2]
    with torch.no_grad():
        network.quantiser(1).codebook.zero_()  # type: ignore[union-attr]
    video = clips(2)
    ours = clip_answers(network, video, rule="greedy").modules
    inside = network.unit(2)([network.unit(1)([video[:, 1]])])
    torch.testing.assert_close(ours[1].logits_BNK[:, 1], network.unit(2).head(inside))  # type: ignore[misc]
    below = [network.unit(1)([video[:, 0]])]
    below.append(network.unit(2)(below))
    sent = [nearest_codes(network.quantiser(unit).codebook, below[unit - 1]) for unit in (1, 2)]  # type: ignore[union-attr]
    third = network.unit(3)([sent[1], sent[0]])
    fourth = network.unit(4)([third, sent[1]])
    torch.testing.assert_close(ours[2].logits_BNK[:, 0], network.unit(5)([fourth, third]))


# Cutting, and what is refused


def test_weights_of_a_network_are_those_of_its_seed() -> None:
    """Heads and quantisers are drawn after the network, and change nothing of it."""
    plain = tiny_network(5, "dense").state_dict()
    cuts: list[tuple[tuple[int, ...], dict[str, Any]]] = [((5,), {}), ((1, 4), {}), ((2, 3), {"vq_groups": 2})]
    for sizes, options in cuts:
        cut = local_network(sizes, "dense", **options).state_dict()
        assert all(torch.equal(value, cut[name]) for name, value in plain.items())
        extra = {name.split(".")[2] for name in cut.keys() - plain.keys()}
        assert extra == ({"head", "quantiser"} if options else {"head"} if len(sizes) > 1 else set())


@pytest.mark.parametrize(
    ("modules", "units", "sizes"),
    [
        (None, 6, (1, 1, 1, 1, 2)),
        (None, 1, (1,)),
        (6, 6, (1, 1, 1, 1, 1, 1)),
        (1, 6, (6,)),
        (2, 6, (3, 3)),
        (3, 6, (2, 2, 2)),
        (4, 6, (2, 1, 1, 2)),
        ([4, 2], 6, (4, 2)),
    ],
)
def test_sizes_of_modules(modules: int | list[int] | None, units: int, sizes: tuple[int, ...]) -> None:
    assert module_sizes(modules, units) == sizes


@pytest.mark.parametrize(
    ("network", "options", "says"),
    [
        ("small_cnn", {"modules": 0}, "expected 1 to 6, or a size for each"),
        ("small_cnn", {"modules": 7}, "expected 1 to 6, or a size for each"),
        ("small_cnn", {"modules": [2, 2]}, r"give numbers that add up to 6, such as \[3, 3\]"),
        ("small_cnn", {"modules": [6, 0]}, "at least 1 a module"),
        ("small_cnn", {"modules": []}, r"such as \[6\]"),
        ("small_cnn", {"modules": True}, "expected 1 to 6, or a size for each"),
        ("cnn3d", {"modules": 6}, "modules 6 of a network of 5 blocks; expected 1 to 5, or a size for each"),
        ("cnn3d", {"modules": [3, 2, 1]}, r"have 6 blocks, the network has 5.* such as \[2, 2, 1\]"),
        ("small_cnn", {"head": "mpl"}, "did you mean 'mlp'"),
        ("small_cnn", {"head_width": 0.0}, "give a positive number"),
        ("small_cnn", {"head_width": float("inf")}, "give a positive number"),
        ("small_cnn", {"head_width": float("nan")}, "give a positive number"),
        ("cnn3d", {"head": "decoder"}, "for clips give one of"),
        ("small_cnn", {"vq_codes": 16}, "use vq_groups 1 or more, or leave them out"),
        ("small_cnn", {"modules": 1, "vq_codes": 16}, "use vq_groups 1 or more, or leave them out"),
        ("small_cnn", {"modules": 1, "vq_groups": 2}, "which sends nothing; leave vq_groups out, or use modules 2"),
        ("cnn3d", {"modules": [5], "vq_groups": 2}, "which sends nothing; leave vq_groups out, or use modules 2"),
        ("small_cnn", {"vq_groups": 3}, "expected a divisor of the channels"),
        ("small_cnn", {"vq_groups": 2, "vq_codes": 1}, "expected 2 to 65536"),
        ("small_cnn", {"zero": True}, "belongs to head 'decoder' only"),
    ],
)
def test_cuts_that_make_no_sense_are_refused(network: str, options: dict[str, Any], says: str) -> None:
    made = build_network(network, in_channels=2, num_classes=3, width=0.25)
    with pytest.raises(ValueError, match=says):
        cut_into_modules(made, LocalModules(**options))


@pytest.mark.parametrize(
    ("modules", "sizes"), [(None, (1,) * 5), (5, (1,) * 5), (1, (5,)), (2, (3, 2)), ([2, 3], (2, 3)), ([5], (5,))]
)
def test_modules_of_a_network_of_whole_clips_are_of_blocks(
    modules: int | list[int] | None, sizes: tuple[int, ...]
) -> None:
    """Five blocks: the classifier is not counted, neither in a number nor in a list."""
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25)
    assert isinstance(network, ClipNetwork)
    cut_into_modules(network, LocalModules(modules=modules))
    assert network.sizes == sizes


def test_one_module_has_no_buffer() -> None:
    """One module is legal, and so are its options of heads, which a sweep over modules sets for all."""
    network = local_network((5,), head_width=0.5)
    clip_gradients(network, clips(5), LABELS, rule="greedy")
    with pytest.raises(ValueError, match="has no buffer below it; use replay 0, or modules 2 or more"):
        clip_gradients(network, clips(5), LABELS, rule=make_rule("greedy", replay=2), on_tick=print)


def test_other_gradient_edges_are_refused() -> None:
    network = tiny_network(5, "dense", gradient_edges="newest")
    with pytest.raises(ValueError, match="leave gradient_edges out"):
        cut_into_modules(network, LocalModules())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "sideways"}, "use rule .greedy., or a network that is not cut"),
        ({"rule": "backprop_frame"}, "use rule .greedy., or a network that is not cut"),
        ({"rule": "greedy_frame", "executor": "pipelined"}, "use executor 'vectorised'"),
        ({"rule": "greedy", "executor": "cuda_graph"}, "use executor 'vectorised' or 'pipelined'"),
        ({"rule": make_rule("greedy", update="frame"), "on_tick": print}, "use 'pipelined'"),
        ({"rule": make_rule("greedy_frame", update="frame"), "on_tick": print}, "update 'clip'"),
        ({"rule": "greedy", "on_tick": print}, "on_tick belongs to update 'frame'"),
        ({"rule": "greedy", "state": PipelineState()}, "use executor 'pipelined'"),
        ({"rule": make_rule("greedy", replay=2), "executor": "pipelined"}, "use executor 'vectorised'"),
    ],
)
def test_combinations_without_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        clip_gradients(local_network((2, 3)), clips(5), LABELS, **options)


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
@pytest.mark.parametrize("rule", LOCAL)
def test_updates_of_frames_need_frames(rule: str, executor: str) -> None:
    """What is to be used instead is legal: one refusal, and not a second one."""
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25)
    cut_into_modules(network, LocalModules(modules=2))
    with pytest.raises(ValueError, match="use update 'clip' and executor 'vectorised'"):
        clip_gradients(
            network, clips(4).float(), LABELS, rule=make_rule(rule, update="frame"), executor=executor, on_tick=print
        )
    clip_gradients(network, clips(4).float(), LABELS, rule=make_rule(rule), executor="vectorised")


def test_a_state_of_a_network_of_whole_clips_is_refused() -> None:
    network = build_network("cnn3d", in_channels=2, num_classes=3, width=0.25)
    cut_into_modules(network, LocalModules(modules=2))
    with pytest.raises(ValueError, match="takes whole clips, and keeps none; give each clip without a state"):
        clip_answers(network, clips(4).float(), rule="greedy", state=PipelineState())


def test_a_network_in_one_piece_is_refused() -> None:
    with pytest.raises(ValueError, match="is not cut into modules; give it heads first by"):
        clip_gradients(tiny_network(3, "chain"), clips(5), LABELS, rule="greedy")


@pytest.mark.parametrize("executor", ["vectorised", "pipelined"])
def test_clips_without_an_answer_are_refused(executor: str) -> None:
    with pytest.raises(ValueError, match=r"2 frames gives no output in a pipeline of 3 modules; give at least 3"):
        clip_answers(local_network((2, 1, 2)), clips(2), rule="greedy", executor=executor)


def test_training_on_clips_without_an_answer_is_refused() -> None:
    """All ticks at once; tick by tick they may be the first piece of a stream."""
    with pytest.raises(ValueError, match=r"2 frames gives no output in a pipeline of 3 modules; give at least 3"):
        clip_gradients(local_network((2, 1, 2)), clips(2), LABELS, rule="greedy")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "greedy", "stash": "exact"}, "leave stash out"),
        ({"name": "greedy", "lead": 1}, "belongs to rule 'sideways'"),
        ({"name": "gredy"}, "did you mean 'greedy'"),
        ({"name": "greedy", "max_reuse": 2}, "use replay 1 or more, or leave max_reuse out"),
        ({"name": "greedy", "slow_down": 2.0}, "use replay 1 or more, or leave slow_down out"),
        ({"name": "greedy", "replay_order": "reference"}, "use replay 1 or more, or leave replay_order out"),
        ({"name": "sideways", "replay": 2}, "use rule 'greedy'"),
        ({"name": "greedy", "replay": -1}, "1 or more"),
        ({"name": "greedy", "replay": 2, "update": "frame"}, "use update 'clip'"),
        ({"name": "greedy", "replay": 2, "replay_order": "lifo"}, "expected one of priority-lifo, reference"),
        ({"name": "greedy", "replay": 2, "max_reuse": 0}, "give 1 to draw a minibatch once, or leave it out"),
        ({"name": "greedy", "replay": 2, "slow_down": 0.5}, "has slow-down 0.5; give 1 for a module that works at"),
        ({"name": "greedy", "replay": 2, "slow_down": float("nan")}, "has slow-down nan; give 1 for a module"),
        ({"name": "greedy", "replay": 2, "slow_down": [1.0, 0.5]}, "module 2 has slow-down 0.5"),
        ({"name": "greedy", "replay": 2, "slow_down": []}, "give one number for all modules, or one for each"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_rule(**options)


@pytest.mark.parametrize(
    ("rule", "executor", "says"),
    [
        (make_rule("greedy"), "vectorised", "use --model.executor pipelined"),
        (make_rule("greedy", replay=2), "vectorised", "use --data.stream false, or replay 0"),
    ],
)
def test_streams_that_nobody_goes_on_with_are_refused(rule: Rule, executor: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_stream(local_network((2, 3)), rule, executor)
    check_stream(local_network((2, 3)), make_rule("greedy"), "pipelined")
