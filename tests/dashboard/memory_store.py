"""Writes runs with the artifacts of long streams, in the layout that a test writes, from formulas and no training.

    python tests/dashboard/memory_store.py FOLDER

A stream is a digit-like cue, distractions for `gap` frames and a checkerboard that asks for the cue. The uncertainty is
high at the question, and at a few distractions a little lower, so that what a page shows can be told from the numbers.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from frames_store import log_files
from mlflow import MlflowClient
from mlflow.entities import Metric

CUE, SIZE, CLASSES = 4, 16, tuple(str(number) for number in range(10))
GAPS = (20, 40, 100)
ROWS = {  # row: rule, network, share of right answers at each gap of GAPS
    "memup": ("memup", "lstm", (0.97, 0.96, 0.94)),
    "memup_oracle": ("memup", "lstm", (0.99, 0.98, 0.97)),
    "truncated_backprop": ("truncated_backprop", "lstm", (0.35, 0.12, 0.10)),
    "transformer": ("truncated_backprop", "transformer", (0.30, 0.10, 0.10)),
}
CHOSEN = 4
INDEX: dict[str, Any] = {
    "schema": 1, "detector": "entropy", "selector": "top_k", "k": CHOSEN, "rollout": 8, "input_kind": "frames",
    "class_names": list(CLASSES),
}  # fmt: skip


def npz(**arrays: np.ndarray) -> bytes:
    """Return the bytes of a compressed npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def uncertainty(gap: int) -> np.ndarray:
    """Return the uncertainty of each step: 2.3 at the question, 1.5 at a third of the gap, a wave elsewhere."""
    values = 0.2 + 0.1 * np.sin(np.arange(CUE + gap + 1))
    values[CUE + gap // 3], values[-1] = 1.5, 2.3
    return values.astype(np.float32)


def chosen(gap: int) -> np.ndarray:
    """Return the CHOSEN most uncertain steps, the most uncertain first."""
    return np.argsort(-uncertainty(gap), kind="stable")[:CHOSEN].astype(np.int64)


def frame(step: int, gap: int) -> np.ndarray:
    """Return one frame (1, S, S): a bright border marks the cue, a checkerboard the question."""
    made = np.full((1, SIZE, SIZE), 20, np.uint8)
    if step == CUE + gap:
        made[0] = 60 + 120 * ((np.indices((SIZE, SIZE)) // 4).sum(0) % 2)
        return made
    top, left = (3, 4) if step < CUE else (step % 9, 2 * step % 9)
    made[0, top : top + 7, left + 2 : left + 5] = 200
    if step < CUE:
        made[0, [0, -1]] = made[0, :, [0, -1]] = 255
    return made


def stream_arrays(gap: int, label: int, *, right: bool = True) -> dict[str, np.ndarray]:
    """Return what one stream's npz holds."""
    steps = CUE + gap + 1
    shown = np.unique([0, 1, CUE - 1, *range(CUE, CUE + gap, max(gap // 6, 1)), *chosen(gap), steps - 1])
    return {
        "uncertainty": uncertainty(gap),
        "chosen": chosen(gap),
        "target": np.full(steps, label, np.int64),
        "prediction": np.array([label if right else (label + 1) % 10], np.int64),
        "probability": np.array([0.9 if right else 0.05], np.float32),
        "shown": shown.astype(np.int64),
        "frames": np.stack([frame(int(step), gap) for step in shown]),
    }


def entry(name: str, steps: int, answers: list[int]) -> dict[str, Any]:
    """Return a stream of the index."""
    return {"id": name, "file": f"memory/{name}.npz", "steps": steps, "answers": answers, "chosen": [],
            "precision": 0.25}  # fmt: skip


def memory_artifacts(gap: int, **changes: object) -> dict[str, bytes]:
    """Return the artifacts of a run with two streams, the second answered wrongly, by path."""
    names, steps = ("test-0-0", "test-0-1"), CUE + gap + 1
    index = {**INDEX, "gap": gap, "streams": [entry(name, steps, [steps - 1]) for name in names], **changes}
    files = {f"memory/{name}.npz": npz(**stream_arrays(gap, label, right=label == 0))
             for label, name in enumerate(names)}  # fmt: skip
    return {"memory/streams.json": json.dumps(index).encode(), **files}


def symbol_artifacts(blanks: int, symbols: int = 10) -> dict[str, bytes]:
    """Return the artifacts of a run on a copy task with one stream: no frames, every answer asked, nine right."""
    steps = blanks + 2 * symbols
    answers = list(range(steps - symbols, steps))
    target = np.full(steps, 8, np.int64)
    target[answers] = np.arange(symbols) % 8
    given = target[answers].copy()
    given[-1] = (given[-1] + 1) % 8
    values = np.full(steps, 0.01, np.float32)
    values[answers] = 2.08
    index = {**INDEX, "k": symbols, "gap": blanks, "rollout": 20, "input_kind": "symbols",
             "class_names": [*CLASSES[:8], "blank"], "streams": [entry("test-0-0", steps, answers)]}  # fmt: skip
    arrays = {"uncertainty": values, "chosen": np.array([*answers[:9], -1]), "target": target, "prediction": given,
              "probability": np.full(symbols, 0.8, np.float32)}  # fmt: skip
    return {"memory/streams.json": json.dumps(index).encode(), "memory/test-0-0.npz": npz(**arrays)}


def write_memory_run(
    client: MlflowClient, experiment: str, row: str, gap: int, /, *, seed: int = 0, top1: float | None = 0.5,
    files: dict[str, bytes] | None = None, status: str = "FINISHED", **changes: str,
) -> str:  # fmt: skip
    """Write one run and return its id. `files`: its artifacts, two streams where not given."""
    rule, network, _ = ROWS.get(row.partition("@")[0], ("memup", "lstm", ()))
    tags = {
        "kind": "run", "row": row, "rule": rule, "wiring": "", "network": network, "task": "long_memory",
        "dataset": "cued_video", "split": "generated", "fold": "0", "seed": str(seed), "device": "cpu",
        "comparison": "memory", "gap": str(gap), "views": f"64 streams of {CUE + gap + 1} steps, scored at 1 step",
        "data_hash": f"hash{gap}", "schema_version": "1", **changes,
    }  # fmt: skip
    run_id = client.create_run(experiment, tags=tags, run_name=f"{row}-{seed}").info.run_id
    found = {"memory/peak_mib": 210.0 + seed, "train/frames_per_second": 900.0}
    if top1 is not None:
        found |= {"test/top1": top1, "test/loss": 2.3 * (1 - top1), "test/detector_precision": 0.25, "test/chance": 0.1}
    client.log_batch(run_id, metrics=[Metric(name, value, 0, 90) for name, value in found.items()])
    log_files(client, run_id, memory_artifacts(gap) if files is None else files)
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


def fill_memory(client: MlflowClient, experiment: str) -> None:
    """Write a run of each row of ROWS at each gap, of two seeds that differ by 0.02."""
    for row, (_, _, shares) in ROWS.items():
        for gap, top1 in zip(GAPS, shares, strict=True):
            for seed in range(2):
                write_memory_run(client, experiment, f"{row}@gap{gap}", gap, seed=seed, top1=top1 - 0.02 * seed)


if __name__ == "__main__":
    made_in = Path(sys.argv[1]).resolve()
    made_in.mkdir(parents=True, exist_ok=True)
    writing = MlflowClient(f"sqlite:///{made_in / 'mlflow.db'}")
    fill_memory(writing, writing.create_experiment("memory", artifact_location=(made_in / "artifacts").as_uri()))
    symbols = writing.create_experiment("copy", artifact_location=(made_in / "artifacts").as_uri())
    write_memory_run(writing, symbols, "memup@gap5000", 5000, files=symbol_artifacts(5000), dataset="copy_sequences",
                     comparison="copy", top1=0.9)  # fmt: skip
