"""Doctor's look at the MLflow store: can runs be written where the URI points? It creates and changes nothing."""

import sqlite3
import tempfile
import urllib.request
from contextlib import closing
from pathlib import Path

from app.tracking import database_path

SERVER_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 5.0
_DEFAULT = "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"


class StoreError(Exception):
    """The store cannot take runs; `advice` is what to type next."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.advice = advice


def inspect_store(uri: str) -> str:
    """Return one line about the store at `uri`; raise StoreError where runs cannot be written to it."""
    if uri.startswith(("http://", "https://")):
        return _inspect_server(uri)
    database = database_path(uri)
    if database is not None and database.name != ":memory:":
        return _inspect_sqlite(uri, database)
    if uri.startswith(("postgresql", "mysql", "mssql")):
        return f"a {uri.split(':', 1)[0]} server, not looked into"
    raise StoreError(f"{uri!r} keeps no runs, expected sqlite:///FILE or http(s)://HOST", _DEFAULT)


def _inspect_server(uri: str) -> str:
    start = "mlflow server --backend-store-uri sqlite:///mlflow.db (or 'unset MLFLOW_TRACKING_URI' to do without)"
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S) as answer:
            body = answer.read(64).decode(errors="replace")
    except (OSError, ValueError) as error:  # URLError and time-outs are OSErrors
        raise StoreError(f"{uri} does not answer within {SERVER_TIMEOUT_S:.0f} s ({error})", start) from None
    if body.strip() != "OK":
        raise StoreError(f"{uri} answers, but not as an MLflow server ({body!r})", start)
    return f"{uri}: the server answers"


def _inspect_sqlite(uri: str, path: Path) -> str:
    _require_writable_folder(path)
    if not path.exists() or path.stat().st_size == 0:
        return f"{uri}: the first run will create it"
    found, expected = _revision(path), _expected_revision()
    if found != expected:
        advice = f"cp {path} {path}.backup && mlflow db upgrade {uri}"
        raise StoreError(f"{uri} has schema {found}, this MLflow works with {expected}", advice)
    return f"{uri}: opens, takes writes, schema {found}"


def _require_writable_folder(path: Path) -> None:
    """Write a temporary file beside the database, as SQLite does with its journal (permission bits lie for root)."""
    folder = next(parent for parent in path.parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = f"cannot write in {folder} ({error.strerror})"
        raise StoreError(found, f"cd to a folder of yours, or {_DEFAULT}") from None


def _revision(path: Path) -> str:
    """Return the schema revision, having taken and given back the write lock."""
    try:
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=rw", LOCK_TIMEOUT_S, isolation_level=None, uri=True)
        ) as store:
            store.execute("BEGIN IMMEDIATE")
            store.execute("ROLLBACK")
            row = store.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}", f"mv {path} {path}.broken (the next run makes a new one)") from None
    return str(row[0]) if row else "none"


def _expected_revision() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision  # MLflow has no public name for it

    return str(_get_latest_schema_revision())
