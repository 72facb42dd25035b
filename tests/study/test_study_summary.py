"""A study as plain values: the same for the same study, JSON-able, and honest about what is not there."""

import json
import math
import warnings

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from study_examples import LAW, LR, STRENGTH, UNITS, WIRING, add, make_plan, make_study, many

from app.study.summary import counts, summarise

KEYS = {
    *(
        "schema_version",
        "study",
        "experiment",
        "command",
        "sampler",
        "pruner",
        "seed",
        "trials_asked",
        "folds",
        "seeds",
    ),
    *("space", "objectives", "importances", "importances_why_none", "best", "front", "cpu_seconds", "trials"),
}
TRIAL_KEYS = {
    *("number", "state", "params", "values", "steps", "started", "seconds", "cpu_seconds", "run_ids", "error"),
    *("pruned", "retry_of", "worker"),
}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def plan():
    return make_plan(folds=(0, 1), seeds=(3,))


def test_it_has_the_keys_of_the_contract_and_is_json(plan):
    summary = summarise(many(make_study(plan), plan), plan)
    assert set(summary) == KEYS
    assert all(set(trial) == TRIAL_KEYS for trial in summary["trials"])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["folds"], summary["seeds"], summary["trials_asked"]) == ([0, 1], [3], 12)
    assert summary["space"][STRENGTH] == {"low": 0.5, "high": 2.0, "when": {LAW: ["inverse"]}}
    assert summary["objectives"] == [{"metric": "val/top1", "direction": "maximize"}]


def test_the_same_study_gives_the_same_text(plan):
    texts = {json.dumps(summarise(many(make_study(plan), plan), plan)) for _ in range(3)}
    assert len(texts) == 1


def test_an_empty_study_has_no_best_and_says_why_no_importances(plan):
    summary = summarise(make_study(plan), plan)
    assert (summary["best"], summary["front"], summary["importances"]) == (None, [], [])
    assert summary["importances_why_none"] == "0 complete trials; importances need at least 4"
    assert summary["cpu_seconds"] == 0


def test_a_trial_holds_what_the_configuration_would(plan):
    study = make_study(plan)
    add(
        study,
        plan,
        [0.5],
        units=[3, 4],
        law="inverse",
        strength=1.25,
        metrics={"val/loss": 1.0},
        steps={2: 0.5, 1: 0.25},
    )
    (trial,) = summarise(study, plan)["trials"]
    assert trial["params"] == {LR: 0.01, WIRING: "concat", LAW: "inverse", STRENGTH: 1.25, UNITS: [3, 4]}
    assert trial["steps"] == [[1, 0.25], [2, 0.5]]
    assert (trial["values"], trial["seconds"], trial["cpu_seconds"], trial["run_ids"]) == ([0.5], 40.0, 36.0, ["run0"])
    assert trial["started"].endswith("+00:00")


def test_states_and_what_each_tells(plan):
    study = make_study(plan)
    add(study, plan, [0.5])
    pruned = "after validation 3 (update 120)"
    add(study, plan, state=TrialState.PRUNED, steps={0: 0.2, 1: math.nan}, user={"pruned": pruned, "worker": "here:1"})
    add(study, plan, state=TrialState.FAIL, user={"error": "ValueError: no"})
    add(study, plan, state=TrialState.RUNNING)
    add(study, plan, state=TrialState.WAITING)
    summary = summarise(study, plan)
    assert [trial["state"] for trial in summary["trials"]] == ["complete", "pruned", "failed", "running", "waiting"]
    assert counts(summary) == dict.fromkeys(["complete", "pruned", "failed", "running", "waiting"], 1)
    assert (summary["trials"][1]["pruned"], summary["trials"][1]["values"]) == (pruned, None)
    assert summary["trials"][1]["steps"] == [[0, 0.2], [1, None]]
    assert (summary["trials"][1]["worker"], summary["trials"][2]["error"]) == ("here:1", "ValueError: no")
    assert summary["trials"][3]["seconds"] is None


def test_a_trial_whose_worker_died_is_retried_and_not_failed(plan):
    study = make_study(plan)
    runs = [{"fold": 0, "seed": 3, "run_id": "first", "metrics": {}, "cpu_seconds": 10.0}]
    add(study, plan, state=TrialState.FAIL, user={"runs": runs})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        again = RetryHeartbeatStaleTrialCallback()
    again(study, study.get_trials()[0])
    add(study, plan, state=TrialState.FAIL, user={"error": "ValueError: no"})
    summary = summarise(study, plan)
    assert [trial["state"] for trial in summary["trials"]] == ["retried", "waiting", "failed"]
    assert [trial["retry_of"] for trial in summary["trials"]] == [None, 0, None]
    assert summary["cpu_seconds"] == 10.0, "the retry carries the finished runs of the first attempt"


