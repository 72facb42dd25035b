"""The median pruner sees every fold of a trial, and one poor validation stops nobody."""

import math

import optuna
import pytest
from optuna.trial import TrialState

from app.study.children import Children
from app.study.median import MedianPruner
from app.study.samplers import make_pruner
from app.study.trial_run import run_trial

CURVE = [0.25, 0.5, 0.75]  # of every run of the trials before


def runner_of(curves):
    """A runner whose validations on each fold are given: it stops where it is told to, as a training does."""

    def run(config, *, reports, **_):
        values = curves[config["data"]["init_args"]["fold"]]
        for update, value in enumerate(values):
            if reports.add(value, update):
                break
        return {"run_id": None, "metrics": {"val/top1": values[-1], "val/loss": values[-1]}}

    return run


@pytest.fixture
def study_of(plan_of):
    """Return a function that makes a study of two folds with complete trials, and one that runs a trial in it."""

    def make(before=6, pruner="median", metric="val/top1", sign=1):
        direction = "maximize" if metric == "val/top1" else "minimize"
        plan = plan_of(folds=(0, 1), pruner="median", objectives=(metric,))
        study = optuna.create_study(direction=direction, pruner=make_pruner(pruner))

        def run(*curves):
            """Return (validations seen, the pruner's words)."""
            trial = study.ask()
            runner = runner_of([[sign * value for value in curve] for curve in curves])
            try:
                study.tell(trial, run_trial(plan, trial, runner, Children("toy", None)))
            except optuna.TrialPruned as pruned:
                study.tell(trial, state=TrialState.PRUNED)
                return len(study.trials[-1].intermediate_values), str(pruned)
            return len(study.trials[-1].intermediate_values), ""

        for _ in range(before):
            assert run(CURVE, CURVE) == (6, "")
        return run

    return make


@pytest.mark.parametrize(("metric", "sign"), [("val/top1", 1), ("val/loss", -1)])
def test_a_trial_that_fails_on_its_second_fold_is_stopped_there(study_of, metric, sign):
    run = study_of(metric=metric, sign=sign)
    seen, said = run([0.3, 0.6, 0.9], [-0.9, -0.9, -0.9])
    assert (seen, said) == (4, f"after validation 1 (update 0) on fold 1, by median on {metric}")
    assert run([0.3, 0.6, 0.9], [0.3, 0.6, 0.9]) == (6, "")


def test_a_trial_is_stopped_on_its_first_fold_after_the_first_validation(study_of):
    run = study_of()
    assert run([0.1, 0.2, 0.3], CURVE)[0] == 2
    assert run([0.0, 0.6, 0.9], CURVE) == (6, "")


def test_one_poor_validation_stops_nobody(study_of):
    assert study_of()(CURVE, [0.9, 0.0, 0.9]) == (6, "")


def test_five_trials_are_waited_for(study_of):
    assert study_of(before=4)([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) == (6, "")
    assert study_of(before=5)([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])[0] == 2


def test_a_value_that_is_no_number_stops_a_trial_and_decides_nothing_for_others(study_of):
    run = study_of()
    assert run([0.3, math.nan, 0.9], CURVE)[0] == 2
    study = optuna.create_study(direction="maximize")
    for values in [[0.2, 0.5], [0.2, math.nan], [0.2, math.nan]]:
        trial = study.ask()
        for step, value in enumerate(values):
            trial.report(value, step)
        study.tell(trial, 0.5)
    trial = study.ask()
    for step, (value, stopped) in enumerate([(0.1, False), (0.4, True)]):
        trial.report(value, step)
        assert MedianPruner(start_up=3).prune(study, study.trials[-1]) is stopped


def test_hyperband_compares_newest_means_so_that_a_later_fold_counts(study_of):
    """Which bracket a trial is in is drawn from its number; some look at the first validation of fold 1."""
    run = study_of(before=30, pruner="hyperband")
    said = [run([0.5, 0.8, 0.9], [0.0, 0.0, 0.0])[1] for _ in range(12)]
    assert any("on fold 1" in each for each in said)
