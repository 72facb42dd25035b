"""Rollouts: lanes go on where they were, staggered or together; every rollout once; a stop leaves no trace."""

from collections import Counter

import numpy as np
import pytest
import torch

from datamodules.lanes import IGNORE, Lanes, StreamSource
from datamodules.loader import epoch_order
from datamodules.rollouts import EvalStreams, TrainRollouts
from datamodules.streams import eval_stream_loader, train_stream_loader


class Numbers(Lanes):
    """x: 1000 * index + step; y: the step."""

    def __init__(self, keys, lengths_B):
        super().__init__([f"{epoch}/{index}" for epoch, index in keys], lengths_B, lengths_B[:, None] - 1)
        self.keys = list(keys)

    def read(self, steps_BN):
        inside = self.inside(steps_BN)
        first_B1 = torch.tensor([1000 * index for _, index in self.keys])[:, None]
        return (first_B1 + steps_BN) * inside, torch.where(inside, steps_BN, IGNORE)

    def only(self, rows):
        return Numbers([self.keys[row] for row in rows.tolist()], self.lengths_B[rows])


class NumberSource(StreamSource):
    def __init__(self, lengths, endless=True):
        super().__init__(np.array(lengths))
        self.endless = endless

    def lanes(self, keys):
        return Numbers(keys, torch.from_numpy(self.lengths_N[[index for _, index in keys]]))


def rollouts(lengths, lanes, rollout, *, seed=3, stagger=True, endless=True):
    return TrainRollouts(NumberSource(lengths, endless), lanes=lanes, rollout=rollout, seed=seed, stagger=stagger)


def batches(dataset, epochs=1):
    return [dataset[(epoch, n)] for epoch in range(epochs) for n in range(len(dataset))]


def said(batch):
    """What a batch is, as plain values."""
    return [batch["lanes"].ids, *(batch[name].tolist() for name in ("start", "length", "new"))]


