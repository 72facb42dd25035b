"""One trial: its values trained on every fold and seed of the study, and the mean of what came of it."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from optuna.exceptions import TrialPruned
from optuna.trial import Trial

from app.comparison.overrides import merge
from app.comparison.worker import cpu_seconds_now, output_to, reset_peak_memory
from app.study.children import Children
from app.study.plan import Plan
from app.study.reports import Reports
from app.study.storage import FAILED_S

Runner = Callable[..., dict[str, Any]]
TIES = ("test/loss", "val/loss")  # kept beside the objectives: what decides between equal ones


def experiment_runner(config: Mapping[str, Any], *, reports: Reports, test: bool, **options: Any) -> dict[str, Any]:
    """Fit, and test unless the training was pruned: the real runner. Its imports take seconds."""
    from app.experiment import run_experiment
    from app.study.pruning import Watch

    return run_experiment(
        config, quiet=True, callbacks=[Watch(reports)], should_test=lambda: test and not reports.pruned, **options
    )


def prepare(runner: Runner) -> None:
    """Import what a run needs, so that the first trial of a process costs no more than the next."""
    if runner is experiment_runner:
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  the usual store
        import sklearn.datasets  # noqa: F401  the digits of MovingDigits

        import app.experiment
        import app.study.pruning  # noqa: F401
        from app.trainer_cli import import_classes

        import_classes()


def run_trial(plan: Plan, trial: Trial, runner: Runner, children: Children) -> tuple[float, ...]:
    """Run a trial and return its value for each objective.

    Runs that a dead worker had finished for this trial are not repeated.

    Errors: TrialPruned where the pruner stopped it; ValueError where an objective was not logged or is not finite, and
    whatever the runs raise.
    """
    values = plan.space.suggest(trial)
    runs: list[dict[str, Any]] = list(trial.user_attrs.get("runs", []))
    done = {(run["fold"], run["seed"]): run for run in runs}
    ended: list[float] = []
    step = 0
    for fold, seed in plan.cells:
        listening = trial if len(plan.objectives) == 1 else None  # Optuna takes no reports of several objectives
        reports = Reports(listening, plan.monitor, tuple(ended), step, required=plan.pruner != "none")
        if run := done.get((fold, seed)):
            reports.repeat(run["reported"])
        else:
            runs.append(_run(plan, trial, values, (fold, seed), runner, children, reports))
            trial.set_user_attr("runs", runs)
        if reports.pruned:
            raise TrialPruned(_when(reports, plan, fold))
        ended += reports.values[-1:]
        step += len(reports.values)
    return tuple(_mean(metric, runs) for metric in plan.metrics)


def _run(
    plan: Plan,
    trial: Trial,
    values: Mapping[str, Any],
    cell: tuple[int, int],
    runner: Runner,
    children: Children,
    reports: Reports,
) -> dict[str, Any]:
    """Run one (fold, seed) with its output in a log file, and return its record."""
    fold, seed = cell
    name = f"trial-{trial.number:04d}" + (f"-fold{fold}-seed{seed}" if len(plan.cells) > 1 else "")
    defaults = {
        "trainer": {"enable_progress_bar": False, "enable_model_summary": False},
        "checkpoint": {"every_n_train_steps": 0, "dirpath": str(plan.output / "runs" / name)},
    }
    prepare(runner)
    reset_peak_memory()
    wall, cpu = time.perf_counter(), cpu_seconds_now()
    with output_to(plan.output / "logs" / f"{name}.log"), children.one(trial.number) as child:
        try:
            result = runner(
                merge(defaults, plan.run_config(values, fold, seed)),
                tags=child.tags,
                parent_run_id=children.parent_run_id,
                experiment_name=plan.name,
                reports=reports,
                test=plan.tests,
            )
        except BaseException:
            traceback.print_exc()  # into the log
            before = float(trial.user_attrs.get(FAILED_S, 0.0))  # of the trial that this one runs again
            trial.set_user_attr(FAILED_S, round(before + cpu_seconds_now() - cpu, 6))
            raise
        child.run_id = result["run_id"]
        child.pruned = _when(reports, plan, fold) if reports.pruned else None
        metrics = {str(key): float(value) for key, value in result["metrics"].items()}
        if not reports.pruned:
            _check_logged(plan, metrics)
    return {
        "fold": fold,
        "seed": seed,
        "run_id": child.run_id,
        "metrics": {key: metrics[key] for key in dict.fromkeys([*plan.metrics, *TIES]) if key in metrics},
        "reported": reports.values,
        "wall_seconds": round(time.perf_counter() - wall, 6),
        "cpu_seconds": round(cpu_seconds_now() - cpu, 6),
    }


def _when(reports: Reports, plan: Plan, fold: int) -> str:
    where = f" on fold {fold}" if len(plan.cells) > 1 else ""
    return f"{reports.pruned}{where}, by {plan.pruner} on {plan.monitor}"


def _check_logged(plan: Plan, metrics: Mapping[str, float]) -> None:
    for metric in plan.metrics:
        if metric not in metrics:
            raise ValueError(
                f"the objective {metric} was not logged; this run logged {', '.join(sorted(metrics)) or 'nothing'}"
            )
        if not math.isfinite(metrics[metric]):
            raise ValueError(f"the objective {metric} is {metrics[metric]}: the training diverged")


def _mean(metric: str, runs: list[dict[str, Any]]) -> float:
    return math.fsum(run["metrics"][metric] for run in runs) / len(runs)
