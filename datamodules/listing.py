"""Which videos a set has, by split, and which of an official list are not there.

    official list   v1 v2 v3 v4 v5        id_hash: of this list, the same on every machine
    on the disk     v1    v3 v4           found 3, expected 5, missing v2 v5

A folder of one's own is its own list: nothing is expected, nothing is missing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Entry:
    """One video of a list.

    Args:
        path: relative to the root, posix.
        video_id: official id or name, unique in the set.
        label: class index; -1 where it is not known.
        start_s: where the video begins in a longer file, seconds; None: at its beginning.
        end_s: where it ends in a longer file, seconds; None: at its end.
    """

    path: str
    video_id: str
    label: int
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class Listing:
    """The videos of a set that are there, by split.

    Args:
        root: folder that the paths are relative to.
        class_names: by class index.
        splits: `train`, `val` and `test`: the videos that are there.
        split_name: what the split is called in tables.
        fold: which of several splits it is.
        expected: official number of videos of each split; None: the folder is its own list.
        missing: official ids without a file, by split.
        official: the official lists that `id_hash` is of, name -> id -> label (-1 unknown); None: the videos that are
            there are the list.
    """

    root: Path
    class_names: list[str]
    splits: dict[str, list[Entry]]
    split_name: str
    fold: int
    expected: dict[str, int] | None = None
    missing: dict[str, list[str]] = field(default_factory=dict)
    official: Mapping[str, Mapping[str, int]] | None = None

    def __post_init__(self) -> None:
        if self.missing and self.official is None:
            raise ValueError("a list with missing videos needs `official`: id_hash is of the list, not of the disk")

    @property
    def found(self) -> dict[str, int]:
        """Number of videos of each split that are there."""
        return {split: len(entries) for split, entries in self.splits.items()}

    @property
    def id_hash(self) -> str:
        """16 hex digits of the official ids with split and label; the same whatever is on the disk."""
        listed = self.official or {s: {e.video_id: e.label for e in entries} for s, entries in self.splits.items()}
        lines = sorted(f"{split} {name} {label}" for split, labels in listed.items() for name, label in labels.items())
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


def folder_listing(
    root: Path, paths: Sequence[str], split: Mapping[str, Sequence[str]], *, split_name: str, fold: int = 0
) -> Listing:
    """Return the listing of a folder that holds one folder of videos per class; a video's path is its id.

    `paths`: all videos, which name the classes. `split`: those of each split.
    """
    names = _class_names(root, paths)
    number = {name: label for label, name in enumerate(names)}
    splits = {s: [Entry(path, path, number[path.split("/")[0]]) for path in split[s]] for s in SPLITS}
    return Listing(root, names, splits, split_name, fold)


def _class_names(root: Path, paths: Sequence[str]) -> list[str]:
    loose = [path for path in paths if "/" not in path]
    if loose or not paths:
        seen = f"video files outside of any folder, first {loose[0]}" if loose else "no video file"
        raise ValueError(f"{root} holds {seen}: expected one folder per class with its videos, as {root}/walk/1.mp4")
    return sorted({path.split("/")[0] for path in paths})
