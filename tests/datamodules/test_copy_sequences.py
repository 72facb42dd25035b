"""The copy tasks: what is shown, what is asked, where symbols stand, and how long reading takes."""

import time

import numpy as np
import pytest
import torch
from long_stream_rules import lanes_of, whole

from datamodules import CopySequences, ScatteredCopySequences
from datamodules.copy_sequences import anywhere
from datamodules.counter_random import hashed
from datamodules.rollouts import TrainRollouts


def test_copy_is_head_blanks_questions():
    data = CopySequences(gap=5, symbols=3)
    x, y = whole(lanes_of(data))
    head = x[:, :3]
    assert head.max() < 8
    blanks, questions = torch.full((5, 5), 8), torch.full((5, 3), 9)
    assert torch.equal(x, torch.cat([head, blanks, questions], dim=1))
    assert torch.equal(y, torch.cat([torch.full((5, 8), 8), head], dim=1))
    assert lanes_of(data).answers_BA.tolist() == [[8, 9, 10]] * 5
    assert (data.steps, data.gap, data.channels, data.num_classes) == (11, 5, 10, 9)


def test_numbered_questions_say_which_symbol_they_ask_for():
    data = CopySequences(gap=5, symbols=3, numbered=True)
    x, _ = whole(lanes_of(data))
    assert x[:, -3:].tolist() == [[9, 10, 11]] * 5
    plain, _ = whole(lanes_of(CopySequences(gap=5, symbols=3)))
    assert torch.equal(x[:, :-3], plain[:, :-3])
    assert data.channels == 12


def test_scattered_symbols_are_asked_for_in_their_order():
    data = ScatteredCopySequences(gap=20, symbols=4)
    x, y = whole(lanes_of(data, count=50))
    assert (y[:, :24] == 8).all()
    assert (x[:, 24:] == 9).all()
    before = x[:, :24]
    assert torch.equal(before[before < 8].view(50, 4), y[:, 24:])
    assert ((before == 8).sum(1) == 20).all()


def test_symbols_are_as_often_as_each_other():
    symbols = CopySequences(gap=1).source("train").lanes([(0, index) for index in range(4000)]).symbols_BS
    counts = torch.stack([(symbols == symbol).sum(0) for symbol in range(8)])
    assert counts.float().std() < 3 * (4000 / 8) ** 0.5
    pairs = torch.bincount(symbols[:, 0] * 8 + symbols[:, 1], minlength=64)
    assert pairs.min() > 30
    assert pairs.max() < 105


def test_all_choices_of_places_are_equally_likely():
    """2 of 5 steps: 10 choices, 10,000 draws; chi squared with 9 degrees of freedom."""
    places = anywhere(hashed(7, np.arange(10_000)), 2, 5)
    assert (places[:, 0] < places[:, 1]).all()
    counts = np.bincount(places[:, 0] * 5 + places[:, 1])
    counts = counts[counts > 0]
    assert len(counts) == 10
    assert ((counts - 1000) ** 2 / 1000).sum() < 21.7, "1 % of correct draws are above"


def test_places_fill_everything_where_there_is_no_gap():
    assert anywhere(hashed(1, np.arange(3)), 6, 6).tolist() == [list(range(6))] * 3


def test_a_training_batch_is_read_in_well_under_a_millisecond():
    """128 lanes of 20 steps, gap 1000: 0.13 ms on one core; the bound leaves room for a busy machine."""
    batch = TrainRollouts(CopySequences(gap=1000).source("train"), lanes=128, rollout=20, seed=0)[(0, 5)]
    steps = batch["start"][:, None] + torch.arange(20)
    took = []
    for _ in range(50):
        start = time.perf_counter()
        batch["lanes"].read(steps)
        took.append(time.perf_counter() - start)
    assert min(took) < 1e-3


@pytest.mark.parametrize("wrong", [{"gap": -1}, {"symbols": 0}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected 0 or more, and 1 or more, as --data.gap"):
        CopySequences(**wrong)
