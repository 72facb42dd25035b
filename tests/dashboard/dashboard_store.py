"""Writes small tracking stores through the real MLflow client, in the run layout that training writes."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

TOP1 = {  # row: {(fold, seed): test/top1}
    "exact": {(0, 0): 0.90, (0, 1): 0.86, (1, 0): 0.94},
    "frozen": {(0, 0): 0.70, (0, 1): 0.74, (1, 0): 0.66},
    "skip-sideways": {(0, 0): 0.88, (0, 1): 0.87, (1, 0): 0.90},
    "sideways": {(0, 0): 0.80, (0, 1): 0.82},
}
MSE = {  # row of the future-frames demo: {(fold, seed): test/mse, the mean over two horizons}
    "exact": {(0, 0): 0.010, (1, 0): 0.012, (2, 0): 0.011},
    "skip-sideways": {(0, 0): 0.011, (1, 0): 0.013, (2, 0): 0.012},
    "sideways": {(0, 0): 0.020, (1, 0): 0.022, (2, 0): 0.021},
}
COPY_LAST, MEAN_LAST = 0.016, 0.030
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


def write_frames_run(client: MlflowClient, experiment: str, row: str, fold: int, seed: int, /, **changes) -> str:
    """Write one future-frames run with two horizons; `changes` overrides tags, or `mse`, `status`, `copy_last`."""
    mse = changes.pop("mse", MSE.get(row, {}).get((fold, seed)))
    copy_last = changes.pop("copy_last", COPY_LAST)
    tags = {
        "task": "future_frames",
        "network": "small_autoencoder",
        "horizon": "2",
        "lmin": "2" if SETTINGS[row][1] == "residual" else "6",
        "comparison": "frames",
        "views": "newest frames 6 to T-8 of each clip",
        **changes,
    }
    run_id = write_run(client, experiment, row, fold, seed, top1=None, validated=False, **{"status": "RUNNING", **tags})
    if mse is not None:
        values = {"val/mse": mse, "val/psnr_db": _psnr(mse), **_scores("test", mse)}
        values |= _scores("test/copy_last", copy_last) | _scores("test/mean_last", MEAN_LAST)
        values |= {"latency/tick_ms": SETTINGS[row][2], "train/frames_per_second": 4000 / SETTINGS[row][2]}
        values |= {f"memory/stage_{stage}/peak_mib": 100.0 + 10 * stage for stage in range(3)}
        client.log_batch(run_id, metrics=[Metric(name, value, 0, 90) for name, value in values.items()])
    if changes.get("status") != "RUNNING":
        client.set_terminated(run_id, changes.get("status", "FINISHED"))
    return run_id


def _scores(prefix: str, mse: float) -> dict[str, float]:
    """Return the four scores for each of two horizons and their means; the MSE grows by half."""
    each = {1: 0.8 * mse, 2: 1.2 * mse}
    found = {"mse": mse, "mse_sum": 1000 * mse, "psnr_db": _psnr(mse), "ssim": 1 - 10 * mse}
    for k, value in each.items():
        found |= {
            f"mse_{k}": value,
            f"mse_sum_{k}": 1000 * value,
            f"psnr_db_{k}": _psnr(value),
            f"ssim_{k}": 1 - 10 * value,
        }
    return {f"{prefix}/{name}": value for name, value in found.items()}


def _psnr(mse: float) -> float:
    return -10 * math.log10(mse)


def fill_frames(client: MlflowClient) -> None:
    """Write the future-frames runs of MSE."""
    experiment = client.create_experiment("frames", artifact_location="mlartifacts")
    for row, cells in MSE.items():
        for fold, seed in cells:
            write_frames_run(client, experiment, row, fold, seed)


EASY = "easy fold only"
FOLD_EFFECT = {0: 0.0, 1: -0.4, 2: -0.5}  # fold 0 is easy
VARIANTS = 12  # rows of one rule and wiring


def fill_uneven(client: MlflowClient) -> None:
    """Write a comparison of many rows of one wiring, whose last row has run on the easy fold alone so far."""
    experiment = client.create_experiment("uneven", artifact_location="mlartifacts")
    tops = {"exact": 0.9, **{f"variant {number}": 0.79 + 0.005 * number for number in range(1, VARIANTS + 1)}}
    for row, top1 in {**tops, EASY: 0.78}.items():
        for fold, effect in FOLD_EFFECT.items():
            if row != EASY or fold == 0:
                like = "exact" if row == "exact" else "skip-sideways"
                write_run(client, experiment, like, fold, 0, row=row, top1=top1 + effect, comparison="uneven")


HOSTILE = (
    "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>",
    "**bold** [link](https://evil.test) $x^2$ :red[colour] :smile: `code` ![](https://evil.test/a.png)",
    "../../../../etc/passwd",
    "=HYPERLINK(1)\x00\x1b[31m\u202eright to left\nnew line",
    "long " * 2000,
)


def fill_hostile(client: MlflowClient) -> None:
    """Write runs whose every text is one of HOSTILE, with values that are no number, and runs that are not ours."""
    for index, text in enumerate(HOSTILE):
        experiment = client.create_experiment(f"hostile {index}", artifact_location="mlartifacts")
        tags = dict.fromkeys(("row", "wiring", "network", "dataset", "split", "device", "views", "git_sha"), text)
        tags |= dict.fromkeys(("comparison", "id_hash", "data_found", "update", "stash", "executor"), text)
        for seed in range(2):
            run_id = write_run(client, experiment, "sideways", 0, seed, top1=0.5 + 0.1 * seed, **tags)
            client.set_tag(run_id, "mlflow.runName", text)
            for name, value in (
                ("latency/tick_ms", math.nan),
                ("train/loss", math.inf),
                ("memory/peak_mib", -math.inf),
            ):
                client.log_metric(run_id, name, value, step=99)
        broken = write_run(client, experiment, "sideways", 0, 0, **{**tags, "fold": text, "seed": "1.5", "row": None})
        client.log_metric(broken, "test/top1", math.nan, step=99)
    other = client.create_experiment("another project")
    client.set_terminated(client.create_run(other, tags={"kind": "<b>other</b>"}).info.run_id)
    client.set_terminated(client.create_run(other).info.run_id)
    write_run(client, other, "exact", 0, 0, schema_version="0")
    write_run(client, other, "exact", 0, 0, schema_version="99")
    write_run(client, other, "exact", 0, 0, schema_version="<script>")


def plant_metric_keys(database: Path) -> None:
    """Write each text of HOSTILE as the key of a metric, past MLflow's client, which refuses such keys."""
    with closing(sqlite3.connect(database)) as connection:
        for table in ("metrics", "latest_metrics"):
            columns = "value, timestamp, run_uuid, step, is_nan"
            for text in HOSTILE:
                for key in (text, f"test/{text}"):
                    copied = f"SELECT ?, {columns} FROM {table} WHERE key = 'val/top1'"
                    connection.execute(f"INSERT OR IGNORE INTO {table} (key, {columns}) {copied}", (key,))
        connection.commit()


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
