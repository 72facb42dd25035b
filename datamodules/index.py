"""A small table of a folder's videos, made once: how many frames each really has, and what is wrong with it.

    path,bytes,frames,fps,width,height,rotation,duration_s,time_base,pts,checked,problem
    walk/ido_walk.avi,126464,44,25.0,180,144,0,1.76,1/25,0 1*43,decoded,

It stands in the folder itself where the folder may be written (`.skip-sideways-index.csv`), else in `.skip-sideways/`
of the working directory: a dataset that is write-protected stays as it is, for root too.
"""

import csv
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from datamodules.probing import probe
from datamodules.video_facts import VideoFacts

SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".ogv", ".3gp", ".ts")
INDEX_NAME = ".skip-sideways-index.csv"


@dataclass(frozen=True)
class IndexRow:
    """One video: path relative to the folder (posix), size of the file, and what decoding it showed."""

    path: str
    bytes: int
    facts: VideoFacts


COLUMNS = ("path", "bytes", *(field.name for field in fields(VideoFacts)))


def find_videos(root: Path) -> list[str]:
    """Return the relative paths of all video files under `root`, sorted; hidden files and folders are left out."""
    if not root.is_dir():
        raise ValueError(f"no folder {root}: expected a folder with video files. Give its path with --root.")
    found = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def index_row(root: Path, path: str) -> IndexRow:
    """Decode one video of `root` and return its row."""
    return IndexRow(path, (root / path).stat().st_size, probe(root / path))


def build_index(
    root: Path, paths: Sequence[str] | None = None, *, jobs: int = 0, progress: bool = True
) -> list[IndexRow]:
    """Decode the videos in `jobs` threads (0: one a core) and return their rows in the order of the paths.

    Threads do: PyAV decodes outside of Python's lock.
    """
    from tqdm import tqdm

    paths = find_videos(root) if paths is None else paths
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        rows = pool.map(lambda path: index_row(root, path), paths)
        return list(tqdm(rows, total=len(paths), desc="videos", unit="video", disable=not progress))


def default_index_path(root: Path) -> Path:
    """Return where the index of `root` is written; see the top of this file."""
    if _may_write(root):
        return root / INDEX_NAME
    name = f"{root.name}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]}.csv"
    return Path(".skip-sideways") / name


def existing_index(root: Path) -> Path | None:
    """Return the index to read: where it would be written, else one that came with a write-protected folder."""
    return next((path for path in (default_index_path(root), root / INDEX_NAME) if path.exists()), None)


def _may_write(folder: Path) -> bool:
    # The mode is asked as well: root may write everywhere, but a folder without a write bit is meant to stay as it is.
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def write_index(rows: Iterable[IndexRow], output: Path) -> None:
    """Write the table, whole or not at all: two processes may do it at once."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({"path": row.path, "bytes": row.bytes, **asdict(row.facts)} for row in rows)
    partial.replace(output)


def read_index(path: Path) -> list[IndexRow]:
    """Read a table; ValueError where its columns are not those of an index."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{path} has the columns {reader.fieldnames}, an index has {list(COLUMNS)}. Make it anew: "
                f"skip-sideways data index --root DIR --output {path}"
            )
        return [_parsed(row) for row in reader]


def _parsed(row: dict[str, str]) -> IndexRow:
    kinds = {"int": int, "float": float, "str": str, int: int, float: float, str: str}
    facts = VideoFacts(**{field.name: kinds[field.type](row[field.name]) for field in fields(VideoFacts)})
    return IndexRow(row["path"], int(row["bytes"]), facts)


def load_index(root: Path, *, jobs: int = 0, progress: bool = True) -> dict[str, IndexRow]:
    """Return the rows by path: from the table where path and bytes agree, decoded and added to it where they don't."""
    table = existing_index(root)
    known = {row.path: row for row in read_index(table)} if table else {}
    sizes = {path: (root / path).stat().st_size for path in find_videos(root)}
    stale = [path for path, size in sizes.items() if path not in known or known[path].bytes != size]
    if stale:
        known.update({row.path: row for row in build_index(root, stale, jobs=jobs, progress=progress)})
        write_index([known[path] for path in sizes], default_index_path(root))
    return {path: known[path] for path in sizes}
