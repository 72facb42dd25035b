"""The lists of Kinetics-400 and Kinetics-600: csv files, one a split.

label,youtube_id,time_start,time_end,split[,is_cc]     train and val (the test list of Kinetics-600: without label)
abseiling,yq_M1PMw2hY,38,48,val          -> yq_M1PMw2hY_000038_000048.*, else it is cut from yq_M1PMw2hY.*
"""

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.listing import SPLITS
from datamodules.official import OfficialLists, OfficialVideo, class_number, names_in, read_lines
from datamodules.official_files import list_places

log = logging.getLogger(__name__)
_COLUMNS = ("youtube_id", "time_start", "time_end")
LIST_FOLDERS = ("annotations", "lists", "splits")


def list_names(edition: int, split: str) -> list[str]:
    """Return the usual names of a list's file: those of the publishers and of the common download tools."""
    stems = [f"kinetics-{edition}_{split}", f"kinetics{edition}_{split}", f"kinetics_{edition}_{split}", split]
    return [f"{stem}.csv" for stem in stems]


def find_files(edition: int, root: Path, splits: str | None, given: Mapping[str, str | None]) -> dict[str, Path]:
    """Return the files of the lists by split, and of the `label_map`: those given by name, else with a usual name.

    The others all come from one place, the first with a list in it: lists of two places may be of two releases.

    Raises:
        ValueError: a given file does not exist, or there is no list at all.
    """
    dataset = f"kinetics{edition}"
    named = {key: Path(path) for key, path in given.items() if path}
    for file in named.values():
        if not file.is_file():
            raise ValueError(f"{dataset}: there is no file {file}; in {file.parent}: {names_in(file.parent)}")
    places = list_places(dataset, root, splits, LIST_FOLDERS)
    usual = next((files for place in places if set(SPLITS) & (files := _usual(edition, place)).keys()), {})
    files = usual | named
    if not set(SPLITS) & files.keys():
        folders = ", ".join(str(folder) for place in places for folder in place)
        raise ValueError(
            f"{dataset}: no list was found: looked for {', '.join(list_names(edition, 'val'))} and the same of train "
            f"and test in {folders}. Give --data.val_list FILE (data verify: --splits DIR)."
        )
    return files


def _usual(edition: int, place: Sequence[Path]) -> dict[str, Path]:
    names = {split: list_names(edition, split) for split in SPLITS}
    names["label_map"] = [f"label_map_{edition}.txt", "label_map.txt"]
    found = {key: [folder / name for folder in place for name in names[key]] for key in names}
    return {key: file for key, files in found.items() if (file := next(filter(Path.is_file, files), None))}


def read_rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Read a csv list; returns (number of the line, row).

    Raises:
        ValueError: columns that are missing.
    """
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{file} has the columns {', '.join(reader.fieldnames or ())}; a list of Kinetics has "
                f"[label,]{','.join(_COLUMNS)}[,split]"
            )
        return [(reader.line_num, row) for row in reader]


def read_lists(edition: int, files: dict[str, Path], label_map: Path | None) -> OfficialLists:
    """Read the lists (split -> csv file). Classes are those of the label map, else those of the lists, in order.

    A row that stands in a list twice, in the same words, counts once.

    Raises:
        ValueError: a list with columns missing or of another form, or with a label that is not in the label map.
    """
    rows = {split: read_rows(file) for split, file in files.items()}
    labels = sorted({label for part in rows.values() for _, row in part if (label := row.get("label"))})
    class_names = read_lines(label_map) if label_map else labels
    numbers = {name: number for number, name in enumerate(class_names)}
    source = str(label_map or "the lists")
    splits = {
        split: _once(files[split], [_video(row, numbers, f"{files[split]}, line {n}", source) for n, row in part])
        for split, part in rows.items()
    }
    return OfficialLists(
        f"kinetics{edition}", class_names, splits, "official", source=", ".join(map(str, files.values()))
    )


def _once(file: Path, videos: list[OfficialVideo]) -> list[OfficialVideo]:
    once = list(dict.fromkeys(videos))
    if len(once) < len(videos):
        log.warning("%s: %s rows repeat another one and do not count", file, f"{len(videos) - len(once):,}")
    return once


def _video(row: dict[str, str], numbers: dict[str, int], where: str, source: str) -> OfficialVideo:
    name, start, end = row["youtube_id"], _seconds(row["time_start"]), _seconds(row["time_end"])
    if not (name and 0 <= start < end < math.inf):
        given = ",".join(str(row[column]) for column in _COLUMNS)
        raise ValueError(
            f"{where}: {','.join(_COLUMNS)} is {given}; expected an id and two times in seconds, as ID,38,48"
        )
    label_name = row.get("label") or ""
    label = class_number(label_name, numbers, where, source) if label_name else -1
    padded, plain = f"{name}_{int(start):06d}_{int(end):06d}", f"{name}_{int(start)}_{int(end)}"
    return OfficialVideo(padded, label, name, (padded, plain), label_name, name, start, end)


def _seconds(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def find_and_read(edition: int, root: Path, splits: str | None, given: Mapping[str, str | None]) -> OfficialLists:
    """Find the lists and the label map, see `find_files`, and read them."""
    files = find_files(edition, root, splits, given)
    return read_lists(edition, {split: files[split] for split in SPLITS if split in files}, files.get("label_map"))
