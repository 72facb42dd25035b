"""Artifacts of runs, read in this one place: bounded, by relative path, inside the run's own artifact root.

    run  ->  artifact root  +  relative path  ->  bytes (at most `limit`)  ->  text | JSON | arrays

What a run stored is somebody else's data. A path that leaves the root, a file or an array larger than its limit, a
pickle and broken JSON are refused with a sentence that names the artifact (`Refused`); one that is not there is named
too (`Missing`). A root may be a folder, `file://`, or behind a server (`mlflow-artifacts:` and what else MLflow reads).
"""

from __future__ import annotations

import io
import json
import math
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import numpy as np

if TYPE_CHECKING:
    from mlflow import MlflowClient

TEXT_BYTES = 1 << 20
JSON_BYTES = 16 << 20
ARRAY_BYTES = 32 << 20
_PLAIN = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)
_SHOWN = 120


class ArtifactError(Exception):
    """An artifact that the page cannot show; the message names it and says why."""


class Missing(ArtifactError):  # noqa: N818 - reads as a sentence: `except Missing`
    """The run has no such artifact."""


class Refused(ArtifactError):  # noqa: N818
    """The artifact is there, or pretends to be, but is not read."""


def checked_path(path: str) -> str:
    """Return a relative artifact path of plain characters; Refused for any other (`..`, `/etc`, `C:\\`, `%2e`)."""
    shown = repr(path[:_SHOWN])
    if not _PLAIN.fullmatch(path) or any(part.strip(".") == "" for part in path.split("/")):
        raise Refused(f"The artifact path {shown} is not a plain relative path; it is not read.")
    return path


def read_bytes(client: MlflowClient, run_id: str, path: str, limit: int) -> bytes:
    """Return the content of one artifact of at most `limit` bytes. Raises Missing, Refused."""
    path = checked_path(path)
    root = _artifact_root(client, run_id)
    folder = local_folder(root)
    return _from_folder(folder, path, limit) if folder else _from_server(client, run_id, path, limit)


def exists(client: MlflowClient, run_id: str, path: str) -> bool:
    """Return whether a run has the artifact, without reading it."""
    path = checked_path(path)
    folder = local_folder(_artifact_root(client, run_id))
    if folder:
        return (folder / path).is_file()
    return _is_listed(client, run_id, path)


def read_text(client: MlflowClient, run_id: str, path: str) -> str:
    """Return a text artifact; bytes that are no UTF-8 are shown as replacement characters."""
    return read_bytes(client, run_id, path, TEXT_BYTES).decode("utf-8", errors="replace")


def read_json(client: MlflowClient, run_id: str, path: str) -> dict[str, Any]:
    """Return a JSON artifact that is an object."""
    content = read_bytes(client, run_id, path, JSON_BYTES)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"The artifact {path} is not valid JSON ({type(error).__name__}).") from error
    if not isinstance(found, dict):
        raise Refused(f"The artifact {path} is a JSON {type(found).__name__}, expected an object.")
    return found


def read_arrays(client: MlflowClient, run_id: str, path: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the arrays `names` of an npz artifact, each of at most ARRAY_BYTES once unpacked, never a pickle."""
    content = read_bytes(client, run_id, path, ARRAY_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: _array(archive, f"{name}.npy", path) for name in names}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise Refused(f"The artifact {path} is not a whole npz file ({type(error).__name__}).") from error


def _array(archive: zipfile.ZipFile, member: str, path: str) -> np.ndarray:
    """Return one member, unpacked only after its declared size and the size that its header claims are small."""
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise Missing(f"The artifact {path} holds no array `{member.removesuffix('.npy')}`.") from None
    if info.file_size > ARRAY_BYTES:
        raise Refused(f"`{member}` in {path} unpacks to {info.file_size} bytes; at most {ARRAY_BYTES} are read.")
    with archive.open(info) as file:
        raw = file.read(info.file_size)
    try:
        claimed = _claimed_bytes(raw)
        if claimed > len(raw):
            raise Refused(f"`{member}` in {path} claims {claimed} bytes and holds {len(raw)}.")
        return np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise Refused(f"`{member}` in {path} is no plain array: it is not read.") from error


def _claimed_bytes(raw: bytes) -> int:
    """Return the size of the array that a .npy header announces; ValueError for a pickle or another file."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("a pickle")
    return math.prod(shape) * dtype.itemsize


def _artifact_root(client: MlflowClient, run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.artifact_uri or "")
    except MlflowException as error:
        raise Missing(f"The run {run_id[:_SHOWN]} is not in the store.") from error


def local_folder(root: str) -> Path | None:
    """Return the folder of a local artifact root (a path or `file://`), None for one behind a server."""
    parsed = urlparse(root)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return Path(root) if not parsed.scheme and root else None


def _from_folder(folder: Path, path: str, limit: int) -> bytes:
    root = folder.resolve()
    file = (root / path).resolve()  # follows links, so that one that leads outside is seen
    if not file.is_relative_to(root):
        raise Refused(f"The artifact {path} lies outside the run's artifacts; it is not read.")
    if not file.is_file():
        raise Missing(f"This run has no artifact {path}.")
    size = file.stat().st_size
    if size > limit:
        raise Refused(_too_large(path, size, limit))
    with file.open("rb") as opened:
        return opened.read(size)


def _is_listed(client: MlflowClient, run_id: str, path: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return any(entry.path == path for entry in client.list_artifacts(run_id, path.rpartition("/")[0] or None))
    except (MlflowException, OSError):
        return False


def _from_server(client: MlflowClient, run_id: str, path: str, limit: int) -> bytes:
    from mlflow.exceptions import MlflowException

    try:
        listed = client.list_artifacts(run_id, path.rpartition("/")[0] or None)
        sizes = {entry.path: entry.file_size for entry in listed if not entry.is_dir}
        if path not in sizes:
            raise Missing(f"This run has no artifact {path}.")
        size = sizes[path]
        if size is None or size > limit:
            raise Refused(_too_large(path, size, limit))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(client.download_artifacts(run_id, path, folder))
            with file.open("rb") as opened:
                return opened.read(size)
    except (MlflowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:_SHOWN]
        raise Missing(f"The artifact {path} could not be fetched: {reason}") from error


def _too_large(path: str, size: int | None, limit: int) -> str:
    return (
        f"The artifact {path} has {'an unknown number of' if size is None else size} bytes; at most {limit} are read."
    )
