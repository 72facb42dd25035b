"""`skip-sideways data verify DATASET`: an archive against its official lists, and every video of it read.

fold  split    expected    found  missing   broken
1     train       9,537    9,535        2        0
1     test        3,783    3,783        0        1
"""

import argparse
import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.index import IndexRow, Refreshed
    from datamodules.official import Match, OfficialLists

DATASETS = ("ucf101", "hmdb51", "kinetics400", "kinetics600")
_SHOWN = 5


@dataclass(frozen=True)
class Findings:
    """What was found: `broken` maps paths to reasons, `reading` says how many videos were read now."""

    folds: "list[OfficialLists]"
    matched: "Match"
    broken: dict[str, str]
    reading: str

    @property
    def missing(self) -> list[str]:
        """The ids of all lists that have no file, each once."""
        return self.matched.missing(self.folds[0].videos)


def verify_dataset(arguments: argparse.Namespace) -> int:
    """Run the check, print its table and write its lists; return 0, or 1 where a video is missing or broken."""
    from datamodules.index import refresh_index
    from datamodules.official_files import match, refuse_nothing, walk

    root: Path = arguments.root
    folds = read_folds(arguments.dataset, root, arguments.splits, arguments.fold)
    files = walk(arguments.dataset, root)
    matched = match(folds[0], files)
    refuse_nothing(folds[0], files, matched)
    check = "scan" if arguments.quick else "decode"
    paths = sorted(set(matched.path.values()))
    again = "all" if arguments.again else "faulty"
    done = refresh_index(root, paths, check=check, again=again, jobs=arguments.jobs, progress=not arguments.no_progress)
    found = Findings(folds, matched, reasons(folds[0], matched, done.rows, arguments.min_frames), _reading(done))
    print("\n".join(report(found, root, quick=arguments.quick)))
    output = arguments.output or Path(f"{arguments.dataset}-verify")
    write_lists(found, output)
    print(f"whole lists: {output}/missing.txt, extra.txt, duplicates.txt, broken.csv")
    faulty = bool(found.missing or found.broken)
    print(f"{len(found.missing):,} missing, {len(found.broken):,} broken" if faulty else "complete and whole")
    return int(faulty)


def _reading(done: "Refreshed") -> str:
    taken = len(done.rows) - done.read
    if not taken or done.table_time_s is None:
        return f"{done.read:,} read now, none taken from the table"
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(done.table_time_s))
    return (
        f"{done.read:,} read now, {taken:,} taken from the table of {date}: their files have the same size and time "
        "(--again reads them too)"
    )


def read_folds(dataset: str, root: Path, splits: Path | None, fold: int | None) -> "list[OfficialLists]":
    """Return the lists of the fold, or of all folds.

    Raises:
        ValueError: no lists, or a fold that the dataset does not have.
    """
    from datamodules import hmdb51, kinetics_lists, ucf101
    from datamodules.official_files import find_lists

    given = str(splits) if splits else None
    if dataset.startswith("kinetics"):
        if fold is not None:
            raise ValueError(f"--fold {fold}: {dataset} has no folds; leave it out")
        return [kinetics_lists.find_and_read(int(dataset.removeprefix("kinetics")), root, given, {})]
    module = {"ucf101": ucf101, "hmdb51": hmdb51}[dataset]
    folder = find_lists(dataset, root, given, names=module.LIST_FOLDERS, marker=module.MARKER)
    return [module.read_lists(folder, number) for number in ([fold] if fold is not None else module.FOLDS)]


def reasons(
    lists: "OfficialLists", matched: "Match", rows: "Mapping[str, IndexRow]", min_frames: int
) -> dict[str, str]:
    """Return why each file cannot be used (path -> reason); files that can are not in it."""
    found: dict[str, str] = {}
    for video in matched.found(lists.videos):
        path = matched.path[video.video_id]
        facts = rows[path].facts
        if facts.problem:
            found[path] = facts.problem
        elif facts.frames < min_frames:
            found[path] = f"{facts.frames} frames, fewer than {min_frames}"
        elif video.video_id in matched.cut and not _frames_in_range(rows[path], video.start_s, video.end_s):
            found[path] = (
                f"the list asks for {video.start_s:g} to {video.end_s:g} s, the file has {facts.duration_s:g} s"
            )
    return found


