"""A small table of a folder's videos, made once: how many frames each really has, and what is wrong with it.

    path,bytes,mtime_ns,frames,fps,width,height,rotation,duration_s,time_base,pts,checked,problem
    walk/ido_walk.avi,126464,1700000000123456789,44,25.0,180,144,0,1.76,1/25,0 1*43,decoded,

It stands in the folder itself where the folder may be written (`.skip-sideways-index.csv`), else in `.skip-sideways/`
of the working directory: a dataset that is write-protected stays as it is, for root too.

    new or changed videos -> threads -> journal (each row as it comes) -> table, whole or not at all -> journal gone

A run that was killed goes on from its journal. Two at once do no harm: each merges what the other has written.

A row holds while its file has the same size and the same time of change. A copy that keeps times (cp -a, rsync -t, tar)
takes the table along, also where it keeps whole seconds only; after one that does not, all is read again. A file whose
content changes while size and time stay (a failing disk) is noticed by `again="all"` alone.
"""

import csv
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Any

from datamodules.index_journal import Journal, journal_path, read_journal
from datamodules.probing import probe
from datamodules.video_facts import DECODED, VideoFacts

log = logging.getLogger(__name__)
SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".ogv", ".3gp", ".ts")
INDEX_NAME = ".skip-sideways-index.csv"


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One video: path relative to the folder (posix), the file's size and time of change, what reading it showed.

    A link's size and time are those of the file that it points to.
    """

    path: str
    bytes: int
    mtime_ns: int
    facts: VideoFacts


@dataclass(frozen=True)
class Refreshed:
    """Rows by path, how many of them were `read` now, and when the table of the others was written (seconds)."""

    rows: dict[str, IndexRow]
    read: int
    table_time_s: float | None


COLUMNS = ("path", "bytes", "mtime_ns", *(field.name for field in fields(VideoFacts)))
AGAIN = ("changed", "faulty", "all")


_CONVERT: dict[Any, Callable[[Any], Any]] = {int: int, float: float, str: str}
_NO_FILE = (-1, -1)  # bytes and time of a dangling link
_S = 10**9  # nanoseconds
_MERGE_TIMEOUT_S = 60
_PATHS_AT_ONCE = 4096


def find_videos(root: Path) -> list[str]:
    """Return the relative paths of all video files under `root`, sorted; hidden files and folders are left out.

    Links are followed, to folders too; one that points to nothing stays in the list (its row says so).
    PermissionError where a folder may not be read: its videos would be missing without a word.
    """
    if not root.is_dir():
        raise ValueError(f"no folder {root}: expected a folder with video files. Give its path with --root.")
    return sorted(path.relative_to(root).as_posix() for path in _walk(root, ()))


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Yield the videos below a folder; `above`: the folders it lies in, so that a link to one of them is no loop."""
    stat = folder.stat()
    here = (*above, (stat.st_dev, stat.st_ino))
    if here[-1] in above:
        return
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in shown:
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
            yield from _walk(folder / entry.name, here)
        elif entry.name.lower().endswith(SUFFIXES):
            yield folder / entry.name


def index_row(root: Path, path: str, check: str = "decode") -> IndexRow:
    """Read one video of `root` and return its row; `check` as in `probe`."""
    size, mtime_ns = _stamp(root / path)  # before reading: a file that changes meanwhile is read again
    return IndexRow(path, size, mtime_ns, probe(root / path, check))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return _NO_FILE
    return stat.st_size, stat.st_mtime_ns


def build_index(
    root: Path,
    paths: Sequence[str] | None = None,
    *,
    check: str = "decode",
    jobs: int = 0,
    progress: bool = True,
    done: Callable[[IndexRow], None] | None = None,
) -> list[IndexRow]:
    """Read the videos in `jobs` threads (0: one a core) and return their rows in the order of the paths.

    Threads do: PyAV decodes outside of Python's lock. `done` is called in them with each row as it comes.
    """
    from tqdm import tqdm

    paths = find_videos(root) if paths is None else paths

    def read(path: str) -> IndexRow:
        row = index_row(root, path, check)
        if done is not None:
            done(row)
        with counting:
            bar.update()
        return row

    rows: list[IndexRow] = []
    pool, counting = ThreadPoolExecutor(jobs or os.cpu_count()), Lock()
    with tqdm(total=len(paths), desc="videos", unit="video", disable=not progress) as bar:
        try:
            for start in range(0, len(paths), _PATHS_AT_ONCE):
                rows.extend(pool.map(read, paths[start : start + _PATHS_AT_ONCE]))
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupted run ends now
    return rows


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
        writer.writerows(_flat(row) for row in rows)
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


