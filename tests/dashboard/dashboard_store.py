"""Writes small tracking stores through the real MLflow client, in the run layout that training writes."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

TOP1 = {  # row: {(fold, seed): test/top1}
    "exact": {(0, 0): 0.90, (0, 1): 0.86, (1, 0): 0.94},
    "frozen": {(0, 0): 0.70, (0, 1): 0.74, (1, 0): 0.66},
    "skip-sideways": {(0, 0): 0.88, (0, 1): 0.87, (1, 0): 0.90},
    "sideways": {(0, 0): 0.80, (0, 1): 0.82},
}
SETTINGS = {  # row: rule, wiring, tick latency in ms
    "exact": ("backprop_shifted", "residual", 2.0),
    "frozen": ("backprop_shifted", "residual", 2.1),
    "skip-sideways": ("sideways", "residual", 1.0),
    "sideways": ("sideways", "chain", 0.9),
}


def write_run(client: MlflowClient, experiment: str, row: str, fold: int, seed: int, /, **changes) -> str:
    """Write one run; `changes` overrides tags, or `top1`, `status` and `validated`. Returns its id."""
    top1 = changes.pop("top1", TOP1.get(row, {}).get((fold, seed)))
    status = changes.pop("status", "FINISHED")
    validated = changes.pop("validated", True)
    rule, wiring, tick_ms = SETTINGS[row]
    tags = {
        "kind": "run",
        "row": row,
        "rule": rule,
        "wiring": wiring,
        "network": "small_cnn",
        "task": "action_recognition",
        "dataset": "moving_digits",
        "split": "generated",
        "fold": str(fold),
        "seed": str(seed),
        "git_sha": "0123abc",
        "device": "cpu",
        "torch": "2.13.0",
        "data_hash": f"hash{fold}",
        "executor": "vectorised",
        "stages": "1",
        "update": "clip",
        "stash": "none",
        "comparison": "demo",
        "schema_version": "1",
        **changes,
    }
    run = client.create_run(experiment, tags={key: value for key, value in tags.items() if value is not None})
    metrics = _curves(top1 if top1 is not None else 0.3, fold, seed)
    metrics = [metric for metric in metrics if validated or not metric.key.startswith("val/")]
    if top1 is not None:
        metrics += _results(top1, tick_ms + 0.1 * fold)
    client.log_batch(run.info.run_id, metrics=metrics)
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status)
    return run.info.run_id


def _curves(top1: float, fold: int, seed: int) -> list[Metric]:
    steps = range(0, 100, 10)
    reached = [top1 * (step + 10) / 100 + 0.01 * seed for step in steps]
    frames = [Metric("frames_seen", 128.0 * (step + 1), 0, step) for step in steps]
    accuracy = [Metric("val/top1", value, 0, step) for step, value in zip(steps, reached, strict=True)]
    losses = [Metric("train/loss", 2.3 - 2 * value, 0, step) for step, value in zip(steps, reached, strict=True)]
    return frames + accuracy + losses


def _results(top1: float, tick_ms: float) -> list[Metric]:
    values = {
        "test/top1": top1,
        "test/top5": 1.0,
        "test/loss": 1 - top1,
        "latency/tick_ms": tick_ms,
        "latency/step_p50_ms": 30 * tick_ms,
        "latency/step_p95_ms": 40 * tick_ms,
        "train/frames_per_second": 4000 / tick_ms,
        "memory/saved_tensors_mib": 12.5 * tick_ms,
        "memory/peak_mib": 512.25,
    }
    return [Metric(name, value, 0, 90) for name, value in values.items()]


def fill_demo(client: MlflowClient) -> None:
    """Write the parent and the runs of TOP1, one of which failed: sideways on fold 1."""
    experiment = client.create_experiment("demo", artifact_location="mlartifacts")
    parent = client.create_run(
        experiment, tags={"kind": "comparison", "comparison": "demo", "control": "skip-sideways"}
    )
    client.set_terminated(parent.info.run_id)
    child = {"mlflow.parentRunId": parent.info.run_id}
    for row, cells in TOP1.items():
        for fold, seed in cells:
            write_run(client, experiment, row, fold, seed, **child)
    write_run(client, experiment, "sideways", 1, 0, top1=None, status="FAILED", **child)


def uri_of(path: Path) -> str:
    """Return the tracking URI of a database file."""
    return f"sqlite:///{path}"


def table_of(page):
    """Return the comparison table that a page shows, by line."""
    return page.dataframe[0].value.set_index("line")
