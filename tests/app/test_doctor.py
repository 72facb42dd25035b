"""`skip-sideways doctor` in a real process, and each fault it must name, injected."""

import http.server
import importlib.metadata
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from app import doctor, doctor_store, doctor_video
from datamodules.decoding import resolve_decoder, torchcodec_problem

LINE = re.compile(r"^(ok|note|FAIL) +[\w: -]+: +\S.*$")


def findings(check):
    advice = doctor.CHECKS[check][1]
    return list(doctor.examine({check: (doctor.CHECKS[check][0], advice)}))


def only_failure(check):
    (failure,) = [f for f in findings(check) if f.status == "FAIL"]
    assert failure.advice, "a failing line must say what to type"
    return failure


def test_a_working_machine_passes_with_one_line_a_check(repository, tmp_path):
    command = [sys.executable, "-c", "import sys; from app.doctor import main; sys.exit(main([]))"]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    *report, blank, verdict = done.stdout.splitlines()
    assert all(LINE.match(line) for line in report), done.stdout
    assert (blank, verdict) == ("", "Nothing is wrong.")
    assert "\033" not in done.stdout, "colour only on a terminal"
    named = {line.split(maxsplit=1)[1].split(":")[0] for line in report}
    assert {"python", "packages", "torchvision", "decoder", "mlflow store", "cpu", "disk"} <= named
    assert list(tmp_path.iterdir()) == [], "doctor must leave nothing behind"


def test_a_folder_as_tracking_uri_fails_and_says_what_to_type(monkeypatch, capsys, tmp_cwd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("FAIL")]
    assert "mlruns" in line
    assert "type: export MLFLOW_TRACKING_URI=sqlite:///mlflow.db" in line
    assert "1 failed" in printed


