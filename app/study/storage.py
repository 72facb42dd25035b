"""Where the trials of a study are kept: a journal file, or a database for many machines."""

from __future__ import annotations

import re
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study, create_study, load_study
from optuna.trial import FrozenTrial, TrialState

from app.study.database import LivingDatabase
from app.study.heartbeat import BEATS_A_GRACE, LivingJournal, check_journal
from app.study.plan import Plan
from app.study.samplers import make_pruner, make_sampler

MAX_RETRIES = 3  # a trial that kills its worker every time, for memory say, must end one day
DRIVERS = {"psycopg2": "psycopg2-binary", "psycopg": "'psycopg[binary]'", "MySQLdb": "mysqlclient"}  # module to package
SURPLUS = "surplus"
FAILED_S = "failed_cpu_seconds"
FIRST_TOTAL = "first_total"
FORGOTTEN_S = 60
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
    check_storage(storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats and retries; in Optuna since 2.9
        again = RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)
        try:
            if not is_url(storage):
                Path(storage).parent.mkdir(parents=True, exist_ok=True)
                return LivingJournal(Path(storage), grace_s, again)
            return LivingDatabase(
                storage,
                heartbeat_interval=max(1, grace_s // BEATS_A_GRACE),
                grace_period=grace_s,
                heartbeat_stale_trial_callback=again,
            )
        except Exception as error:  # of the file, the driver or the server: each has its own kinds
            raise ValueError(unusable(storage, error)) from error


def check_storage(storage: str) -> None:
    """Refuse what is neither a journal file nor a database's URL; nothing is made.

    Errors: ValueError with what to type.
    """
    scheme, colon, rest = storage.partition(":")
    if colon and scheme.replace("+", "").isalnum() and not rest.startswith("//"):
        raise ValueError(
            f"--storage {shown(storage)}: a URL has // behind {scheme}: ; write {scheme}:///{rest.lstrip('/')}"
        )
    if not is_url(storage):
        check_journal(Path(storage))
    elif scheme == "sqlite" and not (folder := Path(rest.removeprefix("///")).parent).is_dir():
        raise ValueError(f"--storage {storage}: there is no folder {folder}; make it, or name a file elsewhere")


def unusable(storage: str, error: Exception) -> str:
    """Return what to say of a storage that can't be used."""
    said = shown(" ".join(str(error).split()))[:300]
    if isinstance(error, ModuleNotFoundError):
        package = DRIVERS.get(str(error.name), error.name)
        return f"--storage {shown(storage)} needs its database's driver ({said}): pip install {package}"
    return (
        f"--storage {shown(storage)} can't be used ({type(error).__name__}: {said}). Expected a journal file that this "
        "command wrote, or the URL of a database that answers"
    )


def open_study(plan: Plan) -> Study:
    """Open the plan's study, made where there is none, with the plan's first trial in waiting.

    Errors: ValueError as `open_storage`, and where the study was begun with other settings.
    """
    storage = open_storage(plan.storage, plan.grace_s)
    directions: list[Any] = [objective.direction for objective in plan.objectives]
    try:
        study = create_study(storage=storage, study_name=plan.name, directions=directions)
        study.set_user_attr(FIRST_TOTAL, plan.trials)
        if plan.first is not None:
            study.enqueue_trial(dict(plan.first))
    except DuplicatedStudyError:
        study = load_study(storage=storage, study_name=plan.name)
    if not study.user_attrs.get("plan"):
        study.set_user_attr("plan", plan.fingerprint())
    plan.check_same(study.user_attrs["plan"])  # read back: another machine may have been as fast
    # By the total that the study began with: a sampler must not begin anew where more trials are asked for.
    trials = int(study.user_attrs.get(FIRST_TOTAL, plan.trials))
    study.sampler = make_sampler(plan.sampler, plan.seed, plan.space, trials=trials)
    study.pruner = make_pruner(plan.pruner)
    return study


def superseded(trials: list[FrozenTrial]) -> set[int]:
    """Return the numbers of trials that were given up and run again under another number."""
    return {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}


def died(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that ended with their worker, not by an error of their own, run again or not."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    return [trial for trial in failed if not trial.user_attrs.get("error") and not trial.user_attrs.get(SURPLUS)]


def requeue_forgotten(study: Study) -> None:
    """Queue again the trials that a process gave up and did not live to queue: failed a minute ago, with no retry."""
    trials = study.get_trials(deepcopy=False)
    gone, before = superseded(trials), datetime.now() - timedelta(seconds=FORGOTTEN_S)
    for trial in died(trials):
        often = len(trial.system_attrs.get("retry_history", [])) >= MAX_RETRIES
        late = trial.datetime_complete is not None and trial.datetime_complete < before
        if late and not often and trial.number not in gone:
            study._storage.get_heartbeat_stale_trial_callback()(study, trial)  # type: ignore[attr-defined]


def error_of(trial: FrozenTrial) -> str | None:
    """Return why a trial failed, in one line; None where it did not."""
    if trial.state != TrialState.FAIL or trial.user_attrs.get("error"):
        return trial.user_attrs.get("error")
    deaths = 1 + len(trial.system_attrs.get("retry_history", []))
    times = "" if deaths == 1 else f" {deaths} times"
    return f"its worker died{times}, perhaps for memory: a smaller batch or fewer --jobs need less"


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
