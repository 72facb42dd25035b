"""The trials of a tuning: for every row the same number of settings, from a grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.comparison.spec import Comparison, Row

Tune = Mapping[str, Sequence[Any]]


def grid_trials(tune: Tune) -> list[dict[str, Any]]:
    """Every combination of the grid's values as dotted overrides; the last key varies fastest. Empty grid: []."""
    if not tune:
        return []
    return [dict(zip(tune, values, strict=True)) for values in itertools.product(*tune.values())]


def row_trials(comparison: Comparison, row: Row) -> list[dict[str, Any]]:
    """The trials of a row: of its own grid where it has one, else of the comparison's."""
    return grid_trials(row.tune if row.tune is not None else comparison.tune)


def check_tune(comparison: Comparison) -> None:
    """Refuse grids that are no lists, or that give rows different numbers of trials, and a tuning without its folds.

    Errors: ValueError. Equal numbers matter: the best of nine trials looks better than the best of three.
    """
    for where, tune in (("tune", comparison.tune), *((f"row {row.name!r}: tune", row.tune) for row in comparison.rows)):
        for key, values in (tune or {}).items():
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(f"{where}: {key} must have a list of values to try, got {values!r}")
    if comparison.variants and comparison.tune:
        raise ValueError("tune and variants don't go together: tune without variants, then write the choice into rows")
    counts = {row.name: len(row_trials(comparison, row)) for row in comparison.rows}
    if len(set(counts.values())) > 1:
        words = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"tune: every row needs the same number of trials, got {words}")
    if any(counts.values()) and not (comparison.tuning_folds or comparison.tuning_seeds):
        raise ValueError("tune: name the tuning_folds or tuning_seeds on which the settings are chosen")