def _frames_in_range(row: "IndexRow", start_s: float | None, end_s: float | None) -> int:
    from datamodules.clips import cut_range, timeline

    return cut_range(timeline(row.facts.times_s(), row.facts.fps), start_s, end_s)[1]


def report(found: Findings, root: Path, *, quick: bool) -> list[str]:
    """Return the lines to print."""
    from datamodules.official_files import ambiguity

    lists = found.folds[0]
    lines = [f"{lists.dataset} in {root}", f"lists: {lists.source}", ""]
    lines += [f"{'fold':<6}{'split':<9}{'expected':>9}{'found':>9}{'missing':>9}{'broken':>9}"]
    for fold in found.folds:
        parts = [*fold.splits.items(), *([("unused", fold.unused)] if fold.unused else [])]
        for split, videos in parts:
            there = found.matched.found(videos)
            broken = sum(found.matched.path[video.video_id] in found.broken for video in there)
            counts = (len(videos), len(there), len(videos) - len(there), broken)
            lines.append(f"{fold.fold or '-':<6}{split:<9}" + "".join(f"{count:>9,}" for count in counts))
    lines += ["", *(line for fold in found.folds for line in _hashes(fold, found.matched, root))]
    lines.append(f"videos: {found.reading}")
    lines += _listed("missing", found.missing, "not found under any name and suffix, at any depth")
    lines += _listed("broken", [f"{path}: {reason}" for path, reason in found.broken.items()], _read_how(quick))
    lines += _listed("extra", found.matched.extra, "video files that no list names; not used")
    duplicates = [f"{path}: {used} is used" for path, used in found.matched.duplicates.items()]
    lines += _listed("duplicates", duplicates, "more files of a video; not used")
    lines += [line for line in [ambiguity(lists, found.matched)] if line]
    if lists.dataset.startswith("kinetics") and (
        absent := [s for s in ("train", "val", "test") if s not in lists.splits]
    ):
        lines.append(f"no {' and no '.join(absent)} list was found, so files of it count as extra (--splits DIR)")
    return lines


def _hashes(lists: "OfficialLists", matched: "Match", root: Path) -> list[str]:
    """Return the id-list hashes that runs on these lists have."""
    from datamodules.kinetics import ROLES
    from datamodules.official import make_listing

    if lists.fold:
        return [f"id-list hash of fold {lists.fold}: {make_listing(lists, root, matched).id_hash}"]
    hashes = {
        split: make_listing(lists, root, matched, roles=roles, hashed=[split]).id_hash
        for split, roles in ROLES.items()
        if split in lists.splits
    }
    return [f"id-list hash with --data.test_split {s}, of the {s} list alone: {found}" for s, found in hashes.items()]


def _read_how(quick: bool) -> str:
    return "packets read, not decoded (--quick)" if quick else "every frame decoded"


def _listed(name: str, items: Sequence[str], what: str) -> list[str]:
    head = f"{name}: {len(items):,} ({what})"
    more = [f"  and {len(items) - _SHOWN:,} more"] if len(items) > _SHOWN else []
    return [head, *(f"  {item}" for item in items[:_SHOWN]), *more]


def write_lists(found: Findings, output: Path) -> None:
    """Write missing.txt, extra.txt, duplicates.txt and broken.csv, whole."""
    output.mkdir(parents=True, exist_ok=True)
    _write(output / "missing.txt", lambda file: file.writelines(f"{name}\n" for name in found.missing))
    _write(output / "extra.txt", lambda file: file.writelines(f"{path}\n" for path in found.matched.extra))
    _write(output / "duplicates.txt", lambda file: file.writelines(f"{path}\n" for path in found.matched.duplicates))
    table = [("path", "reason"), *found.broken.items()]
    _write(output / "broken.csv", lambda file: csv.writer(file).writerows(table))


def _write(path: Path, write: Callable) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        write(file)
