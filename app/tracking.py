"""Where runs are stored: MLflow on SQLite by default, a server where `MLFLOW_TRACKING_URI` names one.

MLflow takes seconds to create a database and two processes that create one at once crash, so it is created once, under
a lock and under another name, and moved into place when it is whole. mlflow is imported inside functions: it costs
1.5 s and `--help` must not pay it.
"""

import os
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"
SQLITE_PREFIX = "sqlite:///"
CREATION_TIMEOUT_S = 120.0
SERVER_TIMEOUT_S = 10.0


def tracking_uri() -> str:
    """Return the URI of the run store: `MLFLOW_TRACKING_URI` if it is set, else `sqlite:///mlflow.db`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def database_path(uri: str) -> Path | None:
    """Return the file behind a SQLite URI, absolute; None for a server or another database."""
    if not uri.startswith(SQLITE_PREFIX):
        return None
    return Path(unquote(uri[len(SQLITE_PREFIX) :].split("?")[0])).absolute()


def artifact_location(uri: str, experiment: str) -> str | None:
    """Return where an experiment's artifacts go: `mlartifacts/` beside the database; None lets a server decide."""
    database = database_path(uri)
    if database is None:
        return None
    folder = "".join(c if c.isalnum() or c in "-_." else "_" for c in experiment)
    return (database.parent / "mlartifacts" / folder).as_uri()


def store_is_ready(database: Path) -> bool:
    """Return whether a SQLite file holds MLflow's finished schema."""
    if not database.exists():
        return False
    with closing(sqlite3.connect(database, timeout=30.0)) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {"alembic_version", "experiments", "runs"} <= names


def ensure_store(uri: str | None = None) -> str:
    """Create the database behind `uri` (default: `tracking_uri()`) if there is none, once, and return the URI.

    ValueError: the store is MLflow's file store (which MLflow refuses), the folder can't be written, the file that
    stands there is no database, or the server does not answer.
    """
    uri = uri or tracking_uri()
    if "://" not in uri or uri.startswith("file:"):
        raise ValueError(
            f"MLFLOW_TRACKING_URI is {uri!r}, a folder; MLflow no longer writes to folders. "
            f"Give a database (export MLFLOW_TRACKING_URI={DEFAULT_URI}) or a server (http://...)."
        )
    database = database_path(uri)
    if database is not None:
        _ensure_database(database)
    elif uri.startswith(("http://", "https://")):
        _require_answer(uri)
    return uri


def _require_answer(uri: str) -> None:
    """Ask the server for anything at all: MLflow itself tries for minutes, without a word, before it gives up."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in, MLflow will say
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The run store {uri} (MLFLOW_TRACKING_URI) does not answer: {error}. Start it (`mlflow server`), give "
            "another address, or `unset MLFLOW_TRACKING_URI` to store runs in mlflow.db here."
        ) from error


def _ensure_database(database: Path) -> None:
    from filelock import FileLock

    try:
        if store_is_ready(database):
            return
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock", timeout=CREATION_TIMEOUT_S):
            if not store_is_ready(database):
                _create_database(database)
    except (OSError, sqlite3.Error) as error:
        raise ValueError(
            f"The run store {database} can't be used ({error}). Expected a writable SQLite database of MLflow. "
            "Free or permit that path, or export MLFLOW_TRACKING_URI=sqlite:///another.db."
        ) from error


def _create_database(database: Path) -> None:
    if database.exists() and database.stat().st_size > 0:
        raise sqlite3.DatabaseError("it is a database of something else than MLflow")
    unfinished = database.with_name(f"{database.name}.creating")
    unfinished.unlink(missing_ok=True)
    new_client(f"{SQLITE_PREFIX}{unfinished}").search_experiments(max_results=1)
    os.replace(unfinished, database)


def new_client(uri: str) -> "MlflowClient":
    """Return an MLflow client of the store at `uri`, without touching MLflow's global tracking URI."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    import mlflow

    for noisy in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return mlflow.MlflowClient(tracking_uri=uri)


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """Return the id of the experiment `name`, created (or undeleted) if need be; safe among parallel processes."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_location(uri, name))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id
