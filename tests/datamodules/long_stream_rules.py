"""What every LongStreamData keeps, whatever it is made of: one function a rule, for the tests of each leaf."""

import pickle

import torch

from datamodules.long_streams import IGNORE, TrainRollouts


def same(one, other):
    """Whether two tensors are equal, where numbers may be NaN."""
    return torch.equal(torch.nan_to_num(one, nan=-7.0), torch.nan_to_num(other, nan=-7.0))


def nothing_asked(y):
    return y.isnan() if y.is_floating_point() else y == IGNORE


def whole(lanes):
    """All steps of all lanes, in order."""
    steps = torch.arange(int(lanes.lengths_B.max())).expand(len(lanes.ids), -1)
    return lanes.read(steps)


def lanes_of(data, split="test", count=5, epoch=0):
    return data.source(split).lanes([(epoch, index) for index in range(count)])


def reads_anywhere(data):
    """Any steps in any order, twice or in another shape of memory, as read in order; only() is the same rows."""
    lanes = lanes_of(data)
    x_BT, y_BT = whole(lanes)
    longest = x_BT.shape[1]
    steps = torch.randint(longest, (2, 17, 5), generator=torch.Generator().manual_seed(0)).permute(2, 0, 1)[:, 0]
    steps = torch.cat([steps, lanes.answers_BA.clamp_min(0)], dim=1)
    x_BN, y_BN = lanes.read(steps)
    rows = torch.arange(5)[:, None]
    assert same(x_BN, x_BT[rows, steps])
    assert same(y_BN, y_BT[rows, steps])
    some = torch.tensor([3, 0])
    part = lanes.only(some)
    assert part.ids == [lanes.ids[3], lanes.ids[0]]
    assert torch.equal(part.lengths_B, lanes.lengths_B[some])
    assert torch.equal(part.answers_BA, lanes.answers_BA[some])
    assert all(same(a, b[some]) for a, b in zip(part.read(steps[some]), (x_BN, y_BN), strict=True))


def is_empty_outside(data):
    lanes = lanes_of(data)
    outside = torch.stack([-lanes.lengths_B, -torch.ones(5), lanes.lengths_B, lanes.lengths_B + 10**7], 1).long()
    x, y = lanes.read(outside)
    assert not x.any()
    assert nothing_asked(y).all()


def answers_are_asked(data):
    """The scored steps are steps, ascend, and something is asked there; ids are different."""
    lanes = lanes_of(data)
    assert lanes.answers_BA.dtype == lanes.lengths_B.dtype == torch.int64
    assert lanes.answers_BA.shape[1] == data.scored
    assert lanes.lengths_B.max() <= data.steps
    assert len(set(lanes.ids)) == 5
    for answers, length in zip(lanes.answers_BA, lanes.lengths_B, strict=True):
        real = answers[answers >= 0]
        assert real.tolist() == sorted(set(real.tolist()))
        assert len(real)
        assert real[-1] < length
    assert not nothing_asked(lanes.read(lanes.answers_BA)[1][lanes.answers_BA >= 0]).any()


def keeps_its_kind(data):
    """Shapes, types and ranges are what input_kind, channels and num_classes say."""
    x, y = whole(lanes_of(data))
    lanes, steps = y.shape
    assert (lanes, steps) == (5, data.steps)
    if data.input_kind == "symbols":
        assert (x.dtype, x.shape) == (torch.int64, (5, steps))
        assert 0 <= x.min() <= x.max() < data.channels
    elif data.input_kind == "vectors":
        assert (x.dtype, x.shape) == (torch.float32, (5, steps, data.channels))
    else:
        assert (x.dtype, x.shape) == (torch.uint8, (5, steps, data.channels, data.size, data.size))
    if data.regression:
        assert (y.dtype, data.num_classes) == (torch.float32, 1)
    else:
        asked = y[y != IGNORE]
        assert y.dtype == torch.int64
        assert 0 <= asked.min() <= asked.max() < data.num_classes == len(data.class_names)


def comes_from_its_key(make):
    """`make(seed=...)`: the same again; training differs by seed, epoch and index, evaluation by the index alone."""

    def read(seed, split, epoch, index):
        return whole(make(seed=seed).source(split).lanes([(epoch, index)]))

    def alike(one, other):
        return all(same(a, b) for a, b in zip(one, other, strict=True))

    assert alike(read(1, "train", 2, 3), read(1, "train", 2, 3))
    together = make(seed=1).source("train").lanes([(0, 1), (2, 3), (9, 9)])
    assert alike(tuple(part[1:2] for part in whole(together)), read(1, "train", 2, 3)), "whoever stands beside it"
    for split in ("val", "test"):
        assert alike(read(1, split, 0, 3), read(2, split, 0, 3))
        assert alike(read(1, split, 0, 3), read(1, split, 5, 3))
    different = [read(1, split, 0, 3)[0] for split in ("train", "val", "test")]
    different += [read(1, "train", 0, 4)[0], read(1, "test", 0, 4)[0]]
    if make(seed=1).source("train").endless:
        different += [read(1, "train", 1, 3)[0], read(2, "train", 0, 3)[0]]
    for number, one in enumerate(different):
        assert not any(same(one, other) for other in different[:number])


def is_handed_over(data, most_bytes):
    """Lanes and batches can be sent to another process, and are small."""
    lanes = lanes_of(data)
    sent = pickle.dumps(lanes)
    assert len(sent) < most_bytes
    again = pickle.loads(sent)
    assert all(same(a, b) for a, b in zip(whole(again), whole(lanes), strict=True))
    batch = TrainRollouts(data.source("train"), lanes=3, rollout=2, seed=0, stagger=False)[(1, 1)]
    assert batch["start"].tolist() == pickle.loads(pickle.dumps(batch))["start"].tolist()


def goes_on_where_it_stopped(make, num_workers=0):
    """The pixels, symbols and questions of a resumed epoch are those of one that was not stopped."""

    def read(batch, rollout=2):
        return batch["lanes"].read(batch["start"][:, None] + torch.arange(rollout))

    def loader():
        data = make(seed=1, batch_size=3, train_streams=6, num_workers=num_workers)
        data.rollout = 2
        data.setup("fit")
        made = data.train_dataloader()
        made.sampler.set_epoch(1)
        return made

    expected = [read(batch) for batch in loader()]
    stopped = loader()
    handed = iter(stopped)
    for _ in range(3):
        next(handed)
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    found = [read(batch) for batch in resumed]
    assert len(found) == len(expected) - 3 > 0
    for one, other in zip(found, expected[3:], strict=True):
        assert all(same(a, b) for a, b in zip(one, other, strict=True))