def test_the_drawn_tables_are_what_comes():
    """The diagram of rollouts.py: keys 0 to 3 are a to d, 4 to 7 e to h, ..."""
    drawn = {
        True: ["a0 a1 a2 a3 e0 e1", "b1 b2 b3 f0 f1 f2", "c2 c3 g0 g1 g2 g3", "d3 h0 h1 h2 h3 l0"],
        False: ["a0 a1 a2 a3 e0 e1", "b0 b1 b2 b3 f0 f1", "c0 c1 c2 c3 g0 g1", "d0 d1 d2 d3 h0 h1"],
    }
    for stagger, lanes in drawn.items():
        dataset = rollouts([12] * 16, 4, 3, stagger=stagger)
        found = [
            [
                "abcdefghijklmnop"[batch["lanes"].keys[lane][1]] + str(batch["start"][lane].item() // 3)
                for batch in batches(dataset)[:6]
            ]
            for lane in range(4)
        ]
        assert found == [lane.split() for lane in lanes]


@pytest.mark.parametrize("stagger", [True, False])
@pytest.mark.parametrize(("steps", "lanes", "rollout"), [(12, 4, 3), (13, 5, 3), (7, 3, 7), (9, 8, 2), (5, 2, 4)])
def test_every_rollout_of_every_stream_comes_once(stagger, steps, lanes, rollout):
    """Of the streams that begin after the first batch; of those before, the rollouts from where a lane starts."""
    dataset = rollouts([steps] * 2 * lanes, lanes, rollout, stagger=stagger, endless=False)
    come = Counter()
    for batch in batches(dataset, epochs=3):
        rows = zip(batch["lanes"].ids, batch["start"].tolist(), batch["length"].tolist(), strict=True)
        come.update((name, start + step) for name, start, length in rows for step in range(length))
    assert set(come.values()) == {1}
    whole = {name for name, step in come if step == 0} & {name for name, step in come if step == steps - 1}
    wanted = {f"{epoch}/{index}" for epoch in range(3) for index in range(2 * lanes)}
    assert len(wanted - whole) <= 2 * lanes if stagger else whole == wanted, "the first of a lane, and the last"
    assert all((name, step) in come for name in whole for step in range(steps))


@pytest.mark.parametrize("stagger", [True, False])
def test_a_lane_goes_on_where_it_was_unless_a_stream_begins(stagger):
    dataset = rollouts([13] * 10, 5, 3, stagger=stagger)
    before = None
    for batch in batches(dataset, epochs=2):
        for lane in range(5):
            now = (batch["lanes"].ids[lane], batch["start"][lane].item())
            if before is None:
                assert batch["new"][lane]
            elif batch["new"][lane]:
                assert now[1] == 0
                assert now[0] != before[lane][0]
            else:
                assert now == (before[lane][0], before[lane][1] + 3)
        before = list(zip(batch["lanes"].ids, batch["start"].tolist(), strict=True))


def test_staggered_lanes_stand_everywhere():
    batch = rollouts([100] * 20, 10, 10)[(2, 3)]
    assert sorted(batch["start"].tolist()) == list(range(0, 100, 10))
    together = rollouts([100] * 20, 10, 10, stagger=False)[(2, 3)]
    assert together["start"].tolist() == [30] * 10


@pytest.mark.parametrize("stagger", [True, False])
def test_a_finite_set_is_drawn_in_the_order_of_the_epoch(stagger):
    """The streams of an epoch are dealt to the lanes one after the other; 8 are not a multiple of 3 lanes."""
    dataset = rollouts([6] * 8, 3, 3, stagger=stagger, endless=False)
    dealt = [(epoch, int(index)) for epoch in range(5) for index in epoch_order(3, epoch, 8)]
    found = batches(dataset, epochs=3)
    for lane in range(3):
        begun = [batch["lanes"].keys[lane] for batch in found if batch["new"][lane]]
        assert len(begun) >= 9
        assert begun == dealt[lane::3][: len(begun)]
    other = rollouts([6] * 8, 3, 3, seed=4, stagger=stagger, endless=False)
    assert said(other[(0, 0)]) != said(dataset[(0, 0)])


def test_zero_takes_whole_streams():
    for stagger in (True, False):
        dataset = rollouts([7] * 6, 3, 0, stagger=stagger)
        assert len(dataset) == 2
        assert all(b["length"].tolist() == [7] * 3 and b["new"].all() for b in batches(dataset, epochs=2))


def test_unequal_streams_go_in_groups_until_the_longest_is_over():
    lengths = [4, 5, 11, 10, 2]
    dataset = rollouts(lengths, 2, 4, stagger=False, endless=False)
    found = batches(dataset)
    assert len(dataset) == 3 + 2 + 1
    come = Counter()
    for batch in found:
        assert batch["start"].unique().numel() == 1
        assert torch.equal(batch["new"], batch["start"] == 0)
        for (_, index), start, length in zip(
            batch["lanes"].keys, batch["start"].tolist(), batch["length"].tolist(), strict=True
        ):
            come.update((index, start + step) for step in range(length))
    assert come == Counter({(index, step): 1 for index, length in enumerate(lengths) for step in range(length)})
    assert all(len(batch["length"]) == 2 for batch in found), "a lane too many holds nothing"
    assert [batch["length"].tolist().count(0) for batch in found].count(1) >= 1
    assert {tuple(said(batch)[0]) for batch in found} != {tuple(said(b)[0]) for b in batches(dataset, 2)[6:]}


def test_staggered_streams_must_be_of_one_length():
    with pytest.raises(ValueError, match=r"streams of 3 to 900 steps.*--data.stagger false"):
        rollouts([3, 900], 2, 4)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stagger", [True, False])
def test_a_stop_inside_an_epoch_leaves_no_trace(stagger, num_workers):
    def loader(**options):
        return train_stream_loader(rollouts([13] * 10, 5, 3, stagger=stagger), num_workers=num_workers, seed=3)

    whole = loader()
    whole.sampler.set_epoch(2)
    expected = [said(batch) for batch in whole]
    assert len(expected) == len(whole) == 10
    for given in (1, 7):
        stopped = loader()
        stopped.sampler.set_epoch(2)
        handed = iter(stopped)
        assert [said(next(handed)) for _ in range(given)] == expected[:given]
        state = stopped.state_dict()
        resumed = loader()
        resumed.load_state_dict(state)
        assert [said(batch) for batch in resumed] == expected[given:]


def test_a_stop_goes_on_with_as_many_lanes_only():
    state = train_stream_loader(rollouts([12] * 8, 4, 3), num_workers=0, seed=3).state_dict()
    with pytest.raises(ValueError, match="batch_size was 4, is 2"):
        train_stream_loader(rollouts([12] * 8, 2, 3), num_workers=0, seed=3).load_state_dict(state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_evaluation_reads_every_stream_once_long_ones_first(num_workers):
    dataset = EvalStreams(NumberSource([4, 9, 4, 7, 1]), lanes=2)
    found = [batch["lanes"].ids for batch in eval_stream_loader(dataset, num_workers=num_workers)]
    assert found == [["0/1", "0/3"], ["0/0", "0/2"], ["0/4"]]
    (last,) = dataset[(0, 2)]["length"].tolist()
    assert last == 1
