"""`compare --tune` with `sweep:`: every row chooses its settings in an Optuna study of its own, all of one budget.

    OUTPUT/sweeps/ROW/     the study of a row: its journal, logs and runs, kept out of git
    OUTPUT/tuning.json     the record: see sweep_record
    OUTPUT/tuning.md       the same as tables

The studies run one after another, on the tuning folds and seeds alone. A raised number of trials continues them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from app.comparison.check import check_rows
from app.comparison.estimate import Estimate, check_limit, estimate
from app.comparison.execute import Settings
from app.comparison.grid import Cell, make_cell
from app.comparison.provenance import hardware, versions
from app.comparison.spec import Comparison
from app.comparison.store import Store, locked, unversioned
from app.comparison.sweep_plans import SWEEPS, row_plans
from app.comparison.sweep_record import ENDED, Choice, SweepRecord
from app.comparison.sweep_report import chosen_line, count, markdown, sentence, untuned
from app.comparison.tuning import STEM

if TYPE_CHECKING:
    from app.study.plan import Plan

OWN_WORDS = (
    ("Give the new study a name (--study NAME)", "Give another --output"),
    ("--study NAME", "--rerun-changed"),
    ("--objective ", "tune_metric: "),
    ("--pruner ", "pruner: "),
    ("--sampler ", "sampler: "),
    ("--trials ", "trials: "),
)

StudyRunner = Callable[["Plan", int], Mapping[str, Any]]


def check_sweeps(comparison: Comparison, rows: Sequence[str] | None, table: Sequence[Cell], settings: Settings) -> None:
    """Refuse spaces, and rows that the first runs could not even be made of, those of the studies and of `table`.

    Errors: ValueError with the row, the key and what to type instead.
    """
    plans, record = row_plans(comparison, rows, settings), _record(settings)
    unfinished = {name: plan for name, plan in plans.items() if not record.finished(name, plan)}
    starts = {
        name: [make_cell(comparison, comparison.row(name), fold, seed) for fold, seed in plan.cells]
        for name, plan in unfinished.items()
    }
    fixed = [cell for cell in table if cell.row not in plans]
    check_rows([*chain.from_iterable(starts.values()), *fixed], Store(settings.results))
    for name, plan in unfinished.items():
        try:
            _check(plan, starts[name][0].config)
        except ValueError as error:
            raise ValueError(f"row {name!r}: {_in_a_comparison(str(error))}") from error


def _check(plan: Plan, config: Mapping[str, Any]) -> None:
    """Refuse a study that could not run. `config`: the row on one of its folds."""
    from app.study.check import check_cells
    from app.study.samplers import make_sampler
    from app.study.schema import check_space

    make_sampler(plan.sampler, plan.seed, plan.space, trials=plan.trials)
    check_space(plan.space, config)
    if plan.pruner != "none" or plan.monitor in plan.metrics:  # the data must have a validation
        check_cells(plan)


def dry_run(comparison: Comparison, rows: Sequence[str] | None, table_cells: int, settings: Settings) -> None:
    """Print what the studies will do and cost. Errors: ValueError as `sweep_rows` before its first trial."""
    plans, record = row_plans(comparison, rows, settings), _record(settings)
    _refuse_changed(plans, record, settings)
    for name in rows or comparison.row_names:
        if (plan := plans.get(name)) is None:
            print(f"fixed    {name}")
            continue
        points = plan.space.size()
        size = "no end of points" if points is None else count(points, "point")
        print(
            f"{'done   ' if record.finished(name, plan) else 'to tune'}  {name}: {count(plan.trials, 'trial')} x "
            f"{count(len(plan.cells), 'run')}, {count(len(plan.space.parameters), 'setting')}, {size}"
        )
    _say(comparison, _cost(comparison, plans, record, table_cells), settings)


def _study(plan: Plan, jobs: int) -> Mapping[str, Any]:
    from app.study.execute import run_study  # its imports take seconds

    return run_study(plan, jobs)


def sweep_rows(
    comparison: Comparison,
    rows: Sequence[str] | None,
    table_cells: int,
    settings: Settings,
    runner: StudyRunner = _study,
) -> tuple[Comparison, Settings]:
    """Run the studies that are not finished; return the comparison with the choices, and settings that count the cost.

    `table_cells` is the number of cells of the table to come, which the limit must leave room for. `runner` stands in
    for `run_study`.
    Errors: ValueError where a study was begun with other settings, was stopped by the limit, or has no good trial.
    """
    plans = row_plans(comparison, rows, settings)
    with locked(settings.output):
        record = _record(settings)
        _refuse_changed(plans, record, settings)
        _say(comparison, _cost(comparison, plans, record, table_cells), settings)
        for name, plan in plans.items():
            if record.changes(name, plan):
                record.set_aside(name, plan)
        for name, plan in plans.items():
            if not record.finished(name, plan):
                others = {other: each for other, each in plans.items() if other != name}
                left_h = settings.limit_hours - _cost(comparison, others, record, 0).spent_s / 3600
                _sweep(name, replace(plan, limit_hours=max(0.0, left_h)), record, settings, runner)
                _write(comparison, record, settings)
                check_limit(_cost(comparison, plans, record, table_cells), settings.limit_hours)
            print(chosen_line(name, record.choices[name]))
        shown = _of_this_budget(comparison, record, settings)
    overrides = {name: choice["overrides"] for name, choice in shown.items()}
    spent = sum(float(shown[name]["sweep"]["cpu_seconds"]) for name in plans)
    further = replace(
        settings, spent_s=spent, tuning=sentence(comparison, shown), not_tuned=tuple(untuned(comparison, shown))
    )
    return comparison.with_overrides(overrides), further


def _sweep(name: str, plan: Plan, record: SweepRecord, settings: Settings, runner: StudyRunner) -> None:
    """Run or continue a row's study, whose first trial is the row as it stands, and keep what came of it."""
    from app.study.schema import with_first

    unversioned(settings.output, SWEEPS)
    record.begin(name, plan)
    print(f"{name}: {count(plan.trials, 'trial')} of {count(len(plan.cells), 'run')}", file=sys.stderr, flush=True)
    try:
        summary = runner(with_first(plan), settings.jobs)
    except ValueError as error:
        raise ValueError(f"row {name!r}: {_in_a_comparison(str(error))}") from error
    ended = sum(trial["state"] in ENDED for trial in summary["trials"])
    if ended < plan.trials:
        raise ValueError(
            f"row {name!r}: its sweep ended after {ended} of {plan.trials} trials and "
            f"{summary['cpu_seconds'] / 3600:.2f} core-hours (--limit-hours {settings.limit_hours:g}), and every row "
            "gets the same number. What is done is kept: the same command, or a higher limit, continues"
        )
    record.keep(name, plan, summary)


