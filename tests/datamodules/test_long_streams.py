"""Rules that hold for every kind of long streams, and the errors and facts that all share."""

from functools import partial

import long_stream_rules as rules
import pytest
import torch

from datamodules import AddSequences, CopySequences, CuedVideo, DigitSequences, ScatteredCopySequences

MAKERS = {
    "copy": partial(CopySequences, gap=7, symbols=4),
    "numbered": partial(CopySequences, gap=7, symbols=4, numbered=True),
    "scattered": partial(ScatteredCopySequences, gap=7, symbols=4),
    "add": partial(AddSequences, gap=11),
    "digits": partial(DigitSequences, gap=5),
    "cued_video": partial(CuedVideo, gap=9, cue_frames=2, hold=3, question_frames=2),
    "digits_in_order": partial(DigitSequences, permute=False),
}
RULES = [rules.reads_anywhere, rules.is_empty_outside, rules.answers_are_asked, rules.keeps_its_kind]


@pytest.fixture(params=MAKERS, name="make")
def _make(request):
    return MAKERS[request.param]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rules(make, rule):
    rule(make())


def test_a_stream_comes_from_its_key(make):
    rules.comes_from_its_key(make)


def test_lanes_are_handed_over(make):
    rules.is_handed_over(make(), most_bytes=4000)


def test_a_stop_leaves_no_trace(make):
    rules.goes_on_where_it_stopped(make)


def test_a_stop_leaves_no_trace_in_workers():
    rules.goes_on_where_it_stopped(MAKERS["scattered"], num_workers=2)


@pytest.mark.parametrize("kind", [CopySequences, ScatteredCopySequences, AddSequences])
def test_a_million_steps_cost_no_more_than_a_hundred(kind):
    """What is held and what is sent does not grow with the gap, and its last steps are read without those before."""
    lanes = rules.lanes_of(kind(gap=1_000_000), count=8)
    held = sum(value.nbytes for value in vars(lanes).values() if hasattr(value, "nbytes"))
    assert held < 4000
    x, y = lanes.read(lanes.answers_BA)
    assert x.any()
    assert not rules.nothing_asked(y).any()
    assert lanes.answers_BA.max() == lanes.lengths_B[0] - 1 >= 1_000_000


def test_loaders_follow_the_model(make):
    data = make(batch_size=4, train_streams=8, val_streams=3, test_streams=5)
    data.rollout = 4
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch) == ["label", "lanes", "length", "new", "start"]
    assert batch["length"].max() == 4
    assert len(data.train_dataloader()) == 2 * -(-data.steps // 4)
    assert [len(part["lanes"].ids) for part in data.val_dataloader()] == [3]
    assert [len(part["label"]) for part in data.test_dataloader()] == [4, 1]
    assert [part["length"].tolist() for part in data.predict_dataloader()] == [[data.steps] * 4, [data.steps]]
    assert data.folds() == 1
    assert data.found == {"train": 8, "val": 3, "test": 5}


def test_batches_reach_the_device_as_they_are():
    """Lightning moves tensors, and leaves lanes where they are."""
    from lightning.fabric.utilities.apply_func import move_data_to_device

    data = MAKERS["copy"]()
    batch = next(iter(data.train_dataloader()))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved["lanes"] is batch["lanes"]
    assert moved["start"].is_meta


def test_the_hash_is_of_the_streams(make):
    assert make(seed=1).data_hash == make(seed=2, batch_size=3).data_hash
    assert make().data_hash == make(train_streams=7).data_hash
    assert len({make(**{f"{split}_streams": 7}).data_hash for split in ("train", "val", "test")}) == 3
    hashes = {maker().data_hash for maker in MAKERS.values()}
    assert len(hashes) == len(MAKERS)
    assert CopySequences(gap=8).data_hash != CopySequences(gap=9).data_hash


def test_what_a_score_is_of():
    assert CopySequences(gap=502).protocol == "512 streams of 522 steps, scored at 10 steps"
    assert AddSequences(gap=4999, test_streams=1).protocol == "1 stream of 5,000 steps, scored at 1 step"


def test_one_class_is_not_taken_for_numbers():
    """A task that is told of one class asks for numbers, and would learn class indices by their squared error."""
    data, numbers = CopySequences(), AddSequences()
    data.class_names = ["only"]
    with pytest.raises(ValueError, match=r"copy_sequences has one class: nothing to learn; .*`regression = True`"):
        data.setup("fit")
    numbers.setup("fit")


def test_nothing_to_validate_on():
    data = CopySequences(val_streams=0)
    assert data.val_dataloader() == []
    data.setup("fit")
    with pytest.raises(ValueError, match=r"give --data.val_streams 256"):
        data.setup("validate")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"train_streams": 0}, {"test_streams": 0}, {"val_streams": -1}])
def test_numbers_below_the_least_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} {value}.*expected"):
        CopySequences(**wrong)


def test_several_processes_are_refused():
    data = CopySequences()
    data.trainer = type("Trainer", (), {"world_size": 2})()
    with pytest.raises(ValueError, match=r"2 processes.*--trainer.devices 1"):
        data.setup("fit")
