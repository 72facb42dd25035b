"""A tick over static buffers computes what the pipelined executor computes, and reads nothing that was left over."""

import gc
import weakref

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from lightning_modules.execution.clip_loss import ClipSums, cross_entropy
from lightning_modules.execution.pipelined import OnTick, run_pipelined
from lightning_modules.execution.schedule import shortest_clip
from lightning_modules.execution.slot_tick import SlotTick, run_slots
from lightning_modules.networks import WIRINGS, UnitNetwork
from lightning_modules.rules import make_rule
from tests.lightning_modules.execution.reference import moving_video, relative_error, tiny_network

pytestmark = pytest.mark.timeout(60)
LABELS = torch.tensor([0, 2, 1])
EDGES = [
    *((w, "all") for w in WIRINGS),
    *((w, "newest") for w in ("residual", "concat", "dense")),
    *((w, "shortest") for w in ("concat", "dense")),
]
SIDEWAYS = make_rule("sideways")


def slots_for(network: UnitNetwork, video: Tensor, **options: object) -> SlotTick:
    return SlotTick(network, cross_entropy, video[:, 0], LABELS, **options)  # type: ignore[arg-type]


def buffers(slots: SlotTick) -> list[Tensor]:
    """All that holds messages, and all that is loaded: what a tick must not read before it was written."""
    messages = [m for kind in (slots._activations, slots._messages) for slot in kind for m in slot.values()]
    return [*messages, slots.frame_BCHW, slots.weight_B, slots.output_BK, slots.loss]


def agree(ours: ClipSums, theirs: ClipSums) -> None:
    if theirs.gradients or ours.gradients:
        assert relative_error(ours.gradients, theirs.gradients) < 1e-12
    torch.testing.assert_close(ours.loss, theirs.loss)
    torch.testing.assert_close(ours.logits_BNK, theirs.logits_BNK)
    assert torch.equal(ours.valid_BN, theirs.valid_BN)


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize(("wiring", "edges"), EDGES)
def test_slots_equal_pipelined(wiring: str, edges: str, depth: int, ragged: bool) -> None:
    """Two clips through the same slots; what the first has left is spoiled, so that reading any of it would show."""
    network, frames = tiny_network(depth, wiring, gradient_edges=edges), 2 * depth + 4
    lengths = torch.tensor([frames, frames - 2, frames - depth - 2]) if ragged else torch.full((3,), frames)
    slots = slots_for(network, moving_video(3, 1))
    for seed in (0, 1):
        video = moving_video(3, frames, seed=seed)
        for buffer in buffers(slots):
            buffer.fill_(float("nan"))
        ours = run_slots(slots, slots, video, LABELS, SIDEWAYS, lengths)
        theirs, _ = run_pipelined(network, video, LABELS, SIDEWAYS, lengths, cross_entropy)
        agree(ours, theirs)


@pytest.mark.parametrize("frames", range(1, 10))
@pytest.mark.parametrize("wiring", ["chain", "dense"])
def test_clips_too_short_for_some_units(wiring: str, frames: int) -> None:
    network, video = tiny_network(4, wiring), moving_video(3, frames)
    lengths = torch.full((3,), frames)
    slots = slots_for(network, video)
    theirs, _ = run_pipelined(network, video, LABELS, SIDEWAYS, lengths, cross_entropy)
    agree(run_slots(slots, slots, video, LABELS, SIDEWAYS, lengths), theirs)


def test_a_target_for_each_frame() -> None:
    network, video = tiny_network(3, "concat"), moving_video(3, 9)
    targets = torch.rand(3, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 7, 9])

    def squares(outputs_BK: Tensor, targets_BK: Tensor) -> Tensor:
        return (outputs_BK - targets_BK).square().sum(-1)

    slots = SlotTick(network, squares, video[:, 0], targets[:, 0])
    theirs, _ = run_pipelined(network, video, targets, SIDEWAYS, lengths, squares)
    agree(run_slots(slots, slots, video, targets, SIDEWAYS, lengths), theirs)


@pytest.mark.parametrize("frozen", [(1,), (1, 2), (2, 3), (4,), (1, 2, 3, 4)])
def test_frozen_units(frozen: tuple[int, ...]) -> None:
    network, video = tiny_network(4, "dense"), moving_video(3, 10)
    for unit in frozen:
        for p in network.unit_parameters(unit).values():
            p.requires_grad_(False)
    slots, lengths = slots_for(network, video), torch.tensor([10, 8, 10])
    theirs, _ = run_pipelined(network, video, LABELS, SIDEWAYS, lengths, cross_entropy)
    agree(run_slots(slots, slots, video, LABELS, SIDEWAYS, lengths), theirs)


