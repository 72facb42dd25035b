"""What every test stands on: quiet threads, no telemetry, a ready run store to copy, and the folder of real videos.

The environment is set here, before any test module imports torch: OpenMP reads it when it loads.
"""

import os
import shutil
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("STREAMLIT_BROWSER_GATHER_USAGE_STATS", "false")
# A developer's own server must not receive the tests' runs.
os.environ.pop("MLFLOW_TRACKING_URI", None)

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real videos; skips where there is none."""
    folder = Path(os.environ.get("SKIP_SIDEWAYS_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real videos at {folder}: set SKIP_SIDEWAYS_DATA to the folder that holds weizmann/ and clips/")
    return folder


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory) -> Path:
    """One empty run store; MLflow takes seconds to create it, a copy takes none.

    For every store that it opens MLflow reads its sixty migrations, to know the newest: from here on once a session.
    """
    from mlflow.store.db import utils

    from app.tracking import ensure_store

    utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)

    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    ensure_store(f"sqlite:///{database}")
    return database


@pytest.fixture
def mlflow_store(mlflow_template, tmp_path, monkeypatch) -> str:
    """This test's own run store, empty, which MLFLOW_TRACKING_URI names; returns the URI."""
    database = tmp_path / "mlflow.db"
    shutil.copyfile(mlflow_template, database)
    uri = f"sqlite:///{database}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def tmp_cwd(tmp_path, monkeypatch) -> Path:
    """Run this test in its own empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
