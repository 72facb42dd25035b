"""tuning.json of a comparison that sweeps: for every row the chosen trial, all trials, and what the study cost.

A row whose study stands in it as finished is not run again, also where the study's own files are gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.comparison.overrides import WITHOUT_EFFECT, differences
from app.comparison.provenance import code_version
from app.comparison.store import Store

if TYPE_CHECKING:
    from app.study.plan import Plan

ENDED = ("complete", "pruned", "failed")
Choice = dict[str, Any]


class SweepRecord:
    """The rows' studies of one tuning.json.

    `choices`: by row, as `choice` makes them. `plans`: by row, what must stay the same for a study to be continued.
    """

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.header = self.store.header
        self.choices: dict[str, Choice] = self.header.setdefault("choices", {})
        self.plans: dict[str, dict[str, Any]] = self.header.setdefault("plans", {})

    def finished(self, row: str, plan: Plan) -> bool:
        """Whether the row's study has all the trials that the plan asks for."""
        return row in self.choices and self._trials(row) == plan.trials

    def changes(self, row: str, plan: Plan) -> list[str]:
        """What differs between the study that was begun for a row and its plan of now, one line each."""
        if row not in self.plans or not (row in self.choices or Path(plan.storage).exists()):
            return []
        found = differences(self.plans[row], fingerprint(plan))
        fewer = self._trials(row) > plan.trials
        return found or ([f"trials: was {self._trials(row)}, is {plan.trials}"] if fewer else [])

    def begin(self, row: str, plan: Plan) -> None:
        """Note with what a study is begun."""
        self.plans[row] = fingerprint(plan)
        self.store.save()

    def keep(self, row: str, plan: Plan, summary: Mapping[str, Any]) -> None:
        """Keep what came of a study. Errors: ValueError as `choice`."""
        self.choices[row] = choice(row, plan, summary)
        self.store.save()

    def set_aside(self, row: str, plan: Plan) -> None:
        """Forget a row's study, so that it begins anew; its files stay, under another name."""
        self.choices.pop(row, None)
        self.plans.pop(row, None)
        if plan.output.is_dir():
            number = 1
            while (aside := plan.output.with_name(f"{row}.before{number}")).exists():
                number += 1
            plan.output.rename(aside)

    def _trials(self, row: str) -> int:
        return int(self.choices[row]["sweep"]["trials"]) if "sweep" in self.choices.get(row, {}) else 0


def fingerprint(plan: Plan) -> dict[str, Any]:
    """What must stay the same, as JSON gives it back; without what has no effect on a result."""
    content: dict[str, Any] = json.loads(json.dumps(plan.fingerprint(), default=str))
    content["config"] = {key: value for key, value in content["config"].items() if key not in WITHOUT_EFFECT}
    return content


def choice(row: str, plan: Plan, summary: Mapping[str, Any]) -> Choice:
    """What is kept of a finished study. Trials have the study's numbers, from 0.

    Errors: ValueError where no trial has a score.
    """
    if summary["best"] is None:
        raise ValueError(
            f"--tune: every trial of row {row!r} failed, diverged or was pruned; read {plan.output}/logs, mend the row "
            f"or its space, delete {plan.output} and run again"
        )
    return {
        "trial": summary["best"]["trial"],
        "overrides": summary["best"]["params"],
        "trials": [_trial(trial) for trial in summary["trials"]],
        "sweep": _facts(plan, summary),
    }


def _trial(trial: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": trial["number"],
        "state": trial["state"],
        "overrides": trial["params"],
        "score": trial["values"][0] if trial["values"] else None,
        "cpu_seconds": trial["cpu_seconds"],
        **{key: trial[key] for key in ("error", "pruned") if trial.get(key)},
    }


def _facts(plan: Plan, summary: Mapping[str, Any]) -> dict[str, Any]:
    states = [trial["state"] for trial in summary["trials"]]
    return {
        "study": plan.name,
        "metric": plan.metrics[0],
        "sampler": plan.sampler,
        "pruner": plan.pruner,
        "seed": plan.seed,
        "trials": plan.trials,
        "states": {state: states.count(state) for state in sorted(set(states))},
        "runs_a_trial": len(plan.cells),
        "folds": list(plan.folds or ()),
        "seeds": list(plan.seeds),
        "cpu_seconds": summary["cpu_seconds"],
        "space": plan.space.plain(),
        "importances": next((entry["values"] for entry in summary["importances"]), {}),
        "importances_why_none": summary["importances_why_none"],
        "git_sha": code_version(),
    }
