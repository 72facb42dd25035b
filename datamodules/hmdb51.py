"""HMDB51: 51 actions, 6,766 clips, three official folds. Kuehne, Jhuang, Garrote, Poggio, Serre, ICCV 2011.

    testTrainMulti_7030_splits/shoot_ball_test_split1.txt, one file per class and fold:
    KELVIN_shoot_ball_u_cm_np1_ba_med_1.avi 1        1 train, 2 test, 0 unused in this fold

A clip's name begins with that of the film or video it is cut from; `val_fraction` never parts the clips of one source.
"""

import re
from pathlib import Path

from datamodules.official import OfficialLists, OfficialVideo, check_fold, numbered_lines
from datamodules.official_folds import FOLDS, OfficialFolds

NAME = "hmdb51"
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


class HMDB51(OfficialFolds):
    """HMDB51's clips, of the rar files' class folders or flat; lists: testTrainMulti_7030_splits. See OfficialFolds."""

    dataset_name = NAME
    list_folders, marker = LIST_FOLDERS, MARKER

    def read_lists(self, folder: Path, fold: int) -> OfficialLists:
        """Return the official lists of a fold."""
        return read_lists(folder, fold)
