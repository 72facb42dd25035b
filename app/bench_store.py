"""The rows of a benchmark as MLflow runs: one run for each row, in an experiment of their own."""

from collections.abc import Mapping
from typing import Any

PARAMETERS = ("rule", "stash", "executor", "placement", "transport", "frames", "update", "threads")
METRICS = {
    "frames_per_second": "bench/frames_per_second",
    "cpu_ms_per_frame": "bench/cpu_ms_per_frame",
    "passes": "bench/passes",
    "tick_p50_ms": "latency/tick_p50_ms",
    "tick_p95_ms": "latency/tick_p95_ms",
}


def metrics_of(row: Mapping[str, Any], own_loss: Mapping[Any, int]) -> dict[str, float]:
    """Return a row's figures by metric name; those that it does not have are absent."""
    found = {name: float(row[key]) for key, name in METRICS.items() if row[key] is not None}
    for key in ("saved_mib", "peak_mib"):
        found |= {f"memory/{key}_stage_{stage}": float(value) for stage, value in enumerate(row[key])}
    if row["executor"] == "pipelined" and row["placement"] == "stages":
        found |= {f"latency/own_loss_tick_unit_{unit}": float(tick) for unit, tick in own_loss.items()}
    return found


def store(run: Mapping[str, Any], experiment: str) -> int:
    """Store every row as a finished run and return how many there are.

    Raises:
        ValueError: the run store cannot be used.
    """
    from mlflow.entities import Metric, Param, RunTag

    from app.tracking import ensure_store, experiment_id, new_client

    uri = ensure_store()
    client = new_client(uri)
    number = experiment_id(client, uri, experiment)
    shared = {key: run["settings"][key] for key in ("stages", "depth", "wiring", "batch", "size", "channels", "blocks")}
    for row in run["rows"]:
        created = client.create_run(number, run_name=row["row"])
        parameters = {**shared, **{key: row[key] for key in PARAMETERS}, "message_kib": run["message_kib"]}
        tags = {"git_sha": run["commit"], "device": run["device"], "command": run["command"], "kind": "bench"}
        client.log_batch(
            created.info.run_id,
            metrics=[Metric(k, v, 0, 0) for k, v in metrics_of(row, run["own_loss_seen"]).items()],
            params=[Param(k, str(v)) for k, v in parameters.items()],
            tags=[RunTag(k, str(v)) for k, v in tags.items()],
        )
        client.set_terminated(created.info.run_id)
    return len(run["rows"])
