"""Writes runs with the artifacts of a future-frames run, byte for byte in the layout that training writes.

A clip is a bright square that moves one pixel a frame to the right; a run predicts it with an error of its own, so
that what a page shows can be told from the pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric

FRAMES, SIZE, HORIZONS, DEPTH = 16, 24, (1, 2, 3, 4), 3
NEWEST = tuple(range(DEPTH - 1, FRAMES - HORIZONS[-1] - DEPTH + 1))  # D - 1 .. T - K - D
CLIPS = {"person/walk_1": "walk", "person/run_2": "run"}
ERRORS = {"skip-sideways": 10, "sideways": 60}  # grey values added to the truth by each row
RULES = {
    "skip-sideways": ("sideways", "residual"),
    "sideways": ("sideways", "chain"),
    "exact": ("backprop_shifted", "residual"),
}
CLOCK = {
    "schema": 1,
    "wiring": "residual",
    "depth": 2,
    "sources": [[0], [1, 0]],
    "merge": "sum",
    "gradient_edges": "all",
    "lmin": 1,
    "lags": [2, 0],
    "first_gradient_ticks": [3, 2],
    "stage_of_unit": [1, 2],
    "rule": "sideways",
    "ticks": [
        [
            {"unit": 1, "forward": tick, "newest": tick, "backward": tick - 2 if tick > 2 else None},
            {
                "unit": 2,
                "forward": tick - 1 if tick > 1 else None,
                "newest": tick if tick > 1 else None,
                "backward": tick - 1 if tick > 1 else None,
            },
        ]
        for tick in range(1, 7)
    ],
}
CONFUSION = {"class_names": ["walk", "run", "<b>jump</b>"], "matrix": [[3, 1, 0], [0, 4, 0], [0, 0, 0]],
             "per_class_accuracy": [0.75, 1.0, None]}  # fmt: skip
CONFIG = "seed_everything: 0\nmodel:\n  class_path: FutureFrames\ncheckpoint:\n  dirpath: null\n"


def clip(clip_id: str) -> np.ndarray:
    """Return the true frames of a clip, uint8 (T, 1, H, W): each clip has its square on another line."""
    frames = np.full((FRAMES, 1, SIZE, SIZE), 40, np.uint8)
    top = 2 + 10 * sorted(CLIPS).index(clip_id) if clip_id in CLIPS else 4
    for t in range(FRAMES):
        frames[t, 0, top : top + 6, t : t + 6] = 180
    return frames


def folder_of(clip_id: str) -> str:
    """Return the artifact folder of a clip."""
    return f"predictions/{hashlib.sha256(clip_id.encode()).hexdigest()[:16]}"


def npz(**arrays: np.ndarray) -> bytes:
    """Return the bytes of a compressed npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def predictions(clip_id: str, error: int, newest: tuple[int, ...] = NEWEST) -> np.ndarray:
    """Return uint8 (N, K, C, H, W): the truth plus k times `error` grey values."""
    true = clip(clip_id)
    made = [[true[m + k].astype(int) + k * error for k in HORIZONS] for m in newest]
    return np.clip(np.array(made), 0, 255).astype(np.uint8)


def frame_artifacts(error: int, clips: dict[str, str] = CLIPS) -> dict[str, bytes]:
    """Return the artifacts that a future-frames run has more than other runs, by path."""
    files: dict[str, bytes] = {}
    entries = []
    frames = np.array(NEWEST, np.int64)
    for clip_id, label in clips.items():
        folder = folder_of(clip_id)
        true, made = clip(clip_id), predictions(clip_id, error)
        target = np.array([[true[m + k] for k in HORIZONS] for m in NEWEST])
        files[f"{folder}/context.npz"] = npz(context=true, first=np.array(0))
        files[f"{folder}/target.npz"] = npz(target=target, frames=frames)
        files[f"{folder}/prediction.npz"] = npz(prediction=made, frames=frames)
        mse = ((made / 255 - target / 255) ** 2).mean(axis=(0, 2, 3, 4))
        entries.append(
            {"clip_id": clip_id, "folder": folder, "label": label, "frames": list(NEWEST), "mse": mse.tolist(),
             "psnr_db": (-10 * np.log10(np.maximum(mse, 1e-10))).tolist(),
             "files": [f"{folder}/{name}.npz" for name in ("context", "target", "prediction")]}
        )  # fmt: skip
    index = {"schema": 1, "horizons": list(HORIZONS), "fps": 25.0, "lmin": 2, "clips": entries}
    return {"predictions/index.json": json.dumps(index).encode(), **files}


