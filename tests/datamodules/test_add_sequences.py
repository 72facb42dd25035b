"""The adding problem: two marks, their sum, and the error of who says nothing."""

import pytest
import torch
from long_stream_rules import lanes_of, whole

from datamodules import AddSequences


@pytest.mark.parametrize("gap", [2, 3, 10, 11])
def test_the_sum_of_the_marked_is_asked_at_the_end(gap):
    data = AddSequences(gap=gap)
    x, y = whole(lanes_of(data, count=40))
    values, marks, question = x.unbind(-1)
    assert set(marks.unique().tolist()) == {0.0, 1.0}
    assert (marks[:, : gap // 2].sum(1) == 1).all()
    assert (marks[:, gap // 2 : gap].sum(1) == 1).all()
    assert not marks[:, gap].any()
    torch.testing.assert_close(y[:, gap], (values * marks).sum(1))
    assert not y[:, :gap].any()
    assert (question == torch.eye(gap + 1)[gap]).all()
    assert not values[:, gap].any()
    assert values[:, :gap].min() >= 0
    assert values.max() < 1


def test_every_step_can_be_marked():
    _, marks, _ = whole(lanes_of(AddSequences(gap=6), count=300))[0].unbind(-1)
    assert (marks[:, :6].sum(0) > 60).all()


def test_who_answers_one_has_a_sixth():
    lanes = lanes_of(AddSequences(gap=50), count=20_000)
    _, y = lanes.read(lanes.answers_BA)
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    assert ((y - 1) ** 2).mean().item() == pytest.approx(1 / 6, abs=0.005)


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match=r"gap 1: expected 2 or more.*--data.gap 400"):
        AddSequences(gap=1)
