"""What a person sees while the cells run: one bar over all of them, and a line for each that has ended."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from app.comparison.estimate import Estimate, hours
from app.comparison.grid import Cell
from app.comparison.measures import places
from app.comparison.worker import Outcome


def bar(total: int, done: int, unit: str) -> Any:
    """Return a tqdm bar over units of work, of which `done` are: on a terminal's stderr alone."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=done,
        desc=f"{unit}s",
        unit=unit,
        dynamic_ncols=True,
        disable=None,  # off where stderr is no terminal
        bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}",
    )


class Progress:
    """A bar on a terminal's stderr; without a terminal the lines alone. Use as a context manager."""

    def __init__(self, total: int, done: int, jobs: int, metric: str) -> None:
        self._jobs, self._metric = jobs, metric
        self._bar = bar(total, done, "cell")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def beat(self, cost: Estimate) -> None:
        """Redraw the clock."""
        left = "time left unknown until the first cell ends" if cost.left_s is None else self._left(cost.left_s)
        self._bar.set_postfix_str(left, refresh=False)
        self._bar.refresh()

    def ended(self, cell: Cell, outcome: Outcome, cost: Estimate) -> None:
        """A cell ended."""
        value = outcome.metrics.get(self._metric)
        what = f"{self._metric} {value:.{places(self._metric, [value])}f}" if value is not None else "no metric"
        text = what if outcome.status == "ok" else f"FAILED: {outcome.error}"
        line = f"{cell.row}, fold {cell.fold}, seed {cell.seed}: {text} ({hours(outcome.wall_seconds)})"
        self._bar.clear()
        print(line, file=sys.stderr, flush=True)
        self._bar.update(1)
        self.beat(cost)

    def _left(self, seconds: float) -> str:
        return f"about {hours(seconds / self._jobs)} left"
