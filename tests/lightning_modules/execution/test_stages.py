"""Units in several stages compute what one process computes: every wiring, rule and cut; stages are threads here."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from lightning_modules.execution import clip_gradients, clip_logits
from lightning_modules.execution.placement import Placement, cut
from lightning_modules.execution.stage import Stage
from lightning_modules.networks import WIRINGS, UnitNetwork
from lightning_modules.rules import make_rule
from tests.lightning_modules.execution.reference import moving_video, relative_error, tiny_network
from tests.lightning_modules.execution.threads import in_stages, own_state

LABELS = torch.tensor([0, 2, 1])
EDGES = [
    *((w, "all") for w in WIRINGS),
    *((w, "newest") for w in ("residual", "concat", "dense")),
    *((w, "shortest") for w in ("concat", "dense")),
]
CUTS = [(1, 1), (2, 3), (4, 1), (1, 2, 2), (1, 1, 1, 1)]
RULES = {
    "sideways": (make_rule("sideways"), "pipelined"),
    "stash": (make_rule("sideways", stash="exact"), "pipelined"),
    "stash undrained": (make_rule("sideways", stash="exact", drain=False), "pipelined"),
    "shifted": (make_rule("backprop_shifted"), "vectorised"),
    "frame": (make_rule("backprop_frame"), "vectorised"),
    "sideways vectorised": (make_rule("sideways"), "vectorised"),
}


def equality_cases() -> list:
    """All of wirings, cuts, rules and kinds of clips. In the quick cases each two meet, in the others all do."""
    cases = []
    for (e, edges), (c, sizes), (r, rule) in product(enumerate(EDGES), enumerate(CUTS), enumerate(RULES)):
        for ragged in (False, True):
            quick = (e + 2 * c + r) % 3 == 0 and ragged == (r // 3 + e + c) % 2
            name = "-".join((*edges, str(sizes), rule, "ragged" if ragged else "whole"))
            marks = () if quick else pytest.mark.slow
            cases.append(pytest.param(*edges, sizes, rule, ragged, id=name, marks=marks))
    return cases


def stage_inputs(stage: Stage, video: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What a stage is given: shapes of what it does not need."""
    return (
        video if stage.has_video else video.to("meta"),
        targets if stage.has_output else targets.to("meta"),
    )


@pytest.mark.parametrize(("wiring", "edges", "sizes", "rule", "ragged"), equality_cases())
def test_stages_equal_one_process(wiring: str, edges: str, sizes: tuple[int, ...], rule: str, ragged: bool) -> None:
    depth = sum(sizes)
    network, frames = tiny_network(depth, wiring, gradient_edges=edges), 2 * depth + 2
    video = moving_video(3, frames)
    lengths = torch.tensor([frames, frames - 2, frames - 4]) if ragged else None
    chosen, executor = RULES[rule]
    options = {"rule": chosen, "executor": executor, "lengths_B": lengths}
    one = clip_gradients(network, video, LABELS, **options)
    placement = cut(network.wiring, sizes)

    def work(mine: UnitNetwork, stage: Stage) -> object:
        return clip_gradients(mine, *stage_inputs(stage, video, LABELS), stage=stage, **options)

    results = [result for _, result in in_stages(network, placement, work)]
    for units, result in zip(placement.stages, results, strict=True):
        names = {name for unit in units for name in network.unit_parameters(unit)}
        assert set(result.gradients) == names & set(one.gradients)
    assert relative_error({n: g for r in results for n, g in r.gradients.items()}, one.gradients) < 1e-12
    assert all(r.loss is None for r in results[:-1])
    torch.testing.assert_close(results[-1].loss, one.loss)
    torch.testing.assert_close(results[-1].logits_BNK, one.logits_BNK)


@pytest.mark.parametrize("frames", range(3, 9))
@pytest.mark.parametrize("stash", ["none", "exact", "vectorised"])
@pytest.mark.parametrize("wiring", ["dense", "residual", "input"])
def test_short_clips_whose_gradients_have_gaps(wiring: str, stash: str, frames: int) -> None:
    """With few loss ticks a stash's gradients come at some ticks and not at those between: both ends must agree."""
    network, video = tiny_network(3 if frames < 5 else 5, wiring), moving_video(3, frames)
    executor, stash = ("vectorised", "none") if stash == "vectorised" else ("pipelined", stash)
    options = {"rule": make_rule("sideways", stash=stash), "executor": executor}
    one = clip_gradients(network, video, LABELS, **options)
    placement = cut(network.wiring, [1] * network.depth)
    results = in_stages(network, placement, lambda m, s: clip_gradients(m, video, LABELS, stage=s, **options))
    found = {n: g for _, r in results for n, g in r.gradients.items()}
    assert set(found) == set(one.gradients)
    if found:
        assert relative_error(found, one.gradients) < 1e-12


