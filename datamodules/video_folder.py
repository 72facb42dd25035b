"""VideoFolder: any video files, one folder per class."""

from pathlib import Path
from typing import Any

from datamodules.index import find_videos
from datamodules.listing import folder_listing
from datamodules.splits import Split, groups_of, split_by_csv, split_by_group, split_by_seed
from datamodules.video_data import VideoData


class VideoFolder(VideoData):
    """Clips of the video files under `root/CLASS/`.

    The split is by group where `group_pattern` is given, by a file where `split_csv` is, else by `split_seed`.

    Args:
        root: folder with one folder of video files per class.
        group_pattern: regular expression whose first (...) finds a video's group in its name; leaves one group out.
        fold: which group, in alphabetical order, is the test, from 0.
        val_group: a group held out of training for validation, or `next` (after the test group); none if unset.
        split_csv: file with the columns path,split (train, val or test); paths relative to root.
        split_seed: of the random split.
        val_fraction: share of each class's videos for validation, random split.
        test_fraction: share of each class's videos for the test, random split.
        options: of the clips; see VideoData.
    """

    dataset_name = "video_folder"
    root_is_data = True
    val_options = "--data.val_fraction, or --data.val_group next"
    test_options = "--data.test_fraction, --data.group_pattern or --data.split_csv"

    def __init__(
        self,
        root: str,
        group_pattern: str | None = None,
        fold: int = 0,
        val_group: str | None = None,
        split_csv: str | None = None,
        split_seed: int = 0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        **options: Any,
    ) -> None:
        paths = find_videos(Path(root))
        self.groups = groups_of(paths, group_pattern) if group_pattern else {}
        split_name = _split_name(group_pattern, split_csv)
        if (fold or val_group) and not self.groups:
            raise ValueError(f"fold {fold} and val_group {val_group!r} need groups: give --data.group_pattern")
        if self.groups:
            split = split_by_group(self.groups, fold, val_group)
        elif split_csv:
            split = split_by_csv(paths, Path(split_csv))
        else:
            split = _random(paths, split_seed, val_fraction, test_fraction)
        super().__init__(folder_listing(Path(root), paths, split, split_name=split_name, fold=fold), **options)

    def folds(self) -> int:
        """Return the number of groups, 1 where there are none."""
        return len(set(self.groups.values())) or 1


def _random(paths: list[str], seed: int, val_fraction: float, test_fraction: float) -> Split:
    return split_by_seed({path: path.split("/")[0] for path in paths}, seed, val_fraction, test_fraction)


def _split_name(group_pattern: str | None, split_csv: str | None) -> str:
    if group_pattern and split_csv:
        raise ValueError(f"group_pattern {group_pattern!r} and split_csv {split_csv!r}: give one of them")
    return "leave-one-group-out" if group_pattern else Path(split_csv).stem if split_csv else "random"
