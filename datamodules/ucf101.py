"""UCF101: 101 actions, 13,320 clips, three official folds. Soomro, Zamir, Shah, CRCV-TR-12-01, 2012.

    ucfTrainTestlist/classInd.txt       1 ApplyEyeMakeup                                    counted from 1, CRLF
    ucfTrainTestlist/trainlist01.txt    ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
    ucfTrainTestlist/testlist01.txt     ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi         no class number

The clips of one group (`_g08_`) of a class are cut from one video: the folds never part them, nor does `val_fraction`.
"""

import re
from pathlib import Path

from datamodules.official import OfficialLists, OfficialVideo, check_fold, class_number, numbered_lines, read_lines
from datamodules.official_folds import FOLDS, OfficialFolds

NAME = "ucf101"
LIST_FOLDERS = ("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist", "annotations", "splits")
MARKER = "classInd.txt"
_LINE = re.compile(r"([^/]+)/(v_.+_(g\d+)_c\d+)(?:\.avi)?(?:\s+(\d+))?")
_EXAMPLE = "Archery/v_Archery_g01_c01.avi 3"


def read_lists(folder: Path, fold: int) -> OfficialLists:
    """Read classInd.txt and the two lists of a fold.

    Raises:
        ValueError: a fold that is not 1, 2 or 3, or lists that disagree.
    """
    check_fold(NAME, fold, FOLDS)
    numbers = read_classes(folder / MARKER)
    files = {part: folder / f"{part}list{fold:02d}.txt" for part in ("train", "test")}
    splits = {
        part: [_video(f"{file}, line {n}", line, numbers) for n, line in numbered_lines(file)]
        for part, file in files.items()
    }
    return OfficialLists(NAME, list(numbers), splits, "official", fold, source=str(folder))


def read_classes(file: Path) -> dict[str, int]:
    """Read classInd.txt; class -> number from 0, in order.

    Raises:
        ValueError: classes that are not numbered 1, 2, 3, ...
    """
    names = {}
    for number, line in enumerate(read_lines(file), start=1):
        given, _, name = line.partition(" ")
        if given != str(number) or not name:
            raise ValueError(f"{file}: line {number} is {line!r}; expected the class number {number} and a name")
        names[name] = number - 1
    return names


def _video(where: str, line: str, numbers: dict[str, int]) -> OfficialVideo:
    read = _LINE.fullmatch(line)
    if not read:
        raise ValueError(
            f"{where}: {line!r}; expected a clip and its class number, as {_EXAMPLE}; test lists have none"
        )
    label_name, name, group, number = read.groups()
    label = class_number(label_name, numbers, where, MARKER)
    if number and int(number) != label + 1:
        raise ValueError(f"{where}: {name} has the class number {number}, but {MARKER} gives {label_name} {label + 1}")
    # The class HandstandPushups has files v_HandStandPushups_...; some copies are spelled as the class.
    as_class = f"v_{label_name}{name[name.rindex(f'_{group}_') :]}"
    return OfficialVideo(name, label, f"{label_name}_{group}", tuple(dict.fromkeys((name, as_class))), label_name)


class UCF101(OfficialFolds):
    """UCF101's clips, of UCF-101/ as UCF101.rar unpacks it or flat; lists: ucfTrainTestlist. See OfficialFolds."""

    dataset_name = NAME
    list_folders, marker = LIST_FOLDERS, MARKER

    def read_lists(self, folder: Path, fold: int) -> OfficialLists:
        """Return the official lists of a fold."""
        return read_lists(folder, fold)
