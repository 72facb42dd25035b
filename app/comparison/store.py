"""results.json: one row a run, replaced whole after every cell, so that a stopped comparison continues from it alone.

JSON has no nan and no infinity: a metric that is not finite is stored as null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.comparison.grid import Cell, CellKey
from app.comparison.overrides import differences, flatten

SCHEMA_VERSION = 1
LOGS = "logs"

Record = dict[str, Any]
RowConfigs = Mapping[str, Mapping[str, Any]]


class Store:
    """The records of one results file, by (row, fold, seed), and its header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        self.records: dict[CellKey, Record] = {}
        if path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text())
            version = content["schema_version"]
            self.header = content["header"]
            self.records = {record_key(record): record for record in content["rows"]}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} is not a results file ({type(error).__name__}: {error}); restore it, "
                "or move it away to start afresh"
            ) from error
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{self.path} has schema_version {version}, expected {SCHEMA_VERSION}; use another --output"
            )

    def add(self, record: Record) -> None:
        """Keep a run's record (in place of an earlier one of its cell) and write the file."""
        self.records[record_key(record)] = record
        self.save()

    def save(self) -> None:
        """Write the file atomically: a reader, or a kill at any moment, sees the old or the new one, never a part."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "header": self.header,
            "rows": [self.records[key] for key in sorted(self.records)],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        with unfinished.open("w") as file:
            json.dump(finite(content), file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self.path)

    def ok(self, cell: Cell) -> bool:
        """Whether the cell has a finished run of exactly this configuration."""
        record = self.records.get(cell.key)
        return record is not None and record["status"] == "ok" and record["config_hash"] == cell.config_hash

    def changed(self, cells: Iterable[Cell]) -> list[Cell]:
        """Cells whose finished run had another configuration."""
        return [
            cell
            for cell in cells
            if (record := self.records.get(cell.key)) is not None
            and record["status"] == "ok"
            and record["config_hash"] != cell.config_hash
        ]

    def explain_change(self, cell: Cell, configs: RowConfigs) -> str:
        """What differs between the configuration that ran and the one of now, in one line."""
        old = self.header.get("configs", {}).get(cell.row)
        lines = differences(old, dict(flatten(configs[cell.row]))) if old else []
        return f"{cell.label}: " + ("; ".join(lines) or "its configuration had another hash")

    def note_configs(self, configs: RowConfigs) -> None:
        """Keep each row's configuration (fold and seed not set) in the header, for `explain_change`."""
        known = self.header.setdefault("configs", {})
        known.update({row: dict(flatten(config)) for row, config in configs.items()})


def record_key(record: Mapping[str, Any]) -> CellKey:
    """(row, fold, seed) of a record."""
    return str(record["row"]), int(record["fold"]), int(record["seed"])


def finite(value: Any) -> Any:
    """The value with every float that is not finite replaced by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def logs_folder(output: Path) -> Path:
    """`logs/` of an output folder, made if need be."""
    return unversioned(output, LOGS)


def unversioned(output: Path, name: str) -> Path:
    """A folder in an output folder, made if need be, and kept out of git by a file of its own."""
    folder = output / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    return folder


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold an output folder for this process; the system frees it when the process ends, however it ends.

    Errors: ValueError where another process holds it.
    """
    import fcntl

    with (logs_folder(output) / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ValueError(
                f"{output} is in use by another compare (process {holder}); wait for it, or give another --output"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
