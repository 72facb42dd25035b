"""A small plan and studies with trials of every kind, for the tests of summary, report and best.yaml."""

import datetime
from pathlib import Path

import optuna
from optuna.trial import TrialState, create_trial

from app.study.objectives import read_objectives
from app.study.plan import Plan
from app.study.space import read_space

START = datetime.datetime(2026, 1, 1, 12, 0, 0)
LR, WIRING, LAW, STRENGTH, UNITS = (
    f"model.init_args.{name}" for name in ("lr", "wiring", "lag_scaling", "lag_strength", "train_units")
)
SPACE = {
    LR: {"low": 1e-3, "high": 1e-1, "log": True},
    WIRING: ["concat", "dense"],
    LAW: ["off", "inverse"],
    STRENGTH: {"low": 0.5, "high": 2.0, "when": {LAW: "inverse"}},
    UNITS: ["all", [3, 4]],
}
CONFIG = {
    "seed_everything": 7,
    "trainer": {"max_steps": 4, "logger": False, "accelerator": "cpu"},
    "model": {
        "class_path": "ActionRecognition",
        "init_args": {"depth": 4, "lr": 0.006, "wiring": "concat", "lag_scaling": "inverse", "lag_strength": 1.5},
    },
    "data": {"class_path": "MovingDigits", "init_args": {"frames": 8, "size": 32}},
    "checkpoint": {"dirpath": "runs/other"},
}


def make_plan(output=Path("runs/sweeps/digits"), objectives=("val/top1",), space=SPACE, **changes):
    """The plan of the examples."""
    return Plan(
        **{
            "name": "digits",
            "config": CONFIG,
            "space": read_space(space),
            "objectives": read_objectives(objectives),
            "trials": 12,
            "output": Path(output),
            "storage": str(Path(output) / "study.journal"),
            "experiment": "digits.yaml",
            "command": "skip-sideways sweep --config digits.yaml --space space.yaml --trials 12",
            **changes,
        }
    )


def make_study(plan):
    """An empty study of the plan, in memory."""
    return optuna.create_study(study_name=plan.name, directions=[each.direction for each in plan.objectives])


def add(
    study, plan, values=None, state=TrialState.COMPLETE, *, metrics=None, cpu=36.0, steps=None, user=None, **settings
):
    """Add a trial with these settings (lr=0.01, law="off", ...) and values; return its number."""
    chosen = {"lr": 0.01, "wiring": "concat", "law": "off", "units": "all", **settings}
    names = {"lr": LR, "wiring": WIRING, "law": LAW, "strength": STRENGTH, "units": UNITS}
    fixed = optuna.trial.FixedTrial(
        {
            names[name]: plan.space[names[name]].params_value(value)
            for name, value in chosen.items()
            if value is not None
        }
    )
    plan.space.suggest(fixed)
    number = len(study.get_trials(deepcopy=False))
    runs = [{"fold": 0, "seed": 0, "run_id": f"run{number}", "metrics": metrics or {}, "cpu_seconds": cpu}]
    trial = create_trial(
        state=state,
        params=fixed.params,
        distributions=fixed.distributions,
        values=values if state == TrialState.COMPLETE else None,
        intermediate_values=steps,
        user_attrs={"runs": runs if state == TrialState.COMPLETE else [], **(user or {})},
    )
    trial.datetime_start = START
    trial.datetime_complete = START + datetime.timedelta(seconds=40) if state.is_finished() else None
    study.add_trial(trial)
    return number


def many(study, plan, count=12):
    """Add complete trials whose score depends on the learning rate alone (and whose time grows with it)."""
    for index in range(count):
        lr = 1e-3 * 100 ** (index / (count - 1))
        score = 0.5 + 0.4 * index / (count - 1)
        values = [score, 10 * lr][: len(plan.objectives)]
        add(study, plan, values, lr=lr, wiring=["concat", "dense"][index % 2])
    return study
