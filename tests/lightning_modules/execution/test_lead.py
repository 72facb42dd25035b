"""`lead`: what the last unit sends is about a newer target; what it learns itself is not (rules/sideways.py)."""

import pytest
import torch
from torch import Tensor

from lightning_modules.execution import PipelineState, clip_gradients
from lightning_modules.execution.clip_loss import cross_entropy
from lightning_modules.execution.slot_tick import SlotTick, run_slots
from lightning_modules.networks import UnitNetwork
from lightning_modules.rules import make_rule
from tests.lightning_modules.execution.reference import Reference, moving_video, relative_error, tiny_network

pytestmark = pytest.mark.timeout(60)
FRAMES, DEPTH = 11, 4
LABELS_BT = torch.randint(3, (2, FRAMES), generator=torch.Generator().manual_seed(1))
CASES = [("chain", "all"), ("residual", "all"), ("concat", "newest"), ("dense", "shortest")]


def of_unit(network: UnitNetwork, unit: int, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: gradients[name] for name in network.unit_parameters(unit) if name in gradients}


@pytest.mark.parametrize("lead", [1, 2, 9])
@pytest.mark.parametrize(("wiring", "edges"), CASES)
def test_each_tick_follows_the_message_recursion(wiring: str, edges: str, lead: int) -> None:
    network, video = tiny_network(DEPTH, wiring, gradient_edges=edges), moving_video(2, FRAMES)
    reference, seen = Reference(network, video, LABELS_BT, lead), []
    rule = make_rule("sideways", update="frame", lead=lead)
    clip_gradients(network, video, LABELS_BT, rule=rule, executor="pipelined", on_tick=lambda g: seen.append(dict(g)))
    for index, gradients in enumerate(seen):
        for unit in range(1, DEPTH + 1):
            if ours := of_unit(network, unit, gradients):
                expected = {n: g / 2 for n, g in reference.pseudo_gradient(unit, DEPTH + index).items()}
                assert relative_error(ours, expected) < 1e-12, (index, unit)


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("train_last", [True, False])
@pytest.mark.parametrize(("wiring", "edges"), CASES)
def test_executors_agree(wiring: str, edges: str, train_last: bool, ragged: bool) -> None:
    network, video = tiny_network(DEPTH, wiring, gradient_edges=edges), moving_video(2, FRAMES)
    network.unit(DEPTH).requires_grad_(train_last)
    lengths_B = torch.tensor([FRAMES, FRAMES - 3]) if ragged else torch.full((2,), FRAMES)
    rule = make_rule("sideways", lead=2)
    one, other = (
        clip_gradients(network, video, LABELS_BT, rule=rule, executor=e, lengths_B=lengths_B)
        for e in ("vectorised", "pipelined")
    )
    assert relative_error(one.gradients, other.gradients) < 1e-11
    slots = SlotTick(network, cross_entropy, video[:, 0], LABELS_BT[:, 0], lead=2)
    summed = run_slots(slots, slots, video, LABELS_BT, rule, lengths_B).gradients
    for unit in range(1, DEPTH + 1):
        ours, theirs = of_unit(network, unit, summed), of_unit(network, unit, other.gradients)
        assert ours.keys() == theirs.keys()
        if ours:
            # One is a sum, the other a mean over the unit's ticks.
            scale = next(ours[n].norm() / theirs[n].norm() for n in ours)
            assert relative_error(ours, {n: g * scale for n, g in theirs.items()}) < 1e-11


def test_only_the_units_below_hear_of_it_and_only_where_targets_change() -> None:
    network, video = tiny_network(DEPTH, "dense"), moving_video(2, FRAMES)
    ahead = make_rule("sideways", lead=2)
    plain, led = (clip_gradients(network, video, LABELS_BT, rule=rule).gradients for rule in ("sideways", ahead))
    assert relative_error(of_unit(network, DEPTH, led), of_unit(network, DEPTH, plain)) < 1e-14
    for unit in range(1, DEPTH):
        assert relative_error(of_unit(network, unit, led), of_unit(network, unit, plain)) > 1e-3
    constant, led = (
        clip_gradients(network, video, LABELS_BT[:, 0], rule=rule).gradients for rule in ("sideways", ahead)
    )
    assert relative_error(led, constant) < 1e-14


def test_refusals_say_what_to_use() -> None:
    with pytest.raises(ValueError, match="lead belongs to rule 'sideways' without a stash: use lead 0"):
        make_rule("sideways", stash="exact", lead=2)
    with pytest.raises(ValueError, match="lead belongs to rule 'sideways'"):
        make_rule("backprop_shifted", lead=1)
    with pytest.raises(ValueError, match="expected frames, 0 for none"):
        make_rule("sideways", lead=-1)
    network, video = tiny_network(DEPTH, "chain"), moving_video(2, FRAMES)
    rule = make_rule("sideways", lead=1)
    with pytest.raises(ValueError, match="the targets of later frames are in the next piece"):
        clip_gradients(network, video, LABELS_BT, rule=rule, executor="pipelined", state=PipelineState())
