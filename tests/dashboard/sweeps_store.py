"""Writes studies into a tracking store: a parent run of kind `sweep` with `sweep.json`, and its trials' runs.

    python tests/dashboard/sweeps_store.py FOLDER      FOLDER/mlflow.db with the studies of `fill_sweeps`

The numbers come from formulas with a seed, not from training: for tests and for pictures that say so.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

LR, SCALING, STRENGTH, WIDTH, GATED, DROP, STEPS = (
    f"model.init_args.{name}"
    for name in ("lr", "lag_scaling", "lag_strength", "width", "gated", "drop_path", "milestones")
)
SPACE = {
    LR: {"low": 1e-4, "high": 1e-1, "log": True},
    SCALING: {"choices": ["none", "inverse", "exponential"]},
    STRENGTH: {"low": 0.5, "high": 4.0, "when": {SCALING: ["inverse", "exponential"]}},
    WIDTH: {"low": 8, "high": 64, "step": 8},
    GATED: {"choices": [True, False]},
    DROP: {"choices": [None, 0.1, 0.2]},
    STEPS: {"choices": [[30, 60], [45], []]},
}
ERROR = (
    "RuntimeError: the loss of update 120 is not finite (nan): a lower learning rate, or --trainer.gradient_clip_val"
)
VALIDATIONS = 8
NEWEST_MS = 1_795_000_000_000


def drawn(chance: random.Random) -> dict[str, Any]:
    """Return the parameters of one trial."""
    params: dict[str, Any] = {LR: 10 ** chance.uniform(-4, -1), SCALING: chance.choice(SPACE[SCALING]["choices"])}
    if params[SCALING] != "none":
        params[STRENGTH] = chance.uniform(0.5, 4.0)
    return params | {
        WIDTH: chance.randrange(8, 65, 8),
        **{key: chance.choice(SPACE[key]["choices"]) for key in (GATED, DROP, STEPS)},
    }


def accuracy(params: dict[str, Any], chance: random.Random) -> float:
    """Return a score from 0 to 1 that depends on the parameters, most on the learning rate."""
    far = abs(math.log10(params[LR]) + 2.2) / 1.8
    scaling = {"none": -0.08, "inverse": 0.03, "exponential": 0.0}[params[SCALING]]
    score = 0.82 - 0.45 * far**1.5 + scaling + 0.02 * math.log2(params[WIDTH] / 8) + chance.gauss(0, 0.015)
    return min(max(score, 0.05), 0.99)


def trial(number: int, **changes: Any) -> dict[str, Any]:
    """Return one entry of `trials` in the contract's form, complete with the value 0.5 where nothing else is given."""
    entry = {
        "number": number,
        "state": "complete",
        "params": {LR: 0.01},
        "values": [0.5],
        "steps": [],
        "started": f"2026-11-20T10:{number % 60:02d}:00+00:00",
        "seconds": 61.5,
        "cpu_seconds": 120.0,
        "run_ids": [f"{number:032x}"],
        "error": None,
        "pruned": None,
        "retry_of": None,
        "worker": "host:4242",
    }
    return entry | changes


