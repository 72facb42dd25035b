"""Local losses tick by tick: executors agree, streams go on, skips bring newer frames, weights move at ticks."""

import io
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.execution import PipelineState, clip_answers, clip_gradients, make_pipeline
from lightning_modules.execution.schedule import frames_read
from lightning_modules.networks import WIRINGS, UnitNetwork
from lightning_modules.rules import make_rule
from tests.lightning_modules.execution.greedy_networks import (
    CUTS,
    FAST_WIRINGS,
    LABELS,
    SIDE,
    clips,
    frame_targets,
    local_network,
    local_predictor,
    quantised_network,
)
from tests.lightning_modules.execution.greedy_reference import (
    Cut,
    GreedyReference,
    frames_reached,
    squared,
)
from tests.lightning_modules.execution.reference import relative_error

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
