"""Quantised messages between modules: nearest codes, and codebooks that learn alike in both executors."""

import copy
import io

import pytest
import torch

from lightning_modules.execution import PipelineState, clip_answers, clip_gradients
from lightning_modules.layers.vector_quantiser import VectorQuantiser
from lightning_modules.networks.local_modules import LocalModules
from tests.lightning_modules.execution.greedy_networks import (
    LABELS,
    SIDE,
    clips,
    codebooks,
    local_network,
    quantised_network,
)
from tests.lightning_modules.execution.greedy_reference import (
    GreedyReference,
    nearest_codes,
)
from tests.lightning_modules.execution.reference import moving_video, relative_error


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
