"""The local context sees its window and nothing else; so does the local model, which learns what needs no memory."""

import math

import pytest
import torch
from toy_memory import seeded

from lightning_modules.memory.local_model import LocalContext, LocalModel
from lightning_modules.memory.questions import Classes

F = 3


def x_of(steps=9):
    return torch.randn(2, steps, F, generator=seeded(0))


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_context_is_made_of_its_window_alone(window):
    torch.manual_seed(0)
    context, x = LocalContext(F, window, 5), x_of()
    whole = context(x)
    assert whole.shape == (2, 9 - window + 1, 5)
    for step in range(whole.shape[1]):
        torch.testing.assert_close(context(x[:, step : step + window])[:, 0], whole[:, step])
    for changed in range(9):
        other = x.clone()
        other[:, changed] += 1
        moved = (context(other) != whole).any(-1).any(0).nonzero().flatten().tolist()
        assert set(moved) <= set(range(changed - window + 1, changed + 1))
        assert moved


def test_the_order_within_the_window_counts():
    torch.manual_seed(0)
    context, x = LocalContext(F, 3, 5), x_of(3)
    assert not torch.allclose(context(x), context(x.flip(1)))


def test_a_window_of_no_step_is_refused():
    with pytest.raises(ValueError, match=r"context is 0 steps; expected 1 .*: --model.context 1"):
        LocalContext(F, 0, 5)


def test_what_the_step_tells_becomes_certain_and_what_it_does_not_stays_at_chance():
    """Symbol 0 means class 0; symbol 1 asks for one of four, evenly."""
    torch.manual_seed(0)
    model, question = LocalModel(2, 1, 8, 4), Classes(4)
    x = torch.randint(2, (64, 16), generator=seeded(1))
    y = torch.where(x == 1, torch.randint(4, x.shape, generator=seeded(2)), 0)
    features = torch.nn.functional.one_hot(x, 2).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        question.local_loss(model(features), y).mean().backward()
        optimizer.step()
    entropy = question.uncertainty(model(features))
    assert entropy[x == 0].max() < 0.1
    assert entropy[x == 1].min() > 0.95 * math.log(4)