def _in_a_comparison(message: str) -> str:
    """Return a study's message with what a comparison has in the place of the options of `sweep`."""
    for option, own in OWN_WORDS:
        message = message.replace(option, own)
    return message


def _refuse_changed(plans: Mapping[str, Plan], record: SweepRecord, settings: Settings) -> None:
    lines = {name: found for name, plan in plans.items() if (found := record.changes(name, plan))}
    if lines and not settings.rerun_changed:
        words = "\n  ".join(f"{name}: {'; '.join(found)}" for name, found in lines.items())
        raise ValueError(
            f"{count(len(lines), 'sweep')} of {record.store.path} began with other settings:\n  {words}\n"
            "Begin anew with --rerun-changed, keep what is there by giving another --output, or undo the change."
        )


def _of_this_budget(comparison: Comparison, record: SweepRecord, settings: Settings) -> dict[str, Choice]:
    """The choices that belong to the comparison as it is now, of rows that were not named this time too."""
    plans = row_plans(comparison, None, settings)
    return {
        name: record.choices[name]
        for name, plan in plans.items()
        if record.finished(name, plan) and not record.changes(name, plan)
    }


def _cost(comparison: Comparison, plans: Mapping[str, Plan], record: SweepRecord, table_cells: int) -> Estimate:
    """The cost of the trials' runs, those of finished studies as measured, and of the table that follows."""
    runs: list[Cell] = []
    done: dict[Any, dict[str, Any]] = {}
    for name, plan in plans.items():
        own = [Cell(name, trial, run, {}) for trial in range(plan.trials) for run in range(len(plan.cells))]
        runs += own
        if "sweep" in record.choices.get(name, {}):
            facts = record.choices[name]["sweep"]
            ended = own[: facts["trials"] * len(plan.cells)]
            each = float(facts["cpu_seconds"]) / len(ended)
            done |= {run.key: {"row": name, "cpu_seconds": each} for run in ended}
    return estimate(comparison, runs, done, planned=table_cells)


def _say(comparison: Comparison, cost: Estimate, settings: Settings) -> None:
    print(f"{comparison.name}, sweeps: {cost.sentence(settings.jobs, 'trial runs')}.", file=sys.stderr, flush=True)
    check_limit(cost, settings.limit_hours)


def _write(comparison: Comparison, record: SweepRecord, settings: Settings) -> None:
    from importlib.metadata import version

    record.header |= {
        "name": f"{comparison.name}-{STEM}",
        "intent": f"Sweeps that choose the settings of {comparison.name}",
        "command": settings.command,
        "versions": {**versions(), "optuna": version("optuna")},
        "hardware": hardware(),
    }
    record.store.save()
    record.store.path.with_suffix(".md").write_text(markdown(comparison, record.header))


def _record(settings: Settings) -> SweepRecord:
    return SweepRecord(settings.output / f"{STEM}.json")