@pytest.mark.parametrize("stash", ["none", "exact"])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_update_frame_for_ten_clips(wiring: str, stash: str) -> None:
    """Every unit steps at every tick in its own stage: after ten clips the weights are one process's.

    Stages add up a unit's gradients in another order: 1e-16, which the recurrence over 90 ticks makes larger.
    """
    rule = make_rule("sideways", update="frame", stash=stash)
    network = tiny_network(4, wiring)
    videos = [moving_video(3, 9, seed=n) for n in range(10)]

    def train(mine: UnitNetwork, stage: Stage | None = None) -> None:
        optimizer = SGD(mine.parameters(), lr=0.0005, momentum=0.9)

        def on_tick(gradients: dict[str, Tensor]) -> None:
            for name, p in mine.named_parameters():
                p.grad = gradients.get(name)
            optimizer.step()

        for video in videos:
            clip_gradients(mine, video, LABELS, rule=rule, executor="pipelined", on_tick=on_tick, stage=stage)

    placement = cut(network.wiring, (1, 2, 1))
    copies = [copied for copied, _ in in_stages(network, placement, train)]
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    train(network)
    alone = {name: p.detach() for name, p in network.named_parameters()}
    assert all(not torch.equal(start[name], alone[name]) for name in start)
    assert relative_error(own_state(copies, placement), alone) < 1e-6


@pytest.mark.parametrize("executor", ["pipelined", "vectorised"])
@pytest.mark.parametrize("rule", ["sideways", "backprop_frame", "backprop_shifted"])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_outputs_in_stages(wiring: str, rule: str, executor: str) -> None:
    network, video = tiny_network(4, wiring), moving_video(3, 9)
    expected, valid = clip_logits(network, video, rule=rule, executor=executor)
    results = in_stages(
        network,
        cut(network.wiring, (1, 2, 1)),
        lambda m, s: clip_logits(m, stage_inputs(s, video, LABELS)[0], rule=rule, executor=executor, stage=s),
    )
    outputs = [logits for _, (logits, _) in results]
    assert outputs[:-1] == [None, None]
    torch.testing.assert_close(outputs[-1], expected)
    assert all(torch.equal(mask, valid) for _, (_, mask) in results)


@pytest.mark.parametrize("frozen", [(1,), (1, 2), (1, 2, 3), (2, 3), (4,)])
@pytest.mark.parametrize("rule", ["sideways", "stash", "shifted"])
def test_frozen_units_in_stages(rule: str, frozen: tuple[int, ...]) -> None:
    """A stage may have nothing to train, and still pass on what the stages below it wait for."""
    network, video = tiny_network(4, "dense"), moving_video(3, 10)
    for unit in frozen:
        for p in network.unit_parameters(unit).values():
            p.requires_grad_(False)
    chosen, executor = RULES[rule]
    one = clip_gradients(network, video, LABELS, rule=chosen, executor=executor)
    results = in_stages(
        network,
        cut(network.wiring, (1, 1, 1, 1)),
        lambda m, s: clip_gradients(m, video, LABELS, rule=chosen, executor=executor, stage=s),
    )
    assert relative_error({n: g for _, r in results for n, g in r.gradients.items()}, one.gradients) < 1e-12


def test_a_placement_must_be_the_networks() -> None:
    network, other = tiny_network(4, "dense"), tiny_network(4, "chain")
    stage = Stage(cut(other.wiring, (2, 2)))
    with pytest.raises(ValueError, match=r"placement of wiring 'chain' .* network of wiring 'dense'"):
        clip_gradients(network, moving_video(3, 9), LABELS, executor="pipelined", stage=stage)


@pytest.mark.parametrize("sizes", [(), (2, 0, 2), (5,), (2, 1)])
def test_cuts_that_cannot_be(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="each stage needs at least one"):
        cut(tiny_network(4, "chain").wiring, sizes)
    with pytest.raises(ValueError, match="expected the units 1 to 4 in order"):
        Placement(tiny_network(4, "chain").wiring, (range(1, 3), range(2, 5)))
