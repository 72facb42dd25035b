"""Losses and uncertainties of classes and of numbers, against their definitions."""

import math

import pytest
import torch
from toy_memory import seeded

from lightning_modules.memory.questions import IGNORE, Classes, Numbers, make_question, refuse_missing

LOGITS = torch.randn(2, 3, 4, generator=seeded(0), dtype=torch.float64)
CLASSES = torch.tensor([[0, 3, IGNORE], [2, IGNORE, 1]])
NUMBERS = torch.tensor([[0.5, math.nan, -2.0], [0.0, 1.5, math.nan]], dtype=torch.float64)


def test_a_class_costs_its_cross_entropy_and_what_is_not_asked_nothing():
    p = LOGITS.softmax(-1)
    want = [[0.0 if y == IGNORE else -math.log(p[i, j, y]) for j, y in enumerate(row)] for i, row in enumerate(CLASSES)]
    question = Classes(4)
    torch.testing.assert_close(question.loss(LOGITS, CLASSES), torch.tensor(want, dtype=torch.float64))
    assert torch.equal(question.local_loss(LOGITS, CLASSES), question.loss(LOGITS, CLASSES))
    assert torch.equal(question.is_asked(CLASSES), CLASSES >= 0)


def test_the_uncertainty_of_a_class_is_the_entropy():
    p = LOGITS.softmax(-1)
    torch.testing.assert_close(Classes(4).uncertainty(LOGITS), torch.distributions.Categorical(p).entropy())
    assert Classes(4).uncertainty(torch.zeros(1, 4)).item() == pytest.approx(math.log(4))
    assert Classes(2).uncertainty(torch.tensor([[1000.0, -1000.0]])).item() == 0


def test_a_number_costs_its_squared_error():
    found = Numbers().loss(LOGITS[..., :1], NUMBERS)
    want = (LOGITS[..., 0] - NUMBERS).square().nan_to_num()
    torch.testing.assert_close(found, want)


def test_a_local_model_of_numbers_says_a_normal_distribution():
    normal = torch.distributions.Normal(LOGITS[..., 0], (LOGITS[..., 1] / 2).exp())
    asked, question = ~NUMBERS.isnan(), Numbers()
    entropy = normal.entropy()
    torch.testing.assert_close(question.uncertainty(LOGITS), entropy)
    nll = -normal.log_prob(NUMBERS.nan_to_num()) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(question.local_loss(LOGITS, NUMBERS), nll * asked)


@pytest.mark.parametrize(("question", "targets"), [(Classes(4), CLASSES), (Numbers(), NUMBERS)])
def test_what_is_not_asked_sends_no_gradient(question, targets):
    for loss in (question.loss, question.local_loss):
        outputs = LOGITS.clone().requires_grad_()
        loss(outputs, targets).sum().backward()
        moved = (outputs.grad != 0).any(-1)
        assert outputs.grad.isfinite().all()
        assert torch.equal(moved, question.is_asked(targets))


def test_one_class_is_a_number():
    assert isinstance(make_question(1), Numbers)
    assert (make_question(7).outputs, make_question(7).local_outputs) == (7, 7)


def test_missing_targets_are_counted_and_the_first_is_named():
    steps, chosen = torch.tensor([[4, 9, 11], [4, 9, 11]]), torch.tensor([[True, True, True], [True, True, False]])
    with pytest.raises(ValueError, match="targets are missing at 2 of 5 chosen steps, the first at step 11"):
        refuse_missing(Classes(4), CLASSES, steps, chosen)
    refuse_missing(Classes(4), CLASSES, steps, CLASSES != IGNORE)
