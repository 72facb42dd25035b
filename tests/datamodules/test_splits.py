"""Splits: disjoint, complete, and functions of names alone."""

import pytest

from datamodules.splits import groups_of, split_by_csv, split_by_group, split_by_seed

PATHS = [f"{label}/{person}_{label}{take}.avi" for label in ("run", "walk") for person in "abcd" for take in (1, 2)]


def assert_partition(split, paths=PATHS):
    together = [path for part in split.values() for path in part]
    assert sorted(together) == sorted(paths)


@pytest.mark.parametrize("val_group", [None, "next"])
def test_folds_are_disjoint_and_complete(val_group):
    groups = groups_of(PATHS, r"^(\w)_")
    splits = [split_by_group(groups, fold, val_group) for fold in range(4)]
    for split in splits:
        assert_partition(split)
        assert len(split["test"]) == 4
        assert len(split["val"]) == (4 if val_group else 0)
    assert sorted(path for split in splits for path in split["test"]) == sorted(PATHS)
    assert {groups[path] for path in splits[2]["test"]} == {"c"}


def test_validation_group_by_name_and_after_the_last():
    groups = groups_of(PATHS, r"^(\w)_")
    assert {groups[path] for path in split_by_group(groups, 0, "d")["val"]} == {"d"}
    assert {groups[path] for path in split_by_group(groups, 3, "next")["val"]} == {"a"}


@pytest.mark.parametrize(
    ("fold", "val_group", "said"), [(4, None, "folds 0 to 3"), (-1, None, "folds 0 to 3"), (0, "a", "one of b, c, d")]
)
def test_wrong_folds_are_refused(fold, val_group, said):
    with pytest.raises(ValueError, match=said):
        split_by_group(groups_of(PATHS, r"^(\w)_"), fold, val_group)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"^\w_", r"no \(\.\.\.\)"),
        (r"^(x)_", "no group in 16 names"),
        (r"^(x", r"group_pattern '\^\(x' is no regular expression: missing \)"),
    ],
)
def test_wrong_patterns_are_refused(pattern, said):
    with pytest.raises(ValueError, match=said):
        groups_of(PATHS, pattern)


def test_random_split_is_stratified_and_depends_on_its_seed_alone():
    labels = {path: int(path.startswith("walk")) for path in PATHS}
    split = split_by_seed(labels, 3, 0.25, 0.25)
    assert_partition(split)
    assert sum(path.startswith("walk") for path in split["test"]) == len(split["test"]) / 2 == 2
    assert split == split_by_seed(dict(reversed(labels.items())), 3, 0.25, 0.25)
    assert split != split_by_seed(labels, 4, 0.25, 0.25)
    with pytest.raises(ValueError, match="together < 1"):
        split_by_seed(labels, 0, 0.5, 0.5)


def test_csv_says_the_split(tmp_path):
    file = tmp_path / "split.csv"
    file.write_text("path,split\r\nrun/a_run1.avi,train\r\nrun/b_run1.avi,test\r\n")
    assert split_by_csv(PATHS, file) == {"train": ["run/a_run1.avi"], "val": [], "test": ["run/b_run1.avi"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,part\n", "expected path,split"),
        ("path,split\nrun/a_run1.avi,dev\n", "train, val, test"),
        ("path,split\nrun/z.avi,test\n", "not in the folder, first run/z.avi"),
    ],
)
def test_wrong_csv_is_refused(tmp_path, text, said):
    file = tmp_path / "split.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        split_by_csv(PATHS, file)
