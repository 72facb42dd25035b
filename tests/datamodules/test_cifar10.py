"""CIFAR10: the split, the clips of one frame, the augmentation as a pure function, and a stop in mid-epoch."""

import logging
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules import CIFAR10
from datamodules.cifar10_files import BINARY
from datamodules.cifar10_images import CIFAR10Clips, augmented, choices
from tests.datamodules import cifar10_miniature as miniature


@pytest.fixture
def cifar10(tmp_path):
    miniature.write(tmp_path)
    return lambda **options: CIFAR10(**{"root": str(tmp_path), "batch_size": 8, "val_images": 10} | options)


def expected(split):
    data = torch.from_numpy(miniature.pixels().reshape(72, 1, 3, 32, 32))
    return data[{"train": slice(0, 50), "val": slice(50, 60), "test": slice(60, 72)}[split]]


def test_the_first_value_of_a_file_is_the_red_of_the_upper_left_corner(cifar10):
    video = cifar10().dataset("test")[(0, 3)]["video"]
    record = miniature.pixels()[5, 3]
    assert (video.dtype, video.shape) == (torch.uint8, (1, 3, 32, 32))
    assert video[0, 0, 0, :5].tolist() == record[:5].tolist()
    assert video[0, 2, 31, 31] == record[3071]
    assert video[0, 1, 2, 7] == record[1024 + 2 * 32 + 7]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_holds_its_images_in_the_order_of_the_files(cifar10, split):
    dataset = cifar10(augment="none").dataset(split)
    items = [dataset[(4, index)] for index in range(len(dataset))]
    first = {"train": 0, "val": 50, "test": 60}[split]
    assert torch.equal(torch.stack([item["video"] for item in items]), expected(split))
    assert [item["label"] for item in items] == [(first + i) % 10 for i in range(len(items))]
    assert [item["video_index"] for item in items] == list(range(len(items)))
    assert items[1]["clip_id"] == {"train": "train-00001@0", "val": "train-00051@0", "test": "test-00001@0"}[split]
    assert {item["length"] for item in items} == {1}


def test_batches_have_the_keys_of_every_other_dataset(cifar10):
    data = cifar10()
    data.setup("fit")
    (batch, *_), val = list(data.train_dataloader()), list(data.val_dataloader())
    assert set(batch) == {"video", "label", "length", "video_index", "clip_id"}
    assert (batch["video"].shape, batch["label"].dtype) == ((8, 1, 3, 32, 32), torch.int64)
    assert torch.equal(torch.cat([b["video"] for b in val]), expected("val"))
    data.setup("test")
    assert torch.equal(torch.cat([b["video"] for b in data.test_dataloader()]), expected("test"))


def test_the_cut_is_that_of_the_padded_image():
    image = np.random.default_rng(0).integers(1, 256, (3, 32, 32), dtype=np.uint8)
    padded = F.pad(torch.from_numpy(image), (4, 4, 4, 4))
    for top in range(9):
        for left in range(9):
            for mirrored in (False, True):
                cut = padded[:, top : top + 32, left : left + 32]
                got = torch.from_numpy(augmented(image, top, left, mirrored))
                assert torch.equal(got, cut.flip(-1) if mirrored else cut), (top, left, mirrored)
    assert (augmented(image, 4, 4, False) == image).all()


def test_choices_are_uniform_independent_and_of_seed_and_epoch_alone():
    drawn = choices(3, 5, 45_000)
    choices.cache_clear()
    assert (choices(3, 5, 45_000) == drawn).all()
    assert all((choices(*key, 45_000) != drawn).mean() > 0.5 for key in ((3, 6), (4, 5)))
    places = np.bincount(drawn[:, 0] * 18 + drawn[:, 1] * 2 + drawn[:, 2], minlength=162)
    assert places.shape == (162,)
    # 45,000 / 162 = 278 of each place expected, with a standard deviation of 16.6
    assert abs(places - 45_000 / 162).max() < 5 * 16.6


