"""The network that remembers: what is said of a step depends on memory and local context, and on nothing else."""

import pytest
import torch
from toy_memory import make_network, seeded

F, H, N = 3, 4, 6


def x_of(before=0):
    return torch.randn(2, before + N, F, dtype=torch.float64, generator=seeded(0))


@pytest.mark.parametrize("memory", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize("window", [1, 3])
def test_each_step_is_said_from_its_own_memory_in_pieces_as_at_once(memory, window):
    network, x = make_network(memory, window=window), x_of(window - 1)
    start = network.memory.initial(2, x)
    outputs, memories, _ = network.at_each_step(x, start)
    assert (outputs.shape, memories.shape) == ((2, N, 5), (2, N, H))
    state, parts = start, []
    for step in range(N):
        said, _, state = network.at_each_step(x[:, step : step + window], state)
        parts.append(said)
    torch.testing.assert_close(torch.cat(parts, 1), outputs)
    torch.testing.assert_close(network.remember(x, start)[0], memories)


def test_steps_before_the_run_are_seen_by_the_context_and_not_remembered_again():
    network, x = make_network(window=3), x_of(2)
    start = network.memory.initial(2, x)
    other = x.clone()
    other[:, :2] += 1
    assert torch.equal(network.remember(other, start)[0], network.remember(x, start)[0])
    said, again = network.at_each_step(x, start)[0], network.at_each_step(other, start)[0]
    assert (said != again).any(-1).all(0).tolist() == [True, True] + [False] * (N - 2)


def test_nothing_later_changes_what_is_said():
    network, x = make_network(window=2), x_of(1)
    start = network.memory.initial(2, x)
    said = network.at_each_step(x, start)[0]
    for step in range(N):
        other = x.clone()
        other[:, step + 1] += 1
        moved = (network.at_each_step(other, start)[0] != said).any(-1).any(0)
        assert moved.tolist() == [False] * step + [True] * (N - step)


def test_the_predictor_reads_context_and_memory_each_alone():
    predictor = make_network().predictor
    context = torch.randn(5, 1, 6, dtype=torch.float64, generator=seeded(1)).requires_grad_()
    memory = torch.randn(1, 3, H, dtype=torch.float64, generator=seeded(2)).requires_grad_()
    pairs = torch.stack([torch.stack([predictor(c[0], m) for m in memory[0]]) for c in context])
    wide = predictor(context.expand(5, 3, 6), memory.expand(5, 3, H))
    torch.testing.assert_close(wide, pairs)
    torch.testing.assert_close(*(torch.autograd.grad(said.cos().sum(), [context, memory]) for said in (wide, pairs)))


def test_the_embedding_gives_numbers_around_1():
    """Of one number of ten, and of sixteen around 1 where the encoder says their scale."""
    torch.manual_seed(0)
    one_of_many = torch.eye(10, dtype=torch.float64)
    network = make_network(features=10, hidden=64)
    assert 0.7 < network.embedding(one_of_many).std() < 1.3
