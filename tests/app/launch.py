"""Small runs of the command line, in this process or as a real one."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import torch

from app.cli import main

DATA = {"size": 32, "frames": 10, "batch_size": 4, "train_clips": 40, "val_clips": 8, "test_clips": 8}
MODEL = {"depth": 4, "width": 0.25, "rule": "sideways"}
QUIET = {"enable_progress_bar": "false", "enable_model_summary": "false"}


def options(subcommand="fit", *, data=None, model=None, trainer=None, **groups):
    """Return the command line of a tiny run, with changes by group."""
    sections = {
        "data": DATA | (data or {}),
        "model": MODEL | (model or {}),
        "trainer": QUIET | (trainer or {}),
        **groups,
    }
    argv = [subcommand, "--data", "MovingDigits"]
    for section, values in sections.items():
        argv += [f"--{section}.{key}={value}" for key, value in values.items()]
    return argv


def launch(argv, folder: Path, file=subprocess.PIPE, **environment) -> subprocess.Popen:
    """Start `skip-sideways` as its own process in `folder`; what it prints goes to `file`."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", *argv], cwd=folder, env=os.environ | environment, text=True,
        stdout=file, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    """Wait for success and return what it printed."""
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def fit(*argv_changes, **changes) -> None:
    """Fit a tiny run in this process."""
    assert main([*options(**changes), *argv_changes]) == 0


def checkpoint(folder: Path, name="last.ckpt") -> dict:
    """Return the one checkpoint of that name below `folder`."""
    (path,) = folder.glob(f"runs/*/{name}")
    return torch.load(path, weights_only=True)


def runs(uri, experiment="moving_digits"):
    """Return all runs of an experiment, the newest first."""
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id]) if found else []
