"""`skip-sideways data index|verify`: the table of a folder's videos, made once, and the check of it.

    data index --root DIR              decode every video once, write the table
    data verify --root DIR             decode every video again and compare with the table
    data verify ucf101 --root DIR      compare an archive with its official lists, read every video that the table does
                                       not have as it is now, or has as broken (data_verify.py)

Exit status: 0 all videos are whole (index: the table was written), 1 verify found something wrong, 2 wrong arguments.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from app import data_verify_cifar10
from app.data_verify import DATASETS, verify_dataset

if TYPE_CHECKING:
    from datamodules.index import IndexRow

_DEFAULT_TABLE = "ROOT/.skip-sideways-index.csv, or in ./.skip-sideways/ where ROOT is write-protected"


def main(argv: list[str]) -> int:
    """Run `data index` or `data verify` and return the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.jobs < 0:
        parser.error(f"--jobs {arguments.jobs}: expected 0 (one a core) or more")
    if arguments.command == "verify":
        _refuse_options_without_effect(parser, arguments)
        if arguments.dataset == data_verify_cifar10.DATASET:
            data_verify_cifar10.refuse_options_of_videos(parser, arguments)
    try:
        return _command(arguments)(arguments)
    except (ValueError, OSError) as error:
        print(f"skip-sideways data: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skip-sideways data", description="Look after a folder of video files.")
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="decode every video once and write the table")
    verify = commands.add_parser(
        "verify",
        help="check a folder against its table, or a dataset against its official lists",
        description=(
            "Without DATASET: decode every video of a folder again and compare with its table. With DATASET: count "
            "what is found of the official lists per split and fold, name every missing, extra and broken video. "
            "Videos whose files have not changed since they were read whole are taken from the table; --again reads "
            "them too. Stopped and started again it goes on where it was. cifar10 takes --root alone: MD5 sums of its "
            "files and images of each class. Exit status: 0 complete and whole, 1 "
            "something missing or broken, 2 wrong arguments or nothing found."
        ),
        epilog="example: skip-sideways data verify ucf101 --root /data/UCF-101 --splits /data/ucfTrainTestlist",
    )
    datasets = (*DATASETS, data_verify_cifar10.DATASET)
    verify.add_argument("dataset", nargs="?", choices=datasets, help="compare with this dataset's official lists")
    verify.add_argument("--fold", type=int, help="ucf101, hmdb51: 1, 2 or 3; default: all three")
    verify.add_argument("--splits", type=Path, help="folder of the official lists; default: in ROOT and beside it")
    verify.add_argument("--quick", action="store_true", help="with DATASET: read packets, do not decode; finds less")
    verify.add_argument(
        "--again", action="store_true", help="with DATASET: read every video now, whatever the table has of it"
    )
    outputs = {
        index: f"the table; default: {_DEFAULT_TABLE}",
        verify: "the table (as `index`); with DATASET: folder for the whole lists, default: ./DATASET-verify",
    }
    for command in (index, verify):
        command.add_argument("--root", type=Path, required=True, help="folder with video files, at any depth")
        command.add_argument("--output", type=Path, help=outputs[command])
        command.add_argument("--jobs", type=int, default=0, help="threads; default: one a core")
        command.add_argument("--min-frames", type=int, default=2, help="list shorter videos (2D-1 for D units)")
        command.add_argument("--no-progress", action="store_true", help="no progress bar")
    return parser


def _command(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    if arguments.command == "index":
        return _index
    if arguments.dataset == data_verify_cifar10.DATASET:
        return data_verify_cifar10.verify_cifar10
    return verify_dataset if arguments.dataset else _verify


def _refuse_options_without_effect(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if not arguments.dataset and (arguments.fold is not None or arguments.splits or arguments.quick):
        parser.error("--fold, --splits and --quick need a DATASET: skip-sideways data verify ucf101 --root DIR ...")
    if not arguments.dataset and arguments.again:
        parser.error("--again needs a DATASET; without one every video is read anyway")
    if arguments.again and arguments.quick:
        parser.error("--again decodes every video, --quick decodes none: give one of the two")


def _rows(arguments: argparse.Namespace) -> list["IndexRow"]:
    from datamodules.index import SUFFIXES, build_index

    rows = build_index(arguments.root, jobs=arguments.jobs, progress=not arguments.no_progress)
    if not rows:
        raise ValueError(f"{arguments.root} holds no video file; looked for {' '.join(SUFFIXES)} at any depth")
    return rows


def _index(arguments: argparse.Namespace) -> int:
    from datamodules.index import default_index_path, write_index

    rows = _rows(arguments)
    output = arguments.output or default_index_path(arguments.root)
    write_index(rows, output)
    _report(rows, _faults(rows, arguments.min_frames))
    print(f"written: {output}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from datamodules.index import existing_index, read_index

    rows = _rows(arguments)
    table = arguments.output or existing_index(arguments.root)
    known = {row.path: row for row in read_index(table)} if table else None
    faults = _faults(rows, arguments.min_frames)
    if known is None:
        print(f"no table yet, only the files are checked. Make one: skip-sideways data index --root {arguments.root}")
    else:
        faults += _differences(known, {row.path: row for row in rows})
    _report(rows, faults)
    return 1 if faults else 0


def _faults(rows: list["IndexRow"], min_frames: int) -> list[str]:
    broken = [f"broken  {row.path}: {row.facts.problem}" for row in rows if row.facts.problem]
    short = [
        f"short   {row.path}: {row.facts.frames} frames, fewer than {min_frames}"
        for row in rows
        if not row.facts.problem and row.facts.frames < min_frames
    ]
    return broken + short


def _differences(known: dict[str, "IndexRow"], found: dict[str, "IndexRow"]) -> list[str]:
    missing = [f"missing {path}: in the table, not in the folder" for path in known if path not in found]
    added = [f"new     {path}: not in the table" for path in found if path not in known]
    changed = [
        f"changed {path}: the table says {known[path].facts.frames} frames, {known[path].bytes} bytes; "
        f"found {row.facts.frames} frames, {row.bytes} bytes"
        for path, row in found.items()
        if path in known and (known[path].facts.frames, known[path].bytes) != (row.facts.frames, row.bytes)
    ]
    return missing + added + changed


def _report(rows: list["IndexRow"], faults: list[str]) -> None:
    for fault in faults:
        print(fault)
    frames, seconds = sum(row.facts.frames for row in rows), sum(row.facts.duration_s for row in rows)
    print(f"{len(rows)} videos, {frames} frames, {seconds:.0f} s; {len(faults)} with a problem")