def test_a_trial_beyond_the_total_is_not_shown(plan):
    study = make_study(plan)
    add(study, plan, [0.5])
    add(study, plan, state=TrialState.FAIL, user={"surplus": True})
    assert [trial["number"] for trial in summarise(study, plan)["trials"]] == [0]


@pytest.mark.parametrize(("objective", "best"), [("val/top1", 2), ("val/loss", 0)])
def test_the_best_by_direction(objective, best):
    plan = make_plan(objectives=[objective])
    study = make_study(plan)
    for value in (0.2, 0.4, 0.8, 0.6):
        add(study, plan, [value])
    summary = summarise(study, plan)
    assert (summary["best"]["trial"], summary["front"]) == (best, [best])
    assert summary["best"]["command"] == "skip-sideways fit --config runs/sweeps/digits/best.yaml"


@pytest.mark.parametrize(
    ("objective", "losses", "best"),
    [
        ("val/top1", [{"val/loss": 2.0}, {"val/loss": 1.0}, {"val/loss": 1.0}], 1),
        ("test/top1", [{"test/loss": 1.5, "val/loss": 0.0}, {"test/loss": 2.0}, {"test/loss": 1.0}], 2),
        ("val/top1", [{"test/loss": 2.0}, {"test/loss": 1.0}, {"test/loss": 1.0}], 0),
        ("val/top1", [{"val/loss": 2.0}, {}, {"val/loss": 1.0}], 0),
    ],
    ids=["lower loss, then lower number", "of the clips it is chosen on", "never by other clips", "not all have it"],
)
def test_between_equals_the_loss_decides_and_then_the_number(objective, losses, best):
    plan = make_plan(objectives=[objective])
    study = make_study(plan)
    for metrics in losses:
        add(study, plan, [0.75], metrics=metrics)
    assert summarise(study, plan)["best"]["trial"] == best


def test_a_path_with_a_space_is_quoted():
    plan = make_plan(output="runs/my sweep")
    study = make_study(plan)
    add(study, plan, [0.5])
    assert summarise(study, plan)["best"]["command"] == "skip-sideways fit --config 'runs/my sweep/best.yaml'"


def test_the_front_is_optunas_in_the_first_objectives_order():
    plan = make_plan(objectives=["val/top1", "latency/tick_ms:minimize"])
    study = make_study(plan)
    for values in ([0.5, 1.0], [0.9, 5.0], [0.9, 6.0], [0.7, 2.0], [0.6, 3.0]):
        add(study, plan, values)
    add(study, plan, state=TrialState.PRUNED)
    summary = summarise(study, plan)
    assert summary["front"] == [1, 3, 0]
    assert set(summary["front"]) == {trial.number for trial in study.best_trials}
    assert (summary["best"]["trial"], summary["best"]["values"]) == (1, [0.9, 5.0])


def test_a_value_that_is_not_finite_is_null_and_never_the_best(plan):
    study = make_study(plan)
    add(study, plan, [math.inf])
    add(study, plan, [0.5])
    summary = summarise(study, plan)
    assert summary["trials"][0]["values"] == [None]
    assert summary["best"]["trial"] == 1


def test_importances_find_the_key_that_decides(plan):
    (entry,) = summarise(many(make_study(plan), plan), plan)["importances"]
    assert (entry["metric"], entry["trials"]) == ("val/top1", 12)
    assert next(iter(entry["values"])) == LR
    assert sum(entry["values"].values()) == pytest.approx(1)
    assert list(entry["values"].values()) == sorted(entry["values"].values(), reverse=True)


def test_importances_are_about_what_is_good_and_not_about_what_is_bad(plan):
    """The worst trials alone differ in their wiring: what makes a trial poor is not what makes one good."""
    study = make_study(plan)
    for index in range(20):
        add(study, plan, [index / 20], lr=0.001 if index < 18 else 0.09, wiring="dense" if index < 2 else "concat")
    (entry,) = summarise(study, plan)["importances"]
    assert entry["values"][LR] > 0.9


def test_every_objective_has_importances_of_its_own_unless_it_never_changes():
    plan = make_plan(objectives=["val/top1", "memory/peak_mib:minimize"])
    study = make_study(plan)
    for index in range(8):
        add(study, plan, [index / 10, 64.0], lr=0.001 * (index + 1))
    summary = summarise(study, plan)
    assert [entry["metric"] for entry in summary["importances"]] == ["val/top1"]
    assert summary["importances_why_none"] == "memory/peak_mib is 64 in every trial"


def test_no_importances_of_one_key():
    plan = make_plan(space={LR: {"low": 1e-3, "high": 1e-1}})
    study = make_study(plan)
    for index in range(6):
        add(study, plan, [index / 10], lr=0.001 * (index + 1), wiring=None, law=None, units=None)
    summary = summarise(study, plan)
    assert summary["importances"] == []
    assert summary["importances_why_none"] == "the space has one key; importances divide what several have"
