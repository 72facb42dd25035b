"""Weizmann: nine folds over real clips, and a clear word where there are none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import Weizmann
from datamodules.weizmann import CLASSES, PERSONS, default_root


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """The index of write-protected data goes to the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def weizmann(real_data, in_tmp):
    return lambda **options: Weizmann(root=str(real_data / "weizmann"), **options)


def paths_of(data):
    return {split: [entry.path for entry in entries] for split, entries in data.listing.splits.items()}


def test_nine_folds_are_disjoint_and_complete(weizmann):
    tests = []
    for fold, person in enumerate(PERSONS):
        data = weizmann(fold=fold)
        split = paths_of(data)
        assert {data.groups[path] for path in split["test"]} == {person}
        assert (len(split["train"]), len(split["val"]), len(split["test"])) == (80, 0, 10)
        assert not set(split["train"]) & set(split["test"])
        tests += split["test"]
    assert len(tests) == len(set(tests)) == 90
    assert data.folds() == 9
    assert data.persons == list(PERSONS)
    assert data.class_names == list(CLASSES)


def test_validation_person_is_taken_from_training(weizmann):
    split = paths_of(weizmann(fold=8, val_person="next"))
    assert [len(split[part]) for part in ("train", "val", "test")] == [70, 10, 10]
    assert {path.split("/")[1].split("_")[0] for path in split["val"]} == {"daria"}
    with pytest.raises(ValueError, match="expected 'next' or one of denis"):
        weizmann(val_person="nobody")


def test_clips_as_a_user_would_train_on_them(weizmann):
    data = weizmann(frames=20, size=32, background="median", grayscale=True, views=2, val_person="next")
    data.min_frames = 7
    data.setup()
    train = next(iter(data.train_dataloader()))
    assert train["video"].shape == (16, 20, 1, 32, 32)
    assert len(list(data.train_dataloader())) == 4
    assert sum(len(batch["label"]) for batch in data.test_dataloader()) == 20
    assert sum(len(batch["label"]) for batch in data.val_dataloader()) == 20
    test = next(iter(data.test_dataloader()))
    moving = (test["video"] > 51).float().mean((2, 3, 4))
    assert 0.001 < moving[:, -1].mean() < 0.15  # a person, not the wall


def test_the_background_of_a_clip_is_that_of_its_whole_past(weizmann):
    data = weizmann(frames=8, size=32, background="median", views=3)
    data.setup("test")
    first, last = data.test_dataloader().dataset[(0, 0)]["video"], data.test_dataloader().dataset[(0, 2)]["video"]
    assert first[0].max() == 0
    assert last[0].max() > 51


def test_all_ninety_are_long_enough_for_ten_units(weizmann):
    data = weizmann(frames=32)
    data.min_frames = 19
    data.setup()
    assert [len(data.videos[split]) for split in ("train", "val", "test")] == [80, 0, 10]


def test_short_real_clips_have_a_mask(weizmann):
    data = weizmann(frames=64, batch_size=80)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert 36 <= batch["length"].min() < 64
    for video, length in zip(batch["video"], batch["length"].tolist(), strict=True):
        assert (video[:length].amax((1, 2, 3)) > 0).all()
        assert video[length:].sum() == 0


def test_hash_is_of_the_fold(weizmann):
    hashes = [weizmann(fold=fold).data_hash for fold in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_missing_data_says_what_was_looked_for_found_and_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIP_SIDEWAYS_DATA", str(tmp_path))
    assert default_root() == tmp_path / "weizmann"
    with pytest.raises(ValueError, match=r"bend, jack.*no such folder\. Set SKIP_SIDEWAYS_DATA.*--data MovingDigits"):
        Weizmann()
    (tmp_path / "weizmann" / "bend").mkdir(parents=True)
    with pytest.raises(ValueError, match="it holds the folders bend"):
        Weizmann()
    monkeypatch.delenv("SKIP_SIDEWAYS_DATA")
    assert default_root().resolve() == (Path(__file__).parents[3] / "shared" / "data" / "weizmann").resolve()


@pytest.mark.slow
def test_labels_and_pixels_belong_together(weizmann):
    """The nearest clip mean of another person often shows the same action; chance is 0.1."""
    data = weizmann(frames=36, size=32, grayscale=True, background="median", batch_size=90, flip=False)
    data.setup()
    train, test = next(iter(data.train_dataloader())), next(iter(data.test_dataloader()))

    def feature(batch):
        rows = batch["video"].float().mean(1).squeeze(1)
        centred = [torch.roll(r, 16 - int((r.sum(0) * torch.arange(32)).sum() / r.sum()), 1) for r in rows]
        return torch.stack(centred).flatten(1)

    nearest = torch.cdist(feature(test), feature(train)).argmin(1)
    accuracy = np.mean((train["label"][nearest] == test["label"]).numpy())
    assert accuracy >= 0.4
