"""What a run leaves in MLflow equals the run layout, and the store is made once."""

import json
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing import get_context
from threading import Thread

import mlflow
import pytest
from launch import fit, options, runs

from app.cli import main
from app.run_layout import KEYS, flat, run_name
from app.run_logger import RunLogger
from app.tracking import artifact_location, ensure_store, store_is_ready, tracking_uri

METRICS = {
    "train/loss", "train/top1", "val/loss", "val/top1", "frames_seen", "train/frames_per_second",
    "latency/step_p50_ms", "latency/step_p95_ms", "memory/saved_tensors_mib", "memory/peak_mib",
    *(f"{name}/unit_{i}" for name in ("alignment", "grad_norm", "weight_change") for i in (1, 2, 3, 4)),
}  # fmt: skip
TEST_METRICS = {"test/top1", "test/top5", "test/loss", "latency/tick_ms"}


@pytest.fixture
def fitted(tmp_cwd, mlflow_store):
    fit(trainer={"max_epochs": 1, "log_every_n_steps": 2}, model={"log_gradients_every": 2})
    return mlflow_store


def test_a_run_holds_the_run_layout(fitted, capfd):
    (run,) = runs(fitted)
    assert run.info.status == "FINISHED"
    expected = {
        "rule": "sideways", "wiring": "chain", "network": "small_cnn", "task": "action_recognition",
        "dataset": "moving_digits", "split": "digits-disjoint", "fold": "0", "seed": "0", "device": "cpu",
        "executor": "vectorised", "stages": "1", "update": "clip", "stash": "none", "comparison": "", "tuning": "",
        "row": "small_cnn chain sideways", "schema_version": "1", "lmin": "4", "horizon": "",
    }  # fmt: skip
    for stored in (run.data.tags, run.data.params):
        assert set(KEYS) <= stored.keys()
        assert {key: stored[key] for key in expected} == expected
        assert stored["git_sha"]
        assert len(stored["data_hash"]) == 16
    assert run.data.tags["kind"] == "run"
    assert (run.data.params["model.lr"], run.data.params["data.size"]) == ("0.001", "32")
    assert run.data.params["data"] == "MovingDigits"
    assert not any("_instantiator" in key for key in run.data.params)
    assert run.data.metrics.keys() >= METRICS
    assert run.data.metrics["frames_seen"] == 400
    client = mlflow.MlflowClient(fitted)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 3, 5, 7, 9]

    assert main([*options("test"), "--ckpt_path=last"]) == 0
    (run,) = runs(fitted)
    assert run.data.metrics.keys() >= METRICS | TEST_METRICS
    assert run.info.status == "FINISHED"
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names == {"config.yaml", "environment.json", "clock.json", "confusion.json"}
    confusion = json.loads(artifact(run, "confusion.json"))
    assert confusion["class_names"] == ["right", "down", "left", "up"]
    assert sum(map(sum, confusion["matrix"])) == 8
    environment = json.loads(artifact(run, "environment.json"))
    assert {"python", "platform", "cpu", "torch_threads", "git_sha", "git_dirty", "packages"} <= environment.keys()
    assert "class_path: datamodules" in artifact(run, "config.yaml")


def artifact(run, name) -> str:
    uri = run.info.artifact_uri
    assert uri.startswith("file://")
    with open(f"{uri.removeprefix('file://')}/{name}") as file:
        return file.read()


def test_a_second_run_into_the_same_store_and_one_without_a_logger(fitted, tmp_cwd):
    fit("--experiment=mine", model={"wiring": "residual"}, trainer={"max_steps": 2})
    fit(trainer={"max_steps": 1, "logger": "false", "enable_checkpointing": "false"})
    assert len(runs(fitted)) == 1
    (mine,) = runs(fitted, "mine")
    assert mine.data.tags["wiring"] == "residual"
    assert len(list(tmp_cwd.glob("runs/*/last.ckpt"))) == 2


def test_a_failing_run_is_marked_failed_with_the_error(tmp_cwd, mlflow_store, monkeypatch, capfd):
    from lightning_modules.action_recognition import ActionRecognition

    def broken(self, batch, batch_idx):
        raise ValueError("the loss went through the roof")

    monkeypatch.setattr(ActionRecognition, "training_step", broken)
    assert main(options(trainer={"max_steps": 2})) == 2
    assert "through the roof" in capfd.readouterr().err
    (run,) = runs(mlflow_store)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "ValueError: the loss went through the roof"


def test_a_folder_is_refused_as_store(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ValueError, match=r"no longer writes to folders.*sqlite:///mlflow.db"):
        ensure_store()


