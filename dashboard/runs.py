"""Tracked runs as tables: the only file of the dashboard that talks to MLflow.

It reads the run layout (schema version 1): tags and params of TAGS, metrics by name, `kind` = "run". It never writes:
a SQLite file that is missing or half made is reported, not created.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DEFAULT_URI = "sqlite:///mlflow.db"
SCHEMA_VERSION = "1"
TAGS = (
    "row",
    "rule",
    "wiring",
    "network",
    "task",
    "dataset",
    "split",
    "fold",
    "seed",
    "update",
    "stash",
    "executor",
    "stages",
    "device",
    "torch",
    "git_sha",
    "data_hash",
    "views",
    "id_hash",
    "data_found",
    "data_expected",
    "comparison",
    "tuning",
    "schema_version",
)
METRICS = (
    "test/top1",
    "test/top5",
    "test/loss",
    "latency/tick_ms",
    "latency/step_p50_ms",
    "latency/step_p95_ms",
    "train/frames_per_second",
    "memory/saved_tensors_mib",
    "memory/peak_mib",
    "val/top1",
    "val/loss",
    "train/top1",
    "train/loss",
)
COLUMNS = ("run_id", "name", "status", "started", "ended", "control", *TAGS, *METRICS)
_PAGE = 1000  # runs a request; MLflow's server refuses more than 50,000


class StoreMissing(ValueError):  # noqa: N818 - a state to show to the user, not a fault
    """There is no tracking database yet, or one that holds no MLflow tables."""


class StoreUnreachable(ValueError):  # noqa: N818
    """The tracking server or database is there by name but does not answer as MLflow."""


def tracking_uri() -> str:
    """Return the tracking URI: MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the current directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def open_store(uri: str) -> MlflowClient:
    """Return a client for a store that exists and answers.

    Raises StoreMissing where there is nothing to read, StoreUnreachable where something answers wrongly or not at all.
    """
    if uri.startswith("sqlite:"):
        check_sqlite(sqlite_path(uri))
    # A dashboard must say within seconds that a server is away; MLflow's own defaults try for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    with translated(uri):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def sqlite_path(uri: str) -> Path:
    """Return the file of a `sqlite:///relative` or `sqlite:////absolute` URI."""
    return Path(uri.removeprefix("sqlite:///").split("?")[0])


def check_sqlite(path: Path) -> None:
    """Raise StoreMissing unless `path` is a complete MLflow database. Opens it read-only, so never creates it."""
    if not path.is_file() or path.stat().st_size == 0:
        raise StoreMissing(f"There is no tracking database at {path}.")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            # MLflow inserts its default experiment last, so one row means that the tables are complete.
            found = connection.execute("SELECT 1 FROM experiments LIMIT 1").fetchone()
    except sqlite3.OperationalError as error:
        raise StoreMissing(f"{path} holds no MLflow tables yet ({error}).") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnreachable(f"{path} is not a SQLite database ({error}).") from error
    if found is None:
        raise StoreMissing(f"{path} is still being created. Reload in a few seconds.")


def read_runs(client: MlflowClient, uri: str) -> pd.DataFrame:
    """Return one line for each training run of every experiment, whatever its status; columns are COLUMNS.

    `fold` and `seed` are nullable integers, times are UTC, metrics float with NaN where a run has none; `control` is
    the row that the run's comparison names as its control. An empty tag reads as None.
    """
    with translated(uri):
        experiments = [experiment.experiment_id for experiment in _experiments(client)]
        controls = {run.info.run_id: run.data.tags.get("control") for run in _runs(client, experiments, "comparison")}
        records = [_record(run, controls) for run in _runs(client, experiments, "run")]
    return as_table(records)


def as_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Return records (a dict a run; times in ms since 1970) as the table that `read_runs` promises."""
    table = pd.DataFrame.from_records(records, columns=list(COLUMNS)).astype(object)
    for column in ("fold", "seed"):
        table[column] = pd.to_numeric(table[column], errors="coerce").astype("Int64")
    for column in ("started", "ended"):
        table[column] = pd.to_datetime(table[column].astype("Int64"), unit="ms", utc=True)
    return table.astype(dict.fromkeys(METRICS, "float64"))


def read_history(client: MlflowClient, uri: str, run_id: str, metric: str) -> pd.DataFrame:
    """Return the logged values of one metric: columns `step` (int) and `value` (float), by step.

    A step logged twice (a resumed run) keeps the later value. Empty where the run has no such metric.
    """
    with translated(uri):
        history = client.get_metric_history(run_id, metric)
    entries = sorted((entry.step, entry.timestamp, entry.value) for entry in history)
    table = pd.DataFrame(entries, columns=["step", "timestamp", "value"])
    # Without entries pandas would not know that these are numbers.
    table = table.astype({"step": "int64", "value": "float64"})
    return table.drop_duplicates("step", keep="last")[["step", "value"]].reset_index(drop=True)


def _experiments(client: MlflowClient) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_experiments(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _runs(client: MlflowClient, experiments: list[str], kind: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(experiments, f"tags.kind = '{kind}'", max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _record(run: Run, controls: dict[str, str | None]) -> dict[str, Any]:
    given = {**run.data.params, **run.data.tags}
    record: dict[str, Any] = {name: given.get(name) or None for name in TAGS}
    record["control"] = controls.get(given.get("mlflow.parentRunId", ""))
    record["row"] = record["row"] or " ".join(filter(None, (record["rule"], record["wiring"]))) or run.info.run_name
    record.update({name: run.data.metrics.get(name) for name in METRICS})
    info = run.info
    record.update(run_id=info.run_id, name=info.run_name, status=info.status)
    record.update(started=info.start_time, ended=info.end_time)
    return record


class translated:  # noqa: N801 - used as a statement: `with translated(uri):`
    """Turns what MLflow and its database raise into StoreUnreachable with the URI in the message."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if isinstance(error, (MlflowException, SQLAlchemyError)):
            first_line = str(error).strip().splitlines()[0]
            raise StoreUnreachable(f"The tracking store {self.uri} does not answer: {first_line}") from error
