"""What may be a storage, and what a study's start and end leave in it."""

import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta

import optuna
import pytest

from app.study.storage import check_storage, error_of, open_storage, open_study, requeue_forgotten, shown
from app.study.worker import give_back

# These tests ask for trials by hand, which have no heartbeat.
pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed to be used")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"notes of mine\nand more", "is no journal of Optuna's: it begins with b'notes of mine"),
        (None, r"is a SQLite database; write --storage sqlite:///"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path, content, says):
    path = tmp_path / "study.db"
    if content is None:
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE mine (number INTEGER)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=says):
        open_storage(str(path), 60)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("storage", "says"),
    [
        ("sqlite:study.db", "write sqlite:///study.db"),
        ("sqlite:///nowhere/study.db", "there is no folder nowhere"),
        ("postgresql+nodriver://me:secret@host/db", "can't be used"),
    ],
)
def test_a_url_that_cannot_work_is_refused_without_its_password(storage, says, tmp_cwd):
    with pytest.raises(ValueError, match=says) as refused:
        open_storage(storage, 60)
    assert "secret" not in str(refused.value)
    assert not list(tmp_cwd.iterdir())


def test_a_missing_driver_is_named_with_its_package(monkeypatch):
    import sqlalchemy

    def missing(*args, **options):
        raise ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2")

    monkeypatch.setattr(sqlalchemy, "create_engine", missing)
    monkeypatch.setattr("app.study.storage.LivingDatabase", missing)
    with pytest.raises(ValueError, match="pip install psycopg2-binary"):
        open_storage("postgresql://host/db", 60)


def test_a_folder_is_no_storage(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give a file in it"):
        check_storage(str(tmp_path))


@pytest.mark.parametrize("url", ["postgresql://me:a/b@c@host/db", "mysql://host/db?PASSWORD=a/b&x=1"])
def test_no_password_is_shown(url):
    assert "a/b" not in shown(url)
    assert "host" in shown(url)


def test_a_sampler_keeps_to_the_total_that_its_study_began_with(plan_of):
    plan = plan_of(8, sampler="nsga2")
    open_study(plan)
    raised = open_study(replace(plan, trials=200))
    raised.sampler.before_trial(raised, raised.ask()._cached_frozen_trial)
    assert raised.sampler._inner._population_size == 4


def test_a_trial_given_back_is_failed_first_and_queued_once(plan_of):
    study = open_study(plan_of(3))
    trial = study.ask()
    give_back(trial)
    assert [each.state.name for each in study.trials] == ["FAIL", "WAITING"]
    assert study.trials[1].system_attrs["retry_history"] == [0]
    requeue_forgotten(study)
    assert len(study.trials) == 2


def test_a_trial_that_was_given_up_and_not_queued_is_queued_later(plan_of, monkeypatch):
    study = open_study(plan_of(3))
    trial = study.ask()
    study._storage.set_trial_state_values(trial._trial_id, state=optuna.trial.TrialState.FAIL)
    requeue_forgotten(study)
    assert len(study.trials) == 1
    monkeypatch.setattr("app.study.storage.datetime", _Later)
    requeue_forgotten(study)
    assert [each.state.name for each in study.trials] == ["FAIL", "WAITING"]
    assert error_of(study.trials[0]).startswith("its worker died, perhaps for memory")


class _Later(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(minutes=5)
