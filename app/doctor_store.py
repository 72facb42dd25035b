"""Doctor's look at the MLflow store: can runs be written where the URI points? It creates and changes nothing."""

import sqlite3
import tempfile
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

SERVER_TIMEOUT_S = 5.0
_DEFAULT = "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"


class StoreError(Exception):
    """The store cannot take runs; `advice` is what to type next."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.advice = advice


def inspect_store(uri: str) -> str:
    """Return one line about the store at `uri`; raise StoreError where runs cannot be written to it."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if uri.startswith(("http://", "https://")):
        return _inspect_server(uri)
    try:
        url = make_url(uri)
    except ArgumentError:
        raise StoreError(
            f"{uri!r} is no database or server, expected sqlite:///... or http(s)://...", _DEFAULT
        ) from None
    if url.get_backend_name() == "sqlite":
        return _inspect_sqlite(uri, url.database)
    if url.get_backend_name() in ("postgresql", "mysql", "mssql"):
        return f"{url.render_as_string()}: a database server, not looked into"
    raise StoreError(f"{url.render_as_string()}: MLflow writes to sqlite:///... or http(s)://...", _DEFAULT)


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


def _inspect_sqlite(uri: str, database: str | None) -> str:
    if not database or database == ":memory:":
        raise StoreError(f"{uri} lives in memory and dies with the process", _DEFAULT)
    path = Path(database)
    _require_writable_folder(path)
    if not path.exists() or path.stat().st_size == 0:
        return f"{uri}: the first run will create it"
    found = _revision(path)
    expected = _expected_revision()
    if found != expected:
        advice = f"cp {path} {path}.backup && mlflow db upgrade {uri}"
        raise StoreError(f"{uri} has schema {found}, this MLflow works with {expected}", advice)
    return f"{uri}: opens, takes writes, schema {found}"


def _require_writable_folder(path: Path) -> None:
    """Write a temporary file beside the database, as SQLite does with its journal (permission bits lie for root)."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = f"cannot write in {folder} ({error.strerror})"
        raise StoreError(found, f"cd to a folder of yours, or {_DEFAULT}") from None


def _revision(path: Path) -> str:
    """Return the schema revision, having taken and given back the write lock."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.execute("ROLLBACK")
            row = store.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}", f"mv {path} {path}.broken (the next run makes a new one)") from None
    return str(row[0]) if row else "none"


def _expected_revision() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision  # MLflow has no public name for it

    return str(_get_latest_schema_revision())
