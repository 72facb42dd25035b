"""ArrayStreams: streams of one's own, mapped and never read as a whole; a mistake in the folder is named."""

import pickle
import tracemalloc

import long_stream_rules as rules
import numpy as np
import pytest
import torch

from datamodules.array_files import _PIECE, largest, pieces
from datamodules.array_streams import ArrayStreams
from datamodules.lanes import IGNORE

LENGTHS = (13, 13, 13, 13, 13, 13)


def inputs(kind, rng, steps):
    if kind == "frames":
        return rng.integers(0, 256, (steps, 2, 5, 5), dtype=np.uint8)
    return rng.standard_normal((steps, 3), np.float32) if kind == "vectors" else rng.integers(0, 7, steps)


def save(folder, name, x, y, answers=None):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.x.npy", x)
    np.save(folder / f"{name}.y.npy", y)
    if answers is not None:
        np.save(folder / f"{name}.answers.npy", np.array(answers))


def write(root, kind="frames", lengths=LENGTHS, answers=None):
    """Write streams into all three splits; something is asked at every third step, of four classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number, steps in enumerate(lengths):
            y = np.full(steps, IGNORE)
            y[::3] = rng.integers(0, 4, len(y[::3]))
            y[0] = 3
            x = inputs(kind, rng, steps)
            x[-1] = 6
            save(root / split, f"s{number}", x, y, answers)
    return root


@pytest.fixture(params=["frames", "vectors", "symbols"])
def kind(request):
    return request.param


RULES = [rules.reads_anywhere, rules.is_empty_outside, rules.keeps_its_kind]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rules(tmp_path, kind, rule):
    rule(ArrayStreams(str(write(tmp_path, kind))))


def test_a_stream_comes_from_its_key(tmp_path, kind):
    root = write(tmp_path, kind, lengths=(13,) * 10)
    rules.comes_from_its_key(lambda seed: ArrayStreams(str(root), seed=seed))


def test_lanes_are_handed_over(tmp_path, kind):
    rules.is_handed_over(ArrayStreams(str(write(tmp_path, kind))), most_bytes=4000)


@pytest.mark.parametrize("stagger", [False, True])
def test_a_stop_leaves_no_trace(tmp_path, stagger):
    root = write(tmp_path)
    rules.goes_on_where_it_stopped(lambda train_streams, **options: ArrayStreams(str(root), stagger=stagger, **options))


def test_frames_targets_and_answers_are_those_of_the_files(tmp_path):
    root = write(tmp_path, lengths=(13, 4, 9, 7, 12), answers=[1, 3])
    data = ArrayStreams(str(root))
    lanes = rules.lanes_of(data)
    x, y = rules.whole(lanes)
    for lane, steps in enumerate((13, 4, 9, 7, 12)):
        assert torch.equal(x[lane, :steps], torch.from_numpy(np.load(root / "test" / f"s{lane}.x.npy")))
        assert torch.equal(y[lane, :steps], torch.from_numpy(np.load(root / "test" / f"s{lane}.y.npy")))
        assert not x[lane, steps:].any()
    assert lanes.answers_BA.tolist() == [[1, 3]] * 5
    assert lanes.ids == [f"test/s{lane}" for lane in range(5)]
    assert (data.steps, data.size, data.channels, data.num_classes) == (13, 5, 2, 4)
    assert data.protocol == "5 streams of at most 13 steps, scored at their answers"


def test_without_a_file_all_that_is_asked_is_scored(tmp_path):
    lanes = rules.lanes_of(ArrayStreams(str(write(tmp_path, "symbols", (13, 4, 9, 7, 12)))))
    assert lanes.answers_BA.tolist() == [
        [*range(0, n, 3)] + [-1] * (5 - len(range(0, n, 3))) for n in (13, 4, 9, 7, 12)
    ]
    assert not rules.nothing_asked(lanes.read(lanes.answers_BA)[1][lanes.answers_BA >= 0]).any()


def test_training_takes_every_step_of_streams_of_any_length(tmp_path):
    data = ArrayStreams(str(write(tmp_path, "symbols", (13, 4, 9, 7, 12))), batch_size=2)
    data.rollout = 3
    data.setup("fit")
    seen = {}
    for batch in data.train_dataloader():
        x, _ = batch["lanes"].read(batch["start"][:, None] + torch.arange(3))
        for lane, length in enumerate(batch["length"].tolist()):
            seen.setdefault(batch["lanes"].ids[lane], []).append(x[lane, :length])
    assert {name: len(torch.cat(parts)) for name, parts in seen.items()} == {
        "train/s0": 13, "train/s1": 4, "train/s2": 9, "train/s3": 7, "train/s4": 12,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"--data.stagger false"):
        ArrayStreams(data.files["train"][0].stem.parents[1], stagger=True).train_dataloader()


def test_ten_million_steps_are_not_read(tmp_path):
    """280 MB of streams: classes are found in pieces, a few steps are read, and no memory is taken for the rest."""
    steps = 10_000_000
    for split in ("train", "test"):
        folder = tmp_path / split
        folder.mkdir()
        x = np.lib.format.open_memmap(folder / "long.x.npy", "w+", np.uint8, (steps, 1, 2, 2))
        y = np.lib.format.open_memmap(folder / "long.y.npy", "w+", np.int64, (steps,))
        x[-1], y[-1] = 9, 5
        np.save(folder / "long.answers.npy", np.array([steps - 1]))
        del x, y
    tracemalloc.start()
    try:
        data = ArrayStreams(str(tmp_path), num_classes=6)
        lanes = data.source("test").lanes([(0, 0)] * 4)
        x, y = lanes.read(torch.tensor([[0, steps - 1, 5_000_000, steps]] * 4))
        assert lanes.answers_BA.tolist() == [[steps - 1]] * 4
        assert len(pickle.dumps(lanes)) < 4000
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert y[0].tolist() == [0, 5, 0, IGNORE]
    assert x[0, 1].unique().tolist() == [9]
    assert taken < 2**20


def test_large_arrays_are_looked_through_in_pieces():
    array = np.zeros(2 * _PIECE + 3, np.int64)
    array[-1] = 8
    assert [(at, len(part)) for at, part in pieces(array)] == [(0, _PIECE), (_PIECE, _PIECE), (2 * _PIECE, 3)]
    assert largest([array[:5], array]) == 8


def test_the_hash_is_of_names_sizes_and_ends(tmp_path):
    one, same = (ArrayStreams(str(write(tmp_path / name))).data_hash for name in "ab")
    assert one == same
    y = np.load(tmp_path / "b" / "test" / "s0.y.npy")
    y[-1] = (y[-1] + 1) % 4
    np.save(tmp_path / "b" / "test" / "s0.y.npy", y)
    assert ArrayStreams(str(tmp_path / "b")).data_hash != one


def test_other_scored_steps_are_other_data(tmp_path):
    """The hash left them out: a test of other steps was taken for the same score."""
    data = ArrayStreams(str(write(tmp_path, answers=[1, 3])))
    one, file = data.data_hash, tmp_path / "test" / "s0.answers.npy"
    np.save(file, np.array([1, 6]))
    other = data.data_hash
    file.unlink()
    assert len({one, other, data.data_hash}) == 3


@pytest.mark.parametrize("option", ["num_classes", "symbols"])
def test_a_number_below_0_is_named_with_its_option(tmp_path, option):
    """It was answered with "nothing is asked, for all targets are negative"."""
    with pytest.raises(ValueError, match=rf"^{option} -3: expected 2 or more, or 0 .*Leave --data\.{option} out"):
        ArrayStreams(str(write(tmp_path, "symbols")), **{option: -3})


def break_it(root, what):
    test, x, y = root / "test", np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
    if what == "lone x":
        (test / "s1.y.npy").unlink()
    elif what == "lone y":
        (test / "s1.x.npy").unlink()
    elif what == "lone answers":
        np.save(test / "other.answers.npy", y)
    elif what == "lengths":
        np.save(test / "s1.y.npy", y)
    elif what == "y dtype":
        np.save(test / "s1.y.npy", np.zeros(13, np.int32))
    elif what == "answers dtype":
        np.save(test / "s1.answers.npy", np.zeros(1))
    elif what == "x dtype":
        save(test, "s1", x.astype(np.float64), y)
    elif what == "oblong":
        save(test, "s1", np.zeros((4, 1, 3, 5), np.uint8), y)
    elif what == "kinds":
        save(test, "s1", x, y)
    elif what == "empty":
        save(test, "s1", x[:0], y[:0])
    elif what == "text":
        (test / "s1.x.npy").write_text("1 2 3")
    elif what == "pickled":
        np.save(test / "s1.x.npy", np.array([{}]), allow_pickle=True)
    elif what == "no train":
        (root / "train").rename(root / "training")
    elif what == "one class":
        for number in range(6):
            np.save(root / "train" / f"s{number}.y.npy", np.zeros(13, np.int64))
    elif what == "nothing asked":
        for number in range(6):
            np.save(root / "train" / f"s{number}.y.npy", np.full(13, IGNORE))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("lone x", r"1 of the x.npy files lack the y.npy file of their stream, first s1.x.npy. Save NAME.x"),
        ("lone y", r"1 of the y.npy files lack the x.npy file of their stream, first s1.y.npy"),
        ("lone answers", r"1 of the answers.npy files lack the x.npy file of their stream, first other"),
        ("lengths", r"s1.x.npy has 13 steps, its y 4: expected as many"),
        ("y dtype", r"s1.y.npy: int32 \(13,\); expected int64 \(T,\). Save it with .*astype\(np.int64\)"),
        ("answers dtype", r"s1.answers.npy: float64 \(1,\); expected int64"),
        ("x dtype", r"s1.x.npy: float64 \(4, 3\); expected uint8 frames.*Convert it"),
        ("oblong", r"frames of 3 x 5 pixels; expected square ones"),
        ("kinds", r"s0.x.npy has frames \(2, 5, 5\), .*s1.x.npy vectors \(3,\): expected the same"),
        ("empty", r"s1.x.npy has no steps: expected 1 or more"),
        ("text", r"s1.x.npy: expected one array of numbers, written by np.save"),
        ("pickled", r"s1.x.npy: expected one array of numbers"),
        ("no train", r"train: no stream there; expected pairs .*Give the folder with --data.root"),
        ("nothing asked", r"nothing is asked"),
        ("one class", r"train: one class: nothing to learn; .*Give --data.num_classes 2 or more"),
    ],
)
def test_a_mistake_in_the_folder_is_named(tmp_path, what, said):
    root = write(tmp_path)
    break_it(root, what)
    with pytest.raises(ValueError, match=said):
        ArrayStreams(str(root))


def test_classes_and_symbols_beyond_those_of_training_are_named(tmp_path):
    root = write(tmp_path, "symbols")
    save(root / "test", "s0", np.array([1, 2, 9]), np.array([0, 1, 1]))
    save(root / "test", "s1", np.array([1, 2, 3]), np.array([0, 1, 30]))
    lanes = rules.lanes_of(ArrayStreams(str(root)), count=2)
    with pytest.raises(ValueError, match=r"s0.x.npy has 9; expected 0 to 6.*Give --data.symbols 10"):
        lanes.read(torch.tensor([[2], [0]]))
    with pytest.raises(ValueError, match=r"s1.y.npy has 30; expected 0 to 3.*Give --data.num_classes 31"):
        lanes.read(torch.tensor([[0], [2]]))
    wide = rules.lanes_of(ArrayStreams(str(root), num_classes=31, symbols=10), count=2)
    assert wide.read(torch.tensor([[2], [2]]))[1].tolist() == [[1], [30]]


UNKNOWN = {
    "a class": ("y", 30, r"has 30; expected 0 to 3, .*Give --data.num_classes 31, or mend the file"),
    "a class below 0": ("y", -1, r"has -1; expected 0 to 3, .*Mend the file. Where nothing is asked, y is -100"),
    "a symbol": ("x", 9, r"has 9; expected 0 to 6, .*Give --data.symbols 10, or mend the file"),
}


@pytest.mark.parametrize("what", UNKNOWN)
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_fit_knows_what_the_streams_it_will_be_scored_on_ask(tmp_path, split, what):
    """They were found out at the test, after a whole training."""
    (part, value, said), root = UNKNOWN[what], write(tmp_path, "symbols")
    values = np.load(file := root / split / f"s5.{part}.npy")
    values[-1] = value
    np.save(file, values)
    data = ArrayStreams(str(root))
    other, same = ("test", "validate") if split == "val" else ("validate", "test")
    data.setup(other)
    for stage in ("fit", same):
        with pytest.raises(ValueError, match=f"s5.{part}.npy {said}"):
            data.setup(stage)


def test_answers_that_do_not_ascend_are_named(tmp_path):
    lanes = rules.lanes_of(ArrayStreams(str(write(tmp_path, answers=[4, 4, 13]))))
    with pytest.raises(ValueError, match=r"answers.npy: expected ascending steps from 0 to 12, found \[4, 4, 13\]"):
        _ = lanes.answers_BA


def test_validation_may_be_left_out(tmp_path):
    root = write(tmp_path)
    (root / "val").rename(root / "spare")
    data = ArrayStreams(str(root))
    data.setup("fit")
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match=r"no stream in val/, so nothing to validate on"):
        data.setup("validate")
