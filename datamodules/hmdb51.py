"""HMDB51: 51 actions, 6,766 clips, three official folds. Kuehne, Jhuang, Garrote, Poggio, Serre, ICCV 2011.

    testTrainMulti_7030_splits/shoot_ball_test_split1.txt, one file per class and fold:
    KELVIN_shoot_ball_u_cm_np1_ba_med_1.avi 1        1 train, 2 test, 0 unused in this fold

A clip's name begins with that of the film or video it is cut from; `val_fraction` never parts the clips of one source.
"""

import re
from pathlib import Path
from typing import Any

from datamodules.official import OfficialLists, OfficialVideo, check_fold, numbered_lines
from datamodules.official_files import find_lists, official_listing
from datamodules.video_data import VideoData

NAME = "hmdb51"
FOLDS = (1, 2, 3)
LIST_FOLDERS = (
    "testTrainMulti_7030_splits",
    "test_train_splits/testTrainMulti_7030_splits",
    "test_train_splits",
    "annotations",
    "splits",
)
MARKER = "*_test_split1.txt"
_FILE = re.compile(r"(.+)_test_split([123])\.txt")
_SPLIT_OF_CODE = {"1": "train", "2": "test", "0": "unused"}


def read_lists(folder: Path, fold: int) -> OfficialLists:
    """Read the files of a fold, one per class.

    Raises:
        ValueError: a fold that is not 1, 2 or 3, or a line that is none of the format's.
    """
    check_fold(NAME, fold, FOLDS)
    found = {m.group(1): file for file in folder.iterdir() if (m := _FILE.fullmatch(file.name)) and m[2] == str(fold)}
    if not found:
        raise ValueError(f"{NAME}: {folder} has no list of fold {fold}: looked for CLASS_test_split{fold}.txt")
    class_names = sorted(found)
    splits: dict[str, list[OfficialVideo]] = {split: [] for split in _SPLIT_OF_CODE.values()}
    for label, name in enumerate(class_names):
        for number, line in numbered_lines(found[name]):
            split, video = _video(f"{found[name]}, line {number}", line, name, label)
            splits[split].append(video)
    unused = splits.pop("unused")
    return OfficialLists(NAME, class_names, splits, "official", fold, unused, str(folder))


def _video(where: str, line: str, class_name: str, label: int) -> tuple[str, OfficialVideo]:
    name, _, code = line.rpartition(" ")
    name = name.removesuffix(".avi")
    source, label_name, _ = name.rpartition(f"_{class_name}_")
    if code not in _SPLIT_OF_CODE or not label_name:
        raise ValueError(
            f"{where}: {line!r}; expected FILE CODE, with the class of the list, {class_name!r}, in the name of the "
            "file, and 1 (train), 2 (test) or 0 (unused)"
        )
    return _SPLIT_OF_CODE[code], OfficialVideo(name, label, source, (name,), class_name)


class HMDB51(VideoData):
    """HMDB51's clips, the official folds; a result is the mean over folds 1, 2 and 3 (`skip-sideways compare`).

    Args:
        root: folder of the videos, however deep they lie: a folder per class, as the rar files unpack, or flat.
        fold: 1, 2 or 3, as the official lists are named.
        splits: folder of the official lists (testTrainMulti_7030_splits); default: looked for in `root` and beside it.
        val_fraction: share of each class's training videos held out for validation, whole source videos at a time.
        allow_missing: go on where videos of the fold are missing; how many were found goes with every result.
        size: side of the square clip in pixels.
        cache: `none` decodes each clip anew; `disk` keeps all frames at training size in files, for later runs as well;
            `memory` keeps them there, which takes more of it than most machines have.
    """

    dataset_name = NAME
    val_options = "--data.val_fraction 0.1"

    def __init__(
        self,
        root: str,
        fold: int = 1,
        splits: str | None = None,
        val_fraction: float = 0.0,
        allow_missing: bool = False,
        size: int = 112,
        cache: str = "none",
        **options: Any,
    ) -> None:
        lists = read_lists(find_lists(NAME, Path(root), splits, names=LIST_FOLDERS, marker=MARKER), fold)
        listing = official_listing(lists, Path(root), val_fraction=val_fraction, allow_missing=allow_missing)
        super().__init__(listing, size=size, cache=cache, **options)

    def folds(self) -> int:
        """Return the number of official folds, 3; they count from 1."""
        return len(FOLDS)