def test_training_clips_are_augmented_by_seed_epoch_and_index(cifar10):
    def videos(epoch, **options):
        dataset = cifar10(**options).dataset("train")
        return torch.stack([dataset[(epoch, index)]["video"] for index in range(len(dataset))])

    one = videos(0, seed=1)
    assert torch.equal(one, videos(0, seed=1))
    assert not torch.equal(one, videos(0, seed=2))
    assert not torch.equal(one, videos(1, seed=1))
    top, left, mirrored = choices(1, 0, 50)[7].tolist()
    assert torch.equal(one[7, 0], torch.from_numpy(augmented(expected("train")[7, 0].numpy(), top, left, mirrored)))
    assert torch.equal(videos(1, augment="none"), expected("train"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_in_the_middle_of_an_epoch_leaves_no_trace(cifar10, workers):
    def loader(num_workers=0):
        made = cifar10(num_workers=num_workers).train_dataloader()
        made.sampler.set_epoch(2)
        return made

    whole = list(loader())
    stopped = loader(workers)
    given = list(islice(stopped, 2))
    state = stopped.state_dict()
    resumed = loader(workers)
    resumed.load_state_dict(state)
    got = [*given, *resumed]
    assert len(got) == len(whole) == 6
    for one, other in zip(got, whole, strict=True):
        assert torch.equal(one["video"], other["video"])
        assert one["clip_id"] == other["clip_id"]


def test_items_are_their_own_and_can_be_written_to(cifar10):
    for data in (cifar10(augment="none"), cifar10()):
        dataset = data.dataset("train")
        before = dataset[(0, 0)]["video"].clone()
        dataset[(0, 0)]["video"].zero_()
        assert torch.equal(dataset[(0, 0)]["video"], before)


def test_the_hash_is_of_the_images_and_the_split_not_of_the_version_or_the_seed(cifar10, tmp_path):
    hashed = cifar10().data_hash
    miniature.write(tmp_path / "binary", BINARY)
    miniature.write_archive(tmp_path / "packed")
    assert len(hashed) == 16
    assert cifar10(root=str(tmp_path / "binary"), seed=3, augment="none").data_hash == hashed
    assert cifar10(root=str(tmp_path / "packed")).data_hash == hashed
    assert cifar10(val_images=9).data_hash != hashed
    path = tmp_path / "binary" / BINARY.folder / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    assert cifar10(root=str(tmp_path / "binary")).data_hash != hashed


def test_what_was_found_stands_beside_what_the_official_files_hold(cifar10):
    data = cifar10()
    assert data.found == {"train": 50, "val": 10, "test": 12}
    assert data.expected == {"train": 49_990, "val": 10, "test": 10_000}
    assert (data.num_classes, data.channels, data.folds(), data.class_names[3]) == (10, 3, 1, "cat")


def test_without_validation_images_all_train_and_that_is_said(cifar10, caplog):
    data = cifar10(val_images=0)
    with caplog.at_level(logging.WARNING):
        data.setup("fit")
    assert "--data.val_images 5000" in caplog.text
    assert data.val_dataloader() == []
    assert len(data.dataset("train")) == 60
    with pytest.raises(ValueError, match="nothing to validate on"):
        data.setup("validate")


def test_networks_that_need_several_frames_are_told_what_to_use(cifar10):
    data = cifar10()
    data.min_frames, data.min_scored_frames = 7, 4
    with pytest.raises(ValueError, match=r"at least 7.*--model.rule backprop_frame"):
        data.setup("fit")
    with pytest.raises(ValueError, match="at least 4"):
        data.setup("test")
    data.min_scored_frames = 1
    data.setup("test")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"augment": "crop"}, "expected one of none, standard"),
        ({"val_images": -1}, "expected 0 to 49999"),
        ({"val_images": 50_000}, "expected 0 to 49999"),
        ({"root": "nowhere"}, "no such folder"),
    ],
)
def test_wrong_options_are_named(cifar10, wrong, message):
    with pytest.raises(ValueError, match=message):
        cifar10(**wrong)


def test_more_validation_images_than_there_are_images(cifar10):
    with pytest.raises(ValueError, match="val_images 60 of the 60 training images"):
        cifar10(val_images=60).setup("fit")


def test_an_item_costs_little():
    """An epoch of 50,000 must not take the time that a small network's step does: under 60 us each, so 3 s."""
    import time

    dataset = CIFAR10Clips((np.zeros((1000, 3, 32, 32), np.uint8), np.zeros(1000, np.int64)), "train", seed=0)
    dataset[(0, 0)]
    before = time.process_time()
    for index in range(1000):
        dataset[(0, index)]
    assert time.process_time() - before < 0.06 * 5  # five times, for a busy machine