def log_files(client: MlflowClient, run_id: str, files: dict[str, bytes]) -> None:
    """Store artifacts by path."""
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            target = Path(folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        client.log_artifacts(run_id, folder)


def write_frames_run(
    client: MlflowClient, experiment: str, row: str, /, *, seed: int = 0, files: dict[str, bytes] | None = None,
    status: str = "FINISHED", **changes: str,
) -> str:  # fmt: skip
    """Write one future-frames run with its artifacts (`files` replaces or adds some) and return its id."""
    rule, wiring = RULES.get(row, ("sideways", "chain"))
    tags = {
        "kind": "run", "row": row, "rule": rule, "wiring": wiring, "network": "small_autoencoder",
        "task": "future_frames", "dataset": "moving_digits", "split": "generated", "fold": "0", "seed": str(seed),
        "git_sha": "0123abc", "device": "cpu", "torch": "2.13.0", "data_hash": "hash0", "executor": "vectorised",
        "stages": "1", "update": "clip", "stash": "none", "comparison": "future", "lmin": "2", "horizon": "4",
        "run_name": f"moving_digits-{wiring}-{rule}", "schema_version": "1", **changes,
    }  # fmt: skip
    run_id = client.create_run(experiment, tags=tags, run_name=tags["run_name"]).info.run_id
    client.log_batch(run_id, metrics=_metrics(ERRORS.get(row, 30)))
    always = {
        "config.yaml": CONFIG.encode(),
        "environment.json": json.dumps({"python": "3.12", "packages": {"torch": "2.13.0"}}).encode(),
        "clock.json": json.dumps(CLOCK).encode(),
    }
    log_files(client, run_id, {**always, **frame_artifacts(ERRORS.get(row, 30)), **(files or {})})
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


def _metrics(error: int) -> list[Metric]:
    steps = range(0, 100, 10)
    logged = [Metric("train/loss", error / 100 / (step + 10), 1_000 * step, step) for step in steps]
    logged += [Metric("val/mse", error / 1000 / (step + 10), 1_000 * step, step) for step in steps]
    logged += [Metric("frames_seen", 128.0 * (step + 1), 1_000 * step, step) for step in steps]
    for unit in range(1, DEPTH + 1):
        logged += [Metric(f"alignment/unit_{unit}", 1 - step / 100 / unit, 1_000 * step, step) for step in steps]
    for k in HORIZONS:
        for prefix, scale in (("test/", error / 30), ("test/copy_last/", 2.0), ("test/mean_last/", 3.0)):
            mse = 0.01 * k * scale
            logged += [
                Metric(f"{prefix}mse_{k}", mse, 0, 90),
                Metric(f"{prefix}psnr_db_{k}", float(-10 * np.log10(mse)), 0, 90),
                Metric(f"{prefix}ssim_{k}", 1 - mse, 0, 90),
            ]
    logged += [Metric("test/mse", 0.025 * error / 30, 0, 90), Metric("test/psnr_db", 20.0, 0, 90)]
    return logged


def fill_frames(client: MlflowClient) -> dict[str, str]:
    """Write one run of each row of ERRORS in the comparison `future`; returns the ids by row."""
    experiment = client.create_experiment("future", artifact_location=None)
    return {row: write_frames_run(client, experiment, row) for row in ERRORS}
