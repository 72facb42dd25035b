"""A study as it stands, looked up without making or changing anything: what `sweep --dry-run` tells."""

from __future__ import annotations

import warnings
from pathlib import Path

from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, get_all_study_names, load_study

from app.study.plan import Plan
from app.study.storage import check_storage, is_url, unusable


def known_study(plan: Plan) -> Study | None:
    """Return the plan's study, None where its storage has none yet.

    Errors: ValueError where the storage cannot be read, and where the study was begun with other settings.
    """
    check_storage(plan.storage)
    try:
        storage = _existing(plan.storage)
        if storage is None or plan.name not in get_all_study_names(storage):
            return None
        study = load_study(study_name=plan.name, storage=storage)
    except Exception as error:  # of the file, the driver or the server
        raise ValueError(unusable(plan.storage, error)) from error
    if begun := study.user_attrs.get("plan"):
        plan.check_same(begun)
    return study


def _existing(storage: str) -> BaseStorage | None:
    """Open a storage only to read it; None where there is nothing yet."""
    if is_url(storage):
        return RDBStorage(storage, skip_table_creation=True) if _has_tables(storage) else None
    if not Path(storage).exists():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # journals; in Optuna since 3.1
        return JournalStorage(JournalFileBackend(storage))


def _has_tables(url: str) -> bool:
    from sqlalchemy import create_engine, inspect, make_url

    parts = make_url(url)
    if parts.get_backend_name() == "sqlite" and not Path(parts.database or "").is_file():
        return False  # to ask would make the file
    return inspect(create_engine(parts)).has_table("studies")