def test_a_version_out_of_range_is_named_with_both_numbers(monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.30.0" if name == "streamlit" else real(name))
    failure = only_failure("packages")
    assert failure.name == "streamlit"
    assert "1.30.0, expected" in failure.found
    assert 'pip install "torch<' in failure.advice, "torch stands in every install command"
    assert '"streamlit<' in failure.advice


def test_a_missing_package_is_named(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "not installed" in only_failure("packages").found


def test_a_python_outside_the_declared_range_fails(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: {"Requires-Python": ">=3.99"})
    assert "expected >=3.99" in only_failure("python").found


def test_a_decoder_that_loses_a_frame_fails(monkeypatch):
    import av

    real = av.container.InputContainer.decode

    class Lossy:
        def __init__(self, container):
            self.container = container

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.container.close()

        def decode(self, video):
            return list(real(self.container, video=video))[1:]

    real_open = av.open
    monkeypatch.setattr(
        av, "open", lambda path, mode="r": real_open(path, mode) if mode == "w" else Lossy(real_open(path))
    )
    assert re.fullmatch(r"wrote 20 \w+ frames and decoded 19", only_failure("decoder").found)


def test_a_decoder_that_returns_wrong_content_fails(monkeypatch):
    right = doctor_video._write_clip

    def write_one_and_report_another(path):
        frames, codec = right(path)
        return frames[1:] + frames[:1], codec

    monkeypatch.setattr(doctor_video, "_write_clip", write_one_and_report_another)
    assert "differ from the written ones" in only_failure("decoder").found


def test_the_decoder_that_auto_takes_is_named():
    auto, torchcodec = findings("torchcodec")
    assert auto.found == f"takes {resolve_decoder('auto')}"
    assert torchcodec.status == ("note" if torchcodec_problem() else "ok")


def test_torchcodec_that_does_not_load_is_a_note(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    torchcodec_problem.cache_clear()
    try:
        _, finding = findings("torchcodec")
    finally:
        torchcodec_problem.cache_clear()
    assert (finding.status, finding.name) == ("note", "torchcodec")
    assert finding.found.endswith("PyAV reads everything without it")


def test_pytorchvideo_out_of_order_is_a_note(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorchvideo.data.encoded_video", None)
    (finding,) = findings("pytorchvideo")
    assert finding.status == "note"


@pytest.mark.parametrize(("built_alike", "status"), [(True, "ok"), (False, "note")])
def test_a_torchvision_of_another_build_is_a_note(monkeypatch, built_alike, status):
    monkeypatch.setattr("lightning_modules.compat.torchvision_extension_loads", lambda: built_alike)
    (finding,) = findings("torchvision")
    assert finding.status == status
    assert ("repaired" in finding.found) == (not built_alike)


def test_no_browser_and_no_data_are_notes(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("SKIP_SIDEWAYS_DATA", str(tmp_path / "absent"))
    assert [f.status for name in ("chromium", "data") for f in findings(name)] == ["note", "note"]


def test_a_full_disk_fails(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 2**29))
    assert "0.50 GiB free" in only_failure("disk").found


def test_a_check_that_raises_is_a_failure_with_its_advice():
    def broken():
        raise RuntimeError("first line\nsecond line")
        yield

    (finding,) = doctor.examine({"broken": (broken, "mend it")})
    assert (finding.status, finding.found, finding.advice) == ("FAIL", "first line", "mend it")


def test_colour_marks_the_status_only():
    finding = doctor.Finding("FAIL", "disk", "full", "rm")
    assert doctor.render(finding, colour=False) == f"FAIL  {'disk:':<18} full; type: rm"
    assert doctor.render(finding, colour=True).startswith("\033[31mFAIL\033[0m")


def test_a_ready_store_is_ok_and_unchanged(mlflow_store):
    database = Path(mlflow_store.removeprefix("sqlite:///"))
    before = database.read_bytes()
    assert "takes writes" in doctor_store.inspect_store(mlflow_store)
    assert database.read_bytes() == before


def test_a_store_of_another_mlflow_is_named_with_both_schemas(mlflow_store):
    store = sqlite3.connect(mlflow_store.removeprefix("sqlite:///"))
    store.execute("UPDATE alembic_version SET version_num = 'abc123'")
    store.commit()
    store.close()
    with pytest.raises(doctor_store.StoreError, match="has schema abc123, this MLflow works with") as caught:
        doctor_store.inspect_store(mlflow_store)
    assert "mlflow db upgrade" in caught.value.advice


def test_a_file_that_is_no_database_fails(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be looked into" * 20)
    with pytest.raises(doctor_store.StoreError, match="not a database"):
        doctor_store.inspect_store(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_store_that_someone_writes_to_all_the_time_fails(mlflow_store, monkeypatch):
    monkeypatch.setattr(doctor_store, "LOCK_TIMEOUT_S", 0.1)
    holder = sqlite3.connect(mlflow_store.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(doctor_store.StoreError, match="locked"):
        doctor_store.inspect_store(mlflow_store)
    holder.close()


def test_a_folder_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "file").write_text("a file where a folder must be")
    with pytest.raises(doctor_store.StoreError, match="cannot write in"):
        doctor_store.inspect_store(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_a_read_only_folder_fails(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root writes to read-only folders")
    tmp_path.chmod(0o500)
    with pytest.raises(doctor_store.StoreError, match="cannot write in"):
        doctor_store.inspect_store(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize("uri", ["sqlite:///:memory:", "sqlite://", "./mlruns", "nonsense://x"])
def test_a_uri_that_keeps_no_runs_fails(uri, tmp_cwd):
    with pytest.raises(doctor_store.StoreError, match="keeps no runs"):
        doctor_store.inspect_store(uri)


@pytest.fixture
def server():
    """A local HTTP server whose one answer the test sets; yields (uri, set_answer)."""
    answer = {"body": b"OK"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", answer
        running.shutdown()
        thread.join()


def test_a_server_that_answers_is_ok(server):
    assert "the server answers" in doctor_store.inspect_store(server[0])


def test_a_server_of_something_else_fails(server):
    server[1]["body"] = b"<html>"
    with pytest.raises(doctor_store.StoreError, match="not as an MLflow server"):
        doctor_store.inspect_store(server[0])


def test_a_silent_server_fails_within_the_time_out():
    with pytest.raises(doctor_store.StoreError, match="does not answer") as caught:
        doctor_store.inspect_store("http://127.0.0.1:1")
    assert "mlflow server" in caught.value.advice
