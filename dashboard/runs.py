"""Tracked runs as tables: the only file of the dashboard that talks to MLflow.

It reads the run layout (schema version 1): tags and params of TAGS, metrics by name, `kind` = "run". Runs of other
projects and of other versions of the layout are counted, not read. It never writes: a SQLite file that is missing or
half made is reported, not created. Every text comes out as `names.clean` leaves it: anyone may have written it.
"""

from __future__ import annotations

import gc
import math
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dashboard.names import clean

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
    "horizon",
    "gap",
    "detector",
    "encoder",
    "lmin",
    "schema_version",
)
# Always columns, also where no run has them.
METRICS = (
    "test/top1",
    "test/top5",
    "test/loss",
    "test/psnr_db",
    "test/mse",
    "test/mse_sum",
    "test/ssim",
    "test/lpips",
    "test/frechet",
    "latency/tick_ms",
    "latency/step_p50_ms",
    "latency/step_p95_ms",
    "train/frames_per_second",
    "memory/saved_tensors_mib",
    "memory/peak_mib",
    "val/top1",
    "val/loss",
    "val/psnr_db",
    "val/mse",
    "val/ssim",
    "train/top1",
    "train/loss",
)
COLUMNS = ("run_id", "name", "status", "started", "ended", "control", *TAGS, *METRICS)
# Further metrics of these names are columns where some run has them: by horizon, by stage, of the baselines.
_MORE_METRICS = re.compile(r"(test|val|memory|latency)/[a-z0-9_]{1,40}(/[a-z0-9_]{1,40})?")
_MOST_METRICS = 200  # further columns; what is beyond them is left out
_LARGEST = 1e300  # MLflow keeps infinity as the largest double
_OWN_KINDS = ("run", "comparison", "evaluation", "bench", "sweep", "trial")  # trials: the runs below a sweep
STUDY_COLUMNS = ("run_id", "name", "status", "started", "ended")
OTHER_STUDIES = "that are studies "  # how Store.left_out names the studies of other versions
_PAGE = 1000  # runs a request; MLflow's server refuses more than 50,000
MOST_RUNS = 20_000  # read from one store, those of other projects included


@dataclass(frozen=True)
class Store:
    """What one reading of a store found: `runs` (see `read_runs`), `studies`, how many runs it leaves out, and why.

    `studies`: a line a sweep, the newest first, columns STUDY_COLUMNS; `ended` is NaT while it goes on.
    """

    runs: pd.DataFrame
    left_out: dict[str, int]
    studies: pd.DataFrame


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


def read_store(client: MlflowClient, uri: str) -> Store:
    """Return the training runs and the studies of every experiment, and the number of other runs by what they are.

    At most MOST_RUNS runs are read, the newest first.
    """
    with translated(uri), _without_collecting():
        experiments = [experiment.experiment_id for experiment in _experiments(client)]
        controls: dict[str, str] = {}
        records, studies, left_out = [], [], Counter[str]()
        for number, run in enumerate(_runs(client, experiments)):
            if number == MOST_RUNS:
                left_out[f"beyond the newest {MOST_RUNS:,} of the store, or more,"] = 1
                break
            kind, version = (run.data.tags.get(name, "") for name in ("kind", "schema_version"))
            if kind == "comparison":
                controls[run.info.run_id] = clean(run.data.tags.get("control", ""))
            elif kind == "run" and version == SCHEMA_VERSION:
                records.append(_record(run))
            elif kind == "sweep" and version == SCHEMA_VERSION:
                studies.append(_study(run))
            elif kind in ("run", "sweep"):
                left_out[(OTHER_STUDIES if kind == "sweep" else "") + _other_version(version)] += 1
            elif kind not in _OWN_KINDS:
                left_out["of other projects"] += 1
    for record in records:
        record["control"] = controls.get(record.pop("parent")) or None
    return Store(as_table(records), dict(sorted(left_out.items())), _as_studies(studies))


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Pause Python's collector: it would look again and again through the many small objects of MLflow's answer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_runs(client: MlflowClient, uri: str) -> pd.DataFrame:
    """Return one line for each training run of every experiment, whatever its status.

    Columns are COLUMNS, then the further metrics that some run has. `fold` and `seed` are nullable integers, times are
    UTC, metrics float with NaN where a run has none or one that is not finite; `control` is the row that the run's
    comparison names as its control. An empty tag reads as None.
    """
    return read_store(client, uri).runs


def _other_version(version: str) -> str:
    if not re.fullmatch("[0-9]{1,9}", version):
        return "of no known version of the run layout"
    age = "an older" if int(version) < int(SCHEMA_VERSION) else "a newer"
    return f"of {age} version of the run layout ({int(version)}; this dashboard reads {SCHEMA_VERSION})"


def as_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Return records (a dict a run; times in ms since 1970) as the table that `read_runs` promises."""
    known = {name for record in records for name in record}
    more = sorted(name for name in known - set(COLUMNS) if _MORE_METRICS.fullmatch(name))[:_MOST_METRICS]
    table = pd.DataFrame.from_records(records, columns=[*COLUMNS, *more]).astype(object)
    for column in ("fold", "seed"):
        table[column] = table[column].map(_integer).astype("Int64")
    _read_times(table)
    # A copy is of one piece: pandas warns of what is put together column by column.
    return table.astype(dict.fromkeys([*METRICS, *more], "float64")).copy()


def _as_studies(records: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame.from_records(records, columns=list(STUDY_COLUMNS)).astype(object)
    _read_times(table)
    return table.sort_values("started", ascending=False, kind="stable").reset_index(drop=True)


def _read_times(table: pd.DataFrame) -> None:
    for column in ("started", "ended"):
        table[column] = pd.to_datetime(table[column].astype("Int64"), unit="ms", utc=True, errors="coerce")


def _integer(value: object) -> int | None:
    """Return a fold or a seed; None for what is none."""
    return int(str(value)) if re.fullmatch(r"-?[0-9]{1,18}", str(value)) else None


def _experiments(client: MlflowClient) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_experiments(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _runs(client: MlflowClient, experiments: list[str]) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(experiments, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _record(run: Run) -> dict[str, Any]:
    given = {**run.data.params, **run.data.tags}
    record: dict[str, Any] = {name: clean(given.get(name) or "") or None for name in TAGS}
    info = run.info
    named = " ".join(filter(None, (record["rule"], record["wiring"])))
    record["row"] = record["row"] or clean(named) or clean(info.run_name or "") or "unnamed"
    record.update({name: _finite(value) for name, value in run.data.metrics.items() if _is_read(name)})
    record.update(run_id=info.run_id, name=clean(info.run_name or ""), status=info.status)
    record.update(started=info.start_time, ended=info.end_time, parent=given.get("mlflow.parentRunId", ""))
    return record


def _study(run: Run) -> dict[str, Any]:
    info = run.info
    name = clean(run.data.tags.get("study") or info.run_name or "") or "unnamed study"
    # A run that goes on after its end keeps its old end time.
    ended = None if info.status in ("RUNNING", "SCHEDULED") else info.end_time
    return {"run_id": info.run_id, "name": name, "status": info.status, "started": info.start_time, "ended": ended}


def _is_read(metric: str) -> bool:
    return metric in METRICS or _MORE_METRICS.fullmatch(metric) is not None


def _finite(value: float) -> float:
    return value if abs(value) < _LARGEST else math.nan


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
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            # The cause stands at the end of MLflow's line; the page makes plain text of it.
            raise StoreUnreachable(f"The tracking store {clean(self.uri)} does not answer: {first_line}") from error
