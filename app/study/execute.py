"""A study from its first trial to its last: workers, what a person sees, files written after every trial, MLflow."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.comparison.store import finite, logs_folder
from app.study.plan import Plan
from app.study.progress import Progress
from app.study.team import Team
from app.study.trial_run import Runner, experiment_runner

if TYPE_CHECKING:
    from optuna.study import Study

    from app.comparison.parent import ParentRun

POLL_S = 1.0
STALE_EVERY_S = 5.0
SETUP_TIMEOUT_S = 120.0
FRUITLESS = 3  # trials that all fail alike


def run_study(plan: Plan, jobs: int = 1, runner: Runner = experiment_runner, track: bool = True) -> dict[str, Any]:
    """Run what is missing of a study with `jobs` workers; return its summary, with all files written.

    Other commands of the same study, here or elsewhere, are fellow workers. The call ends when no trial is left to
    run, those of the others included, or when `limit_hours` is spent.

    Errors: ValueError as `open_study`, and where workers die without end. KeyboardInterrupt passes through, when the
    workers have given their trials back.
    """
    import optuna

    from app.study.summary import summarise

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, parent = _begun(plan, track)
    team = Team(plan, jobs, parent.run_id if parent else None, runner)
    status = "KILLED"
    try:
        _watch(plan, study, team, parent)
        status = "FINISHED"
    finally:
        team.end()
        summary = summarise(study, plan)
        files = write_files(plan, summary)
        if parent:
            _finish(parent, study, status, files)
    return summary


def _begun(plan: Plan, track: bool) -> tuple[Study, ParentRun | None]:
    """Open the study and its MLflow run, one command of this folder after the other."""
    from filelock import FileLock

    from app.comparison.parent import ParentRun
    from app.comparison.provenance import code_version
    from app.study.storage import open_study

    logs = logs_folder(plan.output)
    with FileLock(logs / "setup.lock", timeout=SETUP_TIMEOUT_S):
        study = open_study(plan)
        if not track:
            return study, None
        known = study.user_attrs.get("parent_run_id")
        parent = ParentRun(plan.name, known, {"git_sha": code_version()}, kind="sweep")
        if parent.run_id != known:
            study.set_user_attr("parent_run_id", parent.run_id)
        if (first := study.user_attrs["parent_run_id"]) != parent.run_id:  # another machine was as fast
            parent.finish("KILLED", [])
            parent = ParentRun(plan.name, first, {}, kind="sweep")
        return study, parent


def _watch(plan: Plan, study: Study, team: Team, parent: ParentRun | None) -> None:
    """Keep the team at work until the study is done; write the files whenever a trial has ended."""
    from optuna.trial import TrialState

    from app.study.storage import room
    from app.study.summary import summarise

    told, lost = _ended_numbers(study), set[int]()
    looked, waiting = 0.0, False
    with Progress(plan, study) as progress:
        while True:
            if time.monotonic() - looked > STALE_EVERY_S:
                lost = _give_up_stale(study, parent, lost)
                looked = time.monotonic()
            for sentence in team.bury():
                progress.say(sentence)
                looked = 0.0
            trials = study.get_trials(deepcopy=False)
            new = [trial for trial in trials if trial.state.is_finished() and trial.number not in told]
            if new:
                team.deaths = 0
                told |= {trial.number for trial in new}
                summary = summarise(study, plan)
                for trial in new:
                    progress.ended(trial.number, summary)
                files = write_files(plan, summary)
                if parent:
                    _store(parent, files)
                _refuse_fruitless(summary, plan)
                continue
            team.check_deaths()
            if room(plan, trials):
                team.fill()
            elif not team.alive and not any(trial.state == TrialState.RUNNING for trial in trials):
                return
            elif not team.alive and not waiting:
                waiting = True
                progress.wait_for([trial for trial in trials if trial.state == TrialState.RUNNING])
            progress.beat(trials)
            time.sleep(POLL_S)


def _refuse_fruitless(summary: Mapping[str, Any], plan: Plan) -> None:
    """End a study whose trials all fail in one way: what the first of them lack, the next would lack.

    Errors: ValueError with their error.
    """
    ended = [trial for trial in summary["trials"] if trial["state"] in ("complete", "pruned", "failed")]
    errors = {str(trial["error"]) for trial in ended}
    if len(ended) >= FRUITLESS and all(trial["state"] == "failed" for trial in ended) and len(errors) == 1:
        raise ValueError(
            f"all {len(ended)} trials so far failed with: {errors.pop()}. Mend the experiment or the space and sweep "
            f"anew (--study NAME); logs are in {plan.output}/logs. If it was this machine, the same command goes on"
        )


def _ended_numbers(study: Study) -> set[int]:
    return {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}


def _give_up_stale(study: Study, parent: ParentRun | None, known: set[int]) -> set[int]:
    """Have the trials of dead workers run again, and end what they left open in MLflow.

    Returns the numbers of all trials that died with their worker; `known` are those of the time before.
    """
    import optuna

    from app.study.children import Children
    from app.study.storage import died, requeue_forgotten

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
        requeue_forgotten(study)
    dead = {trial.number for trial in died(study.get_trials(deepcopy=False))}
    if parent and dead - known:
        Children(study.study_name, parent.run_id).end_lost(dead)
    return dead


def write_files(plan: Plan, summary: Mapping[str, Any]) -> list[Path]:
    """Write sweep.json, report.md, trials.csv and the best trials' configurations; return their paths."""
    from app.study.best import write_best
    from app.study.report import markdown, trials_csv

    plan.output.mkdir(parents=True, exist_ok=True)
    texts = {
        "sweep.json": json.dumps(finite(summary), indent=1, allow_nan=False) + "\n",
        "report.md": markdown(summary),
        "trials.csv": trials_csv(summary),
    }
    for name, text in texts.items():
        unfinished = plan.output / f".{name}.{os.getpid()}.unfinished"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, plan.output / name)
    return [*(plan.output / name for name in texts), *write_best(plan, summary)]


def _store(parent: ParentRun, files: list[Path]) -> None:
    """Store the files with the MLflow run; a store that does not take them must not end a study."""
    try:
        parent.store(files)
    except Exception as error:
        print(f"The files could not be stored in MLflow now ({error}); they are in {files[0].parent}.", file=sys.stderr)


def _finish(parent: ParentRun, study: Study, status: str, files: list[Path]) -> None:
    """End the study's MLflow run, unless workers of another command go on with it."""
    from optuna.trial import TrialState

    _store(parent, files)
    if any(trial.state == TrialState.RUNNING for trial in study.get_trials(deepcopy=False)):
        return
    try:
        parent.finish(status, [])
    except Exception as error:
        print(f"The study's MLflow run {parent.run_id} could not be ended: {error}", file=sys.stderr)
