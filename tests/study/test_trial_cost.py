"""What a trial is said to have cost."""

import optuna
import pytest

from app.study.children import Children
from app.study.storage import FAILED_S, trial_s
from app.study.trial_run import run_trial


def test_a_trial_that_is_run_again_and_fails_has_cost_both(plan_of):
    def fails(config, **_):
        sum(range(10**6))
        raise RuntimeError("no memory")

    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    trial.set_user_attr(FAILED_S, 100.0)  # as its first attempt left it: a retry takes over what was kept of it
    with pytest.raises(RuntimeError, match="no memory"):
        run_trial(plan_of(), trial, fails, Children("toy", None))
    assert 100.0 < trial_s(study.trials[0]) < 110.0
