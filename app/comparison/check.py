"""What a row's own classes would refuse is refused before the first cell runs, not hours later in its log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from app.comparison.grid import Cell
from app.comparison.store import Store


def check_rows(cells: Iterable[Cell], store: Store) -> None:
    """Make the data, the model and the trainer of the unfinished cells; no video is read and nothing is written.

    Errors: ValueError with the cell's row and fold, what is wrong and what to type instead.
    """
    unfinished = distinct(cell for cell in cells if not store.ok(cell))
    if not unfinished:
        return
    # Seconds of imports, which a finished table and `--help` must not pay.
    from app.cli import user_message
    from app.noise import without_noise
    from app.trainer_cli import SkipSidewaysCLI

    for cell in unfinished:
        try:
            with without_noise(quiet=True):
                SkipSidewaysCLI(run=False, args=cell.config)
        except Exception as error:  # whatever it is, the cell would end with it
            where = f"row {cell.row!r}" + (f", fold {cell.fold}" if any(other.fold for other in unfinished) else "")
            raise ValueError(f"{where}: {in_a_comparison(user_message(error))}") from error


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """Return one cell for every row and for every configuration of the data, folds among them.

    A large data set takes seconds to look through, so what another cell has shown is not looked at again.
    """
    chosen: list[Cell] = []
    first_seed: dict[tuple[str, int], Cell] = {}
    for cell in cells:
        first_seed.setdefault((cell.row, cell.fold), cell)
    rows: set[str] = set()
    seen: set[str] = set()
    for cell in first_seed.values():
        data = json.dumps(cell.config["data"], sort_keys=True, default=str)
        if cell.row not in rows or data not in seen:
            chosen.append(cell)
        rows.add(cell.row)
        seen.add(data)
    return chosen


def in_a_comparison(message: str, here: str = "In a comparison") -> str:
    """Return a message with how the options that it names are given to `compare`, or to another command (`here`).

    >>> in_a_comparison("give --data.root DIR")
    'give --data.root DIR. In a comparison: --set data.init_args.root=...'
    """
    named = dict.fromkeys(re.findall(r"--((?:data|model|trainer)\.\w+)", message))
    if not named:
        return message
    keys = (re.sub(r"^(data|model)[.]", r"\1.init_args.", option) for option in named)
    return f"{message.rstrip('.')}. {here}: --set {' '.join(f'{key}=...' for key in keys)}"
