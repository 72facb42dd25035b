"""A list of videos: what is there is counted, the official list is what the hash is of."""

from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.listing import Entry, Listing, folder_listing

OFFICIAL = {"train": {"a": 0, "b": 1}, "test": {"c": 0, "d": 1}}


def listing(*there, official=OFFICIAL):
    splits = {s: [Entry(f"{i}.avi", i, label) for i, label in ids.items() if i in there] for s, ids in OFFICIAL.items()}
    missing = {s: [i for i in ids if i not in there] for s, ids in OFFICIAL.items()}
    return Listing(Path("x"), ["p", "q"], splits, "official", 0, {"train": 2, "test": 2}, missing, official)


def test_the_hash_is_of_the_official_list_whatever_is_there():
    assert listing("a", "b", "c", "d").id_hash == listing("c").id_hash
    assert listing("a", "c").found == {"train": 1, "test": 1}
    others = [
        {"train": {"a": 0, "b": 0}, "test": {"c": 0, "d": 1}},
        {"train": {"a": 0, "b": 1, "c": 0}, "test": {"d": 1}},
        {"train": {"a": 0, "b": 1}, "test": {"c": 0}},
    ]
    assert len({listing("a", official=official).id_hash for official in [OFFICIAL, *others]}) == 4
    assert len(listing("a").id_hash) == 16


def test_missing_videos_need_the_official_list():
    with pytest.raises(ValueError, match="needs `official`"):
        replace(listing("a"), official=None)


def test_a_folder_is_its_own_list():
    paths = ["run/1.avi", "run/2.avi", "walk/1.avi"]
    split = {"train": ["run/1.avi", "walk/1.avi"], "val": [], "test": ["run/2.avi"]}
    made = folder_listing(Path("x"), paths, split, split_name="mine")
    assert made.splits["train"] == [Entry("run/1.avi", "run/1.avi", 0), Entry("walk/1.avi", "walk/1.avi", 1)]
    assert (made.class_names, made.expected, made.missing) == (["run", "walk"], None, {})
    assert made.found == {"train": 2, "val": 0, "test": 1}