def test_tracking_uri_is_the_variable_or_a_file_here(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert tracking_uri() == "http://somewhere:5000"
    assert artifact_location("http://somewhere:5000", "x") is None
    assert artifact_location("sqlite:////data/mlflow.db", "a b") == "file:///data/mlartifacts/a_b"


class Answering(BaseHTTPRequestHandler):
    """A server that lets nobody in, as one behind a login does."""

    def do_GET(self):
        self.send_error(401)

    def log_message(self, *_):
        pass


def test_a_server_must_answer_at_once(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        uri = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("no_proxy", "*")
        assert ensure_store() == uri
        thread.join()
    with pytest.raises(ValueError, match=r"does not answer.*unset MLFLOW_TRACKING_URI"):
        ensure_store()


def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "mine.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="something else than MLflow"):
        ensure_store(f"sqlite:///{path}")
    assert path.read_bytes() == before


@pytest.mark.slow
def test_two_processes_that_need_the_store_at_once(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(ensure_store, [uri, uri])) == [uri, uri]
    assert store_is_ready(tmp_path / "new" / "mlflow.db")


def test_values_wait_are_written_once_and_survive_a_store_that_fails(mlflow_store, monkeypatch):
    logger = RunLogger("values", flush_every_s=1000)
    logger.log_metrics({"a": 1.0, "epoch": 0}, 0)
    client, run_id = logger.experiment, logger.run_id
    assert client.get_run(run_id).data.metrics == {}
    with monkeypatch.context() as patch:
        patch.setattr(client, "log_batch", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.warns(UserWarning, match=r"kept in memory.*disk full"):
            logger.try_flush()
        with pytest.raises(ValueError, match=r"1 values could not be written.*disk full.*--ckpt_path last"):
            logger.finalize("success")
    logger.log_metrics({"a": 2.0}, 1)
    logger.finalize("success")
    history = client.get_metric_history(run_id, "a")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 2.0)]

    again = RunLogger("values", run_id=run_id, skip_known_steps=True)
    _ = again.experiment
    again.log_metrics({"a": 2.0}, 1)
    again.log_metrics({"a": 3.0}, 2)
    again.finalize("success")
    assert [m.step for m in client.get_metric_history(run_id, "a")] == [0, 1, 2]


def test_run_name_depends_on_what_changes_a_result_and_on_nothing_else():
    layout = dict.fromkeys(KEYS, "x")
    config = {
        "model": {"class_path": "M", "init_args": {"lr": 1.0}},
        "data": {"class_path": "D", "init_args": {"size": 32, "num_workers": 0, "root": "here"}},
    }
    name = run_name(layout, config)
    config["data"]["init_args"] |= {"num_workers": 3, "root": "there"}
    assert run_name(layout, config) == name
    config["model"]["init_args"]["lr"] = 2.0
    assert run_name(layout, config) != name


def of_folder(class_path, root="here"):
    data = {"class_path": class_path, "init_args": {"gap": 40, "root": root}}
    return {"model": {"class_path": "M", "init_args": {"lr": 1.0}}, "data": data}


@pytest.mark.parametrize("name", ["array_streams.ArrayStreams", "video_folder.VideoFolder", "ArrayStreams"])
def test_another_folder_of_ones_own_is_another_run(name):
    """Two folders were one run: the second fit went to the folder of the first, and could go on from its weights."""
    here, there = dict.fromkeys(KEYS, "x"), dict.fromkeys(KEYS, "x") | {"data_hash": "y"}
    config = of_folder(f"datamodules.{name}")
    assert run_name(here, config) != run_name(there, config)
    moved = of_folder(f"datamodules.{name}", "elsewhere")
    assert run_name(here, config) == run_name(here, moved)


@pytest.mark.parametrize("name", ["copy_sequences.CopySequences", "weizmann_streams.WeizmannStreams", "ucf101.UCF101"])
def test_the_hash_of_other_data_is_no_part_of_a_name(name):
    here, there = dict.fromkeys(KEYS, "x"), dict.fromkeys(KEYS, "x") | {"data_hash": "y"}
    config = of_folder(f"datamodules.{name}")
    assert run_name(here, config) == run_name(there, config)
    if "Copy" in name:  # a run's folder of before is found again
        assert run_name(here, config).endswith("-1461b288")


def test_flat_names():
    config = {
        "model": {"class_path": "a.b.C", "init_args": {"lr": 1, "none": None, "_instantiator": "x"}},
        "t": {"n": 2},
    }
    assert flat(config) == {"model": "C", "model.lr": 1, "t.n": 2}
