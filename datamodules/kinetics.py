"""Kinetics-400 and Kinetics-600: clips of ten seconds from web videos.

Kay et al., arXiv 1705.06950; Carreira et al., arXiv 1808.01340. Videos leave the web, so nobody has all of them:
missing ones are normal here, and how many were found goes with every result. Lists may be missing as well, so the
id-list hash is of the list that is tested on alone: the same on every machine that tests on it.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.kinetics_lists import find_and_read, list_names
from datamodules.listing import SPLITS, Listing
from datamodules.official import OfficialLists, make_listing
from datamodules.official_files import match, refuse_nothing, walk, warn_of_ambiguity
from datamodules.video_data import VideoData

# test_split -> split -> the official list that it is
ROLES = {"val": {"train": "train", "test": "val"}, "test": {split: split for split in SPLITS}}


class Kinetics(VideoData, ABC):
    """What Kinetics-400 and Kinetics-600 share: lists from csv files, missing videos counted and not refused.

    Args:
        root: folder of the videos, however deep they lie and whether by label, by split or flat.
        splits: folder of the lists; default: looked for in `root` and beside it, under their usual names.
        train_list: csv list of the training videos, where it has another name.
        val_list: csv list of the validation videos, where it has another name.
        test_list: csv list of the test videos, where it has another name.
        label_map: text file with a class a line, in order; default: label_map.txt, else the sorted labels of the lists.
        test_split: `val` tests on the official validation list, the usual protocol, and validates on `val_fraction`;
            `test` validates on the validation list; without labels it can be predicted, not scored.
        val_fraction: share of each class's training videos held out for validation, whole source videos at a time.
        size: side of the square clip in pixels.
        cache: `none` decodes each clip anew; `disk` keeps all frames at training size in files, for later runs as well;
            `memory` keeps them there, which takes more of it than most machines have.
    """

    index_check = "scan"
    val_options = "--data.val_fraction 0.02, or --data.test_split test"
    test_options = "--data.test_split"

    def __init__(
        self,
        root: str,
        splits: str | None = None,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        label_map: str | None = None,
        test_split: str = "val",
        val_fraction: float = 0.0,
        size: int = 112,
        cache: str = "none",
        **options: Any,
    ) -> None:
        given = {"train": train_list, "val": val_list, "test": test_list, "label_map": label_map}
        lists = find_and_read(self.edition, Path(root), splits, given)
        listing = kinetics_listing(lists, Path(root), test_split=test_split, val_fraction=val_fraction)
        super().__init__(listing, size=size, cache=cache, **options)
        _say_missing(self.dataset_name, listing)

    @property
    @abstractmethod
    def edition(self) -> int:
        """400 or 600."""

    def folds(self) -> int:
        """Return 1: Kinetics has no folds."""
        return 1

    def setup(self, stage: str | None = None) -> None:
        """Refuse a stage whose list is not there, or that needs labels which the list does not have.

        Raises:
            ValueError: says which list, and what to type.
        """
        expected = self.expected or {}
        if stage == "fit" and not expected.get("train"):
            raise ValueError(
                f"{self.dataset_name}: there is no training list: where the other lists are, looked for "
                f"{', '.join(list_names(self.edition, 'train'))}. Give --data.train_list FILE."
            )
        if stage == "test" and any(entry.label < 0 for entry in self.listing.splits["test"]):
            raise ValueError(
                f"{self.dataset_name}: the test list has no labels, so there is nothing to score against. "
                "`skip-sideways predict` writes the predictions; --data.test_split val scores the validation list."
            )
        super().setup(stage)


class Kinetics400(Kinetics):
    """Kinetics-400's clips; missing videos are counted, and listed by `skip-sideways data verify kinetics400`."""

    edition = 400
    dataset_name = "kinetics400"


class Kinetics600(Kinetics):
    """Kinetics-600's clips; missing videos are counted, and listed by `skip-sideways data verify kinetics600`."""

    edition = 600
    dataset_name = "kinetics600"


def kinetics_listing(lists: OfficialLists, root: Path, *, test_split: str, val_fraction: float = 0.0) -> Listing:
    """Return the listing: the test is the official list `test_split`, and `id_hash` is of that list alone.

    Raises:
        ValueError: that list was not found, or no listed video is there.
    """
    if test_split not in ROLES:
        raise ValueError(f"{lists.dataset}: test_split {test_split!r}; expected {' or '.join(ROLES)}")
    if test_split not in lists.splits:
        raise ValueError(
            f"{lists.dataset}: there is no {test_split} list, only {', '.join(lists.splits)}. Give "
            f"--data.{test_split}_list FILE, or choose another --data.test_split."
        )
    files = walk(lists.dataset, root)
    matched = match(lists, files)
    refuse_nothing(lists, files, matched)
    warn_of_ambiguity(lists, files, matched)
    named = replace(lists, split_name=f"{test_split} list")
    return make_listing(named, root, matched, roles=ROLES[test_split], val_fraction=val_fraction, hashed=[test_split])


def _say_missing(dataset: str, listing: Listing) -> None:
    expected = listing.expected or {}
    for split, missing in listing.missing.items():
        rank_zero_info(
            f"{dataset}: {len(missing):,} of {expected[split]:,} {split} videos are not in {listing.root} and are left "
            f"out; the whole list: skip-sideways data verify {dataset} --root {listing.root}"
        )
