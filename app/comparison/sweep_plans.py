"""The studies of a comparison: one a row, on the tuning folds and seeds, differing in configuration and space alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.comparison.execute import Settings
from app.comparison.overrides import get
from app.comparison.spec import Comparison
from app.comparison.sweep_spec import row_space, swept_rows

if TYPE_CHECKING:
    from app.study.plan import Plan

SWEEPS = "sweeps"


def row_plans(comparison: Comparison, rows: Sequence[str] | None, settings: Settings) -> dict[str, Plan]:
    """The study of each of `rows` (default: all) that is tuned, by the row's name, in the order of the file.

    Errors: ValueError where none is tuned, and for a setting that a chosen trial could not take back.
    """
    named = [comparison.row(name).name for name in rows or comparison.row_names]
    chosen = [name for name in swept_rows(comparison) if name in named]
    if not chosen:
        raise ValueError(f"--tune: nothing to tune: {', '.join(named)} say sweep: false; leave --tune out")
    return {name: _plan(comparison, name, settings) for name in chosen}


def _plan(comparison: Comparison, name: str, settings: Settings) -> Plan:
    from app.study.objectives import DIRECTIONS, Objective
    from app.study.plan import Plan

    _check_conditions(comparison, name)
    row, sweep = comparison.row(name), comparison.sweep
    space = row_space(comparison, row)
    assert sweep is not None
    assert space is not None
    output = settings.output / SWEEPS / name
    return Plan(
        name=f"{comparison.name}-{name}-sweep",
        config=comparison.row_config(row),
        space=space,
        objectives=(Objective(comparison.tune_metric, DIRECTIONS[comparison.better]),),
        trials=sweep.trials,
        output=output,
        storage=str(output / "study.journal"),
        experiment=comparison.name,
        command=settings.command,
        sampler=sweep.sampler,
        pruner=sweep.pruner,
        seed=sweep.seed,
        folds=None if comparison.folds is None else (comparison.tuning_folds or comparison.folds[:1]),
        seeds=comparison.tuning_seeds or comparison.seeds[:1],
        fold_key=comparison.fold_key,
        seed_keys=comparison.seed_keys,
    )


def _check_conditions(comparison: Comparison, name: str) -> None:
    """Refuse a conditional key that the row sets: a trial is without it, and the table's row could not be."""
    row = comparison.row(name)
    space, config = row_space(comparison, row), comparison.row_config(row)
    for parameter in space.parameters if space else ():
        if parameter.when and get(config, parameter.key) is not None:
            raise ValueError(
                f"row {name!r} sets {parameter.key}, which its space has only with some values of "
                f"{', '.join(parameter.when)}; leave it out of the row and of the experiment"
            )
