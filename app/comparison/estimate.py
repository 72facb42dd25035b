"""What a comparison will cost, before it starts and while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from app.comparison.grid import Cell
from app.comparison.spec import Comparison


@dataclass(frozen=True)
class Estimate:
    """Cost of a table in core-seconds (CPU time; a cell uses one core).

    `left_s` is None while nothing is known of a cell's cost: then the first cell measures it.
    """

    cells: int
    cells_left: int
    spent_s: float
    left_s: float | None
    source: str

    @property
    def total_core_hours(self) -> float | None:
        """Core-hours of the whole table, spent ones included."""
        return None if self.left_s is None else (self.spent_s + self.left_s) / 3600

    def sentence(self, jobs: int, noun: str = "cells") -> str:
        """The estimate in words."""
        head = f"{self.cells} {noun}, {self.cells - self.cells_left} done, {self.cells_left} to run"
        if not self.cells_left:
            return f"{head}; {hours(self.spent_s)} of CPU time spent"
        if self.left_s is None:
            return f"{head}; the cost of a cell is not known yet: the first one will tell"
        return (
            f"{head}; {hours(self.left_s)} of CPU time left, about {hours(self.left_s / jobs)} on {jobs} "
            f"{'process' if jobs == 1 else 'processes'} ({self.source}); the whole table costs "
            f"{hours(self.spent_s + self.left_s)}"
        )


def estimate(
    comparison: Comparison,
    cells: Iterable[Cell],
    done: Mapping[Any, Mapping[str, Any]],
    *,
    planned: int = 0,
    spent_s: float = 0.0,
) -> Estimate:
    """The cost of `cells`, of which `done` (cell key to record) are finished.

    `planned` further average cells are counted as left, and `spent_s` CPU seconds as spent.
    A cell costs the mean CPU time of its row's finished runs; else `cell_seconds` of the row or the comparison; else
    the mean of all finished runs.
    """
    cells = list(cells)
    left = [cell for cell in cells if cell.key not in done]
    measured: dict[str, list[float]] = {}
    for record in done.values():
        measured.setdefault(str(record["row"]), []).append(float(record["cpu_seconds"]))
    overall = [seconds for row in measured.values() for seconds in row]
    costs = [_cell_seconds(comparison, cell.row, measured, overall) for cell in left]
    source = "measured on finished cells" if overall else "by cell_seconds of the file, corrected as cells end"
    return Estimate(
        cells=len(cells),
        cells_left=len(left),
        spent_s=spent_s + sum(float(done[cell.key]["cpu_seconds"]) for cell in cells if cell.key in done),
        left_s=_left(costs, overall, planned),
        source=source,
    )


def _cell_seconds(
    comparison: Comparison, row: str, measured: Mapping[str, list[float]], overall: list[float]
) -> float | None:
    if measured.get(row):
        return fmean(measured[row])
    given = comparison.row(row).cell_seconds or comparison.cell_seconds
    return given if given is not None else fmean(overall) if overall else None


def _left(costs: list[float | None], overall: list[float], planned: int) -> float | None:
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    average = fmean(known or overall or [0.0])
    return sum(known) + planned * average


def check_limit(cost: Estimate, limit_hours: float) -> None:
    """Refuse a table that costs too much. Errors: ValueError with both numbers and what to type."""
    total = cost.total_core_hours
    if cost.cells_left and total is not None and total > limit_hours:
        raise ValueError(
            f"this table would cost {total:.2f} core-hours, more than --limit-hours {limit_hours:g}: choose fewer "
            f"--rows, --folds or --seeds, a shorter experiment, or allow it with --limit-hours {total * 1.1:.2f}"
        )


def hours(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
