"""Artifacts of strangers: what is read, what is refused, and that each refusal names the artifact."""

from __future__ import annotations

import io
import json
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from dashboard_store import uri_of
from frames_store import log_files, npz

from dashboard import artifacts
from dashboard.artifacts import Missing, Refused, exists, read_arrays, read_bytes, read_json, read_text
from dashboard.runs import open_store


@pytest.fixture
def client(bare_db):
    return open_store(uri_of(bare_db))


@pytest.fixture
def run_id(client, tmp_path):
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    return client.create_run(experiment).info.run_id


def header(shape: str, descr: str = "'|u1'") -> bytes:
    """Return a .npy header that claims a shape, without the array."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def test_what_a_run_stored_comes_back(client, run_id):
    frames = np.arange(12, dtype=np.uint8).reshape(3, 4)
    log_files(client, run_id, {"a.json": b'{"x": 1}', "p/q.npz": npz(frames=frames, n=np.array(3)), "t.txt": b"\xff!"})
    assert read_json(client, run_id, "a.json") == {"x": 1}
    found = read_arrays(client, run_id, "p/q.npz", ("frames", "n"))
    assert (found["frames"] == frames).all()
    assert found["n"] == 3
    assert read_text(client, run_id, "t.txt") == "�!"


@pytest.mark.parametrize(
    "path",
    ["../secret", "a/../../secret", "/etc/passwd", "..", "./a", "a//b", "", "C:\\x", "a\\..\\b", "file:///etc/passwd",
     "%2e%2e/secret", "a\0b", "a\n", "~/x", "x" * 20_000 + "/../y"],
)  # fmt: skip
def test_a_path_that_leaves_the_root_is_refused_before_anything_is_asked(path):
    with pytest.raises(Refused, match="not a plain relative path") as refused:
        read_bytes(None, "run", path, 10)
    assert len(str(refused.value)) < 400


def test_a_link_that_leads_outside_is_refused(client, run_id, tmp_path):
    (tmp_path / "secret.json").write_text('{"key": 1}')
    log_files(client, run_id, {"a.json": b"{}"})
    root = artifacts.local_folder(client.get_run(run_id).info.artifact_uri)
    os.symlink(tmp_path / "secret.json", root / "link.json")
    os.symlink(tmp_path, root / "folder")
    for path in ("link.json", "folder/secret.json"):
        with pytest.raises(Refused, match="outside the run's artifacts"):
            read_json(client, run_id, path)


def test_what_is_missing_is_named(client, run_id):
    with pytest.raises(Missing, match=r"no artifact predictions/index\.json"):
        read_json(client, run_id, "predictions/index.json")
    with pytest.raises(Missing, match="not in the store"):
        read_json(client, "f" * 32, "a.json")
    log_files(client, run_id, {"a.npz": npz(x=np.zeros(2))})
    with pytest.raises(Missing, match="no array `frames`"):
        read_arrays(client, run_id, "a.npz", ("frames",))


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff\xfe", b"[" * 200_000], ids=["list", "cut", "bytes", "deep"])
def test_json_that_is_none_is_refused(client, run_id, content):
    log_files(client, run_id, {"a.json": content})
    with pytest.raises(Refused, match=r"a\.json"):
        read_json(client, run_id, "a.json")


def test_a_file_beyond_its_limit_is_not_read(client, run_id, monkeypatch):
    monkeypatch.setattr(artifacts, "JSON_BYTES", 100)
    log_files(client, run_id, {"a.json": json.dumps({"x": "y" * 200}).encode()})
    with pytest.raises(Refused, match="at most 100 are read"):
        read_json(client, run_id, "a.json")


class _Dangerous:
    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


@pytest.mark.parametrize("descr", ["'|O'", "[('a', '|O')]"])
def test_a_pickle_is_refused_and_never_run(client, run_id, tmp_path, monkeypatch, descr):
    monkeypatch.chdir(tmp_path)
    log_files(client, run_id, {"a.npz": zipped(frames=header("(1,)", descr) + pickle.dumps(_Dangerous()))})
    with pytest.raises(Refused, match="no plain array"):
        read_arrays(client, run_id, "a.npz", ("frames",))
    log_files(client, run_id, {"a.npz": zipped(frames=pickle.dumps(_Dangerous()))})
    with pytest.raises(Refused, match="no plain array"):
        read_arrays(client, run_id, "a.npz", ("frames",))
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zipped(frames=header(f"({40 << 20},)") + bytes(40 << 20)), "unpacks to"),  # 40 KB that become 40 MB
        (zipped(frames=header("(1000000, 1000000)") + b"abc"), "claims 1000000000000 bytes"),
        (zipped(frames=header("(-5,)") + b"abc"), "no plain array"),
        (zipped(frames=header("(5, 'x')") + b"abc"), "no plain array"),
        (b"not a zip", "not a whole npz"),
        (npz(frames=np.zeros(1000))[:-40], "not a whole npz"),
    ],
    ids=["bomb", "giant", "negative", "text shape", "no zip", "cut"],
)
def test_bombs_and_broken_arrays_are_refused_in_little_memory(client, run_id, content, reason):
    log_files(client, run_id, {"a.npz": content})
    tracemalloc.start()
    with pytest.raises(Refused, match=reason):
        read_arrays(client, run_id, "a.npz", ("frames",))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


class Server:
    """A client of a store whose artifacts are not in a folder: what `_from_server` asks of MLflow."""

    def __init__(self, tmp_path, size):
        self.folder, self.size, self.fetched = tmp_path, size, []

    def get_run(self, run_id):
        from types import SimpleNamespace

        return SimpleNamespace(info=SimpleNamespace(artifact_uri="mlflow-artifacts:/1/run/artifacts"))

    def list_artifacts(self, run_id, path):
        from mlflow.entities import FileInfo

        return [FileInfo("p/a.json", False, self.size)] if path == "p" else []

    def download_artifacts(self, run_id, path, folder):
        self.fetched.append(path)
        (self.folder / "a.json").write_text('{"x": 2}')
        return str(self.folder / "a.json")


def test_artifacts_behind_a_server_are_fetched_only_when_their_size_is_known_and_small(tmp_path):
    assert read_json(Server(tmp_path, 8), "r", "p/a.json") == {"x": 2}
    for size in (None, 1 << 40):
        server = Server(tmp_path, size)
        with pytest.raises(Refused, match=r"p/a\.json"):
            read_json(server, "r", "p/a.json")
        assert server.fetched == []
    with pytest.raises(Missing, match=r"b\.json"):
        read_json(Server(tmp_path, 8), "r", "p/b.json")


def test_whether_an_artifact_is_there_is_told_without_reading_it(client, run_id, tmp_path):
    log_files(client, run_id, {"p/a.json": b"{}"})
    assert exists(client, run_id, "p/a.json")
    assert not exists(client, run_id, "p")
    assert not exists(client, run_id, "p/b.json")
    server = Server(tmp_path, None)
    assert (exists(server, "r", "p/a.json"), exists(server, "r", "p/b.json"), server.fetched) == (True, False, [])
    with pytest.raises(Missing, match="not in the store"):
        exists(client, "f" * 32, "p/a.json")
    with pytest.raises(Refused):
        exists(client, run_id, "../a.json")
