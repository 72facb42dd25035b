"""`compare --tune`: choose every row's settings by the same number of trials, on the tuning folds or seeds alone.

The trials are a comparison of their own, NAME-tuning: one row a trial, kept in tuning.json and resumed like any other.
The best trial of a row (best mean of `tune_metric`, the lowest where `better` is lower, then lowest test/loss, then
first in the grid) becomes part of its overrides, and the choice is written beside the trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.comparison.execute import Settings, execute, failed
from app.comparison.formats import numbers
from app.comparison.grid import Cell, build_grid
from app.comparison.measures import places
from app.comparison.overrides import apply_overrides
from app.comparison.spec import Comparison, Row
from app.comparison.statistics import mean_std
from app.comparison.store import Store
from app.comparison.summary import row_values
from app.comparison.trials import row_trials
from app.comparison.worker import Runner, experiment_runner

STEM = "tuning"


def trial_name(row: str, index: int) -> str:
    """The name of a trial's row, counted from 1."""
    return f"{row}-trial{index + 1}"


def trial_comparison(comparison: Comparison, rows: Sequence[str] | None = None) -> Comparison:
    """The comparison whose rows are the trials of `rows` (default: all)."""
    names = list(rows or comparison.row_names)
    trials = [
        Row(trial_name(name, index), apply_overrides(row.overrides, trial), cell_seconds=row.cell_seconds)
        for name in names
        for row in [comparison.row(name)]
        for index, trial in enumerate(row_trials(comparison, row))
    ]
    if not trials:
        raise ValueError(
            f"--tune: comparison {comparison.name!r} has no tune grid and no sweep; "
            "add tune: {KEY: [VALUES]} or sweep: {space: SPACE.yaml, trials: 20} to it"
        )
    return replace(
        comparison,
        name=f"{comparison.name}-tuning",
        intent=f"Trials that choose the settings of {comparison.name}",
        rows=tuple(trials),
        control=trials[0].name,
        frozen=None,
        exact=None,
        folds=comparison.tuning_folds or comparison.folds,
        seeds=comparison.tuning_seeds or comparison.seeds[:1],
        tuning_folds=(),
        tuning_seeds=(),
        metric=comparison.tune_metric,
        bounds=(),
        tune={},
    )


def trial_cells(comparison: Comparison, trials: Comparison) -> list[Cell]:
    """The runs of the trials: on the tuning folds and tuning seeds.

    Without tuning folds: on the comparison's first fold; without tuning seeds: on its first seed.
    """
    folds = None if comparison.folds is None else (comparison.tuning_folds or comparison.folds[:1])
    return build_grid(trials, folds=folds)


def tune(
    comparison: Comparison,
    rows: Sequence[str] | None,
    table_cells: int,
    settings: Settings,
    runner: Runner = experiment_runner,
) -> tuple[Comparison, Settings]:
    """Run the trials that are missing; return the comparison with the choices, and settings that count their cost.

    `table_cells` is the number of cells of the table to come, which the limit must leave room for.
    Errors: ValueError where a row has no finished trial, and as `execute`.
    """
    trials = trial_comparison(comparison, rows)
    cells = trial_cells(comparison, trials)
    store = execute(trials, cells, replace(settings, stem=STEM, planned=table_cells), runner)
    bad = failed(store, cells)
    choices = {name: choose(comparison, trials, store, name) for name in rows or comparison.row_names}
    store.header.setdefault("choices", {}).update(choices)
    store.save()
    for name, choice in choices.items():
        best = choice["trials"][choice["trial"] - 1]
        words = ", ".join(f"{key}={value}" for key, value in choice["overrides"].items())
        score = f"{best['score']:.{places(comparison.tune_metric, [best['score']])}f}"
        print(f"{name}: {words} ({comparison.tune_metric} {score}, trial {choice['trial']})")
    if bad:
        print(f"{len(bad)} of {len(cells)} trial runs failed; their trials were chosen by what is left")
    spent = sum(float(store.records[cell.key]["cpu_seconds"]) for cell in cells)
    chosen = comparison.with_overrides({name: choice["overrides"] for name, choice in choices.items()})
    return chosen, replace(settings, spent_s=spent, tuning=_sentence(comparison, trials, cells, choices))


def _sentence(
    comparison: Comparison, trials: Comparison, cells: Sequence[Cell], choices: Mapping[str, Mapping[str, Any]]
) -> str:
    count = len(next(iter(choices.values()))["trials"])
    folds = numbers(sorted({cell.fold for cell in cells}))
    seeds = numbers(sorted({cell.seed for cell in cells}))
    where = f"seed {seeds}" if comparison.folds is None else f"fold {folds}, seed {seeds}"
    return f"the best of {count} trials a row by {trials.metric} on {where} (all trials: {STEM}.json)"


def choose(comparison: Comparison, trials: Comparison, store: Store, name: str) -> dict[str, Any]:
    """The best trial of a row, with every trial's score: what tuning.json keeps under `choices`.

    A trial that failed on any of its runs is not chosen: it has no score.
    """
    settings = row_trials(comparison, comparison.row(name))
    cells = trial_cells(comparison, trials)
    scored = [
        _score(trials, store, [cell for cell in cells if cell.row == trial_name(name, index)])
        for index in range(len(settings))
    ]
    ranked = [index for index, (score, _) in enumerate(scored) if score is not None]
    if not ranked:
        raise ValueError(
            f"--tune: every trial of row {name!r} failed or diverged; read the logs, mend its grid, run again"
        )
    sign = -1 if comparison.better == "lower" else 1
    best = max(ranked, key=lambda index: (sign * (scored[index][0] or 0.0), -scored[index][1], -index))
    return {
        "trial": best + 1,
        "overrides": settings[best],
        "trials": [{"overrides": trial, "score": score} for trial, (score, _) in zip(settings, scored, strict=True)],
    }


def _score(trials: Comparison, store: Store, cells: Sequence[Cell]) -> tuple[float | None, float]:
    """(mean of the tuning metric, or None where a run lacks it; mean test/loss, infinite where unknown)."""
    records: Mapping[Any, Any] = {cell.key: store.records[cell.key] for cell in cells if cell.key in store.records}
    values = row_values(trials, records, cells[0].row, reporting=False)
    losses = row_values(trials, records, cells[0].row, reporting=False, metric="test/loss")
    score = mean_std(values).mean if len(values) == len(cells) else None
    return score, mean_std(losses).mean if len(losses) == len(cells) else math.inf
