"""What a row's own classes would refuse is refused before the first cell runs, not hours later in its log."""

from __future__ import annotations

from collections.abc import Iterable

from app.comparison.grid import Cell
from app.comparison.store import Store


def check_rows(cells: Iterable[Cell], store: Store) -> None:
    """Make the data, the model and the trainer of one unfinished cell a row; no video is read and nothing is written.

    Errors: ValueError with the row's name, what is wrong and what to type instead.
    """
    unfinished = {cell.row: cell for cell in cells if not store.ok(cell)}
    if not unfinished:
        return
    # Seconds of imports, which a finished table and `--help` must not pay.
    from app.cli import user_message
    from app.noise import without_noise
    from app.trainer_cli import SkipSidewaysCLI

    for name, cell in unfinished.items():
        try:
            with without_noise(quiet=True):
                SkipSidewaysCLI(run=False, args=cell.config)
        except Exception as error:  # whatever it is, the cell would end with it
            raise ValueError(f"row {name!r}: {user_message(error)}") from error
