"""Rows of an index as they come, one JSON line each, so that a killed run loses none of its work.

    table.csv.journal   {"path": "walk/a.avi", "bytes": 126464, "frames": 44, ...}\n
                        {"path": "walk/b.avi", ...                                     <- killed here: left out

Each row is one write to a file opened for appending: threads and processes may share it.
"""

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any


def journal_path(table: Path) -> Path:
    """Return the journal beside a table."""
    return table.with_name(f"{table.name}.journal")


class Journal:
    """A journal that is open for writing; another process that merges it away does not end it."""

    def __init__(self, table: Path) -> None:
        table.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = journal_path(table), Lock()
        self._handle = self._opened()
        if self._path.stat().st_size:
            os.write(self._handle, b"\n")  # whatever was cut off before ends here

    def add(self, row: dict[str, Any]) -> None:
        """Append one row."""
        with self._lock:
            if not os.fstat(self._handle).st_nlink:  # merged into the table and removed
                os.close(self._handle)
                self._handle = self._opened()
            os.write(self._handle, f"{json.dumps(row)}\n".encode())

    def close(self) -> None:
        """Close the file, which stays."""
        os.close(self._handle)

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def read_journal(table: Path) -> list[dict[str, Any]]:
    """Return the whole rows of a table's journal; none where there is no journal."""
    path = journal_path(table)
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:  # an empty line, or one that was cut off
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