def _parsed(row: dict[str, Any]) -> IndexRow:
    facts = VideoFacts(**{field.name: _CONVERT[field.type](row[field.name]) for field in fields(VideoFacts)})
    return IndexRow(row["path"], int(row["bytes"]), int(row["mtime_ns"]), facts)


def _flat(row: IndexRow) -> dict[str, Any]:
    return {"path": row.path, "bytes": row.bytes, "mtime_ns": row.mtime_ns, **asdict(row.facts)}


def load_index(
    root: Path, paths: Sequence[str] | None = None, *, check: str = "decode", jobs: int = 0, progress: bool = True
) -> dict[str, IndexRow]:
    """Return the rows by path: from the table where they hold, read and added to it where they don't.

    A row holds as long as the file has the same size and time, and was read as thoroughly as asked for. Arguments as
    those of `refresh_index`.
    """
    return refresh_index(root, paths, check=check, jobs=jobs, progress=progress).rows


def refresh_index(
    root: Path,
    paths: Sequence[str] | None = None,
    *,
    check: str = "decode",
    again: str = "changed",
    jobs: int = 0,
    progress: bool = True,
) -> Refreshed:
    """Do what `load_index` does, and say how much was read now.

    Args:
        root: the folder.
        paths: only these, relative to it; None: all videos that are there.
        check: "decode" every frame, or "scan" the packets.
        again: which files are read again though the table has them: "changed" ones, also "faulty" ones (what stopped
            the reading may be gone: a disk, a network, a missing codec), or "all".
        jobs: threads; 0: one a core.
        progress: show a bar.
    """
    if again not in AGAIN:
        raise ValueError(f"again {again!r}: expected one of {', '.join(AGAIN)}")
    wanted = find_videos(root) if paths is None else list(dict.fromkeys(paths))
    table = default_index_path(root)
    known, time_s = _known(root, warn=True), _table_time_s(root)
    stale = [path for path in wanted if again == "all" or not _holds(known.get(path), root / path, check, again)]
    if stale or journal_path(table).exists():
        with closing(Journal(table)) as journal:
            rows = build_index(
                root, stale, check=check, jobs=jobs, progress=progress, done=lambda row: journal.add(_flat(row))
            )
        _merge(root, table, rows, keep=None if paths is not None else set(wanted))
        known.update({row.path: row for row in rows})
    return Refreshed({path: known[path] for path in wanted}, len(stale), time_s)


def _holds(row: IndexRow | None, path: Path, check: str, again: str) -> bool:
    if row is None or not _same_file(row, path) or (check == "decode" and row.facts.checked != DECODED):
        return False
    if again == "faulty" and row.facts.problem and (check == "decode" or row.facts.checked != DECODED):
        return False  # what decoding found is not to be unsaid by a scan, which finds less
    return "no permission" not in row.facts.problem  # which may be given without a change of the file


def _same_file(row: IndexRow, path: Path) -> bool:
    size, mtime_ns = _stamp(path)
    copied = mtime_ns % _S == 0 and mtime_ns // _S == row.mtime_ns // _S  # by a tool that keeps whole seconds
    return row.bytes == size and (row.mtime_ns == mtime_ns or copied)


def _table_time_s(root: Path) -> float | None:
    table, journal = existing_index(root), journal_path(default_index_path(root))
    return max((path.stat().st_mtime for path in (table, journal) if path and path.exists()), default=None)


def _known(root: Path, *, warn: bool = False) -> dict[str, IndexRow]:
    """Return the rows of the table, if any, and of the journal of a run that has not finished."""
    table, known = existing_index(root), {}
    if table is not None:
        try:
            known = {row.path: row for row in read_index(table)}
        except ValueError:
            if warn:
                log.warning("%s has not the columns of an index of this version: it is made anew", table)
    for line in read_journal(default_index_path(root)):
        if set(line) == set(COLUMNS):
            known[line["path"]] = _parsed(line)
    return known


def _merge(root: Path, table: Path, rows: Sequence[IndexRow], keep: set[str] | None) -> None:
    """Write the table with what it holds, what others have added meanwhile, and these rows; end the journal."""
    with _locked(table):
        merged = _known(root) | {row.path: row for row in rows}
        write_index([merged[path] for path in sorted(merged) if keep is None or path in keep], table)
        journal_path(table).unlink(missing_ok=True)


@contextmanager
def _locked(table: Path) -> Iterator[None]:
    """Let one process at a time merge; where locks do not work (some network drives), go on without."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{table}.lock", timeout=_MERGE_TIMEOUT_S)
    try:
        lock.acquire()
    except (OSError, NotImplementedError, Timeout) as error:
        log.warning("no lock on %s (%s): written without", table, error)
    try:
        yield
    finally:
        lock.release()
