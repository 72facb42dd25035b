"""Running a list of cells to the end: resume, workers, results.json after each cell, the MLflow parent, results.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.comparison.estimate import Estimate, check_limit, estimate
from app.comparison.grid import Cell, tuned_on
from app.comparison.overrides import merge
from app.comparison.pool import run_cells
from app.comparison.progress import Progress
from app.comparison.provenance import code_version, hardware, versions
from app.comparison.report import markdown
from app.comparison.spec import Comparison
from app.comparison.store import Record, Store, locked, logs_folder
from app.comparison.worker import Outcome, Runner, Task, experiment_runner


@dataclass(frozen=True)
class Settings:
    """How to run, apart from what: one value for each option of the command.

    `spent_s` is CPU time already spent on this table's tuning, `tuning` a sentence on it for the report,
    `not_tuned` the rows that it left as they are where others have sweeps.
    `planned` is a number of further cells that the limit must leave room for (the table that follows a tuning).
    `track` False leaves out the MLflow parent run.
    """

    output: Path
    jobs: int = 1
    limit_hours: float = 6.0
    rerun_changed: bool = False
    command: str = "skip-sideways compare"
    stem: str = "results"
    planned: int = 0
    spent_s: float = 0.0
    tuning: str = ""
    not_tuned: tuple[str, ...] = ()
    track: bool = True

    @property
    def results(self) -> Path:
        """The file the runs are kept in."""
        return self.output / f"{self.stem}.json"


def plan(comparison: Comparison, cells: Sequence[Cell], settings: Settings, store: Store) -> Estimate:
    """Say what is done and what it will cost.

    Errors: ValueError where finished cells were run with another configuration, or the table costs too much.
    """
    changed = store.changed(cells)
    if changed and not settings.rerun_changed:
        configs = _configs(comparison, cells)
        lines = "\n  ".join(store.explain_change(cell, configs) for cell in changed[:10])
        more = f"\n  and {len(changed) - 10} more" if len(changed) > 10 else ""
        raise ValueError(
            f"{len(changed)} finished cells of {settings.results} were run with another configuration:\n  {lines}{more}"
            "\nRun them again with --rerun-changed, keep them by giving another --output, or undo the change."
        )
    cost = _cost(comparison, cells, settings, store)
    print(f"{comparison.name}: {cost.sentence(settings.jobs)}.", file=sys.stderr, flush=True)
    if changed:
        print(f"{len(changed)} of them were run with another configuration and run again.", file=sys.stderr)
    check_limit(cost, settings.limit_hours)
    return cost


def execute(
    comparison: Comparison, cells: Sequence[Cell], settings: Settings, runner: Runner = experiment_runner
) -> Store:
    """Run what is missing of `cells`; return the store, results.md written beside it.

    Errors: ValueError as `plan`, where the folder is in use, and where measured cells show that the limit is passed.
    """
    with locked(settings.output):
        store = Store(settings.results)
        cost = plan(comparison, cells, settings, store)
        store.header.update(_header(comparison, settings))
        store.note_configs(_configs(comparison, cells))
        store.save()
        if not cost.cells_left:
            write_report(comparison, settings, store)
            return store
        with _parent(comparison, settings, store) as parent_run_id:
            _run(comparison, cells, settings, store, runner, parent_run_id)
    return store


def write_report(comparison: Comparison, settings: Settings, store: Store) -> Path:
    """Write results.md from the records."""
    path = settings.results.with_suffix(".md")
    path.write_text(markdown(comparison, store.header, store.records))
    return path


def failed(store: Store, cells: Sequence[Cell]) -> list[Record]:
    """The records of cells that failed."""
    return [record for cell in cells if (record := store.records.get(cell.key)) and record["status"] != "ok"]


def _run(
    comparison: Comparison,
    cells: Sequence[Cell],
    settings: Settings,
    store: Store,
    runner: Runner,
    parent_run_id: str | None,
) -> None:
    missing = [cell for cell in cells if not store.ok(cell)]
    commit = code_version()
    work = [(cell, _task(comparison, cell, settings, parent_run_id)) for cell in missing]
    jobs = min(settings.jobs, len(missing))
    progress = Progress(len(cells), len(cells) - len(missing), jobs, comparison.metric)
    with progress, closing(run_cells(work, runner, jobs)) as outcomes:
        for outcome in outcomes:
            if outcome is not None:
                store.add(_record(*outcome, commit, jobs))
            cost = _cost(comparison, cells, settings, store)
            if outcome is None:
                progress.beat(cost)
                continue
            progress.ended(*outcome, cost)
            check_limit(cost, settings.limit_hours)


def _task(comparison: Comparison, cell: Cell, settings: Settings, parent_run_id: str | None) -> Task:
    name = f"{settings.stem}-{cell.label}"
    # What changes no result: no bar in a log file, and weights beside the results, written when the run ends.
    defaults = {
        "trainer": {"enable_progress_bar": False, "enable_model_summary": False},
        "checkpoint": {"every_n_train_steps": 0, "dirpath": str(settings.output / "runs" / name)},
    }
    return Task(
        config=merge(defaults, cell.config),
        tags={
            "comparison": comparison.name,
            "row": cell.row,
            "tuning": tuned_on(comparison, cell.fold, cell.seed),
        },
        parent_run_id=parent_run_id,
        experiment_name=comparison.name,
        log=logs_folder(settings.output) / f"{name}.log",
    )


def _record(cell: Cell, outcome: Outcome, commit: str, jobs: int) -> Record:
    return {
        **cell.facts(),
        **outcome.tested,
        "status": outcome.status,
        "metrics": dict(sorted(outcome.metrics.items())),
        "run_id": outcome.run_id,
        "wall_seconds": outcome.wall_seconds,
        "cpu_seconds": outcome.cpu_seconds,
        "git_sha": commit,
        "jobs": jobs,
        **({"error": outcome.error} if outcome.error else {}),
    }


def _cost(comparison: Comparison, cells: Sequence[Cell], settings: Settings, store: Store) -> Estimate:
    done = {cell.key: store.records[cell.key] for cell in cells if store.ok(cell)}
    return estimate(comparison, cells, done, planned=settings.planned, spent_s=settings.spent_s)


def _configs(comparison: Comparison, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    return {name: comparison.row_config(comparison.row(name)) for name in dict.fromkeys(cell.row for cell in cells)}


def _header(comparison: Comparison, settings: Settings) -> dict[str, Any]:
    return {
        "name": comparison.name,
        "intent": comparison.intent,
        "command": settings.command,
        "metric": comparison.metric,
        "control": comparison.control,
        "frozen": comparison.frozen,
        "exact": comparison.exact,
        "tuning": settings.tuning,
        "not_tuned": list(settings.not_tuned),
        "tuning_folds": list(comparison.tuning_folds),
        "tuning_seeds": list(comparison.tuning_seeds),
        "versions": versions(),
        "hardware": hardware(),
    }


@contextmanager
def _parent(comparison: Comparison, settings: Settings, store: Store) -> Iterator[str | None]:
    """The parent run's id while the cells run; ended as FINISHED, FAILED or, where stopped, KILLED.

    results.md is written in every case, so that what is there of a stopped table can be read.
    """
    from app.comparison.parent import ParentRun

    parent = None
    if settings.track:
        tags = {"git_sha": code_version(), "control": comparison.control}
        parent = ParentRun(comparison.name, store.header.get("parent_run_id"), tags)
        store.header["parent_run_id"] = parent.run_id
        store.save()
    status = "KILLED"
    try:
        yield parent.run_id if parent else None
        bad = any(record["status"] != "ok" for record in store.records.values())
        status = "FAILED" if bad else "FINISHED"
    finally:
        report = write_report(comparison, settings, store)
        if parent:
            parent.finish(status, [settings.results, report])
