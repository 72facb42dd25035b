"""`skip-sideways compare`: rules x wirings x folds x seeds in one table, resumable, from one YAML file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app.resumable import resumable

if TYPE_CHECKING:
    from app.comparison.execute import Settings
    from app.comparison.grid import Cell
    from app.comparison.spec import Comparison

EXAMPLE = "example: skip-sideways compare --config app/configs/comparisons/demo.yaml"
DESCRIPTION = (
    "Run every row of a comparison on every fold and seed, and write results.json and results.md. The same command "
    "continues a stopped comparison. Exit code: 0 all cells done, 1 some failed, 2 refused, 130 stopped."
)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser("skip-sideways compare", description=DESCRIPTION, epilog=EXAMPLE)
    parser.allow_abbrev = False
    parser.add_argument("--config", required=True, type=Path, help="comparison YAML (app/configs/comparisons/*.yaml)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows (default: all)")
    parser.add_argument("--folds", nargs="+", type=int, metavar="FOLD", help="instead of the file's folds")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="instead of the file's seeds")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="in every row's experiment, as data.init_args.root=/data/UCF-101; a row's own settings count more",
    )
    parser.add_argument("--output", type=Path, help="folder of the results (default: runs/comparisons/NAME)")
    parser.add_argument("--jobs", type=int, help="processes, one thread each (default: the number of cores)")
    parser.add_argument("--limit-hours", type=float, default=6.0, help="refuse above these core-hours (default: 6)")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="first choose each row's settings from the file's tune grid, or by its sweep, on the tuning folds",
    )
    parser.add_argument(
        "--rerun-changed",
        action="store_true",
        help="run finished cells, and sweeps, again whose configuration has changed",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the cells and the estimate, run nothing")
    return parser


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    options = build_parser().parse_args(argv)
    return resumable("compare", "cells", lambda: _compare(options, argv))


def _compare(options: argparse.Namespace, argv: list[str]) -> int:
    from app.comparison.execute import Settings
    from app.comparison.overrides import given
    from app.comparison.provenance import command_line
    from app.comparison.spec import load_comparison

    comparison = load_comparison(options.config).with_settings(given(options.set))
    settings = Settings(
        output=options.output or Path("runs/comparisons") / comparison.name,
        jobs=_jobs(options.jobs),
        limit_hours=options.limit_hours,
        rerun_changed=options.rerun_changed,
        command=command_line(argv),
    )
    cells = _cells(comparison, options)
    _check(comparison, cells, options, settings)
    if options.tune and options.dry_run:
        return _dry_run_trials(comparison, options.rows, len(cells), settings)
    if options.dry_run:
        return _dry_run(comparison, cells, settings)
    if options.tune:
        comparison, settings = _tune(comparison, options.rows, len(cells), settings)
        cells = _cells(comparison, options)
    return _run(comparison, cells, settings)


def _cells(comparison: Comparison, options: argparse.Namespace) -> list[Cell]:
    from app.comparison.grid import build_grid

    cells = build_grid(comparison, rows=options.rows, folds=options.folds, seeds=options.seeds)
    if not cells:
        raise ValueError("no cell is left: the chosen --rows have none of the chosen --folds and --seeds")
    return cells


def _check(comparison: Comparison, cells: list[Cell], options: argparse.Namespace, settings: Settings) -> None:
    """Refuse what the first cells to run, the trials' or the table's, could not even be made of."""
    from dataclasses import replace

    from app.comparison.check import check_rows
    from app.comparison.store import Store
    from app.comparison.tuning import STEM, trial_cells, trial_comparison

    if options.tune and comparison.sweep:
        from app.comparison.sweeps import check_sweeps

        check_sweeps(comparison, options.rows, cells, settings)
        return
    if options.tune:
        cells = trial_cells(comparison, trial_comparison(comparison, options.rows))
        settings = replace(settings, stem=STEM)
    check_rows(cells, Store(settings.results))


def _tune(
    comparison: Comparison, rows: list[str] | None, table_cells: int, settings: Settings
) -> tuple[Comparison, Settings]:
    from app.comparison.sweeps import sweep_rows
    from app.comparison.tuning import tune

    return (sweep_rows if comparison.sweep else tune)(comparison, rows, table_cells, settings)


def _jobs(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise ValueError(f"--jobs {asked}: expected at least 1")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return asked or allowed or 1


def _dry_run(comparison: Comparison, cells: list[Cell], settings: Settings) -> int:
    from app.comparison.execute import plan
    from app.comparison.overrides import flatten
    from app.comparison.store import Store

    store = Store(settings.results)
    for cell in cells:
        print(f"{'done   ' if store.ok(cell) else 'to run '} {cell.row}, fold {cell.fold}, seed {cell.seed}")
    for name in dict.fromkeys(cell.row for cell in cells):
        words = ", ".join(f"{key}={value}" for key, value in flatten(dict(comparison.row(name).overrides)))
        print(f"{name}: {words or 'the experiment as it is'}")
    plan(comparison, cells, settings, store)
    return 0


def _dry_run_trials(comparison: Comparison, rows: list[str] | None, table_cells: int, settings: Settings) -> int:
    from dataclasses import replace

    from app.comparison.sweeps import dry_run
    from app.comparison.tuning import STEM, trial_cells, trial_comparison

    print(f"Trials first, then a table of {table_cells} cells with each row's best trial.")
    if comparison.sweep:
        dry_run(comparison, rows, table_cells, settings)
        return 0
    trials = trial_comparison(comparison, rows)
    return _dry_run(trials, trial_cells(comparison, trials), replace(settings, stem=STEM, planned=table_cells))


def _run(comparison: Comparison, cells: list[Cell], settings: Settings) -> int:
    from app.comparison.execute import execute, failed
    from app.comparison.report import terminal

    store = execute(comparison, cells, settings)
    print(f"\n{comparison.intent}\n\n{terminal(comparison, store.records, settings.not_tuned)}\n")
    bad = failed(store, cells)
    for record in bad:
        print(
            f"failed: {record['row']}, fold {record['fold']}, seed {record['seed']}: {record['error']}", file=sys.stderr
        )
    if bad:
        print(f"Next: read {settings.output}/logs, then run the same command again: it repeats only the failed cells.")
        return 1
    print(f"The table is in {settings.output}/{settings.stem}.md; `skip-sideways dashboard` shows these runs.")
    return 0
