"""A study as plain values: what sweep.json holds, the report is written from and the dashboard reads.

The same study gives the same summary. JSON has no nan and no infinity: a value that is not finite is null.
"""

from __future__ import annotations

import math
import os
import shlex
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

from app.comparison.store import finite
from app.study.plan import SCHEMA_VERSION, Plan
from app.study.storage import SURPLUS, error_of, spent_s, superseded, trial_s

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

Summary = dict[str, Any]
FEWEST_TRIALS = 4  # for an importance
STATES = ("complete", "pruned", "failed", "retried", "running", "waiting")
BEST = "best.yaml"


def summarise(study: Study, plan: Plan) -> Summary:
    """Return the summary of a study: see docs/sweeps.md for its keys."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get(SURPLUS)]
    gone = superseded(trials)
    importances, why_none = _importances(study, trials, plan)
    front = _front(study, trials, plan)
    content = {
        "schema_version": SCHEMA_VERSION,
        "study": plan.name,
        "experiment": plan.experiment,
        "command": plan.command,
        "sampler": plan.sampler,
        "pruner": plan.pruner,
        "seed": plan.seed,
        "trials_asked": plan.trials,
        "folds": list(plan.folds or ()),
        "seeds": list(plan.seeds),
        "space": plan.space.plain(),
        "objectives": [{"metric": each.metric, "direction": each.direction} for each in plan.objectives],
        "importances": importances,
        "importances_why_none": why_none,
        "best": _best(front[0], plan) if front else None,
        "front": [trial.number for trial in front],
        "cpu_seconds": spent_s(trials),
        "trials": [_trial(trial, plan, gone) for trial in trials],
    }
    return finite(content)


def counts(summary: Mapping[str, Any]) -> dict[str, int]:
    """How many trials are in each state, without the states that none is in."""
    found = [trial["state"] for trial in summary["trials"]]
    return {state: found.count(state) for state in STATES if state in found}


def state_of(trial: FrozenTrial, gone: set[int]) -> str:
    """Return a trial's state in the summary's words. `gone`: the numbers that were run again under another."""
    if trial.number in gone:
        return "retried"
    return {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())


def _trial(trial: FrozenTrial, plan: Plan, gone: set[int]) -> dict[str, Any]:
    state, runs = state_of(trial, gone), trial.user_attrs.get("runs", [])
    return {
        "number": trial.number,
        "state": state,
        "params": plan.space.values(trial.params),
        "values": list(trial.values) if state == "complete" else None,  # a pruned trial's is its last validation's
        "steps": [[step, value] for step, value in sorted(trial.intermediate_values.items())],
        "started": trial.datetime_start.astimezone(UTC).isoformat(timespec="seconds") if trial.datetime_start else None,
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        "cpu_seconds": trial_s(trial) or None,
        "run_ids": [run["run_id"] for run in runs if run.get("run_id")],
        "error": error_of(trial),
        "pruned": trial.user_attrs.get("pruned"),
        "retry_of": trial.system_attrs.get("failed_trial"),
        "worker": trial.user_attrs.get("worker"),
    }


def _finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [
        trial
        for trial in trials
        if trial.state.name == "COMPLETE" and all(math.isfinite(value) for value in trial.values)
    ]


def _front(study: Study, trials: Sequence[FrozenTrial], plan: Plan) -> list[FrozenTrial]:
    """Return the trials that none is better than, best by the first objective first; of one objective the best."""
    finished = _finished(trials)
    if len(plan.objectives) > 1:
        best = {trial.number for trial in study.best_trials}
        finished = [trial for trial in finished if trial.number in best]
    loss = _losses(finished, plan)
    sign = -1.0 if plan.objectives[0].direction == "maximize" else 1.0
    ranked = sorted(finished, key=lambda trial: (sign * trial.values[0], loss[trial.number], trial.number))
    return ranked if len(plan.objectives) > 1 else ranked[:1]


def _losses(trials: Sequence[FrozenTrial], plan: Plan) -> dict[int, float]:
    """Return by number the mean loss of a trial's runs, which decides between equals; 0 where any run has none.

    It is the loss of the clips that the objective is about: a choice by validation must not look at the test.
    """
    stage = "test" if plan.objectives[0].metric.startswith("test/") else "val"
    found: dict[int, float] = {}
    for trial in trials:
        losses = [run.get("metrics", {}).get(f"{stage}/loss") for run in trial.user_attrs.get("runs", [])]
        if not losses or any(loss is None or not math.isfinite(loss) for loss in losses):
            return dict.fromkeys((trial.number for trial in trials), 0.0)
        found[trial.number] = sum(losses) / len(losses)
    return found


def _best(trial: FrozenTrial, plan: Plan) -> dict[str, Any]:
    path = os.path.relpath(plan.output / BEST)
    return {
        "trial": trial.number,
        "values": list(trial.values),
        "params": plan.space.values(trial.params),
        "command": f"skip-sideways fit --config {shlex.quote(str(path))}",
    }


def _importances(study: Study, trials: Sequence[FrozenTrial], plan: Plan) -> tuple[list[dict[str, Any]], str]:
    """Return an entry for each objective that has importances, and why the others have none."""
    finished = _finished(trials)
    keys = sorted({key for trial in finished for key in trial.params})
    if len(finished) < FEWEST_TRIALS:
        return [], f"{len(finished)} complete trials; importances need at least {FEWEST_TRIALS}"
    if len(keys) < 2:
        return [], "the space has one key; importances divide what several have"
    entries, reasons = [], []
    for index, objective in enumerate(plan.objectives):
        values = [trial.values[index] for trial in finished]
        if min(values) == max(values):
            reasons.append(f"{objective.metric} is {values[0]:g} in every trial")
            continue
        shares = _shares(study, keys, index, -1.0 if objective.direction == "maximize" else 1.0)
        entries.append({"metric": objective.metric, "trials": len(finished), "values": shares})
    return entries, "; ".join(reasons)


def _shares(study: Study, keys: list[str], index: int, sign: float) -> dict[str, float]:
    from optuna.importance import get_param_importances

    with warnings.catch_warnings():
        # That targets are minimised, which `sign` sees to; that trials are few, which the report says.
        warnings.simplefilter("ignore", UserWarning)
        found = get_param_importances(study, params=keys, target=lambda trial: sign * trial.values[index])
    return dict(sorted(((key, float(share)) for key, share in found.items()), key=lambda pair: (-pair[1], pair[0])))