def summary(name: str, trials: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a sweep.json in the contract's form; best and front are those of its first objective."""
    objectives = changes.pop("objectives", [{"metric": "val/top1", "direction": "maximize"}])
    complete = [each for each in trials if each["state"] == "complete"]
    signs = [-1 if each["direction"] == "maximize" else 1 for each in objectives]
    front = sorted(
        (each for each in complete if not _beaten(each, complete, signs)), key=lambda each: signs[0] * each["values"][0]
    )
    best = None
    if front:
        folder = f"runs/sweeps/{name}"
        best = {key: front[0][key] for key in ("values", "params")} | {"trial": front[0]["number"]}
        best["command"] = f"skip-sideways fit --config {folder}/best.yaml"
    content = {
        "schema_version": 1,
        "study": name,
        "experiment": "weizmann.yaml",
        "command": f"skip-sideways sweep --config weizmann.yaml --space s.yaml --trials {len(trials)} --study {name}",
        "sampler": "tpe",
        "pruner": "none",
        "seed": 0,
        "trials_asked": len(trials),
        "folds": [0, 1],
        "seeds": [0],
        "space": SPACE,
        "objectives": objectives,
        "importances": [],
        "importances_why_none": "2 complete trials; importances need at least 4",
        "best": best,
        "front": [each["number"] for each in (front if len(objectives) > 1 else front[:1])],
        "cpu_seconds": float(sum(each["cpu_seconds"] or 0 for each in trials)),
        "trials": trials,
    }
    return content | changes


def _beaten(one: dict[str, Any], others: list[dict[str, Any]], signs: list[int]) -> bool:
    def of(each: dict[str, Any]) -> list[float]:
        return [sign * value for sign, value in zip(signs, each["values"], strict=True)]

    mine = of(one)
    return any(of(each) != mine and all(a <= b for a, b in zip(of(each), mine, strict=True)) for each in others)


def shares(metric: str) -> dict[str, Any]:
    """Return one entry of `importances`."""
    values = {LR: 0.61, SCALING: 0.17, WIDTH: 0.12, STRENGTH: 0.06, DROP: 0.02, GATED: 0.015, STEPS: 0.005}
    return {"metric": metric, "trials": 20, "values": values}


def mixed(number: int = 40) -> dict[str, Any]:
    """Return a study of one objective, more is better, that is still running: every state but waiting is there."""
    chance = random.Random(6)
    trials = []
    for place in range(number):
        params = drawn(chance)
        final = accuracy(params, chance)
        steps = [[step, final * (1 - 0.48 * 0.6**step) + chance.gauss(0, 0.008)] for step in range(VALIDATIONS)]
        state = "pruned" if final < 0.55 and place > 5 else "complete"
        if params[LR] > 0.06:
            state = "failed"
        given: dict[str, Any] = {"params": params, "steps": steps, "values": [final], "state": state}
        if state == "pruned":
            given |= {"steps": steps[:3], "values": None, "pruned": "after validation 3 of fold 0 (update 120)"}
        elif state == "failed":
            given |= {"steps": [], "values": None, "error": ERROR}
        trials.append(trial(place, **given))
    retried = trial(number, params=drawn(chance), state="retried", values=None, seconds=None, cpu_seconds=None)
    going = trial(number + 1, params=retried["params"], state="running", values=None, retry_of=number,
                  steps=[[0, 0.31], [1, 0.45]], seconds=None, cpu_seconds=None)  # fmt: skip
    waiting = trial(number + 2, state="waiting", params={}, values=None, started=None, seconds=None,
                    cpu_seconds=None, run_ids=[], worker=None)  # fmt: skip
    return summary(
        "weizmann-wiring", [*trials, retried, going, waiting], trials_asked=60, pruner="median",
        importances=[shares("val/top1")], importances_why_none="",
    )  # fmt: skip


def two_objectives(number: int = 40) -> dict[str, Any]:
    """Return a study of accuracy against latency."""
    chance = random.Random(2)
    trials = []
    for place in range(number):
        params = drawn(chance)
        tick_ms = 0.6 + 0.03 * params[WIDTH] + (0.2 if params[GATED] else 0.0) + chance.gauss(0, 0.02)
        trials.append(trial(place, params=params, values=[accuracy(params, chance), tick_ms]))
    objectives = [
        {"metric": "val/top1", "direction": "maximize"},
        {"metric": "latency/tick_ms", "direction": "minimize"},
    ]
    return summary(
        "accuracy-latency", trials, objectives=objectives, sampler="nsga2",
        importances=[shares("val/top1")], importances_why_none="latency/tick_ms is 1 in every trial",
    )  # fmt: skip


def minimised(number: int = 25) -> dict[str, Any]:
    """Return a study of a loss that spans decades, less is better."""
    chance = random.Random(4)
    trials = [
        trial(place, params=params, values=[10 ** (4 * (0.9 - accuracy(params, chance)))])
        for place, params in enumerate(drawn(chance) for _ in range(number))
    ]
    return summary(
        "loss", trials, objectives=[{"metric": "val/loss", "direction": "minimize"}], sampler="random", trials_asked=40
    )


def write_study(
    client: MlflowClient,
    experiment: str,
    content: Any,
    *,
    status: str = "FINISHED",
    started_ms: int = NEWEST_MS,
    **tags: str,
) -> str:
    """Write a study's run with its artifact (an object, or text as it stands; None: no artifact); return its id."""
    named = content["study"] if isinstance(content, dict) and isinstance(content.get("study"), str) else "study"
    tags = {"kind": "sweep", "study": named, "schema_version": "1", "git_sha": "0123abc", **tags}
    run_id = client.create_run(experiment, start_time=started_ms, tags=tags, run_name=named[:200]).info.run_id
    write_content(client, run_id, content)
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


def write_content(client: MlflowClient, run_id: str, content: Any) -> None:
    """Write a study's artifact, as after another trial."""
    if content is not None:
        client.log_text(run_id, content if isinstance(content, str) else json.dumps(content), "sweep.json")


def write_children(client: MlflowClient, experiment: str, parent: str, content: dict[str, Any]) -> None:
    """Write a run of kind `trial` for each trial, as a sweep does."""
    for each in content["trials"]:
        tags = {"kind": "trial", "study": content["study"], "trial": str(each["number"]), "schema_version": "1",
                "trial_state": each["state"], "mlflow.parentRunId": parent, "dataset": "weizmann"}  # fmt: skip
        run_id = client.create_run(experiment, tags=tags).info.run_id
        if each["values"]:
            client.log_metric(run_id, "val/top1", each["values"][0])
        client.set_terminated(run_id, "FAILED" if each["state"] == "failed" else "FINISHED")


def fill_sweeps(client: MlflowClient, folder: Path) -> dict[str, str]:
    """Write the studies of this file, `mixed` the newest; return the run ids by name."""
    experiment = client.create_experiment("sweeps", artifact_location=(folder / "artifacts").as_uri())
    written = {}
    for age, (content, status) in enumerate(
        ((mixed(), "RUNNING"), (two_objectives(), "FINISHED"), (minimised(), "KILLED"))
    ):
        started_ms = NEWEST_MS - 3_600_000 * age
        written[content["study"]] = write_study(client, experiment, content, status=status, started_ms=started_ms)
    return written


if __name__ == "__main__":
    into = Path(sys.argv[1]).resolve()
    into.mkdir(parents=True, exist_ok=True)
    for study, run in fill_sweeps(MlflowClient(f"sqlite:///{into / 'mlflow.db'}"), into).items():
        print(run, study)
