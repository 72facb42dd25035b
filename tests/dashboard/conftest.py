"""A small tracking store, made once a session (creating the tables takes seconds) and copied for each test."""

from __future__ import annotations

import shutil
import socket
import sys
from functools import cache
from pathlib import Path

import pytest
from dashboard_store import fill_demo, fill_frames, fill_hostile, fill_uneven, plant_metric_keys, uri_of


@pytest.fixture(scope="session")
def _stores(mlflow_template, tmp_path_factory):
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("stores")
    shutil.copy(mlflow_template, folder / "bare.db")
    for name, fill in (
        ("demo", fill_demo),
        ("frames", fill_frames),
        ("uneven", fill_uneven),
        ("hostile", fill_hostile),
    ):
        shutil.copy(folder / "bare.db", folder / f"{name}.db")
        fill(MlflowClient(uri_of(folder / f"{name}.db")))
    plant_metric_keys(folder / "hostile.db")
    return folder


@pytest.fixture
def demo_db(_stores, tmp_path):
    """Return a database that holds the runs of `dashboard_store.TOP1`."""
    return shutil.copy(_stores / "demo.db", tmp_path / "mlflow.db")


@pytest.fixture
def frames_db(_stores, tmp_path):
    """Return a database that holds the future-frames runs of `dashboard_store.MSE`."""
    return shutil.copy(_stores / "frames.db", tmp_path / "mlflow.db")


@pytest.fixture(scope="session")
def uneven_db(_stores):
    """Return the database of `dashboard_store.fill_uneven`. Only to be read."""
    return _stores / "uneven.db"


@pytest.fixture
def hostile_db(_stores, tmp_path):
    """Return a database whose every text is hostile: `dashboard_store.HOSTILE`."""
    return shutil.copy(_stores / "hostile.db", tmp_path / "mlflow.db")


@pytest.fixture
def bare_db(_stores, tmp_path):
    """Return a database with MLflow's tables and no run."""
    return shutil.copy(_stores / "bare.db", tmp_path / "mlflow.db")


@pytest.fixture(autouse=True)
def _own_main():
    """Streamlit makes the page's script the main module, which every process started later would run as its own."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session", autouse=True)
def _one_scan():
    """For every page that is tested Streamlit reads all installed packages' metadata for components: let it once."""
    from streamlit.components.v2 import manifest_scanner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture
def open_page(monkeypatch, tmp_path):
    """Return a function: run a page, by its name, on a tracking URI with query parameters, and return it."""
    import streamlit as st
    from streamlit.testing.v1 import AppTest
    from streamlit.util import calc_hash

    import dashboard

    monkeypatch.chdir(tmp_path)
    st.cache_data.clear()
    st.cache_resource.clear()

    def run(uri, name="compare", **parameters):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        page = AppTest.from_file(Path(dashboard.__file__).parent / "shell" / "Home.py", default_timeout=60)
        page._page_hash = calc_hash(name)  # pages that are functions have no path for `switch_page`
        for key, value in parameters.items():
            page.query_params[key] = value
        page.run()
        assert not page.exception
        return page

    return run


@pytest.fixture
def free_port():
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