def stepping(network: UnitNetwork, seen: list[set[str]]) -> OnTick:
    optimizer = SGD(network.parameters(), lr=0.01, momentum=0.9)

    def on_tick(gradients: dict[str, Tensor]) -> None:
        seen.append(set(gradients))
        for name, p in network.named_parameters():
            p.grad = gradients.get(name)
        optimizer.step()

    return on_tick  # type: ignore[return-value]


@pytest.mark.parametrize("wiring", WIRINGS)
def test_update_frame_steps_at_the_same_ticks_with_the_same_gradients(wiring: str) -> None:
    rule, weights, handed = make_rule("sideways", update="frame"), [], []
    video, lengths = moving_video(3, 12), torch.tensor([10, 8, 9])  # at ticks 11 and 12 no clip goes on
    for executor in ("pipelined", "slots"):
        network, seen = tiny_network(4, wiring), []
        if executor == "pipelined":
            run_pipelined(network, video, LABELS, rule, lengths, cross_entropy, on_tick=stepping(network, seen))
        else:
            slots = slots_for(network, video, sums=False)
            sums = run_slots(slots, slots, video, LABELS, rule, lengths, stepping(network, seen))
            assert sums.gradients == {}
        weights.append({name: p.detach() for name, p in network.named_parameters()})
        handed.append(seen)
    assert [bool(names) for names in handed[0]] == 7 * [True] + 2 * [False]
    assert handed[0] == handed[1]
    assert relative_error(weights[1], weights[0]) < 1e-12


@pytest.mark.parametrize("wiring", WIRINGS)
def test_ticks_of_one_phase_do_the_same_work_on_the_same_buffers(wiring: str) -> None:
    """What a graph needs: replaying a phase's first tick in place of any later tick of it changes no bit."""
    network, video = tiny_network(4, wiring), moving_video(3, 14)
    slots, lengths = slots_for(network, video), torch.full((3,), 14)
    assert list(slots.phases) == list(range(1, shortest_clip(network.wiring) + 2))
    assert {slots.phase(tick) for tick in range(1, 50)} == set(slots.phases)
    assert all(slots.phase(phase) == phase for phase in slots.phases)
    addresses = {b.data_ptr() for b in buffers(slots)} | {g.data_ptr() for g in slots.gradients(99).values()}
    plain = run_slots(slots, slots, video, LABELS, SIDEWAYS, lengths)
    replayed = run_slots(slots, lambda tick: slots(slots.phase(tick)), video, LABELS, SIDEWAYS, lengths)
    assert all(torch.equal(plain.gradients[name], g) for name, g in replayed.gradients.items())
    assert torch.equal(plain.logits_BNK, replayed.logits_BNK)
    assert addresses == {b.data_ptr() for b in buffers(slots)} | {g.data_ptr() for g in slots.gradients(99).values()}


def test_bfloat16_and_channels_last_stay_close() -> None:
    network, video = tiny_network(3, "concat"), moving_video(3, 9)
    lengths = torch.full((3,), 9)
    exact, _ = run_pipelined(network, video, LABELS, SIDEWAYS, lengths, cross_entropy)
    single = network.float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    slots = slots_for(single, video.float(), autocast=torch.bfloat16, channels_last=True)
    assert slots._activations[0][1].dtype == torch.bfloat16
    assert slots._activations[0][1].is_contiguous(memory_format=torch.channels_last)
    ours = run_slots(slots, slots, video.float(), LABELS, SIDEWAYS, lengths)
    assert all(g.dtype == torch.float32 for g in ours.gradients.values())
    assert relative_error({n: g.double() for n, g in ours.gradients.items()}, exact.gradients) < 0.1
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=0.02, atol=0)


def test_channels_last_in_full_precision_is_the_same() -> None:
    network, video, lengths = tiny_network(3, "residual"), moving_video(3, 9), torch.full((3,), 9)
    exact, _ = run_pipelined(network, video, LABELS, SIDEWAYS, lengths, cross_entropy)
    slots = slots_for(network, video, channels_last=True)
    agree(run_slots(slots, slots, video, LABELS, SIDEWAYS, lengths), exact)


def test_the_surrounding_autocast_does_not_reach_a_tick_that_was_made_without_it() -> None:
    """A graph must not depend on where it happens to be captured."""
    network, video, lengths = tiny_network(2, "chain").float(), moving_video(3, 6).float(), torch.full((3,), 6)
    slots = slots_for(network, video)
    plain = run_slots(slots, slots, video, LABELS, SIDEWAYS, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        inside = run_slots(slots, slots, video, LABELS, SIDEWAYS, lengths)
    assert torch.equal(plain.logits_BNK, inside.logits_BNK)


def test_slots_do_not_keep_the_network() -> None:
    network = tiny_network(3, "dense")
    slots, gone = slots_for(network, moving_video(3, 1)), weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None
    with pytest.raises(AssertionError, match="the network is gone"):
        slots(1)
