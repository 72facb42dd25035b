"""A worker process: takes one trial after another from the study until the study has enough."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

from app.comparison.worker import end_with_parent, one_line, output_to
from app.study.plan import Plan

GIVEN_UP = "This worker was silent for too long: trial {number} was given up and is run again; its result is left out."


class _SurplusError(Exception):
    """A trial that was begun at the same moment as the last one."""


def serve(plan: Plan, parent_run_id: str | None, runner: Any) -> None:
    """The process's main function: run trials, with everything they print in a log file of this worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what ends
    signal.signal(signal.SIGTERM, _leave)
    end_with_parent()
    with output_to(plan.output / "logs" / f"worker-{os.getpid()}.log"):
        try:
            work(plan, parent_run_id, runner)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGTERM)
        except Exception:
            traceback.print_exc()
            sys.exit(1)


def _leave(number: int, frame: Any) -> None:
    sys.exit(128 + number)


def work(plan: Plan, parent_run_id: str | None, runner: Any) -> None:
    """Run trials in this process while the study has room for them.

    Errors: as `app.study.storage.open_study`. What a trial raises is kept with it and ends no worker.
    """
    import optuna

    from app.study.storage import open_study, room

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(plan)
    objective = _Objective(plan, parent_run_id, runner)
    while room(plan, study.get_trials(deepcopy=False)):
        with warnings.catch_warnings():
            # Of choices that are lists: a journal and a database keep them as text.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                study.optimize(objective, n_trials=1, catch=(Exception,))
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                if objective.leaving:
                    raise KeyboardInterrupt from None
                if not objective.given_up(study):
                    raise
                print(GIVEN_UP.format(number=objective.number), file=sys.stderr)


class _Objective:
    """What Optuna calls for a trial: the values for its objectives."""

    def __init__(self, plan: Plan, parent_run_id: str | None, runner: Any) -> None:
        from app.study.children import Children

        self.plan, self.runner = plan, runner
        self.children = Children(plan.name, parent_run_id)
        self.number = -1
        self.leaving = False

    def __call__(self, trial: Any) -> tuple[float, ...]:
        from optuna.exceptions import TrialPruned

        from app.study.heartbeat import worker_name
        from app.study.storage import SURPLUS, one_too_many
        from app.study.trial_run import run_trial

        self.number = trial.number
        if one_too_many(self.plan, trial.study.get_trials(deepcopy=False), trial.number):
            trial.set_user_attr(SURPLUS, True)
            raise _SurplusError
        trial.set_user_attr("worker", worker_name())
        try:
            return run_trial(self.plan, trial, self.runner, self.children)
        except TrialPruned as pruned:
            trial.set_user_attr("pruned", str(pruned))
            raise
        except Exception as error:
            trial.set_user_attr("error", one_line(error))
            raise
        except SystemExit as stop:  # told to leave: somebody else shall run this trial, at once
            self.leaving = True
            give_back(trial)
            raise KeyboardInterrupt from stop

    def given_up(self, study: Any) -> bool:
        """Return whether the trial of this process was taken for dead."""
        return self.number in {
            number for trial in study.get_trials(deepcopy=False) for number in _history(trial.system_attrs)
        }


def give_back(trial: Any) -> None:
    """End a running trial and queue it again: in this order, so that to be killed in between makes no two of it."""
    from optuna.trial import TrialState

    storage = trial.study._storage
    storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
    storage.get_heartbeat_stale_trial_callback()(trial.study, storage.get_trial(trial._trial_id))


def _history(attributes: Mapping[str, Any]) -> list[int]:
    return list(attributes.get("retry_history", []))
