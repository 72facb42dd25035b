"""The lists of Kinetics-400 and Kinetics-600: csv files, one a split.

label,youtube_id,time_start,time_end,split[,is_cc]     train and val (the test list of Kinetics-600: without label)
abseiling,yq_M1PMw2hY,38,48,val          -> yq_M1PMw2hY_000038_000048.*, else it is cut from yq_M1PMw2hY.*
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.listing import SPLITS
from datamodules.official import OfficialLists, OfficialVideo, class_number, names_in, read_lines
from datamodules.official_files import list_places

EDITIONS = (400, 600)
_COLUMNS = ("youtube_id", "time_start", "time_end")
LIST_FOLDERS = ("annotations", "lists", "splits")


def list_names(edition: int, split: str) -> list[str]:
    """Return the usual names of a list's file: those of the publishers and of the common download tools."""
    stems = [f"kinetics-{edition}_{split}", f"kinetics{edition}_{split}", f"kinetics_{edition}_{split}", split]
    return [f"{stem}.csv" for stem in stems]


def find_file(dataset: str, names: Sequence[str], given: str | None, places: Sequence[Path]) -> Path | None:
    """Return `given`, else the first of `names` that is in one of `places`, else None.

    Raises:
        ValueError: `given` does not exist.
    """
    if given:
        if not Path(given).is_file():
            raise ValueError(
                f"{dataset}: there is no file {given}; in {Path(given).parent}: {names_in(Path(given).parent)}"
            )
        return Path(given)
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def read_rows(file: Path) -> list[dict[str, str]]:
    """Read a csv list.

    Raises:
        ValueError: columns that are missing.
    """
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{file} has the columns {', '.join(reader.fieldnames or ())}; a list of Kinetics has "
                f"[label,]{','.join(_COLUMNS)}[,split]"
            )
        return list(reader)


def read_lists(edition: int, files: dict[str, Path], label_map: Path | None) -> OfficialLists:
    """Read the lists (split -> csv file). Classes are those of the label map, else those of the lists, in order.

    Raises:
        ValueError: a list with columns missing, or with a label that is not in the label map.
    """
    rows = {split: read_rows(file) for split, file in files.items()}
    labels = sorted({label for part in rows.values() for row in part if (label := row.get("label"))})
    class_names = read_lines(label_map) if label_map else labels
    numbers = {name: number for number, name in enumerate(class_names)}
    source = str(label_map or "the lists")
    splits = {split: [_video(row, numbers, files[split], source) for row in part] for split, part in rows.items()}
    return OfficialLists(f"kinetics{edition}", class_names, splits, "official")


def _video(row: dict[str, str], numbers: dict[str, int], file: Path, source: str) -> OfficialVideo:
    name, start, end = row["youtube_id"], float(row["time_start"]), float(row["time_end"])
    label_name = row.get("label") or ""
    label = class_number(label_name, numbers, file, source) if label_name else -1
    padded, plain = f"{name}_{int(start):06d}_{int(end):06d}", f"{name}_{int(start)}_{int(end)}"
    return OfficialVideo(padded, label, name, (padded, plain), source=name, start_s=start, end_s=end)


def find_and_read(edition: int, root: Path, splits: str | None, given: Mapping[str, str | None]) -> OfficialLists:
    """Find the lists and the label map, and read them. `given`: paths, by split or `label_map`, that were named.

    Raises:
        ValueError: there is no list at all.
    """
    dataset = f"kinetics{edition}"
    places = list_places(dataset, root, splits, LIST_FOLDERS)
    names = {split: list_names(edition, split) for split in SPLITS}
    found = {split: find_file(dataset, names[split], given.get(split), places) for split in SPLITS}
    files = {split: file for split, file in found.items() if file}
    if not files:
        raise ValueError(
            f"{dataset}: no list was found: looked for {', '.join(names['val'])} and the same of train and test in "
            f"{', '.join(map(str, places))}. Give --data.val_list FILE (data verify: --splits DIR)."
        )
    label_map = find_file(dataset, (f"label_map_{edition}.txt", "label_map.txt"), given.get("label_map"), places)
    return read_lists(edition, files, label_map)
