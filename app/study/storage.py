"""Where the trials of a study are kept: a journal file, or a database for many machines."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study, create_study, load_study
from optuna.trial import FrozenTrial, TrialState

from app.study.heartbeat import BEATS_A_GRACE, LivingJournal
from app.study.plan import Plan
from app.study.samplers import make_pruner, make_sampler

MAX_RETRIES = 3  # a trial that kills its worker every time, for memory say, must end one day
SURPLUS = "surplus"
FAILED_S = "failed_cpu_seconds"
_PASSWORDS = (
    re.compile(r"(://[^:/\s@]*:)\S*(@)"),
    re.compile(r"([?&](?:password|passwd|pwd)=)[^&\s]*()", re.IGNORECASE),
)


def is_url(storage: str) -> bool:
    """Return whether a storage is a database's URL, not a file."""
    return "://" in storage


def shown(storage: str) -> str:
    """Return a storage for people and logs: without its password.

    >>> shown("postgresql://me:sec/r@et@host/db"), shown("mysql://host/db?user=me&password=secret&ssl=1")
    ('postgresql://me:***@host/db', 'mysql://host/db?user=me&password=***&ssl=1')
    """
    for pattern in _PASSWORDS:
        storage = pattern.sub(r"\1***\2", storage)
    return storage


def open_storage(storage: str, grace_s: int) -> BaseStorage:
    """Open (or make) a storage whose dead workers' trials are run again.

    Errors: ValueError where the file can't be used or the database does not answer, or its driver is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats and retries; in Optuna since 2.9
        again = RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)
        try:
            if not is_url(storage):
                Path(storage).parent.mkdir(parents=True, exist_ok=True)
                return LivingJournal(Path(storage), grace_s, again)
            return RDBStorage(
                storage,
                heartbeat_interval=max(1, grace_s // BEATS_A_GRACE),
                grace_period=grace_s,
                heartbeat_stale_trial_callback=again,
            )
        except (OSError, ValueError, KeyError, AssertionError, ImportError, StorageInternalError) as error:
            raise ValueError(_unusable(storage, error)) from error
        except Exception as error:
            if not type(error).__module__.startswith("sqlalchemy"):  # the URL's or the driver's own errors
                raise
            raise ValueError(_unusable(storage, error)) from error


def _unusable(storage: str, error: Exception) -> str:
    said = shown(" ".join(str(error).split()))[:300]
    return (
        f"the storage {shown(storage)} can't be used ({type(error).__name__}: {said}). Expected a journal file that "
        "this command wrote (--storage FILE), or a database's URL whose driver is installed (--storage postgresql://...)."
    )


def open_study(plan: Plan) -> Study:
    """Open the plan's study, made where there is none, with the plan's first trial in waiting.

    Errors: ValueError as `open_storage`, and where the study was begun with other settings.
    """
    storage = open_storage(plan.storage, plan.grace_s)
    directions: list[Any] = [objective.direction for objective in plan.objectives]
    sampler = make_sampler(plan.sampler, plan.seed, plan.space, trials=plan.trials)
    pruner = make_pruner(plan.pruner)
    try:
        study = create_study(
            storage=storage, study_name=plan.name, directions=directions, sampler=sampler, pruner=pruner
        )
        made = True
    except DuplicatedStudyError:
        study = load_study(storage=storage, study_name=plan.name, sampler=sampler, pruner=pruner)
        made = False
    if known := study.user_attrs.get("plan"):
        plan.check_same(known)
    else:
        study.set_user_attr("plan", plan.fingerprint())
    if made and plan.first is not None:
        study.enqueue_trial(dict(plan.first))
    return study


def superseded(trials: list[FrozenTrial]) -> set[int]:
    """Return the numbers of trials that were given up and run again under another number."""
    return {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}


def counting(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count for the study's total: all but those given up and those one too many."""
    gone = superseded(trials)
    return [trial for trial in trials if trial.number not in gone and not trial.user_attrs.get(SURPLUS)]


def trial_s(trial: FrozenTrial) -> float:
    """Return the CPU seconds of a trial's runs, of one that failed too."""
    done = sum(float(run["cpu_seconds"]) for run in trial.user_attrs.get("runs", []))
    return done + float(trial.user_attrs.get(FAILED_S, 0.0))


def spent_s(trials: list[FrozenTrial]) -> float:
    """Return the CPU seconds of all runs but those that were cut off with their worker, which nobody measured."""
    gone = superseded(trials)  # what they had finished, their retries carry
    return sum(trial_s(trial) for trial in trials if trial.number not in gone)


def room(plan: Plan, trials: list[FrozenTrial]) -> bool:
    """Return whether a worker may begin another trial."""
    if plan.limit_hours is not None and spent_s(trials) >= 3600 * plan.limit_hours:
        return False
    counted = counting(trials)
    return len(counted) < plan.trials or any(trial.state == TrialState.WAITING for trial in counted[: plan.trials])


def one_too_many(plan: Plan, trials: list[FrozenTrial], number: int) -> bool:
    """Return whether trial `number` is beyond the total: two workers may ask for the last one at the same moment."""
    return len([trial for trial in counting(trials) if trial.number < number]) >= plan.trials
