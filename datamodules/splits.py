"""Which videos are for training, validation and test: pure functions of names.

group   fold k tests the k-th group in alphabetical order: leave one group out
csv     a file with the columns path,split says it
seed    a shuffled cut of each class
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = ("train", "val", "test")
Split = dict[str, list[str]]


def groups_of(paths: Sequence[str], pattern: str) -> dict[str, str]:
    """Return each path's group: what the first group of the regular expression finds in the file's name."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"group_pattern {pattern!r} is no regular expression: {error}") from error
    if expression.groups < 1:
        raise ValueError(f"group_pattern {pattern!r} has no (...): mark the part that names the group, as in '(.*)_'")
    found = {path: expression.search(Path(path).name) for path in paths}
    without = [path for path, match in found.items() if not match]
    if without:
        raise ValueError(f"group_pattern {pattern!r} finds no group in {len(without)} names, first {without[0]}")
    return {path: match.group(1) for path, match in found.items() if match}


def fold_groups(groups: Mapping[str, str], fold: int, val_group: str | None) -> tuple[str, str | None]:
    """Return the test group of a fold and the validation group; `next` is the group after the test group."""
    names = sorted(set(groups.values()))
    if not 0 <= fold < len(names):
        raise ValueError(f"fold {fold}: there are {len(names)} groups, so folds 0 to {len(names) - 1}")
    test = names[fold]
    if val_group is None:
        return test, None
    val = names[(fold + 1) % len(names)] if val_group == "next" else val_group
    if val not in names or val == test:
        others = ", ".join(name for name in names if name != test)
        raise ValueError(f"validation group {val!r}: the test group is {test}, expected 'next' or one of {others}")
    return test, val


def split_by_group(groups: Mapping[str, str], fold: int, val_group: str | None) -> Split:
    """Return the split that leaves one group out for the test, and one for validation where `val_group` is given."""
    test, val = fold_groups(groups, fold, val_group)
    place = {test: "test", val: "val"}
    return _collected({path: place.get(group, "train") for path, group in groups.items()})


def split_by_csv(paths: Sequence[str], file: Path) -> Split:
    """Return the split that a csv with the columns path,split states; videos it does not name are left out."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if not {"path", "split"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{file} has the columns {reader.fieldnames}, expected path,split")
        said = {row["path"]: row["split"] for row in reader}
    wrong = sorted(set(said.values()) - set(SPLITS))
    if wrong:
        raise ValueError(f"{file} names the splits {wrong}, expected {', '.join(SPLITS)}")
    missing = sorted(set(said) - set(paths))
    if missing:
        raise ValueError(f"{file} names {len(missing)} videos that are not in the folder, first {missing[0]}")
    return _collected(said)


def split_by_seed(labels: Mapping[str, Any], seed: int, val_fraction: float, test_fraction: float) -> Split:
    """Return a random cut of each class by fractions, rounded; the same for the same names and seed."""
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(f"val_fraction {val_fraction} and test_fraction {test_fraction}: expected >= 0, together < 1")
    rng = np.random.default_rng(seed)
    place: dict[str, str] = {}
    for label in sorted(set(labels.values())):
        names = sorted(path for path, other in labels.items() if other == label)
        order = [names[i] for i in rng.permutation(len(names))]
        test, val = round(test_fraction * len(names)), round(val_fraction * len(names))
        splits = ["test"] * test + ["val"] * val + ["train"] * (len(names) - test - val)
        place.update(zip(order, splits, strict=True))
    return _collected(place)


def _collected(place: Mapping[str, str]) -> Split:
    return {split: sorted(path for path, where in place.items() if where == split) for split in SPLITS}
